"""What the sections of the bench share: objects to create, waiting, processes to look at, percentiles.

A section is a module of this folder with ``async def run(place: Place) -> None`` that prints its own heading and numbers, and a
name in ``__main__.SECTIONS``. Everything is measured from inside containers by a small static C program (probe.c), on a
real stack: API server, keeper, agent, writer, FUSE, runc. Peers run in the same minute on the same machine.
"""

from __future__ import annotations

import base64
import contextlib
import os
import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PODS, SECRETS
from kubelet_secrets.control.client import ask_one
from kubelet_secrets.control.protocol import NodeSummary
from kubelet_secrets.stack import Stack, StackOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = "localhost/busybox:1"
IMAGE_DIR = Path("/var/lib/kubelet-secrets/images")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a section works.

    Attributes:
        directory: the section's own, removed after it.
        probe_dir: holds the ``probe`` program; pods mount it at /probe.
        options: for ``run_stack``: a fresh stack in *directory*, one section's memory is not another's.
    """

    directory: Path
    probe_dir: Path
    options: StackOptions


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def secret(name: str, value: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "default"},
        "stringData": {"value": value},
    }


def pod(name: str, command: list[str], secret_names: list[str], probe_dir: Path) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [{"name": "probe", "hostPath": {"path": str(probe_dir)}}]
    volume_mounts = [{"name": "probe", "mountPath": "/probe", "readOnly": True}]
    for index, secret_name in enumerate(secret_names):
        volumes.append({"name": f"s{index}", "secret": {"secretName": secret_name}})
        volume_mounts.append({"name": f"s{index}", "mountPath": f"/etc/s{index}", "readOnly": True})
    volumes.append({"name": "plain", "emptyDir": {"medium": "Memory"}})
    volume_mounts.append({"name": "plain", "mountPath": "/plain"})
    container = {"name": "c", "image": IMAGE, "command": command, "volumeMounts": volume_mounts}
    spec = {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 0}
    spec["automountServiceAccountToken"] = False
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


async def wait_running(stack: Stack, names: set[str]) -> dict[str, Pod]:
    while True:
        pods = {item.metadata.name: item for item in await stack.client.list(PODS, "default", Pod)}
        if all(name in pods and pods[name].status.phase == "Running" for name in names):
            return pods
        await trio.sleep(0.2)  # a list of everything: it takes from what it measures


def is_in_place(path: Path) -> bool:
    """The volume is attached once its first version is whole, and from then on tells the host nothing of its names."""
    try:
        return path.exists()
    except PermissionError:
        return True


async def remove(stack: Stack, names: set[str]) -> None:
    for name in names:
        await stack.client.delete(PODS, "default", name, grace_period_s=0)
    while {item.metadata.name for item in await stack.client.list(PODS, "default", Pod)} & names:
        await trio.sleep(0.1)


async def summary(stack: Stack) -> NodeSummary:
    return await trio.to_thread.run_sync(partial(ask_one, str(stack.options.socket), "status", NodeSummary))


async def exec_command(stack: Stack, pod_name: str, *command: str) -> list[str]:
    (found,) = (item for item in (await summary(stack)).pods if item.name == pod_name)
    root = stack.options.root_dir / "run" / "runc"
    return [stack.options.runtime, "--root", str(root), "exec", found.containers[0].container_id, *command]


def rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_cpu_s(pid: int) -> float:
    """Of the children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


async def cpu_by_part(stack: Stack, agent: int | None = None) -> dict[str, float]:
    """Processor seconds of everything that belongs to the stack, by part: to compare runs on a machine that others use too.

    ``runc`` is what runs for the length of a call, the first process of each conmon among it; ``containers`` is what their
    first processes have taken, before and after they became the container's.

    Args:
        agent: its pid; None asks it, which costs it something too.
    """
    agent = (await summary(stack)).agent_pid if agent is None else agent
    parts = {"agent": cpu_s(agent), "API server": cpu_s(stack.apiserver.pid), "keeper": cpu_s(stack.keeper.pid)}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"kubelet_secrets.fusefs.writer" in words and _parent(int(path.parent.name)) == stack.keeper.pid:
                parts["writer"] = cpu_s(int(path.parent.name))
    parts["runc"] = children_cpu_s(agent)
    parts["conmon"] = parts["containers"] = 0.0
    bundles = stack.options.root_dir / "run" / "containers"
    for name, file in (("conmon", "conmon.pid"), ("containers", "pid")):
        for path in bundles.glob(f"*/{file}"):
            with contextlib.suppress(OSError, ValueError):
                parts[name] += cpu_s(pid := int(path.read_text()))
                parts["runc"] += children_cpu_s(pid) if name == "conmon" else 0.0
    return parts


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def format_cpu(before: dict[str, float], after: dict[str, float]) -> str:
    used = {part: after[part] - before.get(part, 0.0) for part in after}
    listed = ", ".join(f"{part} {seconds:.1f}" for part, seconds in used.items())
    return f"{sum(used.values()):.1f} s ({listed})"


def spread(values: list[float]) -> str:
    return f"p50 {statistics.median(values):.1f} ms, p99 {percentile(values, 0.99):.1f} ms, max {max(values):.1f} ms"


def find_logs(stack: Stack, item: Pod) -> Iterator[Path]:
    logs = stack.options.root_dir / "run" / "logs"
    yield from logs.glob(f"default_{item.metadata.name}_{item.metadata.uid}/c/0.log")


async def rotate(stack: Stack, name: str, value: str, *, key: str = "value") -> int:
    """Change one Secret and return when its answer arrived, in ns of CLOCK_MONOTONIC."""
    patch = {"data": {key: base64.b64encode(value.encode()).decode()}}
    await stack.client.patch(SECRETS, "default", name, patch)
    return time.monotonic_ns()


async def measure(command: list[str]) -> float:
    """Median ns of three runs of the probe."""
    runs = []
    for _ in range(3):
        result = await trio.run_process(command, capture_stdout=True)
        runs.append(int(result.stdout))
    return statistics.median(runs)

"""The benchmarks behind docs/benchmarks.md; run them by ``scripts/bench``.

Everything is measured from inside containers by a small static C program (bench_probe.c), on a real stack: API server,
keeper, agent, writer, FUSE, runc. Peers run in the same minute on the same machine: tmpfs, and libfuse's own C example
``hello_ll`` built from the source that Debian's libfuse3-dev ships.
"""

from __future__ import annotations

import base64
import os
import platform
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PODS, SECRETS
from kubelet_secrets.control.client import ask_one
from kubelet_secrets.control.protocol import NodeSummary
from kubelet_secrets.stack import Stack, StackOptions, run_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = "localhost/busybox:1"
IMAGE_DIR = Path("/var/lib/kubelet-secrets/images")
ROTATIONS_ONE = 200
ROTATIONS_MANY = 20
MANY = 100
ROUNDS = 20_000
SECRETS_PER_POD = 5
IDLE_S = 10
HELLO_LL = Path("/usr/share/doc/libfuse3-dev/examples/hello_ll.c")


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
        await trio.sleep(0.05)


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


async def rotate(stack: Stack, name: str, value: str) -> int:
    """Change one Secret and return when its answer arrived, in ns of CLOCK_MONOTONIC."""
    patch = {"data": {"value": base64.b64encode(value.encode()).decode()}}
    await stack.client.patch(SECRETS, "default", name, patch)
    return time.monotonic_ns()


async def propagation(stack: Stack, probe_dir: Path) -> None:
    print("\n## From the API server's answer to new bytes in the container\n")
    await stack.client.create(SECRETS, "default", secret("rotating", "value-0"))
    await stack.client.create(PODS, "default", pod("one", ["sleep", "1000000"], ["rotating"], probe_dir))
    await wait_running(stack, {"one"})
    command = await exec_command(stack, "one", "/probe/probe", "watch", "/etc/s0/value", str(ROTATIONS_ONE))
    delays: list[float] = []
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    await process.stdout.receive_some()  # "ready"
    for number in range(1, ROTATIONS_ONE + 1):
        answered = await rotate(stack, "rotating", f"value-{number}")
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some()
        delays.append((int(line) - answered) / 1e6)
    await process.wait()
    print(f"1 container, {len(delays)} rotations: {spread(delays)}")
    await remove(stack, {"one"})

    names = {f"watch{index}" for index in range(MANY)}
    watch = ["/probe/probe", "watch", "/etc/s0/value", str(ROTATIONS_MANY)]
    for name in sorted(names):
        await stack.client.create(PODS, "default", pod(name, [*watch[:-1], "1000000"], ["rotating"], probe_dir))
    pods = await wait_running(stack, names)
    logs = [next(find_logs(stack, item)) for item in pods.values() if item.metadata.name in names]
    while any(len(log.read_bytes().splitlines()) < 1 for log in logs):
        await trio.sleep(0.05)
    first, last = [], []
    for number in range(1, ROTATIONS_MANY + 1):
        answered = await rotate(stack, "rotating", f"many-{number}")
        while True:
            seen = [log.read_bytes().splitlines() for log in logs]
            if all(len(lines) > number for lines in seen):
                break
            await trio.sleep(0.02)
        times = [(int(lines[number].split()[-1]) - answered) / 1e6 for lines in seen]
        first += times
        last.append(max(times))
    print(
        f"{MANY} containers, {ROTATIONS_MANY} rotations: {spread(first)}; the last one p50 {statistics.median(last):.1f} ms"
    )
    await remove(stack, names)


def spread(values: list[float]) -> str:
    return f"p50 {statistics.median(values):.1f} ms, p99 {percentile(values, 0.99):.1f} ms, max {max(values):.1f} ms"


def find_logs(stack: Stack, item: Pod) -> Iterator[Path]:
    logs = stack.options.root_dir / "run" / "logs"
    yield from logs.glob(f"default_{item.metadata.name}_{item.metadata.uid}/c/0.log")


async def measure(command: list[str]) -> float:
    """Median ns of three runs of the probe."""
    runs = []
    for _ in range(3):
        result = await trio.run_process(command, capture_stdout=True)
        runs.append(int(result.stdout))
    return statistics.median(runs)


@contextmanager
def hello_ll(directory: Path) -> Iterator[Path | None]:
    """Mount libfuse's C example; yields its one file, or None where Debian's documentation was left out at install."""
    if not HELLO_LL.exists():
        yield None
        return
    flags = subprocess.run(
        ["pkg-config", "fuse3", "--cflags", "--libs"], check=True, capture_output=True, text=True
    ).stdout.split()
    binary, mountpoint = directory / "hello_ll", directory / "hello"
    subprocess.run(["gcc", "-O2", "-w", str(HELLO_LL), "-o", str(binary), *flags], check=True)
    mountpoint.mkdir()
    process = subprocess.Popen([str(binary), "-f", str(mountpoint)])
    try:
        while not (mountpoint / "hello").exists():
            time.sleep(0.01)
        yield mountpoint / "hello"
    finally:
        subprocess.run(["umount", str(mountpoint)], check=False)
        process.wait(10)


async def filesystem(stack: Stack, probe_dir: Path) -> None:
    print("\n## The guarded filesystem beside its peers\n")
    await stack.client.create(SECRETS, "default", secret("static", "x" * 4096))
    await stack.client.create(PODS, "default", pod("reader", ["sleep", "1000000"], ["static"], probe_dir))
    await wait_running(stack, {"reader"})
    await trio.run_process(await exec_command(stack, "reader", "cp", "/etc/s0/value", "/plain/value"))
    inside = partial(exec_command, stack, "reader", "/probe/probe")
    with hello_ll(probe_dir) as hello:
        ours_open = await measure(await inside("open", "/etc/s0/value", str(ROUNDS)))
        tmpfs_open = await measure(await inside("open", "/plain/value", str(ROUNDS)))
        ours_read = await measure(await inside("read", "/etc/s0/value", str(ROUNDS)))
        tmpfs_read = await measure(await inside("read", "/plain/value", str(ROUNDS)))
        print("| | this program | tmpfs | hello_ll (C) | ratio to tmpfs | ratio to hello_ll |")
        print("|---|---|---|---|---|---|")
        hello_open = hello_read = None
        if hello is not None:
            probe = str(probe_dir / "probe")
            hello_open = await measure([probe, "open", str(hello), str(ROUNDS)])
            hello_read = await measure([probe, "read", str(hello), str(ROUNDS)])
        for label, ours, tmpfs, other in (
            ("open + read + close", ours_open, tmpfs_open, hello_open),
            ("warm read of 4 KiB", ours_read, tmpfs_read, hello_read),
        ):
            shown = f"{other / 1e3:.1f} µs" if other else "not installed"
            ratio = f"{ours / other:.2f}" if other else "-"
            print(f"| {label} | {ours / 1e3:.1f} µs | {tmpfs / 1e3:.1f} µs | {shown} | {ours / tmpfs:.2f} | {ratio} |")
    await remove(stack, {"reader"})


async def density(stack: Stack, probe_dir: Path) -> None:
    print(f"\n## {MANY} pods with {SECRETS_PER_POD} Secrets each\n")
    agent = (await summary(stack)).agent_pid
    print(f"agent RSS with no pod: {rss_mb(agent):.0f} MB")
    for index in range(MANY):
        for number in range(SECRETS_PER_POD):
            await stack.client.create(SECRETS, "default", secret(f"d{index}-{number}", f"value {index} {number}"))
    names = {f"dense{index}" for index in range(MANY)}
    wait = ["sh", "-c", f"/probe/probe wait /etc/s {SECRETS_PER_POD} value; exec sleep 1000000"]
    started = time.monotonic_ns()

    async def create(index: int) -> None:
        own = [f"d{index}-{number}" for number in range(SECRETS_PER_POD)]
        await stack.client.create(PODS, "default", pod(f"dense{index}", wait, own, probe_dir))

    async with trio.open_nursery() as nursery:
        for index in range(MANY):
            nursery.start_soon(create, index)
    created = time.monotonic_ns()
    pods: dict[str, Pod] = {item.metadata.name: item for item in await stack.client.list(PODS, "default", Pod)}
    missing = [
        stack.options.root_dir
        / "pods"
        / pods[name].metadata.uid
        / "volumes/kubernetes.io~secret"
        / f"s{number}"
        / "value"
        for name in names
        for number in range(SECRETS_PER_POD)
    ]
    while missing:
        missing = [path for path in missing if not path.exists()]
        await trio.sleep(0.02)
    placed = time.monotonic_ns()
    pods = await wait_running(stack, names)
    running = time.monotonic_ns()
    readable = 0
    for name in names:
        (log,) = find_logs(stack, pods[name])
        while not log.read_bytes():
            await trio.sleep(0.02)
        readable = max(readable, int(log.read_bytes().splitlines()[0].split()[-1]))
    print(f"all pods created after {(created - started) / 1e9:.1f} s")
    print(f"all files in place after {(placed - started) / 1e9:.1f} s")
    print(f"all pods Running in the API after {(running - started) / 1e9:.1f} s")
    print(f"all files read by their containers after {(readable - started) / 1e9:.1f} s")
    await trio.sleep(5)
    print(f"agent RSS with {MANY} pods: {rss_mb(agent):.0f} MB")
    before = cpu_s(agent)
    await trio.sleep(IDLE_S)
    print(f"agent CPU when idle with {MANY} pods: {(cpu_s(agent) - before) / IDLE_S * 100:.2f} %")
    before = time.monotonic()
    await remove(stack, names)
    print(f"all pods gone {time.monotonic() - before:.1f} s after their deletion")


SECTIONS = {"propagation": propagation, "filesystem": filesystem, "density": density}


async def main(chosen: list[str]) -> None:
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        sys.exit(f"bench: no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="kubelet-secrets-bench-") as name:
        directory = Path(name)
        probe_dir = directory / "probe"
        probe_dir.mkdir()
        source = Path(__file__).with_name("bench_probe.c")
        subprocess.run(["gcc", "-O2", "-static", str(source), "-o", str(probe_dir / "probe")], check=True)
        options = StackOptions(
            node_name=f"bench-{secrets.token_hex(3)}",
            root_dir=directory / "node",
            image_dir=IMAGE_DIR,
            socket=directory / "agent.sock",
            port=0,
        )
        for section in chosen or SECTIONS:
            # A fresh stack each: one section's memory is not another's.
            async with run_stack(options) as stack:
                await SECTIONS[section](stack, probe_dir)
            sys.stdout.flush()
        shutil.rmtree(probe_dir)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])

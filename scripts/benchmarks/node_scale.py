"""Five hundred pods with ten Secrets each: start, rest, a Secret that all of them use, a new agent, the end.

``KS_BENCH_PODS`` sets another number of pods. Ends by itself after twenty minutes, whatever has happened. Meanwhile the
machine's limit of inotify instances is higher, by one for each pod.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import trio
from harness import (
    Place,
    cpu_by_part,
    find_logs,
    format_cpu,
    is_in_place,
    pod,
    remove,
    rotate,
    rss_mb,
    secret,
    summary,
    wait_running,
)

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PODS, SECRETS
from kubelet_secrets.errors import HostError
from kubelet_secrets.pod.events import QPS
from kubelet_secrets.stack import Stack, run_stack

COUNT = int(os.environ.get("KS_BENCH_PODS", "500"))
OWN_SECRETS = 9  # and one that all pods share
AT_ONCE = 50
ROTATIONS = 5
REST_S = 20
EVENTS_PER_POD = 4  # that its start makes, sent at the pace of QPS
LIMIT_S = 1200
INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")


async def run(place: Place) -> None:
    with trio.fail_after(LIMIT_S), enough_inotify_instances():
        async with run_stack(replace(place.options, max_pods=COUNT)) as stack:
            await scale(stack, place.probe_dir)


@contextmanager
def enough_inotify_instances() -> Iterator[None]:
    """One for each container, all of them root's: the kernel's own limit is 128. Set back afterwards."""
    before = INOTIFY_LIMIT.read_text()
    INOTIFY_LIMIT.write_text(str(int(before) + COUNT))
    try:
        yield
    finally:
        INOTIFY_LIMIT.write_text(before)


async def scale(stack: Stack, probe_dir: Path) -> None:
    print(f"\n## {COUNT} pods with {OWN_SECRETS + 1} Secrets each\n")
    agent = (await summary(stack)).agent_pid
    print(f"agent RSS with no pod: {rss_mb(agent):.0f} MB")
    await create_secrets(stack)
    names = {f"many{index}" for index in range(COUNT)}
    await start_pods(stack, probe_dir)
    pods = await wait_running(stack, names)
    logs = [next(find_logs(stack, pods[name])) for name in sorted(names)]
    while not all(lines_of(log) for log in logs):
        await trio.sleep(0.2)
    await rest(stack)
    print(f"one Secret changes, {COUNT} pods show it: {await rotations(stack, logs)}")
    await restart(stack, logs)
    before = time.monotonic()
    await remove(stack, names)
    print(f"all pods gone {time.monotonic() - before:.1f} s after their deletion; load {os.getloadavg()[0]:.0f}")


async def create_secrets(stack: Stack) -> None:
    limit = trio.CapacityLimiter(AT_ONCE)

    async def create(name: str) -> None:
        async with limit:
            await stack.client.create(SECRETS, "default", secret(name, f"value of {name}"))

    await stack.client.create(SECRETS, "default", secret("shared", "value-0"))
    async with trio.open_nursery() as nursery:
        for index in range(COUNT):
            for number in range(OWN_SECRETS):
                nursery.start_soon(create, f"m{index}-{number}")


async def start_pods(stack: Stack, probe_dir: Path) -> None:
    limit = trio.CapacityLimiter(AT_ONCE)
    watch = ["/probe/probe", "watch", "/etc/s0/value", "1000000"]
    cpu_before = await cpu_by_part(stack)
    started = time.monotonic()

    async def create(index: int) -> None:
        own = ["shared", *(f"m{index}-{number}" for number in range(OWN_SECRETS))]
        async with limit:
            await stack.client.create(PODS, "default", pod(f"many{index}", watch, own, probe_dir))

    async with trio.open_nursery() as nursery:
        for index in range(COUNT):
            nursery.start_soon(create, index)
    print(f"all pods created after {time.monotonic() - started:.1f} s")
    pods = {item.metadata.name: item for item in await stack.client.list(PODS, "default", Pod)}
    missing = [
        stack.options.root_dir / "pods" / item.metadata.uid / "volumes/kubernetes.io~secret" / f"s{number}" / "value"
        for item in pods.values()
        for number in range(OWN_SECRETS + 1)
    ]
    while missing:
        if is_in_place(missing[-1]):
            missing.pop()
        else:
            await trio.sleep(0.05)
    print(f"all files in place after {time.monotonic() - started:.1f} s")
    cpu_placed = await cpu_by_part(stack)
    await wait_running(stack, set(pods))
    print(f"all pods Running in the API after {time.monotonic() - started:.1f} s")
    print(f"processor time until all files were in place: {format_cpu(cpu_before, cpu_placed)}")
    cpu_after = await cpu_by_part(stack)
    print(f"processor time until all ran: {format_cpu(cpu_before, cpu_after)}; load {os.getloadavg()[0]:.0f}")


async def rest(stack: Stack) -> None:
    await trio.sleep(5 + COUNT * EVENTS_PER_POD / QPS)
    agent = (await summary(stack)).agent_pid
    print(f"agent RSS: {rss_mb(agent):.0f} MB; API server: {rss_mb(stack.apiserver.pid):.0f} MB")
    port = int(stack.server_url.rpartition(":")[2])
    print(
        f"connections of the agent to the API server: {connections(agent, port)}, for {COUNT * OWN_SECRETS + 1} Secrets"
    )
    before = await cpu_by_part(stack, agent)
    await trio.sleep(REST_S)
    after = await cpu_by_part(stack, agent)
    used = {name: (after[name] - before[name]) / REST_S * 100 for name in ("agent", "writer", "keeper", "API server")}
    print("processor at rest: " + ", ".join(f"{name} {share:.2f} %" for name, share in used.items()))


def connections(pid: int, port: int) -> int:
    """Established TCP connections of a process to a port."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = 0
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        found += fields[9] in inodes and fields[3] == "01" and int(fields[2].rpartition(":")[2], 16) == port
    return found


async def rotations(stack: Stack, logs: list[Path]) -> str:
    cpu_before = await cpu_by_part(stack)
    last = [await rotate_once(stack, logs, f"turn-{number}") for number in range(ROTATIONS)]
    cpu_after = await cpu_by_part(stack)
    used = {name: (cpu_after[name] - cpu_before[name]) / ROTATIONS for name in cpu_after}
    return (
        f"the last one after {statistics.median(last):.0f} ms (median of {ROTATIONS}, longest {max(last):.0f} ms); "
        f"processor time of one change: agent {used['agent']:.2f} s, writer {used['writer']:.2f} s"
    )


async def rotate_once(stack: Stack, logs: list[Path], value: str) -> float:
    """Ms from the API server's answer to the moment in which the last container has read the new value."""
    seen = [len(lines_of(log)) for log in logs]
    answered = await rotate(stack, "shared", value)
    return (await wait_shown(logs, seen) - answered) / 1e6


async def wait_shown(logs: list[Path], seen: list[int]) -> int:
    """When the last container read something new, ns of CLOCK_MONOTONIC."""
    while True:
        now = [lines_of(log) for log in logs]
        if all(len(lines) > before for lines, before in zip(now, seen, strict=True)):
            return max(int(lines[-1].split()[-1]) for lines in now)
        await trio.sleep(0.1)


def lines_of(log: Path) -> list[bytes]:
    return log.read_bytes().splitlines()


async def restart(stack: Stack, logs: list[Path]) -> None:
    """SIGKILL the agent; the next one takes over everything that runs."""
    bundles = stack.options.root_dir / "run" / "containers"
    pids = Counter(path.read_text() for path in bundles.glob("*/pid"))
    seen = [len(lines_of(log)) for log in logs]
    killed = (await summary(stack)).agent_pid
    began = time.monotonic_ns()
    os.kill(killed, signal.SIGKILL)
    await rotate(stack, "shared", f"restart-{began}")
    shown = await wait_shown(logs, seen)
    agent = await next_agent(stack, killed)
    print(
        f"agent killed, Secret changed: the last of {COUNT} pods shows it {(shown - began) / 1e9:.1f} s after the kill"
    )
    before = -1.0
    while (now := await taken_s(stack, agent)) - before > 0.05:
        before = now
        await trio.sleep(1)
    print(
        f"processor time of the new agent and the writer until all is at rest: {now:.1f} s; RSS {rss_mb(agent):.0f} MB"
    )
    if Counter(path.read_text() for path in bundles.glob("*/pid")) != pids:
        raise AssertionError("a container has become another process")


async def next_agent(stack: Stack, killed: int) -> int:
    while True:
        try:
            agent = (await summary(stack)).agent_pid
        except (HostError, OSError):
            agent = killed
        if agent != killed:
            return agent
        await trio.sleep(0.05)


async def taken_s(stack: Stack, agent: int) -> float:
    parts = await cpu_by_part(stack, agent)
    return parts["agent"] + parts["writer"]

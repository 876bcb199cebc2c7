"""A hundred pods with five Secrets each: how long until they run, and what the agent takes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import trio
from harness import (
    Place,
    cpu_by_part,
    cpu_s,
    find_logs,
    format_cpu,
    is_in_place,
    pod,
    remove,
    rss_mb,
    secret,
    summary,
    wait_running,
)

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PODS, SECRETS
from kubelet_secrets.stack import Stack, run_stack

MANY = 100
SECRETS_PER_POD = 5
IDLE_S = 10


async def run(place: Place) -> None:
    async with run_stack(place.options) as stack:
        await density(stack, place.probe_dir)


async def density(stack: Stack, probe_dir: Path) -> None:
    print(f"\n## {MANY} pods with {SECRETS_PER_POD} Secrets each\n")
    agent = (await summary(stack)).agent_pid
    print(f"agent RSS with no pod: {rss_mb(agent):.0f} MB")
    for index in range(MANY):
        for number in range(SECRETS_PER_POD):
            await stack.client.create(SECRETS, "default", secret(f"d{index}-{number}", f"value {index} {number}"))
    names = {f"dense{index}" for index in range(MANY)}
    wait = ["sh", "-c", f"/probe/probe wait /etc/s {SECRETS_PER_POD} value; exec sleep 1000000"]
    cpu_before = await cpu_by_part(stack)
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
        if is_in_place(missing[-1]):
            missing.pop()
        else:
            await trio.sleep(0.02)
    placed = time.monotonic_ns()
    pods = await wait_running(stack, names)
    running = time.monotonic_ns()
    cpu_after = await cpu_by_part(stack)
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
    print(f"processor time until all ran: {format_cpu(cpu_before, cpu_after)}; load {os.getloadavg()[0]:.0f}")
    await trio.sleep(5)
    print(f"agent RSS with {MANY} pods: {rss_mb(agent):.0f} MB")
    before = cpu_s(agent)
    await trio.sleep(IDLE_S)
    print(f"agent CPU when idle with {MANY} pods: {(cpu_s(agent) - before) / IDLE_S * 100:.2f} %")
    before = time.monotonic()
    await remove(stack, names)
    print(f"all pods gone {time.monotonic() - before:.1f} s after their deletion")

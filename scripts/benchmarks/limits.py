"""A thousand volumes, and hostile neighbours: what a node with many secrets takes, and what one container can do to another's.

Fairness is measured as the time that a well-behaved reader waits, which opens and reads one small file every 2 ms: alone, and
beside another pod's container that asks as much as it can. Each attack is measured on tmpfs as well, attacker and reader both:
what is left there is the price of the processors that they share.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from harness import Place, exec_command, find_logs, measure, pod, remove, rotate, rss_mb, secret, summary, wait_running

from kubelet_secrets.api.meta import PODS, SECRETS
from kubelet_secrets.stack import Stack, run_stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

VOLUMES_PER_POD = 20
PODS_OF_VOLUMES = 50
FILES = 10
LONG = 10_000  # names in the attacker's large volume
SECONDS = 3
ROTATIONS = 20
ATTACKS = (
    ("16 threads open in a loop", "open", "value", 16),
    ("500 threads open in a loop", "open", "value", 500),
    ("64 threads, 64,000 open files", "hold", "value", 64),
    ("500 threads look up absent names", "absent", "", 500),
    (f"64 threads list {LONG:,} names", "list", "long", 64),
    (f"64 threads read the beginning of {LONG:,} names", "part", "long", 64),
    ("64 threads watch and poll", "watch", "value", 64),
)


async def run(place: Place) -> None:
    async with run_stack(place.options) as stack:
        await many_volumes(stack, place)
    async with run_stack(place.options) as stack:
        await fairness(stack, place)


async def many_volumes(stack: Stack, place: Place) -> None:
    count = PODS_OF_VOLUMES * VOLUMES_PER_POD
    print(f"\n## {count:,} volumes of {FILES} files\n")
    agent = (await summary(stack)).agent_pid
    before_mb = rss_mb(agent)
    names = [f"v{index}" for index in range(VOLUMES_PER_POD)]
    for name in names:
        data = {f"key-{number}": f"{name} {number}" for number in range(FILES)}
        await stack.client.create(SECRETS, "default", secret(name, "") | {"stringData": data})
    pods = {f"many{index}" for index in range(PODS_OF_VOLUMES)}
    watch = ["/probe/probe", "watch", "/etc/s0/key-0", "1000000"]
    began = time.monotonic()
    for name in sorted(pods):
        await stack.client.create(PODS, "default", pod(name, watch, names, place.probe_dir))
    found = await wait_running(stack, pods)
    took_s = time.monotonic() - began
    print(f"all in place and running after {took_s:.1f} s: {took_s / count * 1e3:.1f} ms a volume")
    await trio.sleep(2)
    print(f"agent RSS: {before_mb:.0f} MB without, {rss_mb(agent):.0f} MB with them")
    first = sorted(found)[0]
    await trio.run_process(await exec_command(stack, first, "cp", "-a", "/etc/s0", "/plain/s0"))
    ours, tmpfs = [
        await measure(await exec_command(stack, first, "/probe/probe", "list", path, "200"))
        for path in ("/etc/s0", "/plain/s0")
    ]
    print(f"listing one, with a stat of each name: {ours / 1e3:.0f} µs, tmpfs {tmpfs / 1e3:.0f} µs")
    logs = [next(find_logs(stack, each)) for name, each in found.items() if name in pods]
    answered = await rotate(stack, names[0], "rotated", key="key-0")
    while any(len(log.read_bytes().splitlines()) < 2 for log in logs):
        await trio.sleep(0.02)
    last = max(int(log.read_bytes().splitlines()[1].split()[-1]) for log in logs)
    print(f"one Secret changed in all {len(logs)} pods after {(last - answered) / 1e6:.0f} ms")
    began = time.monotonic()
    await remove(stack, pods)
    print(f"all gone {time.monotonic() - began:.1f} s after their deletion")


async def fairness(stack: Stack, place: Place) -> None:
    print("\n## A hostile container beside a well-behaved one\n")
    await stack.client.create(SECRETS, "default", secret("good", "x" * 1024))
    await stack.client.create(SECRETS, "default", secret("bad", "x" * 1024))
    long = {f"key-{number}": "" for number in range(LONG)}
    await stack.client.create(SECRETS, "default", secret("long", "") | {"stringData": long})
    await stack.client.create(PODS, "default", pod("good", ["sleep", "1000000"], ["good"], place.probe_dir))
    await stack.client.create(PODS, "default", pod("bad", ["sleep", "1000000"], ["bad", "long"], place.probe_dir))
    await wait_running(stack, {"good", "bad"})
    await trio.run_process(await exec_command(stack, "good", "cp", "-L", "/etc/s0/value", "/plain/value"))
    await trio.run_process(await exec_command(stack, "bad", "cp", "-L", "/etc/s0/value", "/plain/value"))
    await trio.run_process(await exec_command(stack, "bad", "cp", "-a", "/etc/s1", "/plain/long"))
    print("| attack | open + read + close: p50, p99, longest | tmpfs, same attack | a rotation: p50, longest |")
    print("|---|---|---|---|")
    ours, theirs = await latency(stack, "/etc/s0/value"), await latency(stack, "/plain/value")
    print(f"| none | {ours} | {theirs} | {await rotations(stack, 'none')} |", flush=True)
    for label, kind, what, threads in ATTACKS:
        paths = {
            "value": ("/etc/s0/value", "/plain/value"),
            "": ("/etc/s0", "/plain"),
            "long": ("/etc/s1", "/plain/long"),
        }
        guarded, plain = paths[what]
        async with attack(stack, kind, guarded, threads):
            ours, arrived = await latency(stack, "/etc/s0/value"), await rotations(stack, label)
        async with attack(stack, kind, plain, threads):
            theirs = await latency(stack, "/plain/value")
        print(f"| {label} | {ours} | {theirs} | {arrived} |", flush=True)


async def latency(stack: Stack, path: str) -> str:
    command = await exec_command(stack, "good", "/probe/probe", "latency", path, str(SECONDS))
    result = await trio.run_process(command, capture_stdout=True)
    _, p50, p99, longest = (int(word) for word in result.stdout.split())
    return f"{p50 / 1e6:.2f}, {p99 / 1e6:.2f}, {longest / 1e6:.1f} ms"


async def rotations(stack: Stack, label: str) -> str:
    command = await exec_command(stack, "good", "/probe/probe", "watch", "/etc/s0/value", str(ROTATIONS))
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    await process.stdout.receive_some()  # "ready"
    delays = []
    for number in range(ROTATIONS):
        answered = await rotate(stack, "good", f"{label} {number}" + "x" * 1024)
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some()
        delays.append((int(line) - answered) / 1e6)
    await process.wait()
    delays.sort()
    return f"{delays[len(delays) // 2]:.1f}, {delays[-1]:.1f} ms"


@asynccontextmanager
async def attack(stack: Stack, kind: str, path: str, threads: int) -> AsyncIterator[None]:
    """Let the hostile container loose for the length of the block."""
    command: Any = await exec_command(stack, "bad", "/probe/probe", "storm", kind, path, str(threads))
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    assert await process.stdout.receive_some() == b"ready\n"
    await trio.sleep(0.5)
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await trio.run_process(await exec_command(stack, "bad", "killall", "-9", "probe"), check=False)
            await process.wait()

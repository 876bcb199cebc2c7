"""How long a change takes from the API server's answer to new bytes in a container, for one container and for a hundred."""

from __future__ import annotations

import statistics
import subprocess
from pathlib import Path

import trio
from harness import Place, exec_command, find_logs, pod, remove, rotate, secret, spread, wait_running

from kubelet_secrets.api.meta import PODS, SECRETS
from kubelet_secrets.stack import Stack, run_stack

ROTATIONS_ONE = 200
ROTATIONS_MANY = 20
MANY = 100


async def run(place: Place) -> None:
    async with run_stack(place.options) as stack:
        await propagation(stack, place.probe_dir)


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

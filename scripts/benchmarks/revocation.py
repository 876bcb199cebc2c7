"""From the order to revoke a volume to the moment at which what was open and mapped reads no more; and from a pod's deletion.

A container reads as fast as it can, all the time, through a descriptor and a mapping: the time is when both have failed. The
peer is a question to the same socket that changes nothing: what a revocation takes beyond that is its own.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import trio
from harness import Place, exec_command, pod, remove, secret, spread, summary, wait_running

from kubelet_secrets.api.meta import PODS, SECRETS
from kubelet_secrets.control.client import ask_one
from kubelet_secrets.control.protocol import RevokeView
from kubelet_secrets.stack import Stack, run_stack

ROUNDS = 100
FILES = 1000
"""Of the large volume: each has a page in the kernel's cache, and is told to be dropped one by one."""


async def run(place: Place) -> None:
    source = Path(__file__).with_name("revoked_reader.c")
    await trio.run_process(["gcc", "-O2", "-static", str(source), "-o", str(place.probe_dir / "revoked_reader")])
    async with run_stack(place.options) as stack:
        print("\n## From a revocation to the last byte read\n")
        await small(stack, place.probe_dir)
        await large(stack, place.probe_dir)


async def small(stack: Stack, probe_dir: Path) -> None:
    await stack.client.create(SECRETS, "default", secret("held", "x" * 4096))
    await stack.client.create(PODS, "default", pod("holder", ["sleep", "1000000"], ["held"], probe_dir))
    await wait_running(stack, {"holder"})
    command = await exec_command(stack, "holder", "/probe/revoked_reader", "read", "/etc/s0/value", str(ROUNDS))
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    lines = Lines(process)
    await lines.next()  # "ready"
    peers, answers, ends = [], [], []
    for _ in range(ROUNDS):
        started = time.monotonic_ns()
        await summary(stack)
        peers.append((time.monotonic_ns() - started) / 1e6)
        started = time.monotonic_ns()
        await order(stack, "holder")
        answers.append((time.monotonic_ns() - started) / 1e6)
        ends.append((int(await lines.next()) - started) / 1e6)
        await order(stack, "holder", undo=True)
        await lines.next()  # "again"
    await process.wait()
    print(f"last read of a file that is open and mapped, {ROUNDS} revocations: {spread(ends)}")
    print(f"a question to the same socket in between: {spread(peers)}")
    print(f"answer to the command, when nothing can be read any more: {spread(answers)}")
    await deletion(stack, probe_dir)


async def deletion(stack: Stack, probe_dir: Path) -> None:
    """A descriptor that left its pod, from the request to delete the pod, without grace, to its last read."""
    path = probe_dir / "out"
    fd = await pass_out(stack, path)
    try:
        deleted = time.monotonic_ns()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remove, stack, {"holder"})
            while True:
                try:
                    os.pread(fd, 1, 0)
                except OSError:
                    break
                await trio.sleep(0.0005)
            ended = time.monotonic_ns()
    finally:
        os.close(fd)
    print(f"pod deleted without grace: its descriptors read no more after {(ended - deleted) / 1e6:.0f} ms")


async def pass_out(stack: Stack, path: Path) -> int:
    """Have the container hand us a file that it has open."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        command = await exec_command(
            stack, "holder", "/probe/revoked_reader", "pass", "/etc/s0/value", f"/probe/{path.name}"
        )
        await trio.run_process(command)
        connection, _ = listener.accept()
        with connection:
            _, (fd,), _, _ = socket.recv_fds(connection, 1, 1)
    return fd


async def large(stack: Stack, probe_dir: Path) -> None:
    data = {f"key{index}": "x" * 500 for index in range(FILES)}
    manifest: dict[str, Any] = {**secret("many", ""), "stringData": data}
    await stack.client.create(SECRETS, "default", manifest)
    await stack.client.create(PODS, "default", pod("large", ["sleep", "1000000"], ["many"], probe_dir))
    await wait_running(stack, {"large"})
    took = []
    for _ in range(5):
        await trio.run_process(await exec_command(stack, "large", "sh", "-c", "cat /etc/s0/* > /dev/null"))
        started = time.monotonic_ns()
        await order(stack, "large")
        took.append((time.monotonic_ns() - started) / 1e6)
        await order(stack, "large", undo=True)
    print(f"answer to the command for {FILES} files, all of them cached: {spread(took)}")
    await remove(stack, {"large"})


async def order(stack: Stack, name: str, *, undo: bool = False) -> RevokeView:
    call = partial(ask_one, str(stack.options.socket), "revoke", RevokeView, pod=name, volume="s0", undo=undo)
    return await trio.to_thread.run_sync(call)


class Lines:
    """What a process says, a line at a time."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdout is not None
        self._stdout = process.stdout
        self._rest = b""

    async def next(self) -> bytes:
        while b"\n" not in self._rest:
            chunk = await self._stdout.receive_some()
            if not chunk:
                raise SystemExit("the probe ended")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

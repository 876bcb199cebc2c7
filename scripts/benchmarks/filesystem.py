"""Opening and reading a delivered file, beside tmpfs and beside ``hello_ll``: libfuse's own example in C, built from the source
that Debian's libfuse3-dev ships.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from harness import Place, exec_command, measure, pod, remove, secret, wait_running

from kubelet_secrets.api.meta import PODS, SECRETS
from kubelet_secrets.stack import Stack, run_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 20_000
HELLO_LL = Path("/usr/share/doc/libfuse3-dev/examples/hello_ll.c")


async def run(place: Place) -> None:
    async with run_stack(place.options) as stack:
        await filesystem(stack, place.probe_dir)


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

"""Have the kernel swap out now what it may swap out at all, instead of waiting for a day on which memory is short.

Only processes of the node under test, and one with a decoy, are asked for: the machine is not put under pressure. Locked memory
is left alone by the kernel, which is what is to be shown. Without an active swap area none of this has an effect.

Source: process_madvise(2), MADV_PAGEOUT (Linux 5.10).
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from kubelet_secrets import linux

_PROCESS_MADVISE = 440
_MADV_PAGEOUT = 21
_ROUNDS = 3  # pages that a processor has just handed out cannot be taken yet
_ROUND_S = 0.1
_COPIES = 5000
_HOLDER = f"""
import signal, sys
kept = sys.stdin.buffer.read() * {_COPIES}
print(flush=True)
signal.pause()
"""


def page_out(pid: int) -> None:
    """Ask for every writable private region of a process. What the kernel refuses, because it is locked, stays.

    Raises:
        OSError: it has ended, or this kernel knows no such call (ENOSYS).
    """
    descriptor = os.pidfd_open(pid)
    try:
        for number in range(_ROUNDS):
            for begin, size in _private_regions(pid):
                _ask(descriptor, begin, size)
            if number + 1 < _ROUNDS:
                time.sleep(_ROUND_S)
    finally:
        os.close(descriptor)


def _private_regions(pid: int) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
        addresses, permissions, *_ = line.split()
        begin, end = (int(part, 16) for part in addresses.split("-"))
        if permissions.startswith("rw") and permissions.endswith("p"):
            yield begin, end - begin


def _ask(descriptor: int, begin: int, size: int) -> None:
    with contextlib.suppress(OSError):  # EINVAL: locked
        vector = struct.pack("=QQ", begin, size)
        linux.syscall(_PROCESS_MADVISE, "process_madvise", descriptor, vector, 1, _MADV_PAGEOUT, 0)


@contextlib.contextmanager
def swapped_decoy(decoy: bytes) -> Iterator[int]:
    """A process with many copies of *decoy* in memory that is not protected, asked for; its pid. Ends with the block."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(decoy)
            process.stdin.close()
            process.stdout.readline()
            page_out(process.pid)
            yield process.pid
        finally:
            process.kill()

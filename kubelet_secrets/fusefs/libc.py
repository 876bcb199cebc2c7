"""System calls that Python 3.11 has no wrapper for, through ctypes: one table of numbers, one way to raise ``OSError``.

Not a binding library: only what ``fusefs.mounts`` and ``fusefs.hardening`` call. Nobody else should import this.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

# Numbers from 424 on are the same on every architecture (include/uapi/asm-generic/unistd.h).
OPEN_TREE: Final = 428
MOVE_MOUNT: Final = 429
FSOPEN: Final = 430
FSCONFIG: Final = 431
FSMOUNT: Final = 432
MOUNT_SETATTR: Final = 442


def _raise_errno(what: str) -> None:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), what)


def syscall(number: int, name: str, *arguments: int | bytes | None) -> int:
    """Make one system call.

    Args:
        number: from the table above.
        name: what the error shall be about; becomes ``OSError.filename``.
        arguments: ints are passed as C longs, bytes as pointers, None as NULL.

    Raises:
        OSError: the call returned -1.
    """
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = _LIBC.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        _raise_errno(name)
    return result


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    encoded = [os.fsencode(x) if x is not None else None for x in (source, target, fstype, data)]
    if _LIBC.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]) != 0:
        _raise_errno(target)


def umount2(target: str, flags: int) -> None:
    """umount2(2)."""
    if _LIBC.umount2(os.fsencode(target), ctypes.c_int(flags)) != 0:
        _raise_errno(target)


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument; the unused ones are zero, as newer options demand."""
    arguments = [ctypes.c_ulong(x) for x in (value, 0, 0, 0)]
    if _LIBC.prctl(ctypes.c_int(option), *arguments) < 0:
        _raise_errno(f"prctl {option}")


def mlockall(flags: int) -> None:
    """mlockall(2)."""
    if _LIBC.mlockall(ctypes.c_int(flags)) != 0:
        _raise_errno("mlockall")

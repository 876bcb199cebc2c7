"""The Linux calls that Python 3.11 has no wrapper for, through ctypes. Ground: imports nothing of ours.

Thin: one function per call, ``OSError`` on failure, nothing remembered. Blocking; call from a worker thread where it may take
more than a millisecond. Not a mount *policy*: who mounts what is decided by the callers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

MNT_DETACH = 2

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

IN_MODIFY = 0x2
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_IN_ROOT = 0x10

# Numbers from 424 on are the same on every architecture (include/uapi/asm-generic/unistd.h).
OPEN_TREE = 428
MOVE_MOUNT = 429
FSOPEN = 430
FSCONFIG = 431
FSMOUNT = 432
MOUNT_SETATTR = 442

_AT_FDCWD = -100
_MOVE_MOUNT_F_EMPTY_PATH = 4
_CLONE_TREE = 1 | os.O_CLOEXEC | 0x100 | 0x8000  # OPEN_TREE_CLONE, AT_SYMLINK_NOFOLLOW, AT_RECURSIVE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def syscall(number: int, name: str, *arguments: int | bytes | None) -> int:
    """Make one system call.

    Args:
        number: from the table above.
        name: what the error shall be about; becomes ``OSError.filename``.
        arguments: ints are passed as C longs, bytes as pointers, None as NULL.
    """
    converted = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _check(int(_libc.syscall(ctypes.c_long(number), *converted)), name)


def mount(source: str | None, target: str | Path, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2). *data* must not be a secret: it shows in ``/proc/self/mountinfo``."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, fstype, data)]
    _check(_libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]), str(target))


def mount_tmpfs(source: str, target: str | Path, flags: int, options: str) -> None:
    """Mount a tmpfs that cannot be swapped or, on a kernel before 6.4, one that can."""
    try:
        mount(source, target, "tmpfs", flags, f"{options},noswap")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        mount(source, target, "tmpfs", flags, options)


def clone_mount(path: str | Path) -> int:
    """A detached copy of what is at *path* with everything mounted below: open_tree(2). The caller closes the descriptor.

    No symlink is followed at the end; nothing is asked of the filesystem that is mounted there.
    """
    return syscall(OPEN_TREE, str(path), _AT_FDCWD, os.fsencode(path), _CLONE_TREE)


def move_mount(mount_fd: int, target: str | Path) -> None:
    """Attach a detached mount at *target*, in the calling thread's mount namespace. The descriptor stays the caller's."""
    syscall(MOVE_MOUNT, str(target), mount_fd, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)


def unmount(target: str | Path, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), str(target))


def unshare(flags: int) -> None:
    """unshare(2) for the calling thread. The thread must not be reused afterwards: end it."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    """setns(2) for the calling thread. The thread must not be reused afterwards: end it."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument; the unused ones are zero, as newer options demand."""
    arguments = [ctypes.c_ulong(each) for each in (value, 0, 0, 0)]
    _check(_libc.prctl(ctypes.c_int(option), *arguments), f"prctl {option}")


def mlockall(flags: int) -> None:
    """mlockall(2)."""
    _check(_libc.mlockall(ctypes.c_int(flags)), "mlockall")


def inotify_open() -> int:
    """A non-blocking, close-on-exec inotify descriptor; the caller closes it."""
    return _check(_libc.inotify_init1(ctypes.c_int(os.O_NONBLOCK | os.O_CLOEXEC)), "inotify_init1")


def inotify_watch(fd: int, path: Path, mask: int) -> int:
    """inotify_add_watch(2). Returns the watch descriptor."""
    return _check(_libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask)), str(path))


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """Open *path* as a process chrooted to *root_fd* would: symbolic links and ``..`` cannot lead out of it.

    For reading files of an image: its symlinks are chosen by whoever built it.

    Raises:
        OSError: as open(2); ENOSYS before Linux 5.6.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
    result = _libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(root_fd),
        os.fsencode(path),
        ctypes.c_char_p(how),
        ctypes.c_size_t(len(how)),
    )
    return _check(int(result), path)

"""Where unlinked files wait for the kernel to forget them: ``/.grave/<pod uid>/<volume>/<number>`` in the store.

Beside each, ``<number>.path``, a symlink whose target is the path the file had in its volume: a file that a container has bound
by subPath is opened again and again after its version is gone, and must still be judged by what it was, also after a
restart. Links are never opened, so theirs is not kept.

System calls on the store only; ``tree`` decides what is buried and keeps the numbers.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from kubelet_secrets.fusefs.walk import scan

GRAVE = b".grave"
_PATH_SUFFIX = b".path"


def make_graveyard(store_fd: int) -> int:
    """Make the graveyard if there is none; returns its inode number."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(GRAVE, 0o700, dir_fd=store_fd)
    return os.stat(GRAVE, dir_fd=store_fd, follow_symlinks=False).st_ino


def find_graves(store_fd: int) -> Iterator[tuple[bytes, bytes, list[tuple[bytes, int]]]]:
    """What an earlier agent left: (pod uid, volume, graves as (name, inode)); notes without a grave are removed."""
    for pod_uid, _ in _names(store_fd, GRAVE):
        for volume, _ in _names(store_fd, GRAVE + b"/" + pod_uid):
            directory = b"%s/%s/%s" % (GRAVE, pod_uid, volume)
            found = dict(_names(store_fd, directory))
            notes = {name for name in found if name.endswith(_PATH_SUFFIX)}
            for name in notes:
                if name.removesuffix(_PATH_SUFFIX) not in found:
                    os.unlink(directory + b"/" + name, dir_fd=store_fd)
            yield pod_uid, volume, [(name, inode) for name, inode in found.items() if name not in notes]


def _names(store_fd: int, path: bytes) -> list[tuple[bytes, int]]:
    with scan(store_fd, path) as entries:
        return [(os.fsencode(entry.name), entry.inode()) for entry in entries]


def prepare(store_fd: int, pod_uid: bytes, volume: bytes, number: int, old_path: bytes | None) -> bool:
    """Make the directories of a grave and note the path, None for a link. Again is fine: a change may be made twice.

    Returns:
        False when the store is too full for it. Then the file has to go without a grave: a full store must be able to shrink.
    """
    directory = GRAVE + b"/" + pod_uid
    try:
        for path in (directory, directory + b"/" + volume):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700, dir_fd=store_fd)
        if old_path is not None:
            with contextlib.suppress(FileExistsError):
                os.symlink(old_path or b".", b"%s/%s/%d%s" % (directory, volume, number, _PATH_SUFFIX), dir_fd=store_fd)
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        return False
    return True


def recorded_path(store_fd: int, grave: bytes) -> bytes:
    """The path that the file at *grave* had in its volume; ``.grave`` when nobody noted it."""
    try:
        path = os.readlink(grave + _PATH_SUFFIX, dir_fd=store_fd)
    except OSError:
        return GRAVE
    return b"" if path == b"." else path


def remove(store_fd: int, grave: bytes) -> bool:
    """Remove the file at *grave* and its note; False when it is a directory that something was put into."""
    try:
        os.unlink(grave, dir_fd=store_fd)
    except IsADirectoryError:
        with scan(store_fd, grave) as entries:
            if next(entries, None) is not None:
                return False  # only after direct meddling; goes with the pod
        os.rmdir(grave, dir_fd=store_fd)
    except FileNotFoundError:
        pass
    with contextlib.suppress(FileNotFoundError):
        os.unlink(grave + _PATH_SUFFIX, dir_fd=store_fd)
    return True

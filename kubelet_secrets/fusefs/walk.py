"""Reading directories of the store by descriptor: no path of the host, no link followed. Called by ``tree`` only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Directory:
    """One directory of a walk."""

    path: bytes  # relative to the store's root
    inode: int
    files: list[tuple[bytes, int]]  # what is not a directory, as (name, inode)


@contextlib.contextmanager
def scan(store_fd: int, path: bytes) -> Iterator[Iterator[os.DirEntry[str]]]:
    """Entries of a directory. ``inode()`` and ``is_dir(follow_symlinks=False)`` of an entry cost no further system call."""
    directory_fd = os.open(path, _DIRECTORY_FLAGS, dir_fd=store_fd)
    try:
        with os.scandir(directory_fd) as entries:
            yield entries
    finally:
        os.close(directory_fd)


def walk_bottom_up(store_fd: int, path: bytes) -> Iterator[Directory]:
    """Every directory at and below *path*, children before their parent; nothing when *path* is missing."""
    try:
        with scan(store_fd, path) as entries:
            found = [(os.fsencode(e.name), e.inode(), e.is_dir(follow_symlinks=False)) for e in entries]
        inode = os.stat(path, dir_fd=store_fd, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return
    for name, _, is_directory in found:
        if is_directory:
            yield from walk_bottom_up(store_fd, path + b"/" + name)
    yield Directory(path, inode, [(name, inode) for name, inode, is_directory in found if not is_directory])

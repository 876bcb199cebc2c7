"""Where the writer makes the files of a version before the filesystem shows them: a directory of the store, out of sight.

The filesystem's mkdir of a version's name finds what was made here under that name, and moves it to its place in one step. So a
version appears with all its files, and no name in it was ever looked up in vain, which the kernel would remember. Only the
writer writes here, one version at a time; what a killed one left is removed by the next.

Synchronous; descriptors of the store alone. Called by ``writer`` and ``tree``.
"""

from __future__ import annotations

import errno
import os
import stat

from kubelet_secrets.volume import atomicwriter

NAME = b".staging"
"""In the store's root."""

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_staging(store_fd: int) -> int:
    """An empty directory to make versions in; the caller closes the descriptor. For the writer, when it starts."""
    atomicwriter.remove_tree(store_fd, os.fsdecode(NAME))
    os.mkdir(NAME, 0o700, dir_fd=store_fd)
    return os.open(NAME, _DIRECTORY, dir_fd=store_fd)


def make_directory(store_fd: int, path: bytes, mode: int) -> None:
    """``mkdir``, of what was staged under this name, if anything was.

    Raises:
        OSError: as mkdir(2).
    """
    name = path.rpartition(b"/")[2]
    staged = NAME + b"/" + name
    if not name.startswith(b"..") or not _is_directory(store_fd, staged):
        os.mkdir(path, mode, dir_fd=store_fd)
        return
    if _is_directory(store_fd, path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)  # a rename would replace an empty one
    os.chmod(staged, mode, dir_fd=store_fd)
    os.rename(staged, path, src_dir_fd=store_fd, dst_dir_fd=store_fd)


def _is_directory(store_fd: int, path: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path, dir_fd=store_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False

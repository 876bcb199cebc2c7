"""fsGroup on a volume: every entry gets the group, and the mode bits that let the group in.

Walks by descriptors below one directory, on the store or on the FUSE mount alike; called by the AtomicWriter's step (7), by
``volume/store.py`` for a new volume's root, and by ``volume/emptydir.py``. ``volume/modes.py`` decides, this module does.

Source: kubernetes pkg/volume/volume_linux.go, changeFilePermission.
"""

from __future__ import annotations

import logging
import os
import stat

from kubelet_secrets.volume.modes import EntryKind, with_fs_group

logger = logging.getLogger(__name__)


def apply_fs_group(dir_fd: int, group: int, *, read_only: bool) -> None:
    """Give the whole volume to *group*: ``lchown(-1, group)``, then the group's mode bits; children before their directory.

    Args:
        dir_fd: the volume's directory; itself included. O_PATH is enough.
        group: the pod's ``securityContext.fsGroup``.
        read_only: True for secret, configMap, downwardAPI and projected volumes (files get 0440), False for emptyDir (0660).

    Failures are logged and skipped, as upstream: a volume with one odd entry is better than none.
    """
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        _apply_below(fd, group, read_only)
    finally:
        os.close(fd)


def _apply_below(fd: int, group: int, read_only: bool) -> None:
    with os.scandir(fd) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                try:
                    _apply_below(child, group, read_only)
                finally:
                    os.close(child)
                continue
            os.chown(name, -1, group, dir_fd=fd, follow_symlinks=False)
            if not stat.S_ISLNK(found.st_mode):
                os.chmod(
                    name, with_fs_group(stat.S_IMODE(found.st_mode), EntryKind.FILE, read_only=read_only), dir_fd=fd
                )
        except OSError as error:
            logger.warning("fsGroup %d: entry %s keeps its owner: %s", group, name, error.strerror)
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        os.chown(fd, -1, group)
        os.chmod(fd, with_fs_group(mode, EntryKind.DIRECTORY, read_only=read_only))
    except OSError as error:
        logger.warning("fsGroup %d: a directory keeps its owner: %s", group, error.strerror)

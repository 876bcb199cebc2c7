"""fsGroup on a volume: every entry gets the group, and the mode bits that let the group in.

Walks by descriptors below one directory, on the store or on the FUSE mount alike; called by the AtomicWriter's step (7), by
``volume/store.py`` for a new volume's root, and by ``volume/emptydir.py``. The numbers are §2.4's of the kubelet's behaviour:
``volume/ownership.py`` decides, this module does.

Source: kubernetes pkg/volume/volume_linux.go, changeFilePermission.
"""

from __future__ import annotations

import logging
import os
import stat

logger = logging.getLogger(__name__)

_READ_ONLY_MASK = 0o440
_READ_WRITE_MASK = 0o660
_EXECUTE_MASK = 0o110


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
        _apply_below(fd, group, _READ_ONLY_MASK if read_only else _READ_WRITE_MASK)
    finally:
        os.close(fd)


def root_mode(mode: int, *, read_only: bool) -> int:
    """Mode of a directory of *mode* once fsGroup applies."""
    return mode | stat.S_ISGID | _EXECUTE_MASK | (_READ_ONLY_MASK if read_only else _READ_WRITE_MASK)


def _apply_below(fd: int, group: int, mask: int) -> None:
    with os.scandir(fd) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                try:
                    _apply_below(child, group, mask)
                finally:
                    os.close(child)
                continue
            os.chown(name, -1, group, dir_fd=fd, follow_symlinks=False)
            if not stat.S_ISLNK(found.st_mode):
                os.chmod(name, stat.S_IMODE(found.st_mode) | mask, dir_fd=fd)
        except OSError as error:
            logger.warning("fsGroup %d: entry %s keeps its owner: %s", group, name, error.strerror)
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        os.chown(fd, -1, group)
        os.chmod(fd, mode | stat.S_ISGID | mask | _EXECUTE_MASK)
    except OSError as error:
        logger.warning("fsGroup %d: a directory keeps its owner: %s", group, error.strerror)

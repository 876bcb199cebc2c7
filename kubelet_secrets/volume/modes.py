"""Permission bits of a volume's entries, before and after fsGroup.

Pure, and without imports of ours: the writer process needs these numbers and nothing of the API. ``ownership`` adds whose
they are.

Source: pkg/volume/volume_linux.go, changeFilePermission; semantics §2.4.
"""

from __future__ import annotations

import stat
from enum import Enum

TMPFS_ROOT_MODE = 0o1777  # the root of a secret, projected or downward API volume, and of a Memory emptyDir
PLAIN_ROOT_MODE = 0o777  # the root of a configMap volume and of an emptyDir on disk
DIRECTORY_MODE = 0o755  # timestamp directories, and the directories in them

_READ_ONLY_MASK = 0o440
_READ_WRITE_MASK = 0o660
_EXECUTE_MASK = 0o110


class EntryKind(Enum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


def with_fs_group(mode: int, kind: EntryKind, *, read_only: bool = True) -> int:
    """The bits of an entry after the fsGroup pass.

    Args:
        mode: permission bits before it, with setgid and sticky.
        read_only: True for secret, configMap, downwardAPI and projected volumes; False for emptyDir.
    """
    if kind is EntryKind.SYMLINK:
        return mode  # lchown only
    mode |= _READ_ONLY_MASK if read_only else _READ_WRITE_MASK
    if kind is EntryKind.DIRECTORY:
        mode |= stat.S_ISGID | _EXECUTE_MASK
    return mode

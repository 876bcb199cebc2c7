"""hostPath volumes: look whether the path is of the asked type, and make it where the type says so.

Called by ``pod/volumes.py`` in a worker thread. Source: pkg/volume/hostpath/host_path.go, checkType.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kubelet_secrets.api.core import HostPathVolumeSource
from kubelet_secrets.errors import SetUpError

_CHECKS = {
    "Directory": (stat.S_ISDIR, "directory"),
    "File": (stat.S_ISREG, "file"),
    "Socket": (stat.S_ISSOCK, "socket"),
    "CharDevice": (stat.S_ISCHR, "character device"),
    "BlockDevice": (stat.S_ISBLK, "block device"),
}


def check_host_path(source: HostPathVolumeSource) -> None:
    """Make the path where its type ends in ``OrCreate`` and it is missing, then check the type.

    Raises:
        SetUpError: it is something else, or cannot be made.
    """
    if source.type == "":
        return  # for backwards compatibility upstream does not even ask whether it exists
    path = Path(source.path)
    try:
        if source.type == "DirectoryOrCreate" and not path.exists():
            path.mkdir(mode=0o755, parents=True)
        elif source.type == "FileOrCreate" and not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    except OSError as error:
        raise SetUpError(f"hostPath type check failed: {source.path}: {error.strerror}") from error
    check, noun = _CHECKS.get(source.type.removesuffix("OrCreate"), (None, ""))
    if check is None:
        raise SetUpError(f"hostPath type check failed: {source.type} is an invalid volume type")
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = 0
    if not check(mode):
        raise SetUpError(f"hostPath type check failed: {source.path} is not a {noun}")

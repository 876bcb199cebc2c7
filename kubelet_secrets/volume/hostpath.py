"""hostPath: a path of the host as it is, after a look at its type.

Synchronous; called by the manager in a worker thread.

Source: pkg/volume/hostpath/host_path.go, checkTypeInternal and SetUpAt.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from kubelet_secrets.api.core import HostPathVolumeSource
from kubelet_secrets.errors import SetUpError

_CHECKS: dict[str, tuple[Callable[[int], bool], str]] = {
    "Directory": (stat.S_ISDIR, "directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "directory"),
    "File": (lambda mode: not stat.S_ISDIR(mode), "file"),
    "FileOrCreate": (lambda mode: not stat.S_ISDIR(mode), "file"),
    "Socket": (stat.S_ISSOCK, "socket file"),
    "CharDevice": (stat.S_ISCHR, "character device"),
    "BlockDevice": (stat.S_ISBLK, "block device"),
}


def check_host_path(source: HostPathVolumeSource) -> None:
    """See that the path is of the type its volume asks for; make it where the type says so.

    Raises:
        SetUpError: with upstream's text.
    """
    path = source.path
    if ".." in path.split("/"):
        raise SetUpError(f"invalid HostPath `{path}`: must not contain '..'")
    if not source.type:
        return
    if "\0" in path:
        raise SetUpError(f"hostPath type check failed: {path}: {os.strerror(errno.EINVAL)}")
    if source.type not in _CHECKS:
        raise SetUpError(f"{source.type} is an invalid volume type")
    is_right, name = _CHECKS[source.type]
    try:
        if source.type.endswith("OrCreate") and not os.path.exists(path):
            _create(path, is_directory=source.type.startswith("Directory"))
        found = os.stat(path).st_mode
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise SetUpError(f"hostPath type check failed: {path}: {error.strerror}") from error
    if found is None or not is_right(found):
        raise SetUpError(f"hostPath type check failed: {path} is not a {name}")


def _create(path: str, *, is_directory: bool) -> None:
    if is_directory:
        os.makedirs(path, 0o755, exist_ok=True)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o644))

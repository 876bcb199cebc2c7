"""Mountpoints inside a volume, for other volumes that the pod mounts beneath it. Pure.

A volume of secrets is read-only where the container runtime would have to make such a directory, so it must be there already.

Source: pkg/volume/util/nested_volumes.go, getNestedMountpoints; semantics §2.2 step 5, §5.4.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator

from kubelet_secrets.api.core import Container, Pod
from kubelet_secrets.api.references import all_containers
from kubelet_secrets.errors import SetUpError


def nested_mountpoints(pod: Pod, volume: str) -> list[str]:
    """Directories that *volume* needs, relative to its root, without duplicates.

    Of mounts nested in each other only the outermost counts: the inner one's directory is the outer volume's affair.

    Raises:
        SetUpError: a mount path of this volume leads out of the container's root.
    """
    return list(dict.fromkeys(path for container in all_containers(pod) for path in _in_container(container, volume)))


def hidden_names(pod: Pod, volume: str) -> frozenset[str]:
    """Names at the root of *volume* where a directory stands for a mount beneath, in whichever container of *pod*.

    It is made before the first version is written, and the writer leaves alone what is no link of its own: what the volume has
    under such a name can be reached through ``..data`` only.
    """
    try:
        return frozenset(path.partition("/")[0] for path in nested_mountpoints(pod, volume))
    except SetUpError:
        return frozenset()  # it is never set up


def is_in_sight(path: str, sub_path: str, hidden: Collection[str]) -> bool:
    """Whether a mount that selects *sub_path* of a volume gets at *path*, a file of its versions.

    Args:
        sub_path: "" for the whole volume.
        hidden: see :func:`hidden_names`.
    """
    through = posixpath.normpath(sub_path).partition("/")[0] if sub_path else ""
    return through.startswith("..") or path.partition("/")[0] not in hidden


def _in_container(container: Container, volume: str) -> Iterator[str]:
    mounts = [(mount.name, _clean(mount.mount_path)) for mount in container.volume_mounts]
    paths = sorted(path for _, path in mounts)
    for name, mine in mounts:
        if name != volume:
            continue
        if mine.startswith("../"):
            raise SetUpError(f"invalid container mount point {mine}")
        # All that were taken, not just the last one: "-" and "." sort before "/", so /a-b stands between /a and /a/c.
        taken: list[str] = []
        for path in paths:
            if not path.startswith(f"{mine}/") or path.startswith(tuple(taken)):
                continue
            taken.append(f"{path}/")
            yield path[len(mine) + 1 :]


def _clean(path: str) -> str:
    """Go's filepath.Clean. Python's normpath keeps a leading ``//``."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned

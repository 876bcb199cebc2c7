"""Where a container's mounts end up, and which of them one sees at a path. Pure.

The runtime makes mounts in the order of their depth, and those of one depth in the order of the spec: a deeper one covers what
lies under it, and of two at the same place (``/v`` and ``/v/``: for the API two paths) the later one is seen.

Source: containerd's orderedMounts; pkg/kubelet/kubelet_pods.go, makeMounts (a relative path is made absolute); semantics §5.1.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence


def mount_point(mount_path: str) -> str:
    """A ``mountPath`` as the container's mount table has it: absolute and clean."""
    return posixpath.normpath("/" + mount_path.lstrip("/"))


def is_below(path: str, directory: str) -> bool:
    """Whether *path*, clean, is *directory* or lies in it."""
    return path == directory or path.startswith(directory if directory.endswith("/") else f"{directory}/")


def topmost(points: Sequence[str], path: str) -> int | None:
    """The index of the mount that is seen at *path*; None where there is none.

    Args:
        points: the mount points, clean, in the order of the spec.
    """
    covering = [index for index, point in enumerate(points) if is_below(path, point)]
    return max(covering, key=lambda index: (len(points[index]), index), default=None)

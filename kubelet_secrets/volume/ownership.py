"""Who owns a volume's files and what their final permission bits are.

Pure: the numbers that the writer applies and ``explain`` prints. The kubelet's fsGroup pass visits every entry of a volume
after it was written, children before their directory; what it does to one entry is :func:`with_fs_group`.

Source: pkg/volume/volume_linux.go, changeFilePermission; pkg/volume/util/util.go, FsUserFrom; semantics §2.4, §4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubelet_secrets.api.core import Container, Pod
from kubelet_secrets.api.references import all_containers
from kubelet_secrets.volume.modes import (
    DIRECTORY_MODE,
    PLAIN_ROOT_MODE,
    TMPFS_ROOT_MODE,
    EntryKind,
    with_fs_group,
)
from kubelet_secrets.volume.projection import FileProjection

__all__ = [
    "DIRECTORY_MODE",
    "PLAIN_ROOT_MODE",
    "TMPFS_ROOT_MODE",
    "EntryKind",
    "Ownership",
    "directory_ownership",
    "file_ownership",
    "fs_group_of",
    "fs_user_from",
    "with_fs_group",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """What ``stat`` shows: permission bits (with setgid and sticky), owner and group."""

    mode: int
    uid: int = 0
    gid: int = 0

    def __str__(self) -> str:
        return f"{self.mode:04o} {self.uid}:{self.gid}"


def file_ownership(file: FileProjection, *, fs_group: int | None) -> Ownership:
    """What a container sees of *file* in a read-only volume."""
    uid = file.fs_user or 0
    if fs_group is None:
        return Ownership(mode=file.mode, uid=uid)
    return Ownership(mode=with_fs_group(file.mode, EntryKind.FILE), uid=uid, gid=fs_group)


def directory_ownership(mode: int, *, fs_group: int | None, read_only: bool = True) -> Ownership:
    """What a container sees of a directory that was made with *mode*."""
    if fs_group is None:
        return Ownership(mode=mode)
    return Ownership(mode=with_fs_group(mode, EntryKind.DIRECTORY, read_only=read_only), gid=fs_group)


def fs_group_of(pod: Pod) -> int | None:
    return pod.spec.security_context.fs_group


def fs_user_from(pod: Pod) -> int | None:
    """The uid that owns tokens and certificates: the one that *every* container of the pod runs as, else None.

    Source: FsUserFrom. A container's own runAsUser goes before the pod's; 0 counts as set.
    """
    users = {_effective_user(pod, container) for container in all_containers(pod)}
    return users.pop() if len(users) == 1 else None


def _effective_user(pod: Pod, container: Container) -> int | None:
    if container.security_context is not None and container.security_context.run_as_user is not None:
        return container.security_context.run_as_user
    return pod.spec.security_context.run_as_user

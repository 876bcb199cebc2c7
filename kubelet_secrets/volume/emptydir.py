"""Volumes that need no guard because they hold no API object: emptyDir, on disk or in memory.

An ``emptyDir`` of medium Memory is a tmpfs of its own, kept out of swap where the kernel can. Synchronous; the manager calls
it in a worker thread. Removal is the manager's, as for every volume.

Source: pkg/volume/emptydir/empty_dir.go; semantics §2.7.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import kubelet_secrets.fusefs.mounts as mounts
from kubelet_secrets.api.core import EmptyDirVolumeSource, Pod
from kubelet_secrets.api.quantity import value
from kubelet_secrets.api.references import all_containers
from kubelet_secrets.errors import SetUpError
from kubelet_secrets.volume.fsgroup import apply_fs_group
from kubelet_secrets.volume.layout import EMPTY_DIR_PLUGIN, PodsLayout, make_directories, mark_ready
from kubelet_secrets.volume.modes import PLAIN_ROOT_MODE, TMPFS_ROOT_MODE

MEMORY = "Memory"


def memory_size_bytes(source: EmptyDirVolumeSource, *, pod_limit_bytes: int, allocatable_bytes: int) -> int:
    """How large a Memory volume may grow: the least of its own limit, the pod's, and the node's allocatable memory.

    Args:
        pod_limit_bytes: the pod's memory limit, 0 for none.

    Source: calculateEmptyDirMemorySize.
    """
    limits = [allocatable_bytes]
    if pod_limit_bytes > 0:
        limits.append(pod_limit_bytes)
    if source.size_limit is not None and (own := value(source.size_limit)) > 0:
        limits.append(own)
    return min(limits)


def spreads_mounts(pod: Pod, volume: str) -> bool:
    """Whether a container of *pod* mounts *volume* so that mounts come from others, or go to them."""
    return any(
        mount.name == volume and mount.mount_propagation in ("Bidirectional", "HostToContainer")
        for container in all_containers(pod)
        for mount in container.volume_mounts
    )


def set_up_empty_dir(
    layout: PodsLayout,
    pod_uid: str,
    volume: str,
    source: EmptyDirVolumeSource,
    *,
    fs_group: int | None,
    memory_bytes: int,
    spreads_mounts: bool = False,
) -> Path:
    """Make the volume, unless it is there: what containers wrote into it stays.

    Args:
        fs_group: None leaves root's group.
        memory_bytes: size of a Memory volume.
        spreads_mounts: what one container mounts in it reaches others (mountPropagation): then it is a shared mount of its own.
            The node's directory is private, lest what the node mounts be seen elsewhere.

    Returns:
        Its directory on the host.

    Raises:
        SetUpError: a medium nobody knows, or the host refuses.
    """
    if source.medium not in ("", MEMORY):
        raise SetUpError(f'unknown storage medium "{source.medium}"')
    in_memory = source.medium == MEMORY
    directory = layout.volume_dir(pod_uid, EMPTY_DIR_PLUGIN, volume)
    ready_dir = layout.ready_dir(pod_uid, EMPTY_DIR_PLUGIN, volume)
    try:
        is_mounted = directory.is_mount()
        if (ready_dir / "ready").exists() and directory.exists() and is_mounted == in_memory:
            if spreads_mounts:
                mounts.make_shared(directory)
            return directory
        make_directories(directory)
        if in_memory and not is_mounted:
            _mount_tmpfs(directory, memory_bytes)
        if not in_memory:
            directory.chmod(PLAIN_ROOT_MODE)
        if fs_group is not None:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                apply_fs_group(fd, fs_group, read_only=False)
            finally:
                os.close(fd)
        if spreads_mounts:
            mounts.make_shared(directory)
        mark_ready(ready_dir)
    except OSError as error:
        raise SetUpError(f"emptyDir: {error.strerror}") from error
    return directory


def _mount_tmpfs(directory: Path, size_bytes: int) -> None:
    options: dict[str, str | None] = {"size": str(size_bytes), "mode": f"{TMPFS_ROOT_MODE:o}"}
    try:
        mount_fd = mounts.make_mount(
            "tmpfs", {**options, "noswap": None}, attributes=mounts.MountAttr(0), source="tmpfs"
        )
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Before 6.4. Unlike the store this is the pod's own scratch space: the kubelet takes a plain tmpfs as well.
        mount_fd = mounts.make_mount("tmpfs", options, attributes=mounts.MountAttr(0), source="tmpfs")
    try:
        mounts.attach(mount_fd, directory)
    finally:
        os.close(mount_fd)

"""The store: where every version of every guarded volume lies, on a memory filesystem that no path leads to.

Layout below the root descriptor, mirrored by the FUSE tree::

    /<pod uid>/<volume>/          one volume, as the AtomicWriter keeps it
    /.grave/…                     what was unlinked while still in use; the FUSE tree's affair

Synchronous and stateless: each answer is read from the filesystem, so a restarted agent knows what its predecessor knew. It
makes and removes volume directories, says how full it is, enforces quotas, and turns errno into the errors the pod reports.
It does not write payloads (``atomicwriter``) and mounts nothing (``manager``).

Called by ``volume/manager.py``, from worker threads where a call may take longer than a millisecond.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from kubelet_secrets.errors import SetUpError, StoreFull
from kubelet_secrets.volume import atomicwriter
from kubelet_secrets.volume.modes import DIRECTORY_MODE, EntryKind, with_fs_group
from kubelet_secrets.volume.quota import (
    NO_LIMITS,
    NOTHING,
    Ledger,
    StoreLimits,
    Sums,
    Usage,
    VolumeRef,
    check_limits,
    payload_usage,
)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class VolumeVersion:
    """The version of a volume that is current."""

    name: str  # "..2026_01_02_15_04_05.4130968751"
    since: datetime  # when ``..data`` was switched to it, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One regular file of a volume's current version; for ``tree``. No content."""

    path: str  # as users see it: "tls/tls.key"
    mode: int
    uid: int
    gid: int
    size_bytes: int


class Store:
    """Volumes below *root_fd*.

    Args:
        root_fd: directory descriptor of the memory filesystem's root; O_PATH is enough. Stays the caller's.
        limits: beside the filesystem's own.
    """

    def __init__(self, root_fd: int, *, limits: StoreLimits = NO_LIMITS) -> None:
        self._root = root_fd
        self._limits = limits
        self._ledger = Ledger(lambda ref: self.usage(ref.pod_uid, ref.volume))

    # --- volumes ----------------------------------------------------------------------------------------------------

    def create_volume(self, pod_uid: str, volume: str, *, mode: int, fs_group: int | None) -> None:
        """Make the volume's empty directory, which must not exist.

        Args:
            mode: of the volume's root before fsGroup: 0o1777 for what the kubelet keeps on tmpfs, 0o777 for a configMap.
            fs_group: None leaves root's group. The root is prepared like a read-write emptyDir, as upstream wraps it.

        Raises:
            FileExistsError: there is one already.
            StoreFull: no room for a directory.
        """
        path = _path(pod_uid, volume)
        if self._exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._ledger.forget(VolumeRef(pod_uid, volume))
        with self.translate_errors(Usage(0, 2)):
            try:
                os.mkdir(pod_uid, 0o700, dir_fd=self._root)
            except FileExistsError:
                pass
            os.mkdir(path, 0o700, dir_fd=self._root)
            if fs_group is not None:
                mode = with_fs_group(mode, EntryKind.DIRECTORY, read_only=False)
                os.chown(path, -1, fs_group, dir_fd=self._root)
            os.chmod(path, mode, dir_fd=self._root)

    def has_volume(self, pod_uid: str, volume: str) -> bool:
        return self._exists(_path(pod_uid, volume))

    @contextmanager
    def open_volume(self, pod_uid: str, volume: str) -> Iterator[int]:
        """A descriptor of the volume's directory, for the AtomicWriter; closed at the end of the block.

        Raises:
            FileNotFoundError: no such volume.
        """
        fd = os.open(_path(pod_uid, volume), _DIRECTORY, dir_fd=self._root)
        try:
            yield fd
        finally:
            os.close(fd)

    def make_directories(self, pod_uid: str, volume: str, paths: Iterable[str]) -> None:
        """``mkdir -p`` within a volume no container sees yet: the mountpoints of volumes nested in it.

        Args:
            paths: clean, relative, without ``..``.

        Raises:
            SetUpError: an element exists and is not a directory.
        """
        with self.open_volume(pod_uid, volume) as fd:
            for path in paths:
                try:
                    _make_directories(fd, path)
                except OSError as error:
                    if error.errno in _FULL:
                        raise self._full(Usage(0, path.count("/") + 1)) from error
                    raise nested_mountpoint_error(path, error) from error

    def missing_directories(self, pod_uid: str, volume: str, paths: Iterable[str]) -> list[str]:
        """Those of *paths* that the volume lacks."""
        prefix = _path(pod_uid, volume)
        return [path for path in paths if not self._has(f"{prefix}/{path}")]

    def remove_volume(self, pod_uid: str, volume: str) -> None:
        """Remove a volume with all its versions; a missing one is fine. The pod's directory goes with its last volume."""
        try:
            pod_fd = os.open(_segment(pod_uid), _DIRECTORY, dir_fd=self._root)
        except FileNotFoundError:
            return
        try:
            atomicwriter.remove_tree(pod_fd, _segment(volume))
        finally:
            os.close(pod_fd)
        try:
            os.rmdir(pod_uid, dir_fd=self._root)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise

    def purge_pod(self, pod_uid: str) -> None:
        """Remove all of a pod's volumes; none is fine."""
        atomicwriter.remove_tree(self._root, _segment(pod_uid))

    def volumes(self, pod_uid: str | None = None) -> list[VolumeRef]:
        """Volume directories of one pod, or of all, sorted. After a restart: what there is to adopt."""
        pods = [pod_uid] if pod_uid is not None else [name for name in self._names(".") if not name.startswith(".")]
        return [VolumeRef(pod, volume) for pod in pods for volume in self._names(_segment(pod))]

    def current(self, pod_uid: str, volume: str) -> VolumeVersion | None:
        """The version ``..data`` names, with the time of the switch; None when there is no volume or no version yet."""
        link = f"{_path(pod_uid, volume)}/{atomicwriter.DATA_DIR}"
        try:
            # The time of the link is that of `..data_tmp`, a few system calls before the rename.
            since = datetime.fromtimestamp(os.stat(link, dir_fd=self._root, follow_symlinks=False).st_mtime, UTC)
            return VolumeVersion(os.readlink(link, dir_fd=self._root), since)
        except FileNotFoundError:
            return None

    def needs_write(self, pod_uid: str, volume: str, payload: Mapping[str, atomicwriter.FileLike]) -> bool:
        """Whether the volume shows anything but *payload*. Asks the store, never the FUSE mount."""
        try:
            with self.open_volume(pod_uid, volume) as fd:
                return atomicwriter.needs_write(fd, payload)
        except FileNotFoundError:
            return True

    def files(self, pod_uid: str, volume: str) -> list[StoredFile]:
        """Regular files of the current version, sorted by path."""
        version = self.current(pod_uid, volume)
        if version is None:
            return []
        found = []
        try:
            for directory, _, names, fd in os.fwalk(f"{_path(pod_uid, volume)}/{version.name}", dir_fd=self._root):
                below = directory.split("/")[3:]
                for name in names:
                    entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    mode, path = stat.S_IMODE(entry.st_mode), "/".join([*below, name])
                    file = StoredFile(
                        path=path, mode=mode, uid=entry.st_uid, gid=entry.st_gid, size_bytes=entry.st_size
                    )
                    found.append(file)
        except FileNotFoundError:
            if self.current(pod_uid, volume) != version:
                return self.files(pod_uid, volume)  # retired while we looked: look at its successor
        return sorted(found, key=lambda file: file.path)

    # --- how full ---------------------------------------------------------------------------------------------------

    def usage(self, pod_uid: str | None = None, volume: str | None = None) -> Usage:
        """What a volume, a pod, or the whole store takes up; nothing when there is none. Walks it: some µs per entry."""
        return self._measure(
            "." if pod_uid is None else _segment(pod_uid) if volume is None else _path(pod_uid, volume)
        )

    def _hidden_usage(self) -> Usage:
        """What lies beside the pods: files that were replaced and are still in use."""
        return sum((self._measure(name) for name in self._names(".") if name.startswith(".")), NOTHING)

    def _measure(self, path: str) -> Usage:
        total = NOTHING
        if not self._exists(path):
            return total
        for _, directories, names, fd in self._walk(path):
            total += Usage(0, 1)
            for name in names:
                try:
                    total += Usage(_pages(os.stat(name, dir_fd=fd, follow_symlinks=False)), 1)
                except FileNotFoundError:
                    continue
            total += Usage(0, sum(1 for name in directories if _is_link(fd, name)))
        return total

    def _walk(self, path: str) -> Iterator[tuple[str, list[str], list[str], int]]:
        try:
            yield from os.fwalk(path, dir_fd=self._root)
        except (FileNotFoundError, NotADirectoryError):
            pass  # removed before it was opened, or the request at hand (``fusefs.unanswered``)

    @contextmanager
    def reserve(
        self, pod_uid: str, volume: str, payload: Mapping[str, atomicwriter.FileLike], *, pod: str = ""
    ) -> Iterator[None]:
        """Hold room for a payload while the block writes it; refuse one that would break a quota, before anything is written.

        The pod's quota counts one version per volume; the node's counts the new version beside the old one, because both
        are there until the switch is over. To be entered in a worker thread: after a restart it may measure many volumes.

        Args:
            pod: "namespace/name" for the message; the uid by default.

        Raises:
            StoreFull: names the quota, what it allows and what would be used.
        """
        limits = self._limits
        if limits == NO_LIMITS:
            yield
            return
        ref = VolumeRef(pod_uid, volume)
        limits_node = limits.node_bytes is not None or limits.node_inodes is not None

        def existing() -> list[VolumeRef]:
            return self.volumes(None if limits_node else pod_uid)

        def check(sums: Sums) -> None:
            check_limits(f"pod {pod or pod_uid}", sums.pod, limits.pod_bytes, limits.pod_inodes)
            if limits_node:
                node = sums.node + self._hidden_usage()
                check_limits("the node", node, limits.node_bytes, limits.node_inodes)

        with self._ledger.reserve(ref, payload_usage(payload), existing=existing, check=check):
            yield

    @contextmanager
    def translate_errors(self, needed: Usage = NOTHING) -> Iterator[None]:
        """Turn errno from the store, or from the mount above it, into what the pod reports.

        Args:
            needed: what was to be written, to tell what it did not find room for.

        Raises:
            StoreFull: ENOSPC, EDQUOT or ENOMEM; says whether memory or the number of files is exhausted.
            SetUpError: any other errno, by its text; never with a file's content.
        """
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise self._full(needed) from error
            raise SetUpError(f"secret store: {_text(error)}") from error

    def _full(self, needed: Usage) -> StoreFull:
        # By now what was half written is gone again, so "in use" is without it.
        found = os.fstatvfs(self._root)
        total = found.f_blocks * found.f_frsize
        used = total - found.f_bavail * found.f_frsize
        used_files = found.f_files - found.f_favail
        if used + needed.size_bytes <= total and used_files + needed.inodes > found.f_files:
            amounts = f"{used_files} of {found.f_files} files in use, {needed.inodes} more needed"
        else:
            amounts = f"{used} of {total} bytes in use, {needed.size_bytes} more needed"
        return StoreFull(f"secret store of the node is full: {amounts}")

    def _has(self, path: str) -> bool:
        """Whether there is such a thing. What no file can be called, as a mount path can be, there is not."""
        try:
            return "\0" not in path and self._exists(path)
        except OSError:  # ENAMETOOLONG, ELOOP: making it will say so
            return False

    def _exists(self, path: str) -> bool:
        try:
            os.stat(path, dir_fd=self._root)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _names(self, path: str) -> list[str]:
        try:
            fd = os.open(path, _DIRECTORY, dir_fd=self._root)
        except FileNotFoundError:
            return []
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}


def nested_mountpoint_error(path: str, error: OSError) -> SetUpError:
    """The kubelet's text. Source: pkg/volume/util/nested_volumes.go, MakeNestedMountpoints."""
    return SetUpError(f"unable to create nested volume mountpoints: mkdir {path}: {_text(error)}")


def _segment(name: str) -> str:
    """A name of one path element that cannot leave its directory. The API server saw to it; this is the last look."""
    if not name or "/" in name or name.startswith("."):
        raise ValueError(f"not a name of a pod or volume: {name!r}")
    return name


def _path(pod_uid: str, volume: str) -> str:
    return f"{_segment(pod_uid)}/{_segment(volume)}"


def _pages(entry: os.stat_result) -> int:
    return entry.st_blocks * 512 if stat.S_ISREG(entry.st_mode) else 0


def _is_link(fd: int, name: str) -> bool:
    """Whether what os.fwalk lists as a directory is a link to one, which it does not enter."""
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _text(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else "unknown error"


def _make_directories(fd: int, path: str) -> None:
    """``mkdir -p``, element by element, through no link."""
    if "\0" in path:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    opened = os.dup(fd)
    try:
        for element in path.split("/"):
            try:
                os.mkdir(element, DIRECTORY_MODE, dir_fd=opened)
                os.chmod(element, DIRECTORY_MODE, dir_fd=opened)
            except FileExistsError:
                pass
            child = os.open(element, _DIRECTORY, dir_fd=opened)
            os.close(opened)
            opened = child
    finally:
        os.close(opened)

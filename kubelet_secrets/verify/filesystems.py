"""On what do the values of a running node lie? Asked of the kernel's mount tables, not of the node's own settings."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kubelet_secrets import linux
from kubelet_secrets.fusefs import mounts
from kubelet_secrets.verify.grades import CgroupSwap, Grade, Graded, grade_filesystem
from kubelet_secrets.verify.processes import cgroup_swap
from kubelet_secrets.verify.report import MountReport
from kubelet_secrets.volume.layout import EMPTY_DIR_PLUGIN

_FS_TYPES = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}


@dataclass(frozen=True, slots=True)
class Filesystem:
    """What a mount table says."""

    fstype: str
    options: frozenset[str]  # of the superblock

    def __str__(self) -> str:
        return f"{self.fstype} (noswap)" if "noswap" in self.options else self.fstype


def graded(holds: str, path: str, filesystem: Filesystem, *, promised: bool = True) -> MountReport:
    return _report(holds, path, filesystem, grade_filesystem(filesystem.fstype, filesystem.options), promised)


def _report(holds: str, path: str, filesystem: Filesystem, grade: Graded, promised: bool = True) -> MountReport:
    return MountReport(
        holds=holds, path=path, filesystem=str(filesystem), grade=grade.grade, why=grade.why, promised=promised
    )


def filesystem_of(path: str | Path, *, pid: int | None = None) -> Filesystem:
    """The filesystem that *path* lies on, in the mount namespace of process *pid*, or in ours.

    An overlay is what its upper layer lies on: that is where it writes.

    Raises:
        OSError: the table cannot be read: the process has ended.
        LookupError: nothing is mounted above *path*.
    """
    table = Path(f"/proc/{pid or 'self'}/mountinfo").read_text(errors="surrogateescape")
    best: tuple[int, Filesystem] | None = None
    entries = mounts.parse_mount_table(table)
    for entry, line in zip(entries, table.splitlines(), strict=True):
        covers = entry.target == "/" or str(path) == entry.target or str(path).startswith(f"{entry.target}/")
        if covers and (best is None or len(entry.target) >= best[0]):  # of equals the last one is on top
            options = frozenset(line.rpartition(" - ")[2].split(" ", 2)[2].split(","))
            best = len(entry.target), Filesystem(entry.fstype, options)
    if best is None:
        raise LookupError(f"nothing is mounted at {path}")
    if best[1].fstype == "overlay":
        upper = [each.removeprefix("upperdir=") for each in best[1].options if each.startswith("upperdir=")]
        # The path is one of the namespace in which the overlay was mounted, which is the node's.
        return filesystem_of(upper[0]) if upper else best[1]
    return best[1]


def store_filesystem(agent_pid: int) -> Filesystem:
    """What the detached store is, which has no path and is in no mount table.

    From Linux 6.15 on it is cloned into a mount namespace of our own, whose table tells. Before, the type is asked of the
    filesystem, and whether it can be swapped is what the keeper was told by mounting it.

    Raises:
        ProcessLookupError: the agent has ended.
    """
    environ = _environ(agent_pid)
    path = f"/proc/{agent_pid}/fd/{environ['KS_STORE_FD']}"
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {agent_pid}") from None
    try:
        with contextlib.suppress(OSError):
            return _attached(descriptor)
        fstype = _FS_TYPES.get(_statfs_type(descriptor), "an unknown filesystem")
        claimed = environ["KS_STORE_KIND"] == mounts.StoreKind.NOSWAP_TMPFS.value
        return Filesystem(fstype, frozenset({"noswap"} if claimed and fstype == "tmpfs" else ()))
    finally:
        os.close(descriptor)


def _environ(pid: int) -> dict[str, str]:
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None
    return dict(entry.split("=", 1) for entry in content.split("\0") if "=" in entry)


def _attached(descriptor: int) -> Filesystem:
    """Attach a clone of a detached mount where nobody else sees it, and look it up. Raises: OSError: this kernel cannot."""
    found: list[Filesystem | OSError] = []

    def look() -> None:
        # A thread of its own: it leaves this process's mount namespace for good.
        try:
            linux.unshare(linux.CLONE_NEWNS)
            linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
            with tempfile.TemporaryDirectory(prefix="kubelet-secrets-verify-") as directory:
                mounts.bind(descriptor, Path(directory))
                try:
                    found.append(filesystem_of(directory, pid=threading.get_native_id()))
                finally:
                    mounts.umount_lazy(Path(directory))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    (answer,) = found
    if isinstance(answer, OSError):
        raise answer
    return answer


def _statfs_type(descriptor: int) -> int:
    """f_type of fstatfs(2), which Python leaves out of os.fstatvfs."""
    buffer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None, use_errno=True).fstatfs(ctypes.c_int(descriptor), buffer) != 0:
        raise OSError(ctypes.get_errno(), "fstatfs")
    return int(ctypes.c_long.from_buffer(buffer).value) & 0xFFFF_FFFF


def node_mounts(root_dir: Path, store: Filesystem, *, credentials: Path | None) -> Iterator[MountReport]:
    """Where a node keeps what is secret.

    Args:
        credentials: directory of the kubeconfigs; None when they are the user's own matter.
    """
    yield graded("files of Secrets", "", store)
    run_dir = root_dir / "run"
    for holds, directory in (
        ("bundles, environments, registry logins", run_dir),
        ("what containers print", run_dir / "logs"),
        ("what containers write to their root", run_dir / "scratch"),
    ):
        yield graded(holds, str(directory), filesystem_of(directory))
    if credentials is not None:
        yield graded("keys of the kubeconfigs", str(credentials), filesystem_of(credentials))


def memory_volumes(root_dir: Path) -> list[str]:
    """Where the tmpfs of emptyDirs are mounted: what a container writes there is meant to be there, and graded by itself."""
    return [
        mount.target
        for mount in mounts.mounts_below(root_dir)
        if mount.fstype == "tmpfs" and f"/volumes/{EMPTY_DIR_PLUGIN}/" in mount.target
    ]


def container_mount(holds: str, pid: int, path: str, store: Filesystem) -> MountReport:
    """A mount as a container has it.

    Our guarded filesystem is as good as the store behind it. What a container writes to a tmpfs counts as its memory: it is not
    swapped where its cgroup is not, which is what holds before Linux 6.4 has ``noswap``.
    """
    seen = filesystem_of(path, pid=pid)
    if seen.fstype == "tmpfs" and "noswap" not in seen.options and cgroup_swap(pid) is CgroupSwap.FORBIDDEN:
        return _report(holds, path, seen, Graded(Grade.SECURE, "memory of a cgroup that is never swapped"))
    if seen.fstype == "fuse":
        behind = grade_filesystem(store.fstype, store.options)
        why = f"guarded, over {store}" if behind.grade is Grade.SECURE else behind.why
        return _report(holds, path, Filesystem("fuse", frozenset()), Graded(behind.grade, why))
    return graded(holds, path, seen)

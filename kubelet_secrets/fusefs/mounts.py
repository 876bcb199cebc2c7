"""Mounting: the detached store, the attached tmpfs of ``run/``, the FUSE superblock, read-only clones, the mount table.

Thin and synchronous. Not here: what is served (``fusefs.operations``) and when things are mounted (``keeper``). Called by the
keeper, by the writer (clones), and by tests; an event loop calls it through a worker thread.

The store is *detached*: it is in no mount table and has no path, and lives as long as a descriptor of it does.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kubelet_secrets import linux
from kubelet_secrets.errors import HostError

# fsconfig(2) commands
_SET_FLAG = 0
_SET_STRING = 1
_CMD_CREATE = 6
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4

# mount(2) and umount2(2)
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
_MNT_FORCE = 1
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

FUSE_SOURCE = "kubelet-secrets"
"""First column of /proc/mounts for the FUSE superblock; the run tmpfs and the store carry it too."""


class MountAttr(enum.IntFlag):
    """MOUNT_ATTR_* of mount_setattr(2)."""

    RDONLY = 0x1
    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8


class StoreKind(enum.Enum):
    """What the secrets lie on, strongest first. ``verify`` prints it."""

    NOSWAP_TMPFS = "tmpfs-noswap"
    RAMFS = "ramfs"
    """Cannot be swapped out, but ignores ``size=``: the quota is enforced by the agent alone."""
    TMPFS = "tmpfs"
    """Plain tmpfs on a machine without swap: safe until somebody runs swapon."""


class NoswapFallback(enum.Enum):
    """What to do on a kernel before 6.4, whose tmpfs has no ``noswap``."""

    RAMFS = "ramfs"
    REFUSE_SWAP = "refuse-swap"
    """Plain tmpfs while no swap is active; refuse to start otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountEntry:
    """One line of /proc/self/mountinfo."""

    mount_id: int
    device: str  # "0:57", st_dev of what is mounted
    root: str  # path of the mounted subtree inside its filesystem, "/" for all of it
    target: str  # mount point, decoded
    options: frozenset[str]  # per-mount: ro, nosuid, …
    fstype: str
    source: str


def _set_option(context: int, key: str, value: str | None) -> None:
    try:
        if value is None:
            linux.syscall(linux.FSCONFIG, key, context, _SET_FLAG, key.encode(), None, 0)
        else:
            linux.syscall(linux.FSCONFIG, key, context, _SET_STRING, key.encode(), value.encode(), 0)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, f"option {key}") from None


def make_mount(fstype: str, options: Mapping[str, str | None], *, attributes: MountAttr, source: str) -> int:
    """Make a new superblock and a detached mount of it.

    Args:
        fstype: as in /proc/filesystems.
        options: name → value, None for a flag.
        attributes: per-mount flags.
        source: what /proc/mounts shows in its first column.

    Returns:
        A close-on-exec O_PATH descriptor of the mount; the caller owns it. ``dir_fd=`` arguments take it.

    Raises:
        OSError: EINVAL when the kernel does not know an option, EPERM without CAP_SYS_ADMIN.
    """
    context = linux.syscall(linux.FSOPEN, fstype, fstype.encode(), _FSOPEN_CLOEXEC)
    try:
        _set_option(context, "source", source)
        for key, value in options.items():
            _set_option(context, key, value)
        linux.syscall(linux.FSCONFIG, fstype, context, _CMD_CREATE, None, None, 0)
        return linux.syscall(linux.FSMOUNT, fstype, context, _FSMOUNT_CLOEXEC, int(attributes))
    finally:
        os.close(context)


def is_swap_active() -> bool:
    """Whether /proc/swaps lists anything below its header."""
    with open("/proc/swaps", encoding="ascii", errors="replace") as table:
        return len(table.readlines()) > 1


def is_noswap_supported() -> bool:
    """Whether tmpfs knows ``noswap`` (kernel 6.4): tried, not guessed from a version number."""
    try:
        os.close(make_mount("tmpfs", {"size": "4096", "noswap": None}, attributes=MountAttr(0), source="probe"))
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        return False
    return True


def _make_memory_filesystem(
    *, size_bytes: int, inodes: int, attributes: MountAttr, fallback: NoswapFallback, noswap: bool
) -> tuple[int, StoreKind]:
    options: dict[str, str | None] = {
        "size": str(size_bytes),
        "nr_inodes": str(inodes),
        "mode": "0700",
        "inode64": None,  # 64-bit inode numbers are never used twice; node ids are made of them
    }
    if noswap:
        return make_mount("tmpfs", {**options, "noswap": None}, attributes=attributes, source=FUSE_SOURCE), (
            StoreKind.NOSWAP_TMPFS
        )
    if fallback is NoswapFallback.RAMFS:
        return make_mount("ramfs", {"mode": "0700"}, attributes=attributes, source=FUSE_SOURCE), StoreKind.RAMFS
    if is_swap_active():
        raise HostError(
            "this kernel's tmpfs cannot be kept out of swap (noswap needs Linux 6.4) and swap is on: "
            "run swapoff -a, or allow the ramfs fallback"
        )
    return make_mount("tmpfs", options, attributes=attributes, source=FUSE_SOURCE), StoreKind.TMPFS


def make_store(
    *,
    size_bytes: int = 512 << 20,
    inodes: int = 400_000,
    fallback: NoswapFallback = NoswapFallback.RAMFS,
    noswap: bool | None = None,
) -> tuple[int, StoreKind]:
    """Make the detached store: root directory 0700, nosuid, nodev, noexec, out of swap's reach.

    Args:
        size_bytes: limit of all data together (tmpfs only).
        inodes: limit of files, directories and links together (tmpfs only).
        fallback: for kernels whose tmpfs has no ``noswap``.
        noswap: what the probe said, None to probe here.

    Returns:
        The descriptor (O_PATH, close-on-exec, owned by the caller) and what it is a descriptor of.

    Raises:
        HostError: swap is on and nothing better than plain tmpfs may be used.
        OSError: mounting is not allowed here.
    """
    attributes = MountAttr.NOSUID | MountAttr.NODEV | MountAttr.NOEXEC
    noswap = is_noswap_supported() if noswap is None else noswap
    return _make_memory_filesystem(
        size_bytes=size_bytes, inodes=inodes, attributes=attributes, fallback=fallback, noswap=noswap
    )


def attach_tmpfs(
    path: Path, *, size_bytes: int, fallback: NoswapFallback = NoswapFallback.RAMFS, noswap: bool | None = None
) -> StoreKind:
    """Mount an unswappable memory filesystem, root directory 0700, over the existing directory *path*.

    Programs may be run from it (container root filesystems have their writable layer there), hence no ``noexec``.

    Raises:
        HostError, OSError: as make_store.
    """
    noswap = is_noswap_supported() if noswap is None else noswap
    mount_fd, kind = _make_memory_filesystem(
        size_bytes=size_bytes,
        inodes=400_000,
        attributes=MountAttr.NOSUID | MountAttr.NODEV,
        fallback=fallback,
        noswap=noswap,
    )
    try:
        attach(mount_fd, path)
    finally:
        os.close(mount_fd)
    return kind


def mount_fuse(fuse_fd: int, target: Path) -> None:
    """Mount a FUSE superblock served through *fuse_fd* at the existing directory *target*.

    ``default_permissions`` makes the kernel check modes and owners; ``allow_other`` lets containers' users in. The
    kernel's FUSE_INIT can be read from *fuse_fd* afterwards.

    Args:
        fuse_fd: /dev/fuse opened for reading and writing, not in use yet.

    Raises:
        OSError: as mount(2).
    """
    options = {
        "fd": str(fuse_fd),
        "rootmode": f"{stat.S_IFDIR | 0o700:o}",
        "user_id": "0",
        "group_id": "0",
        "allow_other": None,
        "default_permissions": None,
    }
    attributes = MountAttr.NOSUID | MountAttr.NODEV | MountAttr.NOEXEC
    mount_fd = make_mount("fuse", options, attributes=attributes, source=FUSE_SOURCE)
    try:
        attach(mount_fd, target)
    finally:
        os.close(mount_fd)


def attach(mount_fd: int, target: Path) -> None:
    """Give the detached mount *mount_fd* the path *target* (move_mount). The descriptor stays the caller's."""
    linux.syscall(
        linux.MOVE_MOUNT, str(target), mount_fd, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH
    )


def make_private_bind(path: Path) -> None:
    """Bind-mount the directory *path* on itself and make it private, so that nothing mounted below spreads elsewhere.

    What is mounted below already stays visible. One lazy unmount of *path* takes everything away that was mounted below since.

    Raises:
        OSError: as mount(2). On failure of the second step the bind is taken away again.
    """
    linux.mount(str(path), str(path), None, _MS_BIND | _MS_REC)
    try:
        linux.mount(None, str(path), None, _MS_PRIVATE | _MS_REC)
    except OSError:
        umount_lazy(path)
        raise


def make_shared(path: Path) -> None:
    """Let what is mounted below *path* be seen in every namespace that has it: bound on itself first, if it is no mount yet.

    Raises:
        OSError: as mount(2).
    """
    if all(entry.target != str(path) for entry in mounts_below(path)):  # Path.is_mount() does not know binds
        linux.mount(str(path), str(path), None, _MS_BIND)
    linux.mount(None, str(path), None, linux.MS_SHARED)


def clone_read_only(source: int | Path, subdirectory: str, target: Path, *, executable: bool = True) -> None:
    """Attach a read-only clone of a directory (or file) of an attached mount.

    Cloning from the *attached* mount is the one way that works on every kernel since 6.1. The walk to *subdirectory* asks
    the filesystem for names: a process that serves the filesystem must not call this (it could not be killed while
    waiting for itself); the writer does.

    Args:
        source: directory descriptor or path of the attached mount's root.
        subdirectory: relative path below it; no symlink is followed at its end.
        target: existing mount point of the same type (directory or file).
        executable: leave out ``noexec``. A kubelet's volumes may hold scripts, so this is the default.

    Raises:
        OSError: ENOENT when *subdirectory* or *target* is missing.
    """
    directory_fd, prefix = (source, "") if isinstance(source, int) else (_AT_FDCWD, f"{source}/")
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | 0x100  # AT_SYMLINK_NOFOLLOW
    path = os.fsencode(prefix + subdirectory)
    clone_fd = linux.syscall(linux.OPEN_TREE, subdirectory, directory_fd, path, flags)
    try:
        wanted = MountAttr.RDONLY | MountAttr.NOSUID | MountAttr.NODEV
        cleared = MountAttr(0)
        if executable:
            cleared |= MountAttr.NOEXEC
        else:
            wanted |= MountAttr.NOEXEC
        arguments = struct.pack("<QQQQ", wanted, cleared, _MS_PRIVATE, 0)
        linux.syscall(linux.MOUNT_SETATTR, str(target), clone_fd, b"", _AT_EMPTY_PATH, arguments, len(arguments))
        attach(clone_fd, target)
    finally:
        os.close(clone_fd)  # an open descriptor of the clone would keep it busy


def bind(source_fd: int, target: Path) -> None:
    """Bind the file or directory that the descriptor stands for at *target*, with its mount's own flags.

    By descriptor, so that what was checked is what is bound, whatever happens to its path meanwhile.

    Args:
        source_fd: O_PATH is enough. Stays the caller's.
        target: existing mount point of the same type.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_EMPTY_PATH
    clone_fd = linux.syscall(linux.OPEN_TREE, str(target), source_fd, b"", flags)
    try:
        attach(clone_fd, target)
    finally:
        os.close(clone_fd)


def umount_lazy(target: Path, *, force: bool = False) -> None:
    """Detach the topmost mount at *target*; users of it keep what they have open.

    Args:
        force: end a FUSE connection as well: every request on it fails with ENOTCONN, also in clones, for good.

    Raises:
        OSError: EINVAL when nothing is mounted there, ENOENT when the path is gone.
    """
    linux.unmount(str(target), _UMOUNT_NOFOLLOW | _MNT_DETACH | (_MNT_FORCE if force else 0))


def umount_at(target: Path) -> int:
    """Lazily detach everything mounted at *target*, with what is mounted on it; returns how many mounts lay there.

    Asks the kernel mount by mount: on a node with thousands of them reading the table takes a hundred times longer. What is
    mounted below a *target* that is no mount point itself is not found.

    Raises:
        OSError: a mount could not be detached for a reason other than being gone already.
    """
    count = 0
    while True:
        try:
            umount_lazy(target)
        except FileNotFoundError:
            return count
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            return count
        count += 1


def _decode(field: str) -> str:
    """Undo the octal escapes of mountinfo: space, tab, newline, backslash."""
    if "\\" not in field:
        return field
    out = bytearray()
    raw = field.encode("utf-8", "surrogateescape")
    position = 0
    while position < len(raw):
        if raw[position] == 0x5C and raw[position + 1 : position + 4].isdigit():
            out.append(int(raw[position + 1 : position + 4], 8))
            position += 4
        else:
            out.append(raw[position])
            position += 1
    return out.decode("utf-8", "surrogateescape")


def parse_mount_table(text: str) -> list[MountEntry]:
    """Parse /proc/<pid>/mountinfo; order is kept, later entries cover earlier ones. Source: proc(5)."""
    entries = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        entries.append(
            MountEntry(
                mount_id=int(fields[0]),
                device=fields[2],
                root=_decode(fields[3]),
                target=_decode(fields[4]),
                options=frozenset(fields[5].split(",")),
                fstype=tail[0],
                source=_decode(tail[1]),
            )
        )
    return entries


def read_mount_table() -> list[MountEntry]:
    """The mount table of this process's namespace."""
    return parse_mount_table(_read_mountinfo())


_ESCAPED = frozenset(" \t\n\\#")  # octal numbers in the table. Source: fs/proc_namespace.c, mangle


def _read_mountinfo() -> str:
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")


def mounts_below(path: Path) -> list[MountEntry]:
    """Mounts at or below *path*, in the order in which they must be taken away: the last mounted first."""
    prefix = str(path).rstrip("/") + "/"
    table = _read_mountinfo()
    if not _ESCAPED & set(str(path)):
        # A node with a thousand volumes has a thousand lines, and this is asked for each: take few of them apart.
        table = "\n".join(line for line in table.splitlines() if str(path) in line)
    entries = [m for m in parse_mount_table(table) if m.target == str(path) or m.target.startswith(prefix)]
    return entries[::-1]


def umount_all_below(path: Path) -> int:
    """Lazily detach everything mounted at or below *path*; returns how many mounts that were.

    Raises:
        OSError: a mount could not be detached for a reason other than being gone already.
    """
    count = 0
    for entry in mounts_below(path):
        with contextlib.suppress(FileNotFoundError):
            try:
                umount_lazy(Path(entry.target))
            except OSError as exc:
                if exc.errno != errno.EINVAL:  # went away together with its parent
                    raise
            else:
                count += 1
    return count

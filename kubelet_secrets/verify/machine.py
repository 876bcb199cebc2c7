"""What this kernel can, found out by trying, and the settings of this machine that decide where memory goes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from kubelet_secrets import linux
from kubelet_secrets.access.identity import PIDFD_THREAD
from kubelet_secrets.fusefs import mounts
from kubelet_secrets.fusefs.init import READ_BUFFER_BYTES, InitFlag, InitRequest, parse_init
from kubelet_secrets.fusefs.mounts import MountAttr
from kubelet_secrets.runtime.hostfacts import probe_cgroups
from kubelet_secrets.verify.report import Feature, MachineFact

_JOURNAL_TIMEOUT_S = 30
_SYS_MEMFD_SECRET = 447
_FUSE_PASSTHROUGH = 1 << 37
_PIDFD_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11


@dataclass(frozen=True, slots=True)
class SwapArea:
    path: Path
    kind: str  # "partition" or "file"
    size_bytes: int

    @property
    def is_memory(self) -> bool:
        """zram: a compressed part of memory that poses as a device."""
        return self.path.name.startswith("zram")


def read_swaps(text: str) -> list[SwapArea]:
    """Parse /proc/swaps. Paths have blanks and the like as octal escapes. Source: proc_swaps(5)."""
    found = []
    for line in text.splitlines()[1:]:
        name, kind, kilobytes, *_ = line.split()
        path = name.encode().decode("unicode_escape").encode("latin-1").decode(errors="surrogateescape")
        found.append(SwapArea(Path(path), kind, int(kilobytes) * 1024))
    return found


def swaps() -> list[SwapArea]:
    """The active swap areas of this machine."""
    return read_swaps(Path("/proc/swaps").read_text())


def machine_facts() -> list[MachineFact]:
    """Where memory of this machine may go, besides being memory."""
    return [_swap(), _core(), _hibernation(), _crash_kernel()]


def _swap() -> MachineFact:
    areas = swaps()
    if not areas:
        return MachineFact(name="swap", state="none")
    zswap = _read(Path("/sys/module/zswap/parameters/enabled")) == "Y"
    listed = ", ".join(f"{area.path} ({area.size_bytes / 1e9:.1f} GB)" for area in areas)
    return MachineFact(name="swap", state=listed + (", behind zswap" if zswap else ""))


def _core() -> MachineFact:
    pattern = _read(Path("/proc/sys/kernel/core_pattern"))
    return MachineFact(name="core dumps", state=f"core_pattern is {pattern!r}" if pattern else "off")


def _hibernation() -> MachineFact:
    if "disk" not in _read(Path("/sys/power/state")).split():
        return MachineFact(name="hibernation", state="not available")
    if not swaps():
        return MachineFact(name="hibernation", state="available, but there is no swap to write to")
    return MachineFact(
        name="hibernation", state="available", warning="it would write all memory to swap, locked or not: mask it"
    )


def _crash_kernel() -> MachineFact:
    if _read(Path("/sys/kernel/kexec_crash_loaded")) != "1":
        return MachineFact(name="crash kernel", state="not loaded")
    return MachineFact(
        name="crash kernel", state="loaded", warning="a panic of the kernel would save all memory to a disk"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


# --- features ---------------------------------------------------------------------------------------------------------


def probe_features() -> list[Feature]:
    """Try what kernels differ in (docs/architecture.md, "Kernels"), and say what follows here.

    Raises:
        OSError: not root, or no /dev/fuse.
    """
    init = _fuse_offer()
    noswap = mounts.is_noswap_supported()
    layout = probe_cgroups()
    cgroups = "version 2" if layout.is_v2 else "hybrid" if layout.unified is not None else "version 1"
    return [
        _feature(
            "tmpfs noswap",
            noswap,
            "the store and run/ cannot be swapped",
            "ramfs instead, which cannot be swapped either; the agent counts what is on it",
        ),
        _feature(
            "FUSE resend",
            init.can_resend,
            "requests in flight survive a crash of the agent",
            "the agent keeps the request at hand in the store, where its successor finds it",
        ),
        _feature(
            "FUSE id-mapped mounts",
            bool(init.flags & InitFlag.ALLOW_IDMAP),
            "not used: pods have no user namespaces of their own here",
            "not needed: pods have no user namespaces of their own here",
        ),
        _feature(
            "FUSE symlink cache",
            bool(init.flags & InitFlag.CACHE_SYMLINKS),
            f"in use (protocol 7.{init.minor})",
            f"each readlink asks the agent (protocol 7.{init.minor})",
        ),
        _feature(
            "FUSE passthrough",
            bool(init.flags & _FUSE_PASSTHROUGH),
            "not used: reads come from the page cache",
            "not needed: reads come from the page cache",
        ),
        _feature(
            "clone of a detached mount",
            _clones_detached(),
            "used here to look at the store; the node itself needs none",
            "volumes are cloned from the attached mount, as everywhere",
        ),
        _feature(
            "pidfd of a thread",
            _opens_thread(),
            "a repeated open is recognised without asking again",
            "a repeated open is recognised by its process",
        ),
        _feature(
            "PIDFD_GET_INFO",
            _tells_info(),
            "not used by the node: /proc says the same",
            "not needed: /proc says the same",
        ),
        _feature("memfd_secret", _has_memfd_secret(), "not used: keys lie in locked memory", "not needed"),
        Feature(name="cgroups", available=True, effect=cgroups),
    ]


def _feature(name: str, available: bool, effect: str, fallback: str) -> Feature:
    return Feature(name=name, available=available, effect=effect if available else fallback)


def _fuse_offer() -> InitRequest:
    """What the kernel says in FUSE_INIT, to a filesystem that is never attached."""
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = {"fd": str(descriptor), "rootmode": "40700", "user_id": "0", "group_id": "0"}
        mount = mounts.make_mount("fuse", options, attributes=MountAttr(0), source="probe")
        try:
            return parse_init(os.read(descriptor, READ_BUFFER_BYTES))
        finally:
            os.close(mount)
    finally:
        os.close(descriptor)


def _clones_detached() -> bool:
    mount = mounts.make_mount("tmpfs", {"size": "4096"}, attributes=MountAttr(0), source="probe")
    try:
        flags = 1 | os.O_CLOEXEC | 0x1000  # OPEN_TREE_CLONE, AT_EMPTY_PATH
        os.close(linux.syscall(linux.OPEN_TREE, "probe", mount, b"", flags))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        os.close(mount)
    return True


def _opens_thread() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid(), PIDFD_THREAD))
    except OSError:
        return False
    return True


def _tells_info() -> bool:
    descriptor = os.pidfd_open(os.getpid())
    try:
        fcntl.ioctl(descriptor, _PIDFD_GET_INFO, struct.pack("=Q56x", 1))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _has_memfd_secret() -> bool:
    try:
        os.close(linux.syscall(_SYS_MEMFD_SECRET, "memfd_secret", 0))
    except OSError:
        return False
    return True


def journal_command(since: float) -> list[str] | None:
    """How to print the journal since a Unix time, decompressed; None when this machine keeps none."""
    keeps = any(Path(base, "log", "journal").is_dir() for base in ("/run", "/var"))
    program = shutil.which("journalctl")
    if program is None or not keeps:
        return None
    return [program, "--quiet", "--no-pager", "--all", "--output=export", f"--since=@{int(since)}"]


def sync_journal() -> None:
    """Have journald write what it has been sent; without one that runs there is nothing to write."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(["journalctl", "--sync"], capture_output=True, timeout=_JOURNAL_TIMEOUT_S, check=False)

"""What runs short on this machine: the signals behind the Node's pressure conditions, by the kubelet's default thresholds.

Reading is :func:`read_signals` (a few small files and two ``statvfs``); whether that is pressure, and for how long it goes on
being called so, is :class:`PressureTracker`, without I/O or clock. Used by the composition root and ``node/status.py``.

Only told, never acted upon: the control plane keeps new pods away by a taint; this node evicts nobody.

Source: pkg/kubelet/apis/config/v1beta1 (evictionHard), pkg/kubelet/eviction (helpers.go, memory-available.sh);
semantics §10.4.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

MEMORY, DISK, PID = "MemoryPressure", "DiskPressure", "PIDPressure"
MEMORY_AVAILABLE_BYTES = 100 << 20
NODEFS_AVAILABLE, IMAGEFS_AVAILABLE, INODES_FREE = 0.10, 0.15, 0.05
TRANSITION = timedelta(
    minutes=5
)  # evictionPressureTransitionPeriod: pressure that has gone is called so a while longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What is left. Fractions are of the whole."""

    memory_available_bytes: int
    nodefs_available: float  # of the filesystem that holds the root directory
    nodefs_inodes_free: float
    imagefs_available: float
    imagefs_inodes_free: float
    pids_free: int = 1 << 22  # there is no default threshold; none left is pressure by any


def pressures(signals: Signals) -> frozenset[str]:
    """The conditions that hold by *signals* alone."""
    found = set()
    if signals.memory_available_bytes < MEMORY_AVAILABLE_BYTES:
        found.add(MEMORY)
    if (
        signals.nodefs_available < NODEFS_AVAILABLE
        or signals.imagefs_available < IMAGEFS_AVAILABLE
        or min(signals.nodefs_inodes_free, signals.imagefs_inodes_free) < INODES_FREE
    ):
        found.add(DISK)
    if signals.pids_free <= 0:
        found.add(PID)
    return frozenset(found)


class PressureTracker:
    """Pressures, with their after-effect."""

    def __init__(self) -> None:
        self._seen_at: dict[str, datetime] = {}

    def update(self, signals: Signals, now: datetime) -> frozenset[str]:
        """The conditions to publish at *now*: those that hold, and those that held within the last five minutes."""
        for each in pressures(signals):
            self._seen_at[each] = now
        self._seen_at = {name: at for name, at in self._seen_at.items() if now < at + TRANSITION}
        return frozenset(self._seen_at)


def memory_available_bytes(meminfo: str) -> int:
    """The kubelet's ``memory.available``: all memory, less the working set, which is what is used and not inactive cache.

    Args:
        meminfo: /proc/meminfo.
    """
    kilobytes = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if (words := rest.split()) and words[0].isdigit():
            kilobytes[name] = int(words[0])
    used = sum(kilobytes.get(name, 0) for name in ("AnonPages", "Cached", "Buffers", "SwapCached"))
    working_set = max(0, used - kilobytes.get("Inactive(file)", 0))
    return (kilobytes.get("MemTotal", 0) - working_set) * 1024


def read_signals(root_dir: Path, image_dir: Path) -> Signals:
    """Look at this machine; directories that do not exist yet count as their parents."""
    (nodefs, nodefs_inodes), (imagefs, imagefs_inodes) = map(_left, (root_dir, image_dir))
    return Signals(
        memory_available_bytes=memory_available_bytes(Path("/proc/meminfo").read_text()),
        nodefs_available=nodefs,
        nodefs_inodes_free=nodefs_inodes,
        imagefs_available=imagefs,
        imagefs_inodes_free=imagefs_inodes,
        pids_free=_pids_free(),
    )


def _left(directory: Path) -> tuple[float, float]:
    """(bytes, inodes), as fractions. A filesystem that counts none of them has enough."""
    existing = next((each for each in (directory, *directory.parents) if each.exists()), Path("/"))
    found = os.statvfs(existing)
    return (
        found.f_bavail / found.f_blocks if found.f_blocks else 1.0,
        found.f_ffree / found.f_files if found.f_files else 1.0,
    )


def _pids_free() -> int:
    limits = [int(Path(f"/proc/sys/kernel/{name}").read_text()) for name in ("pid_max", "threads-max")]
    # "0.20 0.18 0.12 1/80 11206": runnable / existing scheduling entities
    existing = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    return min(limits) - existing

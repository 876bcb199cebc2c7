"""What runs short on this machine: the signals behind the Node's pressure conditions.

Reading is :func:`read_signals` (a few small files and two ``statvfs``); whether that is pressure, and for how long it goes on
being called so, is :class:`PressureTracker`, without I/O or clock. Used by the composition root and ``node/observer.py``; what
is done about it, where anything is, is ``pod/evictor.py``'s.

Source: pkg/kubelet/apis/config/v1beta1 (evictionHard), pkg/kubelet/eviction (helpers.go, memory-available.sh);
semantics §10.4.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from kubelet_secrets.api.evictionsignals import (
    DEFAULT_THRESHOLDS,
    DISK,
    MEMORY,
    PID,
    Observation,
    Threshold,
    conditions,
)

__all__ = ["DISK", "MEMORY", "PID", "PressureTracker", "memory_available_bytes", "pressures", "read_signals"]

TRANSITION = timedelta(
    minutes=5
)  # evictionPressureTransitionPeriod: pressure that has gone is called so a while longer

Signals = Mapping[str, Observation]


def pressures(signals: Signals, thresholds: Sequence[Threshold] = DEFAULT_THRESHOLDS) -> frozenset[str]:
    """The conditions that hold by *signals* alone. No process ids left is pressure by any threshold, and by none."""
    pids = signals.get("pid.available")
    out_of_pids = frozenset({PID}) if pids is not None and pids.available <= 0 else frozenset()
    return conditions(thresholds, signals) | out_of_pids


class PressureTracker:
    """Pressures, with their after-effect."""

    def __init__(self, thresholds: Sequence[Threshold] = DEFAULT_THRESHOLDS) -> None:
        self._thresholds = thresholds
        self._seen_at: dict[str, datetime] = {}

    def update(self, signals: Signals, now: datetime) -> frozenset[str]:
        """The conditions to publish at *now*: those that hold, and those that held within the last five minutes."""
        for each in pressures(signals, self._thresholds):
            self._seen_at[each] = now
        self._seen_at = {name: at for name, at in self._seen_at.items() if now < at + TRANSITION}
        return frozenset(self._seen_at)


def memory_available_bytes(meminfo: str) -> int:
    """The kubelet's ``memory.available``: all memory, less the working set, which is what is used and not inactive cache.

    Args:
        meminfo: /proc/meminfo.
    """
    kilobytes = _kilobytes(meminfo)
    used = sum(kilobytes.get(name, 0) for name in ("AnonPages", "Cached", "Buffers", "SwapCached"))
    working_set = max(0, used - kilobytes.get("Inactive(file)", 0))
    return (kilobytes.get("MemTotal", 0) - working_set) * 1024


def _kilobytes(meminfo: str) -> dict[str, int]:
    found = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if (words := rest.split()) and words[0].isdigit():
            found[name] = int(words[0])
    return found


def read_signals(root_dir: Path, image_dir: Path) -> Signals:
    """Look at this machine; directories that do not exist yet count as their parents."""
    meminfo = Path("/proc/meminfo").read_text()
    memory = Observation(memory_available_bytes(meminfo), _kilobytes(meminfo).get("MemTotal", 0) * 1024)
    (nodefs, nodefs_inodes), (imagefs, imagefs_inodes) = map(_left, (root_dir, image_dir))
    return {
        "memory.available": memory,
        "nodefs.available": nodefs,
        "nodefs.inodesFree": nodefs_inodes,
        "imagefs.available": imagefs,
        "imagefs.inodesFree": imagefs_inodes,
        "pid.available": _pids(),
    }


def _left(directory: Path) -> tuple[Observation, Observation]:
    """Bytes and inodes. A filesystem that counts none of them has enough: nothing is less than a fraction of nothing."""
    existing = next((each for each in (directory, *directory.parents) if each.exists()), Path("/"))
    found = os.statvfs(existing)
    return (
        Observation(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize),
        Observation(found.f_ffree, found.f_files),
    )


def _pids() -> Observation:
    limits = [int(Path(f"/proc/sys/kernel/{name}").read_text()) for name in ("pid_max", "threads-max")]
    # "0.20 0.18 0.12 1/80 11206": runnable / existing scheduling entities
    existing = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    return Observation(min(limits) - existing, min(limits))

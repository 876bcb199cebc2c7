"""Pressure conditions. Source: pkg/kubelet/eviction/helpers_test.go, eviction_manager_test.go; semantics §10.4."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kubelet_secrets.node.pressure import (
    PressureTracker,
    Signals,
    memory_available_bytes,
    pressures,
    read_signals,
)
from tests.node.facts import T0, after

PLENTY = Signals(
    memory_available_bytes=1 << 30,
    nodefs_available=0.5,
    nodefs_inodes_free=0.5,
    imagefs_available=0.5,
    imagefs_inodes_free=0.5,
)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, set()),
        ({"memory_available_bytes": 100 << 20}, set()),
        ({"memory_available_bytes": (100 << 20) - 1}, {"MemoryPressure"}),
        ({"nodefs_available": 0.1}, set()),
        ({"nodefs_available": 0.099}, {"DiskPressure"}),
        ({"imagefs_available": 0.149}, {"DiskPressure"}),
        ({"nodefs_inodes_free": 0.049}, {"DiskPressure"}),
        ({"imagefs_inodes_free": 0.049}, {"DiskPressure"}),
        ({"pids_free": 0}, {"PIDPressure"}),
        ({"memory_available_bytes": 0, "nodefs_available": 0.0}, {"MemoryPressure", "DiskPressure"}),
    ],
)
def test_thresholds_are_the_kubelets_defaults(change: dict[str, float], found: set[str]) -> None:
    assert pressures(replace(PLENTY, **change)) == found  # type: ignore[arg-type]  # a number of either kind


def test_pressure_is_told_for_five_minutes_after_it_has_gone() -> None:
    tracker = PressureTracker()
    short = replace(PLENTY, nodefs_available=0.01)
    assert tracker.update(PLENTY, T0) == set()
    assert tracker.update(short, T0) == {"DiskPressure"}
    assert tracker.update(short, after(60)) == {"DiskPressure"}
    assert tracker.update(PLENTY, after(359)) == {"DiskPressure"}
    assert tracker.update(PLENTY, after(360)) == set()


def test_available_memory_is_all_but_the_working_set() -> None:
    meminfo = """MemTotal:        4000000 kB
MemFree:          100000 kB
Buffers:           50000 kB
Cached:          2000000 kB
SwapCached:            0 kB
Inactive(file):  1500000 kB
AnonPages:       1000000 kB
HugePages_Total:       0
"""
    assert memory_available_bytes(meminfo) == (4_000_000 - (1_000_000 + 2_000_000 + 50_000 - 1_500_000)) * 1024


def test_signals_of_this_machine_are_plausible(tmp_path: Path) -> None:
    found = read_signals(tmp_path / "not" / "there", Path("/"))
    assert found.memory_available_bytes > 0
    assert 0 <= found.nodefs_available <= 1
    assert 0 <= found.imagefs_inodes_free <= 1
    assert found.pids_free > 0

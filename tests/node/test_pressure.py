"""Pressure conditions. Source: pkg/kubelet/eviction/helpers_test.go, eviction_manager_test.go; semantics §10.4."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubelet_secrets.api.evictionsignals import Observation, parse_flag
from kubelet_secrets.node.pressure import PressureTracker, memory_available_bytes, pressures, read_signals
from tests.node.facts import T0, after


def signals(**changes: Observation) -> dict[str, Observation]:
    """Half of everything is left, but for *changes*: ``nodefs_inodesFree``."""
    names = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")
    plenty = {name: Observation(1 << 30, 1 << 31) for name in (*names, "pid.available")}
    return plenty | {name.replace("_", "."): seen for name, seen in changes.items()}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, set()),
        ({"memory_available": Observation(100 << 20, 1 << 30)}, set()),
        ({"memory_available": Observation((100 << 20) - 1, 1 << 30)}, {"MemoryPressure"}),
        ({"nodefs_available": Observation(100, 1000)}, set()),
        ({"nodefs_available": Observation(99, 1000)}, {"DiskPressure"}),
        ({"imagefs_available": Observation(149, 1000)}, {"DiskPressure"}),
        ({"nodefs_inodesFree": Observation(49, 1000)}, {"DiskPressure"}),
        ({"imagefs_inodesFree": Observation(49, 1000)}, {"DiskPressure"}),
        ({"imagefs_inodesFree": Observation(0, 0)}, set()),
        ({"pid_available": Observation(0, 1000)}, {"PIDPressure"}),
        (
            {"memory_available": Observation(0, 1 << 30), "nodefs_available": Observation(0, 1000)},
            {"MemoryPressure", "DiskPressure"},
        ),
    ],
)
def test_thresholds_are_the_kubelets_defaults(change: dict[str, Observation], found: set[str]) -> None:
    assert pressures(signals(**change)) == found


def test_thresholds_that_are_set_are_the_only_ones() -> None:
    short = signals(memory_available=Observation(1, 1 << 30), pid_available=Observation(9, 1000))
    assert pressures(short, parse_flag("pid.available<1%")) == {"PIDPressure"}
    assert pressures(short, parse_flag("pid.available<0%")) == set()


def test_pressure_is_told_for_five_minutes_after_it_has_gone() -> None:
    tracker = PressureTracker()
    short = signals(nodefs_available=Observation(1, 1000))
    assert tracker.update(signals(), T0) == set()
    assert tracker.update(short, T0) == {"DiskPressure"}
    assert tracker.update(short, after(60)) == {"DiskPressure"}
    assert tracker.update(signals(), after(359)) == {"DiskPressure"}
    assert tracker.update(signals(), after(360)) == set()


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
    assert found["memory.available"].available > 0
    for each in found.values():
        assert 0 <= each.available <= each.capacity
    assert found["pid.available"].available > 0

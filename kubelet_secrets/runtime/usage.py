"""What the processes of a cgroup have used of cpu and memory, on v1, hybrid and pure v2 hosts; and the machine as a whole.

Reading is a few small files for each cgroup, some 0.1 ms; nothing is kept. What is made of the numbers is ``kubeletapi``'s.

Source: cadvisor container/libcontainer/handler.go (working set, rss, cache); cgroup-v2.rst, cgroup-v1/memory.rst.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kubelet_secrets.runtime.cgroups import CgroupLayout

_UNLIMITED_BYTES = 1 << 62  # v1 writes a number near 2**63 for "no limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Counters since the cgroup was made, and what it has now."""

    cpu_ns: int
    cpu_periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0
    memory_bytes: int
    working_set_bytes: int  # less the page cache that has not been touched for long
    rss_bytes: int = 0
    cache_bytes: int = 0
    swap_bytes: int = 0
    swap_limit_bytes: int | None = None
    page_faults: int = 0
    major_page_faults: int = 0
    memory_limit_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """Counters of a network interface."""

    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int


def read_usage(layout: CgroupLayout, path: str) -> Usage | None:
    """The cgroup *path*, as ``/proc/<pid>/cgroup`` names it; None when it is gone, or the host does not count memory or cpu."""
    try:
        return _read_v2(layout, path) if layout.is_v2 else _read_v1(layout, path)
    except (OSError, ValueError, KeyError):
        return None


def _read_v2(layout: CgroupLayout, path: str) -> Usage:
    assert layout.unified is not None
    directory = layout.unified / path.lstrip("/")
    cpu, memory = _table(directory / "cpu.stat"), _table(directory / "memory.stat")
    used = int(directory.joinpath("memory.current").read_text())
    return Usage(
        cpu_ns=cpu["usage_usec"] * 1000,
        cpu_periods=cpu.get("nr_periods", 0),
        throttled_periods=cpu.get("nr_throttled", 0),
        throttled_ns=cpu.get("throttled_usec", 0) * 1000,
        memory_bytes=used,
        working_set_bytes=max(0, used - memory.get("inactive_file", 0)),
        rss_bytes=memory.get("anon", 0),
        cache_bytes=memory.get("file", 0),
        swap_bytes=_number(directory / "memory.swap.current") or 0,
        swap_limit_bytes=_number(directory / "memory.swap.max"),
        page_faults=memory.get("pgfault", 0),
        major_page_faults=memory.get("pgmajfault", 0),
        memory_limit_bytes=_number(directory / "memory.max"),
    )


def _read_v1(layout: CgroupLayout, path: str) -> Usage:
    below = {name: layout.controllers[name] / path.lstrip("/") for name in ("cpuacct", "memory")}
    memory = _table(below["memory"] / "memory.stat")
    cpu = _table(layout.controllers["cpu"] / path.lstrip("/") / "cpu.stat") if "cpu" in layout.controllers else {}
    used = int((below["memory"] / "memory.usage_in_bytes").read_text())
    return Usage(
        cpu_ns=int((below["cpuacct"] / "cpuacct.usage").read_text()),
        cpu_periods=cpu.get("nr_periods", 0),
        throttled_periods=cpu.get("nr_throttled", 0),
        throttled_ns=cpu.get("throttled_time", 0),
        memory_bytes=used,
        working_set_bytes=max(0, used - memory.get("total_inactive_file", 0)),
        rss_bytes=memory.get("total_rss", 0),
        cache_bytes=memory.get("total_cache", 0),
        swap_bytes=memory.get("total_swap", 0),
        page_faults=memory.get("total_pgfault", 0),
        major_page_faults=memory.get("total_pgmajfault", 0),
        memory_limit_bytes=_number(below["memory"] / "memory.limit_in_bytes"),
    )


def _table(file: Path) -> dict[str, int]:
    pairs = (line.split() for line in file.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _number(file: Path) -> int | None:
    """A limit or a counter; None for "max", for what is as good as that, and where there is no such file."""
    try:
        found = int(file.read_text())
    except (OSError, ValueError):
        return None
    return found if found < _UNLIMITED_BYTES else None


def parse_interfaces(text: str) -> tuple[Interface, ...]:
    """Every interface but loopback. Args: *text* of ``/proc/<pid>/net/dev``."""
    found = []
    for line in text.splitlines()[2:]:
        name, separator, rest = line.partition(":")
        fields = rest.split()
        if separator and len(fields) >= 11 and name.strip() != "lo":
            numbers = [int(each) for each in fields]
            found.append(
                Interface(
                    name=name.strip(),
                    rx_bytes=numbers[0],
                    rx_errors=numbers[2],
                    tx_bytes=numbers[8],
                    tx_errors=numbers[10],
                )
            )
    return tuple(found)


def read_interfaces(pid: int | str) -> tuple[Interface, ...]:
    """Of the network namespace of a process; empty when it is gone."""
    try:
        return parse_interfaces(Path(f"/proc/{pid}/net/dev").read_text())
    except (OSError, ValueError):
        return ()


def machine_cpu_ns(stat: str) -> int:
    """What all processors have worked. Args: *stat*, the text of ``/proc/stat``. Guests are counted in ``user`` already."""
    ticks = [int(each) for each in stat.partition("\n")[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (*ticks, *[0] * 8)[:8]
    return (user + nice + system + irq + softirq + steal) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def parse_meminfo(text: str) -> Mapping[str, int]:
    """``/proc/meminfo`` in bytes."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0].rstrip(":"): int(pair[1]) * 1024 for pair in pairs if len(pair) == 3 and pair[1].isdigit()}

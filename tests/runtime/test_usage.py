"""Counters of cgroups, read from trees as kernels show them. Source: cgroup-v2.rst; cgroup-v1/memory.rst; cadvisor."""

from __future__ import annotations

from pathlib import Path

from kubelet_secrets.runtime.cgroups import CgroupLayout
from kubelet_secrets.runtime.usage import (
    Interface,
    Usage,
    machine_cpu_ns,
    parse_interfaces,
    parse_meminfo,
    read_usage,
)


def write(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        directory.joinpath(name.replace("__", ".")).write_text(text)


def test_v2(tmp_path: Path) -> None:
    write(
        tmp_path / "pod1" / "c1",
        cpu__stat="usage_usec 1500\nuser_usec 1000\nnr_periods 10\nnr_throttled 2\nthrottled_usec 30\n",
        memory__current="9000\n",
        memory__stat="anon 4000\nfile 5000\ninactive_file 2000\npgfault 7\npgmajfault 1\n",
        memory__max="max\n",
        memory__swap__current="5\n",
        memory__swap__max="0\n",
    )
    layout = CgroupLayout(unified=tmp_path)
    assert read_usage(layout, "/pod1/c1") == Usage(
        cpu_ns=1_500_000,
        cpu_periods=10,
        throttled_periods=2,
        throttled_ns=30_000,
        memory_bytes=9000,
        working_set_bytes=7000,
        rss_bytes=4000,
        cache_bytes=5000,
        swap_bytes=5,
        swap_limit_bytes=0,
        page_faults=7,
        major_page_faults=1,
        memory_limit_bytes=None,
    )
    assert read_usage(layout, "/pod1/gone") is None
    write(tmp_path / "cpu-only", cpu__stat="usage_usec 1\n")
    assert read_usage(layout, "/cpu-only") is None


def test_v1(tmp_path: Path) -> None:
    write(tmp_path / "cpuacct" / "c1", cpuacct__usage="1500000\n")
    write(tmp_path / "cpu" / "c1", cpu__stat="nr_periods 10\nnr_throttled 2\nthrottled_time 30000\n")
    write(
        tmp_path / "memory" / "c1",
        memory__usage_in_bytes="9000\n",
        memory__limit_in_bytes="9223372036854771712\n",
        memory__stat="rss 1\ntotal_rss 4000\ntotal_cache 5000\ntotal_inactive_file 9500\ntotal_pgfault 7\ntotal_swap 5\n",
    )
    layout = CgroupLayout(controllers={name: tmp_path / name for name in ("cpu", "cpuacct", "memory")})
    found = read_usage(layout, "/c1")
    assert found == Usage(
        cpu_ns=1_500_000,
        cpu_periods=10,
        throttled_periods=2,
        throttled_ns=30_000,
        memory_bytes=9000,
        working_set_bytes=0,
        rss_bytes=4000,
        cache_bytes=5000,
        swap_bytes=5,
        page_faults=7,
    )
    assert read_usage(CgroupLayout(), "/c1") is None


def test_machine() -> None:
    assert machine_cpu_ns("cpu  100 20 30 4000 50 6 7 8 0 0\ncpu0 1 2\n") == 171 * 10_000_000
    assert parse_meminfo("MemTotal:   10 kB\nHugePages_Total:   3\n") == {"MemTotal": 10240}


def test_interfaces() -> None:
    head = "Inter-|   Receive\n face |bytes packets errs\n"
    lines = "    lo: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n  eth0: 100 2 3 0 0 0 0 0 200 5 6 0 0 0 0 0\n"
    assert parse_interfaces(head + lines) == (
        Interface(name="eth0", rx_bytes=100, rx_errors=3, tx_bytes=200, tx_errors=6),
    )

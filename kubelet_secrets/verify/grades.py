"""How well a place keeps what is in it: secure, weak or insecure, as ``systemd-creds list`` has it. Pure.

*secure*: it cannot reach a disk. *weak*: it does not now, but the machine may bring it there: memory that may be swapped out.
*insecure*: it lies on a disk, or the next crash puts it there.
"""

from __future__ import annotations

import enum
from collections.abc import Set
from dataclasses import dataclass


class Grade(enum.Enum):
    SECURE = "secure"
    WEAK = "weak"
    INSECURE = "insecure"


@dataclass(frozen=True, slots=True)
class Graded:
    grade: Grade
    why: str  # a phrase: "cannot be swapped out"


class CgroupSwap(enum.Enum):
    """What the cgroup of a process says about swapping it out."""

    ALLOWED = "allowed"
    AVOIDED = "avoided"  # memory.swappiness 0 of cgroup v1: not before memory is all but gone
    FORBIDDEN = "forbidden"  # memory.swap.max 0 of cgroup v2


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """What the kernel says of a process."""

    resident_bytes: int
    unlocked_bytes: int  # resident, writable, and free to be swapped out
    swapped_bytes: int  # in swap now
    core_limit: int | None  # RLIMIT_CORE in bytes, None for unlimited
    dumpable: bool | None  # None: this kernel does not say (before 6.16)
    cgroup_swap: CgroupSwap = CgroupSwap.ALLOWED


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreFacts:
    """What the kernel does with core dumps."""

    pattern: str  # /proc/sys/kernel/core_pattern

    @property
    def is_piped(self) -> bool:
        """Handed to a program, which gets to see the dump whatever the limit of its size."""
        return self.pattern.startswith("|")


_NO_PROGRAM = 1
"""A core limit of one byte, with which alone the kernel starts no program of a piped core_pattern. Source: fs/coredump.c."""
_SMALLEST_CORE = 4096
"""Below a page the kernel writes no core file at all: ``min_coredump``, fs/binfmt_elf.c."""

_MEMORY = {"ramfs": "memory that cannot be swapped out", "hugetlbfs": "huge pages, which are not swapped"}


def grade_filesystem(fstype: str, options: Set[str]) -> Graded:
    """Grade what lies on a filesystem.

    Args:
        fstype: as in /proc/filesystems.
        options: of the superblock, as /proc/self/mountinfo has them in its last column.
    """
    if fstype in _MEMORY:
        return Graded(Grade.SECURE, _MEMORY[fstype])
    if fstype == "tmpfs":
        if "noswap" in options:
            return Graded(Grade.SECURE, "memory that cannot be swapped out")
        return Graded(Grade.WEAK, "memory that may be swapped out: mounted without noswap")
    if fstype in ("devtmpfs", "proc", "sysfs"):
        return Graded(Grade.WEAK, f"{fstype} is no place for it")
    return Graded(Grade.INSECURE, f"{fstype} keeps it on a disk")


def grade_process(facts: ProcessFacts, core: CoreFacts) -> Graded:
    """Grade the memory of a process: the worst of what holds."""
    if facts.swapped_bytes:
        return Graded(Grade.INSECURE, f"{_size(facts.swapped_bytes)} of it are in swap")
    if core.pattern and facts.dumpable is not False and facts.core_limit != _NO_PROGRAM:
        if facts.core_limit is None or facts.core_limit >= _SMALLEST_CORE:
            return Graded(Grade.INSECURE, "a crash may leave a core dump")
        if core.is_piped:
            handler = core.pattern[1:].split()[0]
            return Graded(Grade.WEAK, f"a crash is handed to {handler}, which decides what to keep")
    if facts.unlocked_bytes and facts.cgroup_swap is CgroupSwap.FORBIDDEN:
        return Graded(Grade.SECURE, "in a cgroup that is never swapped, no core dumps")
    if facts.unlocked_bytes:
        unless = " once memory is all but gone" if facts.cgroup_swap is CgroupSwap.AVOIDED else ""
        return Graded(Grade.WEAK, f"{_size(facts.unlocked_bytes)} may be swapped out{unless}")
    return Graded(Grade.SECURE, "locked in memory, no core dumps")


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 100_000 else f"{size_bytes / 1e3:.1f} kB"

"""The processes of a node and what the kernel says of their memory. Reads ``/proc``; grades are ``grades``'s."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kubelet_secrets.access.procfs import parse_cgroups
from kubelet_secrets.runtime.hostfacts import probe_cgroups
from kubelet_secrets.verify.grades import CgroupSwap, CoreFacts, ProcessFacts

_PIDFD_GET_INFO = (3 << 30) | (72 << 16) | (0xFF << 8) | 11  # _IOWR(0xFF, 11, struct pidfd_info), its second version
_INFO_COREDUMP = 1 << 4
_COREDUMP_MASK_OFFSET = 64
_COREDUMP_SKIP = 1 << 1
"""struct pidfd_info, include/uapi/linux/pidfd.h (Linux 6.16)."""


SPARE = "spare agent"


@dataclass(frozen=True, slots=True)
class NodeProcess:
    role: str
    pid: int
    promised: bool = True  # the threat model says that its memory is locked and never dumped


def node_processes(keeper_pid: int, *, agent_pid: int, root_dir: Path) -> list[NodeProcess]:
    """The keeper, its children, the API server beside it if it runs there, and the containers' conmons.

    Args:
        agent_pid: the serving agent; another one is the spare.
    """
    found = [NodeProcess("keeper", keeper_pid)]
    for pid in children(keeper_pid):
        command = command_line(pid)
        if "kubelet_secrets.agent_process" in command:
            found.append(NodeProcess("agent" if pid == agent_pid else SPARE, pid))
        elif "kubelet_secrets.fusefs.writer" in command:
            found.append(NodeProcess("writer", pid))
    siblings = children(parent(keeper_pid))
    found += [NodeProcess("API server", pid) for pid in siblings if "apiserver" in command_line(pid)]
    # Debian's program: it sees what containers print, not their secrets, and locks nothing.
    return found + [NodeProcess("conmon", pid, promised=False) for pid in _conmons(root_dir)]


def is_spare_waiting(pid: int) -> bool:
    """Whether a spare agent has come as far as waiting for its turn, with everything imported and its memory locked.

    Raises:
        OSError: it has ended.
    """
    turn = b"KS_TURN_FD="
    (descriptor,) = [
        int(each.removeprefix(turn))
        for each in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if each.startswith(turn)
    ]
    # "0 0x5 …": the number of the system call that it is blocked in, and its arguments; "running" outside of one.
    return Path(f"/proc/{pid}/syscall").read_text().split()[1:2] == [hex(descriptor)]


def _conmons(root_dir: Path) -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            command = command_line(int(entry))
            if command[:1] and command[0].endswith("conmon") and any(f"{root_dir}/" in each for each in command):
                yield int(entry)


def children(pid: int) -> list[int]:
    """Direct children, oldest first; none of a process that has ended, or of pid 0."""
    found: list[int] = []
    try:
        for task in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda each: int(each.name)):
            found += map(int, (task / "children").read_text().split())
    except OSError:
        pass
    return sorted(set(found))


def parent(pid: int) -> int:
    """Raises: ProcessLookupError: it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None


def command_line(pid: int) -> list[str]:
    """Its arguments; none of a process that has ended, and of a kernel thread."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def read_facts(pid: int) -> ProcessFacts:
    """What a process's memory is like now.

    Raises:
        ProcessLookupError: it has ended.
    """
    try:
        maps = Path(f"/proc/{pid}/smaps").read_text(errors="replace")
        limits = Path(f"/proc/{pid}/limits").read_text()
        dumpable = is_dumpable(pid)
        swapping = cgroup_swap(pid)
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None
    resident = unlocked = swapped = 0
    for region in _regions(maps):
        rss = region.get("Rss", 0)
        resident += rss
        swapped += region.get("Swap", 0)
        flags = str(region["VmFlags"]).split()
        if "wr" in flags and "lo" not in flags and not {"io", "pf"} & set(flags):
            # Pages of a file that were not written to can be dropped and read again: those are no copy of anything.
            unlocked += region.get("Anonymous", 0) + region.get("Shared_Dirty", 0)
    (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    soft = core.split()[4]
    return ProcessFacts(
        resident_bytes=resident,
        unlocked_bytes=unlocked,
        swapped_bytes=swapped,
        core_limit=None if soft == "unlimited" else int(soft),
        dumpable=dumpable,
        cgroup_swap=swapping,
    )


def cgroup_swap(pid: int) -> CgroupSwap:
    """What the cgroup's own setting says; a parent's, which may be stricter, is not looked at.

    Raises:
        FileNotFoundError: the process has ended.
    """
    layout = probe_cgroups()
    # A process of ours has one path in all hierarchies; where they differ, the setting is not found in the wrong one.
    for path in parse_cgroups(Path(f"/proc/{pid}/cgroup").read_text()):
        for hierarchy, setting, found in (
            (layout.unified, "memory.swap.max", CgroupSwap.FORBIDDEN),
            (layout.controllers.get("memory"), "memory.swappiness", CgroupSwap.AVOIDED),
        ):
            if hierarchy is None:
                continue
            try:
                if (hierarchy / path.lstrip("/") / setting).read_text().strip() == "0":
                    return found
            except OSError:
                continue
    return CgroupSwap.ALLOWED


def _regions(smaps: str) -> Iterator[dict[str, int]]:
    """One mapping per region: sizes in bytes by name, and the text of ``VmFlags``. Source: proc_pid_smaps(5)."""
    region: dict[str, int] = {}
    for line in smaps.splitlines():
        name, colon, rest = line.partition(":")
        if name == "VmFlags":
            region["VmFlags"] = rest  # type: ignore[assignment]  # the one line that is no size
            yield region
            region = {}
        elif colon and rest.endswith(" kB"):
            region[name] = int(rest[:-3]) * 1024


def is_dumpable(pid: int) -> bool | None:
    """Whether the kernel would dump its core at all (PR_SET_DUMPABLE); None where it does not tell (before Linux 6.16).

    Raises:
        ProcessLookupError: it has ended.
    """
    descriptor = os.pidfd_open(pid)
    try:
        answer = fcntl.ioctl(descriptor, _PIDFD_GET_INFO, struct.pack("=Q64x", _INFO_COREDUMP))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    (said,) = struct.unpack_from("=Q", answer)
    (mask,) = struct.unpack_from("=I", answer, _COREDUMP_MASK_OFFSET)
    return not mask & _COREDUMP_SKIP if said & _INFO_COREDUMP else None


def core_facts() -> CoreFacts:
    return CoreFacts(pattern=Path("/proc/sys/kernel/core_pattern").read_text().strip())

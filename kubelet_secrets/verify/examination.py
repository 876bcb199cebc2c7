"""What is looked at, and with which eyes: mounts and processes are graded, copies counted, files and devices searched.

Synchronous; ``run`` calls it in a worker thread and decides when.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from kubelet_secrets.leakscan import spellings
from kubelet_secrets.verify import corecheck, filesystems, machine, paging, processes
from kubelet_secrets.verify.canaries import DECOY, Canary
from kubelet_secrets.verify.course import NodeUnderTest, NotAsExpected
from kubelet_secrets.verify.grades import grade_process
from kubelet_secrets.verify.objects import FILES, MEMORY, Planted
from kubelet_secrets.verify.processes import SPARE
from kubelet_secrets.verify.report import AreaReport, Control, MachineFact, MountReport, ProcessReport
from kubelet_secrets.verify.scanner import Scanner, TimeUp, command_output, kernel_log

IN_USE = "in use"
AFTERWARDS = "afterwards"
_SETTLING_S = 120.0  # it is niced, and imports for half a second on a machine that has nothing else to do
USUAL_PLACES = tuple(map(Path, ("/tmp", "/var", "/etc", "/root", "/home", "/run", "/dev/shm", "/opt", "/srv")))


# --- decoys -----------------------------------------------------------------------------------------------------------


class Decoys:
    """A value planted where it must be found, in every form, and in a process that dumps its core if this machine lets it.

    Args:
        memory_decoy: what that process holds, and the one that is swapped out.
        directory: on a disk, existing and empty; the caller removes it.
    """

    def __init__(self, decoy: Canary, memory_decoy: bytes, directory: Path) -> None:
        self._decoy, self._memory_decoy, self._directory = decoy, memory_decoy, directory
        self._expected: dict[str, str] = {}  # path → what it is
        self._swaps: frozenset[str] = frozenset()  # one of these has the decoy

    def plant(self) -> list[MachineFact]:
        """Write the files and let the process abort; returns what became of its core."""
        for number, (form, spelling) in enumerate(spellings(self._decoy.value).items()):
            path = self._directory / str(number)
            path.write_bytes(b"before" + spelling + b"after")
            self._expected[str(path)] = f"a decoy in a file ({form})"
        before = set(self._directory.iterdir())
        ended = corecheck.abort_unprotected(self._memory_decoy, self._directory)
        name = "core of an unprotected process"
        if not ended.dumped:
            return [MachineFact(name=name, state="not written on this machine")]
        for path in set(self._directory.iterdir()) - before:
            self._expected[str(path)] = "a decoy in a core dump"
            return [MachineFact(name=name, state="written, and searched for the decoy")]
        return [MachineFact(name=name, state="handed elsewhere, as core_pattern says")]

    @contextlib.contextmanager
    def in_swap(self) -> Iterator[None]:
        """For the length of the block the decoy is in swap, if there is any: a process that holds it is swapped out.

        To be entered before values are about: what is swapped out later does not take the place of what shall be found.
        """
        swaps = machine.swaps()
        if not swaps:
            yield
            return
        with paging.swapped_decoy(self._memory_decoy) as pid:
            swapped = processes.read_facts(pid).swapped_bytes
            self._swaps = frozenset(str(swap.path) for swap in swaps) if swapped else frozenset()
            yield

    def controls(self, areas: Iterable[AreaReport]) -> list[Control]:
        """Whether each was found."""
        areas = list(areas)
        found = {leak.where for area in areas for leak in area.leaks if leak.canary == DECOY}
        controls = [Control(what=what, found=path in found) for path, what in self._expected.items()]
        if self._swaps:
            controls.append(Control(what="a decoy that was swapped out", found=bool(self._swaps & found)))
        return controls


# --- mounts and processes ---------------------------------------------------------------------------------------------


def grade_mounts(node: NodeUnderTest, *, agent_pid: int, container_pid: int) -> list[MountReport]:
    """Where the values lie while they are in use: on the node, and in a container's eyes."""
    store = filesystems.store_filesystem(agent_pid)
    found = list(filesystems.node_mounts(node.root_dir, store, credentials=node.credentials))
    in_container = {
        "volume in the container": FILES,
        "projected volume in the container": "/projected",
        "single file (subPath) in the container": "/single",
        "emptyDir of medium Memory in the container": MEMORY,
        "the container's root": "/",
    }
    return found + [
        filesystems.container_mount(holds, container_pid, path, store) for holds, path in in_container.items()
    ]


def examine_processes(
    node: NodeUnderTest, *, agent_pid: int, scanner: Scanner, planted: Planted
) -> list[ProcessReport]:
    """Grade every process that values pass through, and count the copies in its memory."""
    core = processes.core_facts()
    found = []
    for process in processes.node_processes(node.keeper_pid, agent_pid=agent_pid, root_dir=node.root_dir):
        try:
            if process.role == SPARE:
                _wait_settled(process.pid)
            if process.promised:
                _page_out(process.pid)
            facts = processes.read_facts(process.pid)
            copies, counted = _try_to_count(process.pid, scanner, planted)
        except ProcessLookupError:
            continue  # one that came and went, such as a conmon of a pod that is tried again
        grade = grade_process(facts, core)
        found.append(
            ProcessReport(
                role=process.role,
                pid=process.pid,
                grade=grade.grade,
                why=grade.why,
                resident_bytes=facts.resident_bytes,
                copies_running=copies,
                counted=counted,
                promised=process.promised,
            )
        )
    return found


def check_roles(reports: Iterable[ProcessReport]) -> None:
    """Whether the processes that every node has were all looked at.

    Raises:
        NotAsExpected: one was not: it ended just then.
    """
    missing = {"keeper", "agent", "writer"} - {report.role for report in reports}
    if missing:
        raise NotAsExpected(f"the {', the '.join(sorted(missing))} ended meanwhile")


def _wait_settled(pid: int) -> None:
    """A spare agent that was started a moment ago still imports, and locks its memory after that, before it holds anything."""
    patience_s = time.monotonic() + _SETTLING_S
    try:
        while not processes.is_spare_waiting(pid) and time.monotonic() < patience_s:
            time.sleep(0.02)
    except OSError:
        raise ProcessLookupError(f"no process {pid}") from None


def _page_out(pid: int) -> None:
    """Swap out what may be, so that the grade tells of what happened and not of what might."""
    if machine.swaps():
        with contextlib.suppress(OSError):  # a kernel that cannot be asked, or a process that has ended
            paging.page_out(pid)


def count_again(reports: Iterable[ProcessReport], scanner: Scanner, planted: Planted) -> Iterator[ProcessReport]:
    """The same processes, after everything was deleted."""
    for report in reports:
        try:
            copies, counted = _try_to_count(report.pid, scanner, planted)
            yield replace(report, copies_after=copies, counted=report.counted and counted)
        except ProcessLookupError:
            yield report


def _try_to_count(pid: int, scanner: Scanner, planted: Planted) -> tuple[int | None, bool]:
    """The copies, and whether there was time to count them."""
    try:
        return count_copies(pid, scanner, planted), True
    except TimeUp:
        return None, False


def count_copies(pid: int, scanner: Scanner, planted: Planted) -> int:
    """How often values stand in the memory of a process, in any form; the large one, which is many pieces, left out.

    Raises:
        ProcessLookupError: it has ended.
        TimeUp: before all of it was read.
    """
    small = {canary.name for canary in planted.small}
    return sum(count for name, count in scanner.memory(pid).items() if name in small)


# --- files, logs, devices -----------------------------------------------------------------------------------------------


def scan_files(
    scanner: Scanner,
    when: str,
    *,
    since: float,
    roots: Iterable[Path],
    crash_directories: set[Path],
    passed_by: Collection[str] = (),
) -> AreaReport:
    """Files that changed since Unix time *since*, where cores may lie and below *roots*, *passed_by* left out."""
    cores = corecheck.core_roots(processes.core_facts().pattern, crash_directories)
    name = "files that changed meanwhile"
    return scanner.files(name, [*roots, *cores], when=when, changed_since=since, passed_by=passed_by)


def scan_named(scanner: Scanner, when: str, path: Path) -> AreaReport:
    """Everything at a path the user named, however old."""
    return scanner.files(str(path), [path], when=when, changed_since=0)


def scan_own_log(scanner: Scanner, log_fd: int) -> AreaReport:
    """What agent and API server logged into the descriptor."""

    def chunks() -> Iterator[bytes]:
        offset = 0
        while chunk := os.pread(log_fd, 1 << 20, offset):
            offset += len(chunk)
            yield chunk

    return scanner.stream("log of agent and API server (-vv)", chunks(), when=AFTERWARDS)


def scan_system_logs(scanner: Scanner, *, since: float) -> Iterator[AreaReport]:
    """The journal, if this machine has one, and the kernel's log."""
    command = machine.journal_command(since)
    if command is not None:
        machine.sync_journal()
        yield scanner.stream("journal", command_output(command), when=AFTERWARDS)
    yield scanner.stream("kernel log", kernel_log(), when=AFTERWARDS)


def scan_device(scanner: Scanner, name: str, path: Path) -> AreaReport:
    """A device from end to end. One that cannot be read is reported as not read."""
    try:
        return scanner.device(name, path, when=AFTERWARDS)
    except OSError as error:
        note = f"cannot be read: {error.strerror}"
        return AreaReport(name=name, when=AFTERWARDS, files=0, size_bytes=0, took_s=0.0, complete=False, note=note)

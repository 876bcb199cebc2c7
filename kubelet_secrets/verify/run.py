"""The whole proof in order: a node, the course of the canaries, grades, scans, a report. The composition root of this room.

::

    in use        deliver, refuse, rotate, crash, abort ── grades, copies in memory, files
    afterwards    delete ── copies in memory ── stop ── files, logs, journal, swap, devices

Nothing that is planted is anybody's secret, and everything planted is taken away again, also when a step fails or the user
has had enough.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from kubelet_secrets.fusefs.hardening import harden_process
from kubelet_secrets.stack import check_host
from kubelet_secrets.testing.images import build_busybox_image
from kubelet_secrets.verify import corecheck, examination, filesystems, machine
from kubelet_secrets.verify.canaries import ALPHABET, DECOY, MARKER_LENGTH, Canaries
from kubelet_secrets.verify.course import Course, CourseEnded, NodeUnderTest, ask_status
from kubelet_secrets.verify.examination import AFTERWARDS, IN_USE, USUAL_PLACES, Decoys
from kubelet_secrets.verify.nodes import own_node, remove_image, running_node
from kubelet_secrets.verify.objects import USERNAME, Planted
from kubelet_secrets.verify.pullserver import serve_image
from kubelet_secrets.verify.report import AreaReport, MachineFact, MountReport, ProcessReport, Report, Step
from kubelet_secrets.verify.scanner import Scanner

_CLEAN_UP_TIMEOUT_S = 30
_FORGETTING_S = 2.0
"""The agent collects what ended pods have left in its memory half a second later. Said in the report."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningNode:
    """A node that is there already."""

    kubeconfig: Path  # an admin's
    socket: Path
    image_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """What ``kubelet-secrets verify`` asks for. Paths are absolute."""

    base_dir: Path  # a directory on a disk; ours is made in it, and removed
    runtime: str = "runc"
    running: RunningNode | None = None  # None: one of our own
    crashes: bool = True
    devices: tuple[Path, ...] = ()  # block devices, or images of disks, to be read from end to end
    paths: tuple[Path, ...] = ()  # further files and directories, to be read whatever their age
    places: tuple[Path, ...] = USUAL_PLACES  # directories in which files that changed meanwhile are looked through
    time_limit_s: float = 600.0  # for all scans together
    step_limit_s: float = 120.0  # for each step; it takes a second or two on a machine that has nothing else to do


class Progress(Protocol):
    """Who shows what is going on."""

    def begin(self, what: str) -> None:
        """The next phase."""

    def advance(self, size_bytes: int) -> None:
        """So much more was read. Called from a worker thread."""


def count_phases(options: VerifyOptions) -> int:
    """How often :meth:`Progress.begin` will be called, if all goes well."""
    return 10 + options.crashes + len(options.devices) + len(options.paths) + len(machine.swaps())


async def run_verification(
    options: VerifyOptions, progress: Progress, *, delivered: Callable[[Planted], None] = lambda planted: None
) -> Report:
    """Do it all.

    Args:
        delivered: called once containers have the values: tests leak them then.

    Raises:
        HostError: this machine lacks something that a node needs.
        UsageError: the kubeconfig of a running node cannot be used.

    Cancellation: everything planted is taken away first.
    """
    check_host(options.runtime)
    harden_process()  # what holds every canary must not be swapped or dumped itself
    corecheck.allow_cores()
    with tempfile.TemporaryDirectory(prefix="kubelet-secrets-verify-", dir=options.base_dir) as name:
        log_fd = os.memfd_create("kubelet-secrets-verify-log", os.MFD_CLOEXEC)
        try:
            return await _Run(options, progress, Path(name), log_fd, delivered).run()
        finally:
            os.close(log_fd)


class _Run:
    """One run, and what its phases found out."""

    def __init__(
        self,
        options: VerifyOptions,
        progress: Progress,
        directory: Path,
        log_fd: int,
        delivered: Callable[[Planted], None],
    ) -> None:
        self._options, self._progress, self._delivered = options, progress, delivered
        self._directory, self._log_fd = directory, log_fd
        self._began_s, self._clock_s = time.time() - 1, time.monotonic()  # file times are some milliseconds coarse
        canaries = Canaries("".join(secrets.choice(ALPHABET) for _ in range(MARKER_LENGTH)))
        self._decoys = Decoys(canaries.make(DECOY), canaries.memory_decoy, directory / "decoys")
        self._planted = Planted.make(canaries)
        self._scanner = Scanner(canaries, time_limit_s=options.time_limit_s, tick=self._tick)
        self._roots = [directory, *options.places]
        self._crash_directories: set[Path] = set()
        self._node_name = ""
        self._steps: list[Step] = []
        self._areas: list[AreaReport] = []
        self._mounts: list[MountReport] = []
        self._processes: list[ProcessReport] = []
        self._machine: list[MachineFact] = []

    def _tick(self, size_bytes: int) -> None:
        self._progress.advance(size_bytes)
        trio.from_thread.check_cancelled()

    async def run(self) -> Report:
        self._progress.begin("planting decoys")
        (self._directory / "decoys").mkdir(mode=0o700)
        self._machine = machine.machine_facts() + await _in_thread(self._decoys.plant)
        features = await _in_thread(machine.probe_features)
        with ExitStack() as undo:
            await _in_thread(lambda: undo.enter_context(self._decoys.in_swap()))
            await self._with_node()
            await self._afterwards()
        return Report(
            node=self._node_name,
            kernel=os.uname().release,
            canaries=tuple(canary.name for canary in self._planted.all),
            steps=tuple(self._steps),
            mounts=tuple(self._mounts),
            processes=tuple(self._processes),
            controls=tuple(self._decoys.controls(self._areas)),
            areas=tuple(self._areas),
            features=tuple(features),
            machine=tuple(self._machine),
            took_s=time.monotonic() - self._clock_s,
        )

    async def _with_node(self) -> None:
        layout = self._directory / "image"
        build_busybox_image(layout, files={"/verify": secrets.token_bytes(16)})
        with serve_image(layout, username=USERNAME, password=self._planted.password.value) as registry:
            image = f"{registry.address}/kubelet-secrets/verify:{secrets.token_hex(4)}"
            self._progress.begin("starting a node" if self._options.running is None else "finding the node")
            async with self._node() as node:
                self._node_name = node.name
                self._roots += [node.root_dir, node.image_dir]
                course = Course(node, self._planted, registry.address, image, self._options.step_limit_s)
                try:
                    await self._run_course(course)
                except CourseEnded:
                    pass  # the report says which step
                finally:
                    self._steps = course.steps
                    with trio.move_on_after(_CLEAN_UP_TIMEOUT_S, shield=True):
                        await course.clean_up()
                        await remove_image(node, image, self._directory)

    @asynccontextmanager
    async def _node(self) -> AsyncIterator[NodeUnderTest]:
        running, runtime = self._options.running, self._options.runtime
        if running is None:
            async with own_node(self._directory, runtime=runtime, log_fd=self._log_fd) as node:
                yield node
        else:
            async with running_node(running.kubeconfig, running.socket, running.image_dir, runtime=runtime) as node:
                yield node

    async def _run_course(self, course: Course) -> None:
        node, planted = course.node, self._planted
        self._progress.begin("delivering")
        await course.deliver()
        await course.refuse()
        self._delivered(planted)
        self._progress.begin("rotating")
        await course.rotate()
        if self._options.crashes:
            self._progress.begin("crashing")
            await course.crash()
        self._crash_directories = course.crash_directories
        await course.collect_answers()
        self._progress.begin("looking at mounts and memory")
        agent_pid = (await ask_status(node.socket)).agent_pid
        container_pid = (await course.container()).pid
        self._mounts = await _in_thread(
            partial(examination.grade_mounts, node, agent_pid=agent_pid, container_pid=container_pid)
        )
        self._processes = await _in_thread(
            partial(examination.examine_processes, node, agent_pid=agent_pid, scanner=self._scanner, planted=planted)
        )
        with course.step("the node's processes are there to be looked at"):
            examination.check_roles(self._processes)
        self._progress.begin("searching files while they are in use")
        await self._scan(self._files, IN_USE)
        answers = "answers of API server and agent"
        await self._scan(partial(self._scanner.stream, answers, course.answers, when=IN_USE))
        self._progress.begin("deleting everything")
        await course.delete()
        self._progress.begin("looking into memory again")
        await trio.sleep(_FORGETTING_S)
        self._processes = await _in_thread(
            lambda: list(examination.count_again(self._processes, self._scanner, planted))
        )

    async def _afterwards(self) -> None:
        """What is read without the node, once its mounts, if they were ours, are gone."""
        scanner = self._scanner
        self._progress.begin("searching files")
        await _in_thread(os.sync)  # what is still on its way to a disk would not be found there
        await self._scan(self._files, AFTERWARDS)
        self._progress.begin("searching logs")
        if self._options.running is None:
            await self._scan(partial(examination.scan_own_log, scanner, self._log_fd))
        since = self._began_s
        self._areas += await _in_thread(lambda: list(examination.scan_system_logs(scanner, since=since)))
        for path in self._options.paths:
            self._progress.begin(f"searching {path}")
            await self._scan(partial(examination.scan_named, scanner, AFTERWARDS, path))
        for swap in machine.swaps():
            self._progress.begin(f"reading swap {swap.path}")
            name = f"swap {swap.path}" + (" (zram: memory)" if swap.is_memory else "")
            await self._scan(partial(examination.scan_device, scanner, name, swap.path))
        for device in self._options.devices:
            self._progress.begin(f"reading {device}")
            await self._scan(partial(examination.scan_device, scanner, str(device), device))

    def _files(self, when: str) -> AreaReport:
        return examination.scan_files(
            self._scanner,
            when,
            since=self._began_s,
            roots=self._roots,
            crash_directories=self._crash_directories,
            passed_by=[each for root in self._roots for each in filesystems.memory_volumes(root)],
        )

    async def _scan(self, scan: Callable[..., AreaReport], *arguments: str) -> None:
        self._areas.append(await _in_thread(partial(scan, *arguments)))


async def _in_thread(what: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(what)

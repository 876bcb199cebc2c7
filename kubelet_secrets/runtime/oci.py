"""Containers on this host: create, start, watch, kill, delete, and find again after a restart.

Facts live in the bundles on the run tmpfs (``bundle.py``), not in this object: a new agent that opens the same directory knows
everything the old one knew. Used by ``pod.worker``; knows containers, not pods.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import trio

from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.runtime import bundle as bundles
from kubelet_secrets.runtime.attach import Attachment, open_attachment
from kubelet_secrets.runtime.bundle import Bundle, ContainerRecord
from kubelet_secrets.runtime.cgroups import CgroupTree
from kubelet_secrets.runtime.conmon import StartFailed, launch, open_conmon, open_container
from kubelet_secrets.runtime.exec import ExecResult, ExecSession, open_exec
from kubelet_secrets.runtime.hostfacts import check_runtime
from kubelet_secrets.runtime.images import Image
from kubelet_secrets.runtime.launchpad import Launchpad
from kubelet_secrets.runtime.settings import ContainerSettings, HostFacts
from kubelet_secrets.runtime.spec import make_spec
from kubelet_secrets.runtime.state import (
    ContainerHandle,
    ContainerState,
    ExitStatus,
    read_container,
    read_exit_status,
    signal_by_name,
)
from kubelet_secrets.runtime.tools import Outcome, Tools, run_tool

__all__ = [
    "ContainerHandle",
    "ContainerState",
    "ExitStatus",
    "OciRuntime",
    "StartFailed",
    "new_container_id",
    "signal_by_name",
]

logger = logging.getLogger(__name__)

_CLEANUP_S = 20.0
_EXECUTED_S = 2.0


def new_container_id() -> str:
    """64 random hex digits, like containerd's. No relation to names, so nothing can be guessed from one."""
    return secrets.token_hex(32)


class OciRuntime:
    """The containers of one node.

    Args:
        run_dir: the attached noswap tmpfs of the node, 0700; must exist.
        pods_dir: where the pods' volumes are mounted; None where there are none.

    Raises:
        HostError: this runtime does not work with this machine's cgroups.
    """

    def __init__(
        self, run_dir: Path, *, tools: Tools, host: HostFacts, cgroups: CgroupTree, pods_dir: Path | None = None
    ) -> None:
        check_runtime(tools.runtime, cgroups.layout)
        self._tools = tools
        self._host = host
        self._cgroups = cgroups
        self._root = run_dir / "runc"  # the runtime's own state; it copies config.json, so it is secret
        self._command = (str(tools.runtime), f"--root={self._root}")
        self._containers = run_dir / "containers"
        self._launchpad = Launchpad(
            hidden=[self._containers, run_dir / "netns", *([pods_dir] if pods_dir is not None else [])],
        )
        for directory in (self._root, self._containers, run_dir / "scratch"):
            directory.mkdir(mode=0o700, exist_ok=True)

    # --- life -------------------------------------------------------------------------------------------------------

    async def create(self, settings: ContainerSettings, image: Image, *, log_path: Path) -> ContainerHandle:
        """Make the bundle and the container; its process waits for :meth:`start`.

        Args:
            log_path: where conmon writes the CRI log; on the run tmpfs.

        Raises:
            StartFailed: the runtime refused (command not found, a mount that cannot be made): RunContainerError. The container
                stays, as on a real node: exited, code 128, reason StartError; delete it in time.
            ContainerRunError: anything before that: CreateContainerError. Nothing stays behind.

        Cancellation: nothing stays behind, neither process nor mount nor directory.
        """
        record = _record(settings, log_path)
        bundle = self._bundle(record.id)
        termination_log = bundle.termination_log if settings.termination_message_path else None
        spec = make_spec(settings, self._host, termination_log=termination_log)
        log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # Not abandoned on cancel: a mount made behind our back would stay.
            await trio.to_thread.run_sync(bundles.create, bundle, record, spec, image.rootfs)
            await launch(
                self._tools,
                bundle,
                record,
                self._root,
                launchpad=self._launchpad,
                shown=_sources(settings, bundle),
                adopt_monitor=self._cgroups.adopt_monitor,
            )
            await trio.lowlevel.checkpoint_if_cancelled()  # launch itself does not stop half-way
        except StartFailed as error:
            await self._keep_failure(bundle, str(error))
            raise
        except BaseException:
            with trio.move_on_after(_CLEANUP_S, shield=True):
                await self.delete(record.id)
            raise
        return read_container(bundle, record, self._cgroups)

    async def start(self, container_id: str) -> ContainerHandle:
        """Let the created process run.

        Raises:
            StartFailed: the runtime refused; as with :meth:`create`.
        """
        bundle = self._bundle(container_id)
        bundle.started.touch(mode=0o600)
        outcome = await self._run("start", container_id)
        if outcome.code != 0:
            error = StartFailed(f"failed to start container: OCI runtime start failed: {outcome.last_line}")
            await self._keep_failure(bundle, str(error))
            raise error
        await self._wait_executed(bundle)
        return self.state(container_id)

    async def wait_exit(self, container_id: str) -> ExitStatus:
        """Wait until the container has ended and its status is collected; returns at once if it has.

        Works for containers that an earlier agent started. When conmon itself was killed the status is lost:
        ``ExitStatus(137, known=False)`` as soon as the container has gone too.

        Raises:
            ContainerRunError: no such container, or it was deleted meanwhile.
        """
        bundle, record = self._bundle(container_id), self.state(container_id).record
        if record.shares_pid_namespace:
            # In a pid namespace of its own the kernel ends the others with the first process. Here they could go on and hold
            # the log's pipes open; the CRI runtimes kill them too.
            await self._wait_ended(bundle, open_container)
            self._cgroups.kill_all(record.cgroup_path)
        for opener in (open_conmon, open_container):
            handle = self.state(container_id)
            if handle.exit is not None:
                return handle.exit
            await self._wait_ended(bundle, opener)
        return self.state(container_id).exit or read_exit_status(bundle, record, self._cgroups)

    def kill(self, container_id: str, signal_number: int = signal.SIGTERM) -> None:
        """Send a signal to the container's first process. No error when it has gone already.

        By pidfd: a pid that was reused meanwhile cannot be hit.
        """
        fd = open_container(self._bundle(container_id))
        if fd is None:
            return
        try:
            signal.pidfd_send_signal(fd, signal_number)
        except ProcessLookupError:
            pass
        finally:
            os.close(fd)

    async def stop(self, container_id: str, *, grace_s: float) -> ExitStatus:
        """The image's stop signal (default SIGTERM), then SIGKILL after *grace_s*.

        Cancellation: the container may still be running; call again, or :meth:`delete`.
        """
        record = self.state(container_id).record
        self.kill(container_id, signal_by_name(record.stop_signal))
        with trio.move_on_after(grace_s):
            return await self.wait_exit(container_id)
        self.kill(container_id, signal.SIGKILL)
        return await self.wait_exit(container_id)

    async def delete(self, container_id: str) -> None:
        """Kill what still runs and remove every trace but the log. Idempotent.

        Cancellation: a part may remain; call again.
        """
        bundle = self._bundle(container_id)
        if not bundle.path.exists():
            return
        record = bundles.read_record(bundle)
        self.kill(container_id, signal.SIGKILL)
        if record is not None:
            self._cgroups.kill_all(record.cgroup_path)  # what shares a pid namespace outlives the first process
            await self._wait_gone(bundle, open_container)
        if record is not None and (self._root / container_id).exists():
            # --force: also when nobody has reaped the first process yet.
            outcome = await self._run("delete", "--force", container_id)
            if outcome.code != 0:
                logger.warning("container %s: delete: %s", container_id[:12], outcome.last_line)
        if record is not None:
            # conmon still writes into the bundle for a moment; do not pull it away under it.
            await self._wait_gone(bundle, open_conmon)
            await trio.to_thread.run_sync(self._cgroups.remove, record.cgroup_path)
        await trio.to_thread.run_sync(bundles.remove, bundle)

    # --- looking ----------------------------------------------------------------------------------------------------

    def state(self, container_id: str) -> ContainerHandle:
        """How a container is now.

        Raises:
            ContainerRunError: no such container.
        """
        bundle = self._bundle(container_id)
        record = bundles.read_record(bundle)
        if record is None:
            raise ContainerRunError(f'container "{container_id}" not found')
        return read_container(bundle, record, self._cgroups)

    def writable_layer(self, container_id: str) -> Path:
        """What the container has written to its root filesystem; not there for one that is gone."""
        return self._bundle(container_id).scratch / "upper"

    def label(self, container_id: str, name: str, text: str) -> None:
        """Write a label of the container anew.

        Raises:
            ContainerRunError: no such container.
        """
        bundle = self._bundle(container_id)
        record = bundles.read_record(bundle)
        if record is None:
            raise ContainerRunError(f'container "{container_id}" not found')
        bundles.write_record(bundle, msgspec.structs.replace(record, labels={**record.labels, name: text}))

    def list(self) -> tuple[ContainerHandle, ...]:
        """Every container of this node, of earlier agents too, oldest first. Directories without a record are left out."""
        found = []
        for path in self._containers.iterdir():
            record = bundles.read_record(Bundle(path))
            if record is not None:
                found.append(read_container(Bundle(path), record, self._cgroups))
        return tuple(sorted(found, key=lambda handle: handle.record.created_at))

    async def adopt(self, pod_uid: str | None = None) -> tuple[ContainerHandle, ...]:
        """After a restart: delete what was left unfinished, and return the rest, oldest first.

        Unfinished is a bundle without a record, and a container whose process still waits to be started.

        Args:
            pod_uid: look at the containers of this pod only; nobody may be at work on them.
        """
        for path in tuple(self._containers.iterdir()):
            bundle = Bundle(path)
            record = bundles.read_record(bundle)
            if bundle.failure.exists() or (pod_uid is not None and (record is None or record.pod_uid != pod_uid)):
                continue
            # The runtime removes this pipe when the process passes it.
            waits = (self._root / bundle.id / "exec.fifo").exists()
            if record is None or not bundle.started.exists() or waits:
                logger.info("container %s was never started: removing it", bundle.id[:12])
                await self.delete(bundle.id)
        return tuple(handle for handle in self.list() if pod_uid in (None, handle.record.pod_uid))

    def termination_message(self, container_id: str) -> bytes:
        """What the container wrote to its terminationMessagePath, at most the last 4096 bytes."""
        return bundles.read_termination_message(self._bundle(container_id))

    # --- exec -------------------------------------------------------------------------------------------------------

    async def exec(
        self, container_id: str, argv: Sequence[str], *, stdin: bytes | None = None, max_output_bytes: int = 1 << 20
    ) -> ExecResult:
        """Run a command in the container to its end, with the container's environment, user and limits.

        Returns:
            Exit code (126 or 127 with the runtime's message on stderr when it cannot be run), stdout and stderr, each cut
            off after *max_output_bytes*.

        Cancellation: the command is killed.
        """
        session = await self.open_exec(container_id, argv, stdin=stdin is not None)
        return await session.communicate(stdin, max_output_bytes=max_output_bytes)

    async def open_exec(
        self, container_id: str, argv: Sequence[str], *, tty: bool = False, stdin: bool = False
    ) -> ExecSession:
        """Start a command and hand its streams out. The caller closes the session (``async with``).

        Raises:
            ContainerRunError: the container is not running.
        """
        if self.state(container_id).state is not ContainerState.RUNNING:
            raise ContainerRunError(f'container "{container_id}" is not running')
        prefix, descriptors = await trio.to_thread.run_sync(self._launchpad.prefix)
        return await open_exec(
            [*prefix, *self._command],
            container_id,
            argv,
            directory=self._bundle(container_id).path,
            tty=tty,
            stdin=stdin,
            pass_fds=descriptors,
        )

    def attach(self, container_id: str) -> AbstractAsyncContextManager[Attachment]:
        """Join the container's own streams; see ``runtime/attach.py``.

        Raises:
            ContainerRunError: the container is not running.
        """
        handle = self.state(container_id)
        if handle.state is not ContainerState.RUNNING:
            raise ContainerRunError(f'container "{container_id}" is not running')
        record = handle.record
        return open_attachment(self._bundle(container_id), has_stdin=record.stdin, has_tty=record.tty)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _bundle(self, container_id: str) -> Bundle:
        assert container_id.isalnum(), container_id
        return Bundle(self._containers / container_id)

    async def _run(self, *arguments: str) -> Outcome:
        prefix, descriptors = await trio.to_thread.run_sync(self._launchpad.prefix)
        return await run_tool([*prefix, *self._command, *arguments], pass_fds=descriptors)

    async def _keep_failure(self, bundle: Bundle, message: str) -> None:
        """Turn a container whose process never came to be into an exited one: only its record and the reason stay."""
        with trio.move_on_after(_CLEANUP_S, shield=True):
            bundles.write_failure(bundle, message)
            if (self._root / bundle.id).exists():
                await self._run("delete", "--force", bundle.id)
            await self._wait_gone(bundle, open_conmon)
            await trio.to_thread.run_sync(bundles.unmount_rootfs, bundle)
            bundle.config.unlink(missing_ok=True)

    async def _wait_executed(self, bundle: Bundle) -> None:
        """Wait until the runtime's own first process has become the container's.

        ``start`` returns a moment earlier, and a SIGTERM that arrives then ends runc with status 2, whatever the container
        would have done with it.
        """
        pid = bundles.read_pid(bundle.pid_file)
        with trio.move_on_after(_EXECUTED_S):
            while pid is not None and _is_runtime(pid):  # noqa: ASYNC110 - nothing tells of an execve
                await trio.sleep(0.001)

    async def _wait_ended(self, bundle: Bundle, opener: Callable[[Bundle], int | None]) -> None:
        fd = opener(bundle)
        if fd is None:
            return
        try:
            await trio.lowlevel.wait_readable(fd)
        finally:
            os.close(fd)

    async def _wait_gone(self, bundle: Bundle, opener: Callable[[Bundle], int | None]) -> None:
        """Wait for a process to end by itself, SIGKILL it after five seconds."""
        fd = opener(bundle)
        if fd is None:
            return
        try:
            with trio.move_on_after(5):
                await trio.lowlevel.wait_readable(fd)
                return
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(fd)


def _is_runtime(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_bytes().startswith(b"runc:[")
    except OSError:
        return False


def _sources(settings: ContainerSettings, bundle: Bundle) -> list[Path]:
    """What the container is made from and may have been mounted by somebody."""
    namespaces = settings.namespaces
    own = (namespaces.net, namespaces.ipc, namespaces.uts, namespaces.pid, settings.shm_path)
    return [bundle.rootfs, *(path for path in own if path is not None), *(each.host_path for each in settings.mounts)]


def _record(settings: ContainerSettings, log_path: Path) -> ContainerRecord:
    return ContainerRecord(
        id=settings.container_id,
        pod_uid=settings.pod_uid,
        pod_namespace=settings.pod_namespace,
        pod_name=settings.pod_name,
        container_name=settings.container_name,
        attempt=settings.attempt,
        image_name=settings.image_name,
        image_id=settings.image_id,
        cgroup_path=settings.cgroup_path,
        log_path=str(log_path),
        stop_signal=settings.stop_signal,
        termination_message_path=settings.termination_message_path,
        tty=settings.tty,
        stdin=settings.stdin,
        stdin_once=settings.stdin_once,
        shares_pid_namespace=settings.namespaces.pid is not None or settings.namespaces.host_pid,
        created_at=datetime.now(UTC),
        labels=dict(settings.labels),
    )

"""Start one container under conmon, and find it again.

conmon is the container's parent: it holds the pipes, writes the log in CRI format, collects the exit status and writes it to a
file. It belongs to nobody: a SIGKILLed agent takes no container, no log line and no exit status with it. This module speaks
conmon's start protocol and recognises a running one; it does not know what a container is for.

Protocol (conmon.c, as CRI-O and podman use it): two pipes by number in the environment. conmon blocks on ``_OCI_STARTPIPE``
until a byte arrives, so that its cgroup can be set before it forks; it answers on ``_OCI_SYNCPIPE`` with ``{"data": pid}`` or
``{"data": -1, "message": …}`` when the runtime's ``create`` is done.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import select
import signal
import subprocess
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import trio

from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.runtime.bundle import Bundle, ContainerRecord, read_pid
from kubelet_secrets.runtime.launchpad import Launchpad
from kubelet_secrets.runtime.tools import Tools, tool_environment

logger = logging.getLogger(__name__)

LOG_SIZE_MAX_BYTES = 10 * 1024 * 1024  # the kubelet's containerLogMaxSize; the log lives on tmpfs
_ANSWER_MAX_BYTES = 64 * 1024
_CREATE_TIMEOUT_S = 120.0
_NO_SUCH_PROCESS = (errno.ESRCH, errno.EINVAL)  # the second: a thread has the number, which is no process's


class StartFailed(ContainerRunError):
    """The runtime refused to create or start the process: RunContainerError, and a terminated state with exit code 128."""


def conmon_arguments(tools: Tools, bundle: Bundle, record: ContainerRecord, runtime_root: Path) -> list[str]:
    """The command line, pure. Nothing on it is secret: ids and paths."""
    arguments = [
        str(tools.conmon),
        "--api-version=1",
        f"--cid={record.id}",
        f"--cuuid={record.id}",
        f"--name={record.container_name}",
        f"--runtime={tools.runtime}",
        f"--runtime-arg=--root={runtime_root}",
        f"--bundle={bundle.path}",
        f"--container-pidfile={bundle.pid_file}",
        f"--conmon-pidfile={bundle.conmon_pid_file}",
        f"--persist-dir={bundle.persist}",
        f"--log-path=k8s-file:{record.log_path}",
        f"--log-size-max={LOG_SIZE_MAX_BYTES}",
        "--no-sync-log",  # a tmpfs has nothing to sync
        "--full-attach",  # the attach socket lies in the bundle, however long its path is
        "--log-level=warning",
    ]
    if record.tty:
        arguments.append("--terminal")
    if record.stdin:
        arguments += ["--stdin"] if record.stdin_once else ["--stdin", "--leave-stdin-open"]
    return arguments


async def launch(
    tools: Tools,
    bundle: Bundle,
    record: ContainerRecord,
    runtime_root: Path,
    *,
    launchpad: Launchpad,
    shown: Collection[Path],
    adopt_monitor: Callable[[int], None],
) -> int:
    """Run conmon, and under it the runtime's ``create``.

    Args:
        launchpad, shown: where it runs, and which mounts the container is made from.
        adopt_monitor: called with conmon's pid before it does anything, to put it into a cgroup of its own.

    Returns:
        The host pid of the container's first process, which waits for ``start``.

    Raises:
        StartFailed: the runtime refused; the message is the runtime's.

    Cancellation: shielded until the runtime has answered (some 50 ms), at most two minutes: a creation left to itself would
    finish behind our back, after its bundle was cleaned up. The caller deletes the container.
    """
    with trio.move_on_after(_CREATE_TIMEOUT_S, shield=True):
        start = partial(launchpad.start, conmon_arguments(tools, bundle, record, runtime_root), shown=shown)
        pid = await _launch(start, bundle.path, adopt_monitor)
        _forbid_cores(bundle)
        return pid
    fd = open_conmon(bundle)
    if fd is not None:
        signal.pidfd_send_signal(fd, signal.SIGTERM)  # it passes that on to the runtime it waits for
        os.close(fd)
    raise StartFailed("failed to start container: OCI runtime create failed: timed out")


async def _launch(
    start: Callable[..., subprocess.Popen[bytes]], directory: Path, adopt_monitor: Callable[[int], None]
) -> int:
    answer_fd, answer_end = os.pipe2(os.O_CLOEXEC)
    start_end, start_fd = os.pipe2(os.O_CLOEXEC)
    complaint_fd, complaint_end = os.pipe2(os.O_CLOEXEC)
    run = partial(
        start,
        environ=tool_environment({"_OCI_SYNCPIPE": str(answer_end), "_OCI_STARTPIPE": str(start_end)}),
        directory=directory,  # it also drops a file named "oom" where it stands
        stderr=complaint_end,
        pass_fds=(answer_end, start_end),
    )
    try:
        process = await trio.to_thread.run_sync(run)
    except BaseException:
        for fd in (answer_fd, start_fd, complaint_fd):
            os.close(fd)
        raise
    finally:
        for fd in (answer_end, start_end, complaint_end):
            os.close(fd)
    async with trio.lowlevel.FdStream(answer_fd) as answer_stream, trio.lowlevel.FdStream(complaint_fd) as complaints:
        try:
            adopt_monitor(process.pid)
            os.write(start_fd, b"\0")
        finally:
            os.close(start_fd)
        # The first process exits as soon as it has forked; the one that stays is nobody's child but init's.
        await _wait(process)
        answer = bytearray()
        while len(answer) < _ANSWER_MAX_BYTES and not answer.endswith(b"}\n"):
            chunk = await answer_stream.receive_some(4096)
            if not chunk:
                break
            answer += chunk
        complaint = b"" if answer else await complaints.receive_some(4096)
    return _parse_answer(bytes(answer), complaint.decode(errors="replace"))


async def _wait(process: subprocess.Popen[bytes]) -> None:
    fd = os.pidfd_open(process.pid)
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)
    process.wait()


def _parse_answer(answer: bytes, complaint: str) -> int:
    try:
        reply = json.loads(answer)
        pid = int(reply["data"])
    except (ValueError, KeyError, TypeError):
        raise StartFailed(f"failed to start container: conmon gave no answer: {complaint.strip()}") from None
    if pid > 0:
        return pid
    message = str(reply.get("message", "")).strip() or "the runtime gave no reason"
    raise StartFailed(f"failed to start container: OCI runtime create failed: {_runtime_message(message)}")


def _runtime_message(text: str) -> str:
    """What runc means, out of its log line ``time="…" level=error msg="…"``; crun prints the bare text."""
    for line in reversed(text.splitlines()):
        _, found, quoted = line.partition(' msg="')
        if found:
            return quoted.rstrip().removesuffix('"').replace('\\"', '"')
    return text


def _forbid_cores(bundle: Bundle) -> None:
    """Take from conmon, which has the container's output in its buffers, the means to dump core.

    It was started with the limit (``fusefs.hardening``); now that the container exists, and has its own limit by the spec,
    the hard one can go as well, and the kernel be told to leave every page out. Best effort.
    """
    fd = open_conmon(bundle)
    if fd is None:
        return
    try:
        pid = read_pid(bundle.conmon_pid_file)
        if pid is not None:  # and it is conmon's for as long as the descriptor is open and not readable
            soft, _ = resource.prlimit(pid, resource.RLIMIT_CORE)
            resource.prlimit(pid, resource.RLIMIT_CORE, (soft, soft))
            Path(f"/proc/{pid}/coredump_filter").write_text("0")
    except OSError as error:
        logger.debug("conmon of %s keeps its own core settings: %s", bundle.id, error.strerror)
    finally:
        os.close(fd)


# --- recognising processes ------------------------------------------------------------------------------------------


def open_conmon(bundle: Bundle) -> int | None:
    """A pidfd of the conmon that watches *bundle*, or None when it has ended. The caller closes it.

    Pids are reused; a conmon is recognised by the container id on its command line.
    """
    return _open_if(read_pid(bundle.conmon_pid_file), "cmdline", bundle.id)


def open_container(bundle: Bundle) -> int | None:
    """A pidfd of the container's first process, recognised by the id in its cgroup path; None when it has ended."""
    return _open_if(read_pid(bundle.pid_file), "cgroup", bundle.id)


def _has_ended(pidfd: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def _open_if(pid: int | None, file: str, marker: str) -> int | None:
    if pid is None:
        return None
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in _NO_SUCH_PROCESS:
            raise  # we cannot look: nothing is known of it, least of all that it has ended
        return None
    # Look only now: while the descriptor is open and the process alive, the number cannot mean another one.
    try:
        matches = marker.encode() in Path(f"/proc/{pid}/{file}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        matches = False
    except OSError:
        os.close(fd)
        raise
    if not matches or _has_ended(fd):  # a zombie keeps its cgroup path
        os.close(fd)
        return None
    return fd

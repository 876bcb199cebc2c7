"""Run a further command inside a running container (``runc exec``), with pipes or a terminal.

Unlike the container itself such a command belongs to the agent: it ends with the session. Not the streaming protocol of
``kubectl exec``; ``node`` carries these streams over its connection.
"""

from __future__ import annotations

import fcntl
import os
import pty
import secrets
import signal
import struct
import subprocess
import termios
import tty as terminal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import trio

from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.runtime.bundle import read_pid
from kubelet_secrets.runtime.tools import tool_environment

_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class ExecResult:
    code: int
    stdout: bytes = field(repr=False)  # may be anything, secrets too
    stderr: bytes = field(repr=False)


class ExecSession:
    """One command under way.

    Attributes:
        stdin: where to write its input; None without. Closing it is end of file.
        stdout: its output; with a terminal the only stream, and it may end with ``BrokenResourceError`` instead of EOF.
        stderr: None with a terminal.
    """

    def __init__(
        self,
        process: trio.Process,
        pid_file: Path,
        container_id: str,
        stdin: trio.abc.SendStream | None,
        stdout: trio.abc.ReceiveStream,
        stderr: trio.abc.ReceiveStream | None,
        tty_fd: int | None,
    ) -> None:
        self._process = process
        self._pid_file = pid_file
        self._container_id = container_id
        self._tty_fd = tty_fd
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr

    async def __aenter__(self) -> ExecSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def resize(self, *, columns: int, rows: int) -> None:
        """Tell the command its terminal's size; nothing without a terminal."""
        if self._tty_fd is None or self._process.returncode is not None:
            return
        fcntl.ioctl(self._tty_fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._process.send_signal(signal.SIGWINCH)

    async def wait(self) -> int:
        """The command's exit code.

        Raises:
            ContainerRunError: it could not be started. The runtime's reason is on stderr (or stdout, with a terminal).
        """
        code = await self._process.wait()
        if not self._pid_file.exists():
            raise ContainerRunError("failed to exec in container: OCI runtime exec failed")
        return 128 - code if code < 0 else code

    async def communicate(self, stdin: bytes | None, *, max_output_bytes: int) -> ExecResult:
        """Feed it, read it to its end, close it. For commands without a terminal.

        Raises:
            ContainerRunError: it could not be started; with the runtime's reason.
        """
        assert self.stderr is not None
        outputs = {"stdout": bytearray(), "stderr": bytearray()}

        async def read(stream: trio.abc.ReceiveStream, into: bytearray) -> None:
            async for chunk in stream:
                into += chunk[: max_output_bytes - len(into)]

        async def feed(stream: trio.abc.SendStream, data: bytes) -> None:
            try:
                await stream.send_all(data)
            except trio.BrokenResourceError:
                pass  # it ended without reading everything
            await stream.aclose()

        async with self, trio.open_nursery() as nursery:
            nursery.start_soon(read, self.stdout, outputs["stdout"])
            nursery.start_soon(read, self.stderr, outputs["stderr"])
            if self.stdin is not None:
                nursery.start_soon(feed, self.stdin, stdin or b"")
        stdout, stderr = bytes(outputs["stdout"]), bytes(outputs["stderr"])
        try:
            return ExecResult(await self.wait(), stdout, stderr)
        except ContainerRunError as error:
            reason = stderr.decode(errors="replace").strip().rpartition('msg="')[2].removesuffix('"')
            raise ContainerRunError(f"{error}: {reason}".replace('\\"', '"')) from None
        finally:
            self._pid_file.unlink(missing_ok=True)

    async def aclose(self) -> None:
        """End the command if it still runs, and release everything. After its streams ended it is given time to end itself."""
        with trio.CancelScope(shield=True):
            if self._process.returncode is None:
                with trio.move_on_after(_CLOSE_S if await self._streams_ended() else 0):
                    await self._process.wait()
            if self._process.returncode is None:
                await self._wait_begun()
                self._kill_inside()
                with trio.move_on_after(_CLOSE_S):
                    await self._process.wait()  # it reaps what we have killed
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            for stream in (self.stdin, self.stdout, self.stderr):
                if stream is not None:
                    await trio.aclose_forcefully(stream)
            if self._tty_fd is not None:
                os.close(self._tty_fd)
                self._tty_fd = None

    async def _streams_ended(self) -> bool:
        """Whether stdout is at its end; then the command is about to exit and must not lose its exit code to our SIGKILL."""
        with trio.move_on_after(0) as scope:
            try:
                return await self.stdout.receive_some(1) == b""
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                return True
        return not scope.cancelled_caught

    async def _wait_begun(self) -> None:
        """Wait until the runtime has said which process it made: killed before, it could leave one that nobody knows of."""
        with trio.move_on_after(_CLOSE_S):
            while self._process.poll() is None and not self._pid_file.exists():  # noqa: ASYNC110 - runc writes the file
                await trio.sleep(0.005)

    def _kill_inside(self) -> None:
        """SIGKILL the process in the container: killing ``runc exec`` alone would leave it running."""
        pid = read_pid(self._pid_file)
        if pid is None:
            return
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return
        try:
            if self._container_id.encode() in Path(f"/proc/{pid}/cgroup").read_bytes():
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        except OSError:
            pass
        finally:
            os.close(fd)


async def open_exec(
    runtime: Sequence[str],
    container_id: str,
    argv: Sequence[str],
    *,
    directory: Path,
    tty: bool,
    stdin: bool,
    pass_fds: Sequence[int] = (),
) -> ExecSession:
    """Start ``runc exec``.

    Args:
        runtime: the runtime's command line up to the sub-command.
        directory: the container's bundle; gets the pid file.
        pass_fds: what the runtime's command line refers to.
    """
    pid_file = directory / f"exec-{secrets.token_hex(8)}.pid"
    command = [*runtime, "exec", f"--pid-file={pid_file}", *(["--tty"] if tty else []), container_id, *argv]
    if not tty:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=tool_environment(),
            pass_fds=pass_fds,
        )
        assert process.stdout is not None
        return ExecSession(process, pid_file, container_id, process.stdin, process.stdout, process.stderr, None)
    # runc copies between the container's terminal and its own: give it one of ours.
    controller, follower = pty.openpty()
    try:
        terminal.setraw(follower)
        process = await trio.lowlevel.open_process(
            command,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=tool_environment(),
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except BaseException:
        os.close(controller)
        raise
    finally:
        os.close(follower)
    return ExecSession(
        process,
        pid_file,
        container_id,
        trio.lowlevel.FdStream(os.dup(controller)) if stdin else None,
        trio.lowlevel.FdStream(os.dup(controller)),
        None,
        controller,
    )

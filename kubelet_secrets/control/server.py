"""The agent's end of the control socket.

Handlers are async generators' channels: each method is ``async def handler(params, send)`` that sends answer items. One bad
request ends its own connection and nothing else; a reader that stops reading is cut off after ``SEND_TIMEOUT_S``.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from kubelet_secrets.control.protocol import Answer, Request
from kubelet_secrets.errors import HostError, KubeletSecretsError

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 64 * 1024
SEND_TIMEOUT_S = 30
_REFUSED_S = 1.0
_BIND_TRIES = 40

_SO_PEERPIDFD = 77
"""Since Linux 6.5. Source: include/uapi/asm-generic/socket.h."""

Send = Callable[[Any], Awaitable[None]]
Handler = Callable[[Mapping[str, Any], Send], Awaitable[None]]


async def serve_control(
    path: Path,
    handlers: Mapping[str, Handler],
    *,
    may_ask: Callable[[int], bool] = lambda pid: True,
    takes_over: bool = False,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen on *path* (0600, root only) until cancelled; the socket file is removed at the end.

    A socket left by an agent that was killed is replaced.

    Args:
        may_ask: whether this process of root's may; containers have roots as well.
        takes_over: whoever listens there is an agent of this very node that is about to be gone.

    Raises:
        HostError: the path cannot be bound, or another agent listens there.
    """
    if not takes_over and _is_listening(path):
        raise HostError(f"another agent listens on {path}: give this one another --socket")
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await _bind(listener, path)
        listener.listen(16)
        ours = _identity(path)
    except OSError as error:
        listener.close()
        raise HostError(f"cannot listen on {path}: {error.strerror or error}") from error
    try:
        task_status.started()
        serve = partial(_serve_connection, handlers=handlers, may_ask=may_ask)
        await trio.serve_listeners(serve, [trio.SocketListener(listener)])  # waits when descriptors are short
    finally:
        with suppress(OSError):
            if _identity(path) == ours:  # else the agent after this one listens there already
                path.unlink()


async def _bind(listener: trio.socket.SocketType, path: Path) -> None:
    """Raises: OSError: it cannot be, and not because another node stops just now and takes the empty directory away."""
    for attempt in range(_BIND_TRIES):
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            previous = os.umask(0o177)  # the socket is born 0600: there is no instant in which others could connect
            try:
                return await listener.bind(os.fspath(path))
            finally:
                os.umask(previous)
        except (FileNotFoundError, FileExistsError):
            if attempt == _BIND_TRIES - 1:
                raise


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False  # nobody is there; what else is wrong with the path, binding it will tell
    return True


async def _serve_connection(
    stream: trio.SocketStream, handlers: Mapping[str, Handler], may_ask: Callable[[int], bool]
) -> None:
    async def send(item: Any) -> None:
        await send_answer(Answer(item=item))

    async def send_answer(answer: Answer) -> None:
        with trio.fail_after(SEND_TIMEOUT_S):
            await stream.send_all(msgspec.json.encode(answer) + b"\n")

    async with stream:
        try:
            refusal = _judge(stream, may_ask)
            # Also of who is refused, and would find nobody to say it to.
            request = await _receive_request(stream, _REFUSED_S if refusal else SEND_TIMEOUT_S)
            if refusal:
                await send_answer(Answer(error=refusal))
                return
            handler = handlers.get(request.method)
            if handler is None:
                await send_answer(
                    Answer(error=f"unknown method {request.method!r}: agent and command differ in version")
                )
                return
            async with trio.open_nursery() as nursery:
                # A follower that hangs up (Ctrl-C) must end its handler even when there is nothing to send it.
                nursery.start_soon(_cancel_on_hangup, stream, nursery.cancel_scope)
                await handler(request.params, send)
                nursery.cancel_scope.cancel()
            await send_answer(Answer(end=True))
        except* KubeletSecretsError as group:
            message = "; ".join(str(error) for error in _leaves(group))
            try:
                await send_answer(Answer(error=message))
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                pass  # nobody is left to be told
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the asker went away or stopped reading


async def _cancel_on_hangup(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    while await stream.receive_some(1024):
        pass
    scope.cancel()


async def _receive_request(stream: trio.SocketStream, timeout_s: float) -> Request:
    data = b""
    with trio.move_on_after(timeout_s):
        while not data.endswith(b"\n"):
            chunk = await stream.receive_some(4096)
            data += chunk
            if not chunk or len(data) > MAX_REQUEST_BYTES:
                break
    try:
        return msgspec.json.decode(data, type=Request)
    except (msgspec.ValidationError, msgspec.DecodeError):
        raise KubeletSecretsError("not a request of this protocol") from None


def _judge(stream: trio.SocketStream, may_ask: Callable[[int], bool]) -> str:
    """Why the peer gets no answer; empty when it does.

    By SO_PEERCRED, unix(7): who called connect(). Its pid may be another process's by now, if it has ended: the pidfd tells.
    """
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    if uid != 0:
        return "only root may ask the agent"
    is_allowed = may_ask(pid)
    if not _is_alive(stream):
        return "the asker has ended"
    return "" if is_allowed else "only processes of the host may ask the agent, containers may not"


def _is_alive(stream: trio.SocketStream) -> bool:
    """Whether who connected has not ended; True where the kernel does not tell."""
    try:
        pidfd = stream.socket.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        return error.errno == errno.ENOPROTOOPT  # else: it has ended, and been reaped
    try:
        return not select.select([pidfd], [], [], 0)[0]
    finally:
        os.close(pidfd)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found

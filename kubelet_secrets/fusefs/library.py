"""pyfuse3 and libfuse as one function: a request's bytes in, its answer's bytes out. Their one session per process lives here.

libfuse wants a device to read from and write to. It gets one end of a SOCK_SEQPACKET pair, and :meth:`Library.answer` is at the
other: it sends a request, has pyfuse3 take one step, and finds the answer. The step is possible because pyfuse3 can
run on another async library than trio: it takes a handful of names from its own attribute ``trio``, which ``pyfuse3.asyncio``
replaces in the same way as :class:`_Hand` does here. pyfuse3's main loop is then a coroutine that pauses wherever it
would wait for the device, and a handler, which never waits, runs from beginning to end in between.

Why not as a trio task on the real device: each request then costs two wake-ups and two changes of epoll's table, several
times as much as its handler; and two readers of one device could not share it (``session``).

Called by ``session`` only.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType, coroutine
from typing import Any

import pyfuse3
import trio

from kubelet_secrets.fusefs.operations import Operations
from kubelet_secrets.fusefs.wire import Request

ANSWER_BYTES = 1 << 17
"""The longest answer that is possible through here; listings are kept below it by their askers."""

_SOCKET_BYTES = 1 << 18  # room for one request of 128 KiB to write, with its header and the kernel's own reckoning


class Library:
    """pyfuse3's session. One at a time in a process; to be closed.

    Args:
        operations: the handlers. None of them may wait for anything.
        init_request: the kernel's FUSE_INIT. The keeper has answered it; libfuse's own answer goes nowhere.
    """

    def __init__(self, operations: Operations, init_request: bytes) -> None:
        theirs, self._device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (theirs, self._device):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        self._device.setblocking(False)
        self._buffer = memoryview(bytearray(ANSWER_BYTES))
        pyfuse3.trio = _Hand()  # type: ignore[attr-defined]  # not in its stub
        pyfuse3.init(operations, f"/dev/fd/{theirs.detach()}", set())  # closed by libfuse
        self._main: Coroutine[object, None, None] = pyfuse3.main(max_tasks=1)
        self._step()
        self.answer(init_request)

    def answer(self, request: Request) -> list[bytes]:
        """Have one request handled, from beginning to end.

        Returns:
            What the kernel is to be told: one answer; none to a FORGET.

        Raises:
            BaseException: whatever a handler raised that is no FUSEError, which is a bug.
        """
        self._device.send(request)
        self._step()
        answers: list[bytes] = []
        while True:
            try:
                size = self._device.recv_into(self._buffer)
            except BlockingIOError:
                return answers
            answers.append(bytes(self._buffer[:size]))

    def close(self) -> None:
        """End the session. The kernel hears nothing of it."""
        if self._is_waiting:
            try:
                self._main.throw(
                    trio.ClosedResourceError()
                )  # said to its wait, this ends pyfuse3's main loop in good order
            except StopIteration:
                pass
        pyfuse3.close(unmount=False)
        pyfuse3.trio = trio  # type: ignore[attr-defined]
        self._device.close()

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _step(self) -> None:
        """Let pyfuse3 run until it waits for the next request."""
        self._is_waiting = False
        try:
            awaited = self._main.send(None)
        except StopIteration:
            raise RuntimeError("libfuse ended its session") from None
        if awaited is not _READABLE:
            self._main.close()
            raise RuntimeError(f"a handler waits for {awaited!r}")
        self._is_waiting = True


_READABLE = object()


@coroutine
def _wait_readable(fd: int) -> Generator[object, None, None]:
    yield _READABLE


class _Lock:
    """Of one task: never contended."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *exc_info: object) -> None:
        pass


class _Nursery:
    """Of one child, which runs when its parent has nothing else to do."""

    async def __aenter__(self) -> _Nursery:
        return self

    def start_soon(self, function: Callable[..., Awaitable[None]], *args: Any, name: str) -> None:
        self._child = function(*args)

    async def __aexit__(self, *exc_info: object) -> None:
        await self._child


class _Hand:
    """What pyfuse3 needs of trio, for its one worker, which is moved by hand."""

    ClosedResourceError = trio.ClosedResourceError
    Lock = _Lock
    open_nursery = _Nursery
    wait_readable = staticmethod(_wait_readable)
    name = "by hand"  # of the current task, for pyfuse3's log

    @property
    def lowlevel(self) -> _Hand:
        return self

    def current_trio_token(self) -> None:
        return None

    def current_task(self) -> _Hand:
        return self

"""The kernel's end of the filesystem, a trio service: reads each request, has it answered, writes the answer. Nobody else does.

::

    /dev/fuse ── session ──┬── frontdesk    open, read, close: bytes in, bytes out
                    │      ├── infodesk     names, attributes, links
                    │      └── library      everything else: pyfuse3 and ``operations``, stepped by hand
                  crowd                     whose turn it is, when many wait

Requests are answered one at a time. What has not been read waits in the kernel, also for the next agent; what was read by an
agent that was killed over it is delivered again to the next, which asks for that, or finds it in ``unanswered``. The writer, on
whom every pod's news depends, does not wait its turn.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable
from typing import NoReturn

import trio

from kubelet_secrets.errors import HostError
from kubelet_secrets.fusefs.athand import AtHand
from kubelet_secrets.fusefs.crowd import MAX_WAITING, Crowd, Waiting
from kubelet_secrets.fusefs.frontdesk import FrontDesk
from kubelet_secrets.fusefs.infodesk import InfoDesk
from kubelet_secrets.fusefs.init import make_resend_notification
from kubelet_secrets.fusefs.library import ANSWER_BYTES, Library
from kubelet_secrets.fusefs.operations import Operations
from kubelet_secrets.fusefs.unanswered import Unanswered
from kubelet_secrets.fusefs.wellformed import is_known, is_well_formed
from kubelet_secrets.fusefs.wire import (
    IN_HEADER,
    NEVER_ANSWERED,
    Header,
    Opcode,
    limit_read,
    make_attribute_invalidation,
    make_error,
    parse_header,
)

logger = logging.getLogger(__name__)

REQUEST_BYTES = (1 << 17) + (1 << 13)
"""max_write and its headers; the kernel refuses to fill a smaller buffer."""
_LISTING_BYTES = ANSWER_BYTES // 8  # some hundred names: a turn of a few milliseconds
_BURST_S = 0.001
_FEW = 8  # answered in the order they come before it is looked whether they are many
_AT_ONCE = frozenset({Opcode.INTERRUPT, Opcode.BATCH_FORGET})  # of no pod: nothing to do, and little
ALIVE_INTERVAL_S = 0.5


async def serve(
    fuse_fd: int,
    init_request: bytes,
    front_desk: FrontDesk,
    operations: Operations,
    *,
    resume: bool,
    unanswered: Unanswered | None = None,
    at_hand: AtHand | None = None,
    tell_alive: Callable[[], None] = lambda: None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve requests until cancelled.

    Args:
        fuse_fd: /dev/fuse, mounted, its FUSE_INIT answered. Stays the caller's; is switched to non-blocking.
        init_request: the FUSE_INIT as the kernel sent it.
        front_desk: is given every request first.
        operations: the handlers for the rest.
        resume: an earlier process served this mount: answer what it did not, and index its nodes.
        unanswered: where to keep the request at hand, REQUEST_BYTES long; the same for every process that serves this
            mount. None: the kernel delivers again what was not answered (Linux 6.9).
        at_hand: where to note which request that is, for an agent after this one to see that it is deadly. None: nowhere.
        tell_alive: called again and again between requests, for who has to notice when there is no such moment any more.

    Cancellation: orderly, between two requests. The rest waits in the kernel for the next agent.

    Raises:
        HostError: the kernel ended the connection: aborted, or unmounted everywhere. In a group, as it comes from a nursery.
        ExceptionGroup: a handler had a bug; expected failures are errno (``operations``). Whoever asked has been told EIO.
    """
    # The device can become readable and then have nothing to read (the caller was killed): never block on it.
    os.set_blocking(fuse_fd, False)
    with Library(operations, init_request) as library:
        counter = _Counter(fuse_fd, front_desk, operations, library, unanswered, at_hand)
        async with trio.open_nursery() as nursery:
            if resume:
                counter.resume()
                _exhume(fuse_fd, operations)
                nursery.start_soon(_index, operations)
            elif unanswered is not None:
                unanswered.done()  # of another mount, whose callers have been told that it ended
            nursery.start_soon(_say_alive, tell_alive)
            task_status.started()
            await counter.run()


class _Counter:
    """Where requests come in. A few are answered in the order they come; a crowd, in turns (``crowd``)."""

    def __init__(
        self,
        fuse_fd: int,
        front_desk: FrontDesk,
        operations: Operations,
        library: Library,
        unanswered: Unanswered | None,
        at_hand: AtHand | None,
    ) -> None:
        self._fuse_fd = fuse_fd
        self._front_desk = front_desk
        self._info_desk = InfoDesk(operations)
        self._library = library
        self._crowd = Crowd(operations.pod_of, front_desk.whose)
        self._in_a_row = 0  # answered since it was last looked how many wait
        # Holds one request: with it none may be read before the last one is answered, so there are no turns.
        self._unanswered = unanswered
        self._buffer = bytearray(REQUEST_BYTES) if unanswered is None else unanswered.buffer
        self._view = memoryview(self._buffer)
        self._at_hand = at_hand

    def resume(self) -> None:
        """Have what an earlier process read and did not answer."""
        if self._unanswered is None:
            os.write(self._fuse_fd, make_resend_notification())
        elif size := self._unanswered.left_behind():
            logger.info("answering the request that the agent before left")
            self._serve_buffer(size)

    async def run(self) -> NoReturn:
        """Serve for ever.

        All that waits before going back to trio's loop, a way through which costs more than a request; but the rest of
        the program is kept waiting for _BURST_S at most. Not worth it is to stay and wait a little for the next request:
        to fall asleep here is dearer than that way, in the course of which it mostly comes.
        """
        while True:
            if self._crowd:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._fuse_fd)
            ends = time.perf_counter() + _BURST_S
            while self._serve_one(ends) and time.perf_counter() < ends:
                pass

    def _serve_one(self, ends: float) -> bool:
        """Answer a request; False when none waits. May only look who waits, until *ends*."""
        if self._unanswered is not None or (not self._crowd and self._in_a_row < _FEW):
            size = self._read()
            if size:
                self._serve_buffer(size)
            self._in_a_row = self._in_a_row + 1 if size else 0
            return bool(size)
        self._in_a_row = 0
        while len(self._crowd) < MAX_WAITING and (size := self._read()):
            header = parse_header(self._buffer)
            if header.opcode in _AT_ONCE or self._front_desk.is_writer(header.tid):
                self._serve_buffer(size)
            else:
                self._crowd.add(Waiting(header, bytearray(self._view[:size])))
            if time.perf_counter() >= ends:
                return True  # the end of the line is for the next burst
        if not self._crowd:
            return False
        self._crowd.serve_next(lambda waiting: self._serve(*waiting))
        return True

    def _read(self) -> int:
        """Read a request into the buffer; its size, 0 when none waits. What has not even a header is dropped."""
        while True:
            try:
                size = os.readv(self._fuse_fd, [self._buffer])
            except BlockingIOError:
                return 0
            except FileNotFoundError:
                continue  # its caller was killed while it was being read
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
                raise HostError(
                    "the filesystem's connection was ended from outside: aborted, or unmounted everywhere"
                ) from None
            if size >= IN_HEADER.size:
                return size

    def _serve_buffer(self, size: int) -> None:
        try:
            self._serve(parse_header(self._buffer), self._view[:size])
        finally:
            if self._unanswered is not None:
                self._unanswered.done()

    def _serve(self, header: Header, request: bytearray | memoryview) -> None:
        """Have a request answered, or part with it: what ends this agent must not be left to end the next one too."""
        if self._at_hand is not None and not self._at_hand.begin(header.unique):
            logger.error("agents have died over a request with opcode %d again and again: refusing it", header.opcode)
            self._tell(make_error(header.unique, errno.EIO))
            return
        try:
            self._pass_on(header, request)
        except Exception:
            with contextlib.suppress(OSError):
                if header.opcode not in NEVER_ANSWERED:
                    self._tell(make_error(header.unique, errno.EIO))
            raise
        finally:
            if self._at_hand is not None:
                self._at_hand.end()

    def _pass_on(self, header: Header, request: bytearray | memoryview) -> None:
        if not is_known(header):
            self._tell(make_error(header.unique, errno.ENOSYS))  # upon which the kernel does without
            return
        if not is_well_formed(header, request):
            logger.warning("a request of %d bytes with opcode %d is not whole", len(request), header.opcode)
            self._tell(make_error(header.unique, errno.EIO))
            return
        answer = self._front_desk.answer(header, request)
        if answer is None:
            answer = self._info_desk.answer(header, request)
        if answer is not None:
            if answer:
                self._tell(answer)
            return
        if header.opcode == Opcode.INTERRUPT:
            return  # the request it is about has been answered, or will be in its turn: a tmpfs knows no EINTR either
        if header.opcode in (Opcode.READDIR, Opcode.READDIRPLUS):
            limit_read(request, _LISTING_BYTES)  # Linux 6.16 asks for up to 1 MiB; several answers do as well
        for answer in self._library.answer(request):
            self._tell(answer)

    def _tell(self, answer: bytes) -> None:
        try:
            os.write(self._fuse_fd, answer)
        except FileNotFoundError:
            pass  # its caller was killed, or the mount is being ended: nobody waits for it


def _exhume(fuse_fd: int, operations: Operations) -> None:
    """Remove the buried files that the kernel has forgotten while nobody listened.

    Asking it to drop a node's cached *attributes* is how one learns whether it knows the node. That never waits, unlike
    the invalidation of pages or names.
    """
    for number in operations.buried():
        try:
            os.write(fuse_fd, make_attribute_invalidation(number))
        except FileNotFoundError:
            operations.exhume(number)


async def _index(operations: Operations) -> None:
    """Meet the rest of the store in the background, a directory at a time, so that no request has to wait for it."""
    while operations.index_step():
        await trio.lowlevel.checkpoint()


async def _say_alive(tell_alive: Callable[[], None]) -> None:
    while True:
        tell_alive()
        await trio.sleep(ALIVE_INTERVAL_S)

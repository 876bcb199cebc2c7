"""Join a running container's own streams (``kubectl attach``): its input, its output from now on, its terminal's size.

conmon holds them, and lends them through a socket in the bundle: packets that begin with the number of the stream, and what is
written back is the container's input. What was printed before is in the log. The end of a session is no end of the container.

Source: conmon src/conn_sock.c (setup_attach_socket, conn_sock_writable), src/ctrl.c (terminal control fifo).
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.runtime.bundle import Bundle

STDOUT, STDERR = 2, 3
_PACKET_BYTES = 8192 + 1  # CONN_SOCK_BUF_SIZE and the stream's number
_RESIZE = 1
_FIFOS = ("ctl", "winsz")
_RESIZE_S = 1.0
_PAUSE_S = 0.02


class Attachment(trio.abc.SendStream):
    """One session. What is sent is the container's input; :meth:`aclose` is its end, if ``stdinOnce`` says so.

    Attributes:
        has_stdin: the container has an input at all.
    """

    def __init__(self, connection: trio.socket.SocketType, bundle: Bundle, *, has_stdin: bool, has_tty: bool) -> None:
        self._connection = connection
        self._bundle = bundle
        self._has_tty = has_tty
        self.has_stdin = has_stdin

    async def receive(self) -> tuple[int, bytes] | None:
        """The next piece of output: (:data:`STDOUT` or :data:`STDERR`, bytes); None when the container has ended."""
        try:
            packet = await self._connection.recv(_PACKET_BYTES)
        except OSError:
            return None
        return (packet[0], packet[1:]) if packet else None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Raises: trio.BrokenResourceError; nobody takes input any more."""
        view = memoryview(data)
        try:
            for start in range(0, len(view), _PACKET_BYTES - 1):
                await self._connection.send(view[start : start + _PACKET_BYTES - 1])
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self._connection)

    async def aclose(self) -> None:
        """The end of the input; output goes on."""
        try:
            self._connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has ended
        await trio.lowlevel.checkpoint()

    async def resize(self, *, columns: int, rows: int) -> None:
        """Tell the container its terminal's size; nothing without a terminal.

        Returns when conmon has taken it: of two messages that it finds at once, it forgets the second (2.1.6).
        """
        if not self._has_tty:
            return
        fds: list[int] = []
        try:
            # conmon hands it on from the one to the other.
            fds += (os.open(self._bundle.path / each, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC) for each in _FIFOS)
            os.write(fds[0], f"{_RESIZE} {rows} {columns}\n".encode())
            with trio.move_on_after(_RESIZE_S):
                for fd in fds:
                    await trio.sleep(_PAUSE_S)
                    while _waiting_bytes(fd):  # noqa: ASYNC110 - nothing tells that a pipe was read
                        await trio.sleep(_PAUSE_S)
        except OSError:
            pass  # conmon has gone
        finally:
            for fd in fds:
                os.close(fd)


def _waiting_bytes(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@asynccontextmanager
async def open_attachment(bundle: Bundle, *, has_stdin: bool, has_tty: bool) -> AsyncIterator[Attachment]:
    """Connect to the conmon of *bundle*.

    Raises:
        ContainerRunError: it does not answer: the container has ended.
    """
    # By a descriptor: the path of a bundle may be longer than an address.
    directory = os.open(bundle.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            await connection.connect(f"/proc/self/fd/{directory}/attach")
        except OSError as error:
            connection.close()
            raise ContainerRunError(f"failed to attach: {error.strerror}") from None
    finally:
        os.close(directory)
    try:
        yield Attachment(connection, bundle, has_stdin=has_stdin, has_tty=has_tty)
    finally:
        connection.close()

"""The streams of a command in a container, as ``kubectl exec`` sees them, whatever protocol carries them.

Source: k8s.io/cri-streaming and k8s.io/apimachinery/pkg/util/remotecommand (constants.go); semantics §12.2.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

QUEUED_PIECES = 16  # of input that has come and was not taken: beyond it the client is not read from


class Channel(enum.IntEnum):
    """Numbers as in the WebSocket protocols."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ERROR = 3
    RESIZE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which streams the client asked for."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Those that a client opens, the error stream always among them."""
        asked = {
            Channel.ERROR: True,
            Channel.STDIN: self.stdin,
            Channel.STDOUT: self.stdout,
            Channel.STDERR: self.stderr and not self.tty,
            Channel.RESIZE: self.tty,
        }
        return tuple(channel for channel, is_asked in asked.items() if is_asked)


class TerminalSize(msgspec.Struct, frozen=True, rename="pascal"):
    """What a client says of its terminal."""

    width: int = 0
    height: int = 0


class Channels(ABC):
    """The streams of one command.

    :meth:`run` reads what the client sends and must run beside whoever uses the rest.

    Attributes:
        sizes: the client's terminal, each time it changes.
    """

    def __init__(self) -> None:
        self._input_send, self._input = trio.open_memory_channel[bytes](QUEUED_PIECES)
        self._size_send, self.sizes = trio.open_memory_channel[TerminalSize](QUEUED_PIECES)

    @abstractmethod
    async def run(self) -> None:
        """Take in what the client sends. Returns when it has closed the connection or broken the protocol."""

    @abstractmethod
    async def send(self, channel: Channel, data: bytes) -> None:
        """Send a piece of output.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """

    @abstractmethod
    async def finish(self, status: Mapping[str, Any]) -> None:
        """Send how the command ended, a ``metav1.Status``, and close everything."""

    async def receive_stdin(self) -> bytes:
        """The next piece of input; empty at its end."""
        try:
            return await self._input.receive()
        except trio.EndOfChannel:
            return b""

    # --- for those who carry them -------------------------------------------------------------------------------------

    async def take(self, channel: Channel, data: bytes) -> None:
        """The client has sent *data*."""
        if channel is Channel.STDIN and data:
            try:
                await self._input_send.send(data)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                pass  # after its own end of input, or nobody reads any more
        elif channel is Channel.RESIZE:
            try:
                size = msgspec.json.decode(data, type=TerminalSize)
            except msgspec.DecodeError:
                return
            try:
                self._size_send.send_nowait(size)
            except (trio.WouldBlock, trio.BrokenResourceError):
                pass  # the next change tells again

    def end_stdin(self) -> None:
        """The client has no more input."""
        self._input_send.close()

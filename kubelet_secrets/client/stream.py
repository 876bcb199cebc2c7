"""One request and its answer on an HTTP/2 connection: what has arrived, what has gone wrong, who waits.

Not I/O: the connection's reader fills a stream, the task that made the request drains it. ``connection.py`` makes these;
what leaves this room of it is :class:`ResponseBody`, inside an ``httpx2.Response``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import httpx2
import trio

Headers = list[tuple[bytes, bytes]]


class RequestNotProcessed(httpx2.RemoteProtocolError):
    """The server says that it did not look at the request, so sending it again is safe (RFC 9113 §8.7).

    Raised for a stream above the last one that a GOAWAY names, and for RST_STREAM(REFUSED_STREAM).
    """


class StreamControl(Protocol):
    """What a stream asks of its connection. Nothing here waits."""

    def acknowledge(self, stream: ClientStream, flow_controlled_bytes: int) -> None: ...

    def release(self, stream: ClientStream) -> None: ...


class ClientStream:
    """State of one exchange. At most one task waits on it at a time: the one that made the request, or reads its answer."""

    __slots__ = ("_changed", "_control", "_unacknowledged", "buffer", "ended", "error", "headers", "stream_id")

    def __init__(self, stream_id: int, control: StreamControl) -> None:
        self.stream_id = stream_id
        self.headers: Headers | None = None
        self.buffer = bytearray()  # bounded by the flow-control window: nothing is acknowledged before it is taken
        self.ended = False  # the peer sent END_STREAM
        self.error: httpx2.TransportError | None = None
        self._control = control
        self._unacknowledged = 0
        self._changed: trio.Event | None = None

    def __repr__(self) -> str:
        state = "failed" if self.error else "ended" if self.ended else "answered" if self.headers else "waiting"
        return f"<ClientStream {self.stream_id} {state}, {len(self.buffer)} bytes buffered>"

    # --- The connection's side. Nothing here waits. ---

    def receive_headers(self, headers: Headers) -> None:
        self.headers = headers
        self.notify()

    def receive_data(self, data: bytes, flow_controlled_bytes: int) -> None:
        self.buffer += data
        self._unacknowledged += flow_controlled_bytes
        self.notify()

    def finish(self) -> None:
        self.ended = True
        self.notify()

    def fail(self, error: httpx2.TransportError) -> None:
        """Let the waiting task raise *error*, after it has had what arrived before. Nothing changes on an ended stream."""
        if not self.ended and self.error is None:
            self.error = error
            self.notify()

    def notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    # --- The requester's side. ---

    async def wait_changed(self) -> None:
        """Wait until anything happens to this stream. Look at the state first: what happened before is not remembered."""
        self._changed = trio.Event()
        await self._changed.wait()

    async def wait_headers(self, timeout_s: float | None) -> Headers:
        """Wait for the answer's header block.

        Raises:
            httpx2.TransportError: the stream or its connection failed first, or *timeout_s* passed (``ReadTimeout``).
        """
        with trio.move_on_after(unlimited(timeout_s)):
            while self.headers is None:
                if self.error is not None:
                    raise self.error
                if self.ended:
                    raise httpx2.RemoteProtocolError("the stream ended without an answer")
                await self.wait_changed()
            return self.headers
        raise httpx2.ReadTimeout(f"no answer within {timeout_s} s")

    async def take(self, timeout_s: float | None) -> bytes:
        """Wait for more of the body, take what there is, and give its room back to the peer. ``b""`` is the end.

        Cancellation: nothing is lost; what arrived stays for the next call.
        """
        with trio.move_on_after(unlimited(timeout_s)):
            while not self.buffer:
                if self.error is not None:
                    raise self.error
                if self.ended:
                    return b""
                await self.wait_changed()
            data = bytes(self.buffer)
            self.buffer.clear()
            self.discard()
            return data
        raise httpx2.ReadTimeout(f"nothing arrived for {timeout_s} s")

    def discard(self) -> None:
        """Give the room of everything received back to the peer; without it the connection's window would leak."""
        if self._unacknowledged:
            self._control.acknowledge(self, self._unacknowledged)
            self._unacknowledged = 0

    def release(self) -> None:
        """Nobody wants this stream any more: reset it if it still runs. Calling it again changes nothing."""
        self.discard()
        self.buffer.clear()
        self._control.release(self)


class ResponseBody(httpx2.AsyncByteStream):
    """The body of an answer as httpx2 wants it. An iterator object, not a generator: nothing is left to finalize."""

    def __init__(self, stream: ClientStream, read_timeout_s: float | None) -> None:
        self._stream = stream
        self._read_timeout_s = read_timeout_s

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = await self._stream.take(self._read_timeout_s)
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        """Does not wait, so a cancelled task can call it."""
        self._stream.release()


def unlimited(timeout_s: float | None) -> float:
    """httpx2 writes "no limit" as None, trio as infinity."""
    return float("inf") if timeout_s is None else timeout_s

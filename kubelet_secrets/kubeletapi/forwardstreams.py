"""The connections of one ``kubectl port-forward`` over SPDY/3.1: each is two streams, one for data, one for what went wrong.

:class:`ForwardStreams` sorts what the client sends; who serves a :class:`Forward` reads and writes its data and returns why it
could not. Frames are ``spdy.py``'s; where a connection leads is ``portforward.py``'s.

Source: k8s.io/cri-streaming, portforward/httpstream.go; k8s.io/api core/v1 (PortHeader, StreamType).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from kubelet_secrets.kubeletapi.spdy import Data, Frame, GoAway, PingFrame, Reset, SpdyError, SpdyMachine, SynStream

logger = logging.getLogger(__name__)

STREAMS_TIMEOUT_S = 30.0  # DefaultStreamCreationTimeout
QUEUED_PIECES = 16  # that the pod has not taken: beyond it the client is not read from, on any of its connections
MAX_FORWARDS = 1000  # at a time
_CHUNK_BYTES = 64 * 1024
_CANCEL = 5
_KINDS = ("error", "data")


class StreamRefused(Exception):
    """The client opened a stream that belongs to no connection; says why."""


class Forward:
    """One connection.

    Attributes:
        port: of the pod.
        ids: of its streams, by kind.
        is_whole: both streams are open.
        is_silent: no more data goes to the client.
        scope: cancelled when the client wants no more of it.
    """

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.port = 0
        self.ids: dict[str, int] = {}
        self.is_whole = trio.Event()
        self.is_silent = False
        self.scope = trio.CancelScope()
        self._put, self._take = trio.open_memory_channel[bytes](QUEUED_PIECES)

    async def receive(self) -> bytes:
        """The next piece from the client; empty at its end."""
        try:
            return await self._take.receive()
        except trio.EndOfChannel:
            return b""

    async def put(self, data: bytes) -> None:
        try:
            await self._put.send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # nobody reads any more, or it came after the client's own end

    def end_input(self) -> None:
        self._put.close()

    def close(self) -> None:
        self._put.close()
        self._take.close()


Serve = Callable[[Forward], Awaitable[str]]


class ForwardStreams:
    """The connections of one client.

    Args:
        serve: carries one connection to its end, by :meth:`Forward.receive`, :meth:`send` and :meth:`end_output`; returns what
            to tell the client, or "".
        described: the pod, for messages.
    """

    def __init__(self, stream: trio.abc.Stream, serve: Serve, *, described: str) -> None:
        self._stream = stream
        self._serve = serve
        self._described = described
        self._machine = SpdyMachine()
        self._sending = trio.Lock()
        self._forwards: dict[str, Forward] = {}
        self._streams: dict[int, tuple[Forward, str]] = {}

    async def run(self) -> None:
        """Until the client closes the connection or breaks the protocol; every forwarded connection ends with it."""
        async with trio.open_nursery() as nursery:
            try:
                while data := await self._stream.receive_some(_CHUNK_BYTES):
                    for frame in self._machine.receive(bytes(data)):
                        if not await self._handle(frame, nursery):
                            nursery.cancel_scope.cancel()
                            return
            except (SpdyError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

    async def send(self, forward: Forward, data: bytes) -> None:
        """Send a piece to the client.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        if not forward.is_silent:
            await self._transmit(lambda: self._machine.data(forward.ids["data"], data))

    async def end_output(self, forward: Forward) -> None:
        """Tell the client that no more data comes.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        if not forward.is_silent and "data" in forward.ids:
            forward.is_silent = True
            await self._transmit(lambda: self._machine.data(forward.ids["data"], b"", is_last=True))

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _handle(self, frame: Frame, nursery: trio.Nursery) -> bool:
        match frame:
            case SynStream(stream_id, headers, is_last):
                try:
                    forward = self._open(stream_id, headers)
                except StreamRefused as refused:
                    logger.info("port-forward to pod %s: %s", self._described, refused)
                    await self._transmit(lambda: self._machine.reset(stream_id, _CANCEL))
                    return True
                if len(forward.ids) == 1:
                    nursery.start_soon(self._carry, forward)
                await self._transmit(lambda: self._machine.syn_reply(stream_id))
                if is_last and forward.ids.get("data") == stream_id:
                    forward.end_input()
                if len(forward.ids) == len(_KINDS):
                    forward.is_whole.set()
            case Data(stream_id, data, is_last):
                if (known := self._data_stream(stream_id)) is not None:
                    if data:
                        await known.put(data)
                    if is_last:
                        known.end_input()
            case Reset(stream_id):
                if (known := self._data_stream(stream_id)) is not None:
                    known.is_silent = True
                    known.scope.cancel()
            case PingFrame(ping_id):
                await self._transmit(lambda: self._machine.ping(ping_id))
            case GoAway():
                return False
        return True

    def _data_stream(self, stream_id: int) -> Forward | None:
        forward, kind = self._streams.get(stream_id, (None, ""))
        return forward if kind == "data" else None

    def _open(self, stream_id: int, headers: Mapping[str, str]) -> Forward:
        port = parse_port(headers.get("port", ""))
        kind = headers.get("streamtype", "")
        if not kind:
            raise StreamRefused('"streamType" header is required')
        if kind not in _KINDS:
            raise StreamRefused(f'invalid stream type "{kind}"')
        # Clients of before 2016 have no such header; their streams come in order, error first.
        request_id = headers.get("requestid", "") or str(stream_id - (2 if kind == "data" else 0))
        forward = self._forwards.get(request_id)
        if forward is None:
            if len(self._forwards) >= MAX_FORWARDS:
                raise StreamRefused("too many connections at a time")
            forward = self._forwards[request_id] = Forward(request_id)
        if kind in forward.ids:
            raise StreamRefused(f"error processing stream for request {request_id}: {kind} stream already assigned")
        forward.ids[kind] = stream_id
        self._streams[stream_id] = (forward, kind)
        if kind == "data":
            forward.port = port
        return forward

    async def _carry(self, forward: Forward) -> None:
        """From its first stream to its end, which the client is told of whatever happens."""
        text = ""
        with trio.move_on_after(STREAMS_TIMEOUT_S) as patience:
            await forward.is_whole.wait()
        if patience.cancelled_caught:
            text = f"(request={forward.request_id}) timed out waiting for streams"
        else:
            with forward.scope:
                text = await self._serve(forward)
        forward.close()
        del self._forwards[forward.request_id]
        for stream_id in forward.ids.values():
            del self._streams[stream_id]
        try:
            await self.end_output(forward)
            if (error_id := forward.ids.get("error")) is not None:
                if text:
                    logger.info("port-forward to pod %s: %s", self._described, text)
                    await self._transmit(lambda: self._machine.data(error_id, text.encode()))
                await self._transmit(lambda: self._machine.data(error_id, b"", is_last=True))
        except trio.BrokenResourceError:
            pass  # whoever reads will notice

    async def _transmit(self, make: Callable[[], Any]) -> None:
        """Frames are made under the lock: header compression has an order."""
        async with self._sending:
            try:
                await self._stream.send_all(make())
            except trio.ClosedResourceError:
                raise trio.BrokenResourceError from None


def parse_port(text: str) -> int:
    """The header ``port`` of a stream.

    Raises:
        StreamRefused: in upstream's words.
    """
    if not text:
        raise StreamRefused('"port" header is required')
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise StreamRefused(f'unable to parse "{text[:20]}" as a port')
    if int(text) < 1:
        raise StreamRefused(f'port "{text}" must be > 0')
    return int(text)

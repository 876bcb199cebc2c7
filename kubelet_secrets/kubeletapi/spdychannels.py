"""A command's streams over SPDY/3.1: the client opens one for each channel and names it in the header ``streamType``.

This is how API servers before 1.36 reach a kubelet. Frames are ``spdy.py``'s.

Source: k8s.io/apimachinery/pkg/util/httpstream/spdy/upgrade.go; k8s.io/cri-streaming, remotecommand/httpstream.go;
semantics §12.2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import trio

from kubelet_secrets.kubeletapi.channels import Channel, Channels, Wanted
from kubelet_secrets.kubeletapi.http1 import Exchange, HttpRequest
from kubelet_secrets.kubeletapi.spdy import Data, Frame, GoAway, PingFrame, Reset, SpdyError, SpdyMachine, SynStream

PROTOCOL_HEADER = "X-Stream-Protocol-Version"
V4 = "v4.channel.k8s.io"
STREAMS_TIMEOUT_S = 30.0  # DefaultStreamCreationTimeout
_CHUNK_BYTES = 64 * 1024
_REFUSED_STREAM = 3


class StreamsMissing(Exception):
    """The client has not opened what it asked for in time."""


def offers_protocol(request: HttpRequest) -> bool:
    """Whether the client offers ``v4.channel.k8s.io``, which every client since 2016 does."""
    offered = request.headers.get(PROTOCOL_HEADER.lower(), "").split(",")
    return V4 in [each.strip() for each in offered]


async def accept(exchange: Exchange) -> SpdyChannels:
    """Go on in SPDY."""
    headers = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), (PROTOCOL_HEADER, V4)]
    return SpdyChannels(await exchange.upgrade(headers))


class SpdyChannels(Channels):
    """See :class:`Channels`."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__()
        self._stream = stream
        self._machine = SpdyMachine()
        self._sending = trio.Lock()
        self._ids: dict[Channel, int] = {}
        self._opened = trio.Condition()
        self._last_id = 0

    async def wait_open(self, wanted: Wanted) -> None:
        """Wait until the client has opened every stream of *wanted*. :meth:`run` must be running.

        Raises:
            StreamsMissing: it has not within thirty seconds.
        """
        try:
            with trio.fail_after(STREAMS_TIMEOUT_S):
                async with self._opened:
                    while not set(wanted.channels) <= set(self._ids):
                        await self._opened.wait()
        except trio.TooSlowError:
            raise StreamsMissing from None

    async def run(self) -> None:
        try:
            while data := await self._stream.receive_some(_CHUNK_BYTES):
                for frame in self._machine.receive(bytes(data)):
                    if not await self._handle(frame):
                        return
        except (SpdyError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # whoever sends will notice
        finally:
            self.end_stdin()

    async def _handle(self, frame: Frame) -> bool:
        match frame:
            case SynStream():
                await self._open(frame)
            case Data(stream_id, data, is_last):
                channel = next((each for each, known in self._ids.items() if known == stream_id), None)
                if channel is not None:
                    await self.take(channel, data)
                if channel is Channel.STDIN and is_last:
                    self.end_stdin()
            case Reset(stream_id):
                if self._ids.get(Channel.STDIN) == stream_id:
                    self.end_stdin()
            case PingFrame(ping_id):
                await self._transmit(self._machine.ping, ping_id)
            case GoAway():
                return False
        return True

    async def _open(self, frame: SynStream) -> None:
        self._last_id = max(self._last_id, frame.stream_id)
        try:
            channel = Channel[frame.headers.get("streamtype", "").upper()]
        except KeyError:
            await self._transmit(self._machine.reset, frame.stream_id, _REFUSED_STREAM)
            return
        async with self._opened:
            self._ids[channel] = frame.stream_id
            self._opened.notify_all()
        await self._transmit(self._machine.syn_reply, frame.stream_id)
        if channel is Channel.STDIN and frame.is_last:
            self.end_stdin()

    async def send(self, channel: Channel, data: bytes) -> None:
        stream_id = self._ids.get(channel)
        if stream_id is not None:
            await self._transmit(self._machine.data, stream_id, data)

    async def finish(self, status: Mapping[str, Any]) -> None:
        """The status first, then every stream's end, then GOAWAY: so clients have read all when the connection closes."""
        await self.send(Channel.ERROR, json.dumps(status).encode())
        for channel in (Channel.STDOUT, Channel.STDERR, Channel.ERROR, Channel.STDIN, Channel.RESIZE):
            if channel in self._ids:
                await self._transmit(lambda each=channel: self._machine.data(self._ids[each], b"", is_last=True))
        await self._transmit(self._machine.go_away, self._last_id)
        await self._stream.aclose()

    async def _transmit(self, make: Any, *arguments: Any) -> None:
        """Frames are made under the lock: header compression has an order."""
        async with self._sending:
            try:
                await self._stream.send_all(make(*arguments))
            except trio.ClosedResourceError:
                raise trio.BrokenResourceError from None

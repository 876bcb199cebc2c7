"""A command's streams over a WebSocket: ``v5.channel.k8s.io`` and all before it.

Every message's first byte names its channel, in base64's protocols as a digit. v5 adds a message that says that one channel is
at its end, without which the end of input cannot be told; before v4, how a command ended was told by text, and only if it
failed. What a client speaks of them comes through the API server as it is, unless it is v5. wsproto does the protocol.

Source: RFC 6455; k8s.io/apimachinery/pkg/util/httpstream/wsstream/conn.go; k8s.io/cri-streaming remotecommand/websocket.go;
KEP-4006; semantics §12.2.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError, generate_accept_token

from kubelet_secrets.kubeletapi.channels import Channel, Channels, Wanted
from kubelet_secrets.kubeletapi.http1 import Exchange, HttpRequest

CLOSE = 255  # v5: the next byte names a channel that is at its end
_CHUNK_BYTES = 64 * 1024
LARGEST_MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Protocol:
    """One of the subprotocols."""

    name: str
    version: int
    is_base64: bool = False


_PROTOCOLS = {
    each.name: each
    for each in (
        Protocol("", 1),  # a client that names none
        Protocol("channel.k8s.io", 1),
        Protocol("base64.channel.k8s.io", 1, is_base64=True),
        Protocol("v4.channel.k8s.io", 4),
        Protocol("v4.base64.channel.k8s.io", 4, is_base64=True),
        Protocol("v5.channel.k8s.io", 5),
    )
}


def choose_protocol(request: HttpRequest) -> Protocol | None:
    """The first of the offered protocols that is spoken here."""
    offered = [each.strip() for each in request.headers.get("sec-websocket-protocol", "").split(",")]
    return next((_PROTOCOLS[each] for each in offered if each in _PROTOCOLS), None)


async def accept(exchange: Exchange, protocol: Protocol, wanted: Wanted) -> WebSocketChannels | None:
    """Go on as a WebSocket; None when the handshake is not one, which is then answered."""
    headers = exchange.request.headers
    key = headers.get("sec-websocket-key", "")
    if headers.get("sec-websocket-version") != "13" or not key:
        await exchange.respond(400, "not a WebSocket handshake\n")
        return None
    stream = await exchange.upgrade(
        [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", generate_accept_token(key.encode("latin-1")).decode()),
            *([("Sec-WebSocket-Protocol", protocol.name)] if protocol.name else []),
        ]
    )
    channels = WebSocketChannels(stream, protocol)
    # Tells the client that all is set up. Source: remotecommand/websocket.go, createWebSocketStreams.
    writable = [each for each in wanted.channels if each in (Channel.STDOUT, Channel.STDERR)]
    await channels.send(min(writable, default=Channel.ERROR), b"")
    return channels


class WebSocketChannels(Channels):
    """See :class:`Channels`."""

    def __init__(self, stream: trio.abc.Stream, protocol: Protocol) -> None:
        super().__init__()
        self._stream = stream
        self._protocol = protocol
        self._machine = Connection(ConnectionType.SERVER)
        self._sending = trio.Lock()  # stdout and stderr are pumped side by side
        self._message = bytearray()

    async def run(self) -> None:
        try:
            while data := await self._stream.receive_some(_CHUNK_BYTES):
                self._machine.receive_data(bytes(data))
                for event in self._machine.events():
                    if not await self._handle(event):
                        return
        except (RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # whoever sends will notice
        finally:
            self.end_stdin()

    async def _handle(self, event: Event) -> bool:
        if isinstance(event, Ping):
            await self._transmit(event.response())
        elif isinstance(event, CloseConnection):
            await self._transmit(event.response())
            return False
        elif isinstance(event, Message):
            data = event.data if isinstance(event.data, (bytes, bytearray)) else str(event.data).encode()
            self._message += data
            if len(self._message) > LARGEST_MESSAGE_BYTES:
                return False
            if event.message_finished:
                message, self._message = bytes(self._message), bytearray()
                await self._receive(message)
        return True

    async def _receive(self, message: bytes) -> None:
        if not message:
            return
        number, data = message[0], message[1:]
        if self._protocol.is_base64:
            try:
                number, data = number - ord("0"), base64.b64decode(data, validate=True)
            except ValueError:
                return
        if number == CLOSE and self._protocol.version >= 5:
            if data == bytes([Channel.STDIN]):
                self.end_stdin()
        elif number in tuple(Channel):
            await self.take(Channel(number), data)

    async def send(self, channel: Channel, data: bytes) -> None:
        if self._protocol.is_base64:
            await self._transmit(TextMessage(data=f"{channel:d}{base64.b64encode(data).decode()}"))
        else:
            await self._transmit(BytesMessage(data=bytes([channel]) + data))

    async def finish(self, status: Mapping[str, Any]) -> None:
        if self._protocol.version >= 4:
            await self.send(Channel.ERROR, json.dumps(status).encode())
        elif status["status"] != "Success":
            await self.send(Channel.ERROR, str(status["message"]).encode())
        await self._transmit(CloseConnection(code=1000))
        await self._stream.aclose()

    async def _transmit(self, event: Event) -> None:
        async with self._sending:
            try:
                data = self._machine.send(event)
            except LocalProtocolError:
                raise trio.BrokenResourceError from None  # closed meanwhile
            await self._stream.send_all(data)

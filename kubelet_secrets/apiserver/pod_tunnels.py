"""``pods/portforward``, and ``pods/exec`` and ``pods/attach`` of older clients: SPDY to the kubelet, passed on unread.

The kubelet is always spoken to in SPDY/3.1 over an upgraded HTTP/1.1 connection. The client does the same (``upgrades.py`` has
taken its connection out of HTTP), or sends the bytes of it in WebSocket messages, as kubectl does to forward ports since 1.31.

Source: k8s.io/apiserver pkg/util/proxy/streamtunnel.go; k8s.io/apimachinery pkg/util/proxy/upgradeaware.go; KEP-4006.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import h11
import trio
from starlette.types import Receive, Send

from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.kubelet_client import KubeletClient
from kubelet_secrets.apiserver.pod_locations import PODS, Query, node_of, upgrade_target
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.requestinfo import RequestInfo

TUNNEL_PREFIX = "SPDY/3.1+"  # of a WebSocket's subprotocol: what follows is the one of the SPDY connection inside
PROTOCOL_HEADER = "X-Stream-Protocol-Version"
_CHUNK_BYTES = 64 * 1024
_LARGEST_ERROR_BYTES = 10_000
_WAIT_S = 30.0


class KubeletRefused(Exception):
    """What a kubelet has answered instead of 101."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.body = f"{text}\n".encode()


class ByteStream(Protocol):
    """The client's side, whatever carries it."""

    async def receive(self) -> bytes:
        """The next bytes; empty at the end."""

    async def send(self, data: bytes) -> None:
        """Raises: trio.BrokenResourceError, the client is gone."""


@dataclass(slots=True)
class Tunnel:
    """A connection to a kubelet that has left HTTP.

    Attributes:
        protocol: what the kubelet has chosen of those on offer; "" when it did not say.
        rest: what it has said already.
    """

    stream: trio.abc.Stream
    protocol: str
    rest: bytes

    async def relay(self, client: ByteStream) -> None:
        """Pass bytes on, both ways, until one side has gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_in, client, nursery.cancel_scope)
            try:
                data = self.rest
                while data or (data := bytes(await self.stream.receive_some(_CHUNK_BYTES))):
                    await client.send(data)
                    data = b""
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

    async def _take_in(self, client: ByteStream, scope: trio.CancelScope) -> None:
        try:
            while data := await client.receive():
                await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


class PodTunnels:
    """Opens tunnels to the kubelets of pods."""

    def __init__(self, registry: Registry, kubelets: KubeletClient) -> None:
        self._registry = registry
        self._kubelets = kubelets

    @asynccontextmanager
    async def open(self, info: RequestInfo, query: Query, protocols: Sequence[str]) -> AsyncIterator[Tunnel]:
        """Have the kubelet of a pod leave HTTP for SPDY.

        Args:
            protocols: that the client offers to speak over it.

        Raises:
            ApiError: there is no such pod or container, or its kubelet cannot be reached.
            KubeletRefused: with the kubelet's answer, which upstream hands on as it is.
        """
        found = await self._registry.find(PODS, info.namespace, info.name)
        if found is None:
            raise statuses.not_found(PODS, info.name)
        target = upgrade_target(info.subresource, found.object, query)
        node_name = node_of(found.object)
        stream, address = await self._kubelets.connect(node_name)
        async with stream:
            machine = h11.Connection(h11.CLIENT)
            request = h11.Request(
                method="POST",
                target=target,
                headers=[
                    ("Host", f"{address.host}:{address.port}"),
                    ("Connection", "Upgrade"),
                    ("Upgrade", "SPDY/3.1"),
                    *((PROTOCOL_HEADER, each) for each in protocols),
                    ("Content-Length", "0"),
                ],
            )
            try:
                with trio.fail_after(_WAIT_S):
                    await stream.send_all((machine.send(request) or b"") + (machine.send(h11.EndOfMessage()) or b""))
                    answer = await _next_event(stream, machine)
                    if isinstance(answer, h11.Response):
                        raise KubeletRefused(answer.status_code, await _read_text(stream, machine))
            except (trio.BrokenResourceError, trio.TooSlowError, h11.RemoteProtocolError):
                answer = None
            if not isinstance(answer, h11.InformationalResponse):
                raise statuses.internal(f"the kubelet of {node_name} broke the connection")
            headers = {name.decode().lower(): value.decode("latin-1") for name, value in answer.headers}
            yield Tunnel(stream, headers.get(PROTOCOL_HEADER.lower(), ""), machine.trailing_data[0])

    async def serve_websocket(
        self, info: RequestInfo, query: Query, offered: Sequence[str], receive: Receive, send: Send
    ) -> None:
        """Answer a WebSocket on ``pods/portforward``.

        Raises:
            ApiError, KubeletRefused: before the WebSocket was accepted.
        """
        protocols = [each.removeprefix(TUNNEL_PREFIX) for each in offered if each.startswith(TUNNEL_PREFIX)]
        if not protocols:
            raise statuses.bad_request("unable to upgrade: no tunneling spdy protocols provided")
        async with self.open(info, query, protocols) as tunnel:
            await receive()  # websocket.connect
            chosen = f"{TUNNEL_PREFIX}{tunnel.protocol}" if tunnel.protocol else None
            await send({"type": "websocket.accept", "subprotocol": chosen})
            await tunnel.relay(_Messages(receive, send))
            await send({"type": "websocket.close", "code": 1000})


class _Messages:
    """Bytes in WebSocket messages, whose borders mean nothing."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def receive(self) -> bytes:
        while (message := await self._receive())["type"] == "websocket.receive":
            if data := message.get("bytes"):
                return bytes(data)
        return b""

    async def send(self, data: bytes) -> None:
        await self._send({"type": "websocket.send", "bytes": data})


async def _next_event(stream: trio.abc.Stream, machine: h11.Connection) -> object:
    while (event := machine.next_event()) is h11.NEED_DATA:
        machine.receive_data(bytes(await stream.receive_some(_CHUNK_BYTES)))
    return event


async def _read_text(stream: trio.abc.Stream, machine: h11.Connection) -> str:
    text = b""
    while len(text) < _LARGEST_ERROR_BYTES and isinstance(event := await _next_event(stream, machine), h11.Data):
        text += event.data
    return text[:_LARGEST_ERROR_BYTES].decode(errors="replace").strip()

"""``pods/log``, ``pods/exec`` and ``pods/attach``: what only the pod's kubelet can answer, passed through.

A log is read as HTTP and passed on as it comes. A command's streams are WebSocket messages on both sides, passed on unread;
older clients' SPDY, and forwarded ports, are ``pod_tunnels.py``'s.

Source: pkg/registry/core/pod/rest; semantics §12.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import h11
import msgspec
import trio
from starlette.types import Receive, Scope, Send
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    RejectConnection,
    TextMessage,
)
from wsproto.events import Request as Handshake
from wsproto.utilities import ProtocolError

from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.kubelet_client import KubeletClient
from kubelet_secrets.apiserver.pod_locations import (
    PODS,
    Query,
    choose_container,
    kubelet_error,
    log_target,
    node_of,
    upgrade_target,
)
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.requestinfo import RequestInfo

_CHUNK_BYTES = 64 * 1024
_LARGEST_ERROR_BYTES = 10_000
_STATUS_CHANNEL = b"\x03"


class PodStreams:
    """Logs and commands of pods."""

    def __init__(self, registry: Registry, kubelets: KubeletClient) -> None:
        self._registry = registry
        self._kubelets = kubelets

    # --- logs -----------------------------------------------------------------------------------------------------------

    async def respond_log(self, info: RequestInfo, query: Query, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer ``GET pods/log``.

        Raises:
            ApiError: before anything was answered.
        """
        pod = await self._find(info)
        container = choose_container(pod, dict(query).get("container", ""))
        node_name = (pod.get("spec") or {}).get("nodeName")
        if not node_name:
            await _begin(send)  # not bound yet: nothing has been said. Source: LogLocation
            await _send_body(send, b"", is_last=True)
            return
        stream, address = await self._kubelets.connect(node_name)
        async with stream:
            machine = h11.Connection(h11.CLIENT)
            headers = [("host", f"{address.host}:{address.port}"), ("connection", "close")]
            request = h11.Request(method="GET", target=log_target(pod, container, query), headers=headers)
            try:
                await stream.send_all((machine.send(request) or b"") + (machine.send(h11.EndOfMessage()) or b""))
                response = await _next_event(stream, machine)
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                raise statuses.internal(f"the kubelet of {node_name} broke the connection") from None
            if not isinstance(response, h11.Response):
                raise statuses.internal(f"the kubelet of {node_name} gave no answer")
            if response.status_code != 200:
                raise kubelet_error(response.status_code, await _read_text(stream, machine), info)
            await _begin(send)
            async with _while_connected(receive):
                try:
                    while isinstance(event := await _next_event(stream, machine), h11.Data):
                        await _send_body(send, bytes(event.data))
                except (trio.BrokenResourceError, h11.RemoteProtocolError):
                    pass  # the node has gone: what was said until then is what there is
                await _send_body(send, b"", is_last=True)

    # --- commands -------------------------------------------------------------------------------------------------------

    async def serve_command(self, info: RequestInfo, query: Query, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a WebSocket on ``pods/exec`` or ``pods/attach``.

        Raises:
            ApiError: before the WebSocket was accepted.
        """
        pod = await self._find(info)
        target = upgrade_target(info.subresource, pod, query)
        stream, address = await self._kubelets.connect(node_of(pod))
        async with stream:
            machine = WSConnection(ConnectionType.CLIENT)
            handshake = Handshake(
                host=f"{address.host}:{address.port}",
                target=target,
                subprotocols=list(scope.get("subprotocols") or ()),
            )
            try:
                accepted = await _shake_hands(stream, machine, handshake)
            except _Refused as refused:
                # Without a word: a kubelet older than 1.30, which knows none of the protocols. kubectl tries SPDY then.
                if (protocol := _with_status(handshake.subprotocols)) is None or not refused.text:
                    raise kubelet_error(refused.code, refused.text, info) from None
                await receive()  # websocket.connect
                await _tell_refusal(send, protocol, refused.text)
                return
            await receive()  # websocket.connect
            await send({"type": "websocket.accept", "subprotocol": accepted.subprotocol})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pump_to_kubelet, receive, stream, machine, nursery.cancel_scope)
                await _pump_to_client(stream, machine, send)
                nursery.cancel_scope.cancel()

    async def check(self, info: RequestInfo, query: Query) -> None:
        """Look whether there are such a pod and such a container.

        Raises:
            ApiError: in upstream's words.
        """
        upgrade_target(info.subresource, await self._find(info), query)

    async def _find(self, info: RequestInfo) -> Object:
        found = await self._registry.find(PODS, info.namespace, info.name)
        if found is None:
            raise statuses.not_found(PODS, info.name)
        return found.object


# --- HTTP ---------------------------------------------------------------------------------------------------------------


async def _next_event(stream: trio.abc.Stream, machine: h11.Connection) -> object:
    while (event := machine.next_event()) is h11.NEED_DATA:
        machine.receive_data(bytes(await stream.receive_some(_CHUNK_BYTES)))
    return event


async def _read_text(stream: trio.abc.Stream, machine: h11.Connection) -> str:
    text = b""
    try:
        while len(text) < _LARGEST_ERROR_BYTES and isinstance(event := await _next_event(stream, machine), h11.Data):
            text += event.data
    except (trio.BrokenResourceError, h11.RemoteProtocolError):
        pass
    return text[:_LARGEST_ERROR_BYTES].decode(errors="replace").strip()


async def _begin(send: Send) -> None:
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _send_body(send: Send, data: bytes, *, is_last: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": not is_last})


@asynccontextmanager
async def _while_connected(receive: Receive) -> AsyncIterator[None]:
    """Cancel the body when the client goes away."""

    async def watch(scope: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        yield
        nursery.cancel_scope.cancel()


# --- WebSockets -----------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """The kubelet does not run the command."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


def _with_status(offered: Sequence[str]) -> str | None:
    """The newest protocol on offer that ends with a Status."""
    return next((each for each in ("v5.channel.k8s.io", "v4.channel.k8s.io") if each in offered), None)


async def _tell_refusal(send: Send, protocol: str, text: str) -> None:
    """Accept the client's WebSocket only to say why there is no command: refused by HTTP, kubectl takes WebSockets for unknown,
    tries SPDY, and shows what comes of that. Source: apiserver pkg/util/proxy/streamtranslator.go.
    """
    status = statuses.status_body(statuses.internal(f"unable to upgrade connection: {text}"))
    await send({"type": "websocket.accept", "subprotocol": protocol})
    await send({"type": "websocket.send", "bytes": _STATUS_CHANNEL + msgspec.json.encode(status)})
    await send({"type": "websocket.close", "code": 1000})


async def _shake_hands(stream: trio.abc.Stream, machine: WSConnection, handshake: Handshake) -> AcceptConnection:
    try:
        await stream.send_all(machine.send(handshake))
        async with aclosing(_events(stream, machine)) as events:
            async for event in events:
                if isinstance(event, AcceptConnection):
                    return event
                if isinstance(event, RejectConnection):
                    raise _Refused(event.status_code, await _rejection(stream, machine))
    except (trio.BrokenResourceError, ProtocolError):
        pass
    raise statuses.internal("the kubelet broke the connection")


async def _rejection(stream: trio.abc.Stream, machine: WSConnection) -> str:
    text = b""
    async with aclosing(_events(stream, machine)) as events:
        async for event in events:
            text += getattr(event, "data", b"")
            if getattr(event, "body_finished", True) or len(text) > _LARGEST_ERROR_BYTES:
                break
    return text[:_LARGEST_ERROR_BYTES].decode(errors="replace").strip()


async def _events(stream: trio.abc.Stream, machine: WSConnection) -> AsyncGenerator[Event, None]:
    while True:
        for event in machine.events():
            yield event
        data = await stream.receive_some(_CHUNK_BYTES)
        if not data:
            return
        machine.receive_data(bytes(data))


async def _pump_to_kubelet(
    receive: Receive, stream: trio.abc.Stream, machine: WSConnection, scope: trio.CancelScope
) -> None:
    while True:
        message = await receive()
        try:
            if message["type"] != "websocket.receive":
                await stream.send_all(machine.send(CloseConnection(code=1000)))
                break
            data = message.get("bytes")
            piece = BytesMessage(data=data) if data is not None else TextMessage(data=str(message.get("text") or ""))
            await stream.send_all(machine.send(piece))
        except (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError):
            break
    scope.cancel()


async def _pump_to_client(stream: trio.abc.Stream, machine: WSConnection, send: Send) -> None:
    """To the end of the kubelet's messages, then close. A message may come in pieces; the client gets it whole."""
    message = bytearray()
    code = 1011
    try:
        async with aclosing(_events(stream, machine)) as events:
            async for event in events:
                if isinstance(event, Ping):
                    await stream.send_all(machine.send(event.response()))
                elif isinstance(event, Message):
                    message += event.data if isinstance(event.data, bytes | bytearray) else str(event.data).encode()
                    if event.message_finished:
                        if isinstance(event, TextMessage):  # of the protocols in base64
                            await send({"type": "websocket.send", "text": message.decode()})
                        else:
                            await send({"type": "websocket.send", "bytes": bytes(message)})
                        message.clear()
                elif isinstance(event, CloseConnection):
                    code = event.code
                    break
    except (trio.BrokenResourceError, ProtocolError):
        pass
    await send({"type": "websocket.close", "code": code})

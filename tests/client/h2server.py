"""A small HTTP/2 server for the client's tests: each request is a handler's, and it can misbehave on purpose.

Not for production and not ASGI: it can say GOAWAY, refuse a stream, stop reading, or die in the middle, which no real server
does on demand. Real TLS, real sockets, port 0.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trio
import trustme

AUTHORITY = trustme.CA()
CA_PEM = AUTHORITY.cert_pem.bytes()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a state on the other side of a socket, which no event of ours announces. Bounded by the test's fail_after."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.002)


def server_context(alpn: tuple[str, ...] = ("h2",), *, names: tuple[str, ...] = ("127.0.0.1",)) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(*names).configure_cert(context)
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    return context


@dataclass(eq=False)
class ServerStream:
    """One request; ``await`` its methods from the handler."""

    connection: ServerConnection
    stream_id: int
    headers: dict[str, str]
    body: bytes = b""
    is_reset: bool = False
    reset_code: int | None = None
    complete: trio.Event = field(default_factory=trio.Event)
    window: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def path(self) -> str:
        return self.headers[":path"]

    @property
    def method(self) -> str:
        return self.headers[":method"]

    async def respond(self, status: int = 200, headers: dict[str, str] | None = None, *, end: bool = False) -> None:
        fields = [(":status", str(status)), *(headers or {}).items()]
        self.connection.h2.send_headers(self.stream_id, fields, end_stream=end)
        await self.connection.flush()

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send within the client's windows, waiting for them."""
        rest = data
        while rest:
            size = min(
                self.connection.h2.local_flow_control_window(self.stream_id),
                self.connection.h2.max_outbound_frame_size,
                len(rest),
            )
            if size <= 0:
                self.window = trio.Event()
                await self.window.wait()
                continue
            self.connection.h2.send_data(self.stream_id, rest[:size])
            rest = rest[size:]
            await self.connection.flush()
        if end:
            await self.end()

    async def end(self) -> None:
        self.connection.h2.end_stream(self.stream_id)
        await self.connection.flush()

    async def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        await self.respond(status, {"content-type": "application/json", **(headers or {})})
        await self.send(body, end=True)

    async def reset(self, code: h2.errors.ErrorCodes) -> None:
        self.connection.h2.reset_stream(self.stream_id, code)
        await self.connection.flush()


Handler = Callable[[ServerStream], Awaitable[None]]


class ServerConnection:
    def __init__(self, server: H2Server, io: trio.abc.Stream) -> None:
        self.server = server
        self.io = io
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.streams: dict[int, ServerStream] = {}
        self.scope = trio.CancelScope()
        self.pings = 0
        self._lock = trio.Lock()

    async def flush(self) -> None:
        async with self._lock:
            if data := self.h2.data_to_send():
                with trio.CancelScope(shield=True):
                    await self.io.send_all(data)

    async def goaway(self, last_stream_id: int, code: int = 0) -> None:
        """Raw, for h2 would refuse everything after its own."""
        payload = last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big")
        async with self._lock:
            await self.io.send_all(len(payload).to_bytes(3, "big") + b"\x07\x00" + bytes(4) + payload)

    def kill(self) -> None:
        """Die without a word."""
        self.scope.cancel()

    async def run(self) -> None:
        self.h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.server.max_streams,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: self.server.window_bytes,
            },
        )
        self.h2.initiate_connection()
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    await self.flush()
                    while data := await self.io.receive_some(65536):
                        for event in self.h2.receive_data(bytes(data)):
                            self._handle(event, nursery)
                        await self.flush()
                        await self.server.gate.wait()
                    nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has gone away
        except* h2.exceptions.ProtocolError as group:
            self.server.errors += [repr(error) for error in group.exceptions]
        finally:
            self.server.connections.remove(self)
            await trio.aclose_forcefully(self.io)

    def _handle(self, event: h2.events.Event, nursery: trio.Nursery) -> None:
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, h2.events.RequestReceived):
            stream = ServerStream(self, event.stream_id, {str(key): str(value) for key, value in event.headers})
            self.streams[event.stream_id] = stream
            self.server.seen.append(stream)
            self.server.peak = max(self.server.peak, self.server.open_streams)
            nursery.start_soon(self._serve, stream)
        elif isinstance(event, h2.events.PingReceived):
            self.pings += 1
        elif isinstance(event, h2.events.WindowUpdated):
            for other in self.streams.values():
                other.window.set()
        elif stream is None:
            return
        elif isinstance(event, h2.events.DataReceived):
            stream.body += event.data
            if self.server.acknowledges:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            stream.complete.set()
        elif isinstance(event, h2.events.StreamReset):
            stream.is_reset, stream.reset_code = True, int(event.error_code)
            stream.scope.cancel()

    async def _serve(self, stream: ServerStream) -> None:
        try:
            with stream.scope:
                await self.server.handler(stream)
        except (h2.exceptions.ProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has gone away
        finally:
            del self.streams[stream.stream_id]


class H2Server:
    def __init__(self, handler: Handler, *, max_streams: int = 100, window_bytes: int = 65535) -> None:
        self.handler = handler
        self.max_streams = max_streams
        self.window_bytes = window_bytes
        self.acknowledges = True
        self.gate = trio.Event()  # cleared by replacing it: connections stop reading
        self.gate.set()
        self.connections: list[ServerConnection] = []
        self.accepted = 0
        self.peak = 0
        self.seen: list[ServerStream] = []
        self.errors: list[str] = []
        self.port = 0

    @property
    def open_streams(self) -> int:
        return sum(len(connection.streams) for connection in self.connections)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def wait_open_streams(self, count: int) -> None:
        """Wait until exactly *count* requests are being served."""
        await eventually(lambda: self.open_streams == count)

    async def accept(self, io: trio.abc.Stream) -> None:
        connection = ServerConnection(self, io)
        self.connections.append(connection)
        self.accepted += 1
        await connection.run()


@asynccontextmanager
async def serve(
    handler: Handler, *, max_streams: int = 100, window_bytes: int = 65535, context: ssl.SSLContext | None = None
) -> AsyncIterator[H2Server]:
    """Run a server for the length of the block; its connections are cut at the end."""
    server = H2Server(handler, max_streams=max_streams, window_bytes=window_bytes)
    tls = context or server_context()

    async def accept(tcp: trio.SocketStream) -> None:
        stream = trio.SSLStream(tcp, tls, server_side=True, https_compatible=True)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            return
        await server.accept(stream)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, accept, listeners)
        yield server
        nursery.cancel_scope.cancel()

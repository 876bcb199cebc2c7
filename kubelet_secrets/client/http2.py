"""``H2Transport``: an httpx2 transport that carries a thousand watches, to one origin.

The pool: which connection a request rides on, when another one is opened, what is sent again. The connection itself is
``connection.py``. When the server does not speak HTTP/2 (ALPN), or the address is plain ``http``, everything goes to
``httpx2.AsyncHTTPTransport`` instead: one connection per watch, correct, costlier.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx2
import trio
from hpack import NeverIndexedHeaderTuple

from kubelet_secrets.client.connection import Connection, ExchangeTimeouts
from kubelet_secrets.client.proxy import Proxy, dial
from kubelet_secrets.client.stream import ClientStream, Headers, RequestNotProcessed

logger = logging.getLogger(__name__)

_MAX_RESENDS = 3  # a server that keeps refusing is not one to hammer
_NOT_IN_HTTP2 = frozenset(
    (b"host", b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the API server is and how to trust it."""

    host: str  # "10.0.0.1", "api.example.org", "::1"
    port: int
    make_context: Callable[[], ssl.SSLContext] | None  # None: plain http. A fresh context each call; ALPN is set on it
    server_name: str = ""  # the name in the certificate, where it is not *host*
    proxy: Proxy | None = None

    @property
    def scheme(self) -> str:
        return "http" if self.make_context is None else "https"

    @property
    def authority(self) -> str:
        """``10.0.0.1:6443``; without the port where it is the scheme's own."""
        host = self.host if self.host.isascii() else self.host.encode("idna").decode("ascii")
        host = f"[{host}]" if ":" in host else host
        return host if self.port == (80 if self.make_context is None else 443) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRequest:
    """A request that is ready to go. Made without httpx2's URL parsing, which costs as much as all the rest of a request."""

    method: str
    target: str  # path and query, percent-encoded
    headers: Mapping[str, str] = field(repr=False)  # names in lower case
    body: bytes = field(default=b"", repr=False)
    timeouts: ExchangeTimeouts


@dataclass(slots=True)
class _Attempt:
    """One try to connect, shared by everybody who needs a slot meanwhile."""

    done: trio.Event = field(default_factory=trio.Event)
    error: httpx2.TransportError | None = None


class H2Transport(httpx2.AsyncBaseTransport):
    """Multiplexes over as few HTTP/2 connections as the server's stream limit allows.

    Args:
        nursery: where connections live; the transport never outlives it, and its tasks never raise into it.
        origin: the one server this transport talks to, whatever a request's URL says.
        connect_timeout_s: for TCP, TLS and the peer's SETTINGS together.
        max_connections: beyond it a request fails with ``PoolTimeout`` instead of opening one more.
    """

    def __init__(
        self, nursery: trio.Nursery, origin: Origin, *, connect_timeout_s: float = 10, max_connections: int = 64
    ) -> None:
        self._nursery = nursery
        self._origin = origin
        self._connect_timeout_s = connect_timeout_s
        self._max_connections = max_connections
        self._connections: list[Connection] = []
        self._attempt: _Attempt | None = None
        self._fallback: httpx2.AsyncHTTPTransport | None = None
        self._is_closed = False
        self._authority = origin.authority.encode("ascii")
        if origin.make_context is None:
            self._fallback = self._make_fallback()

    def __repr__(self) -> str:
        return f"<H2Transport {self._origin.host}:{self._origin.port} {self._connections!r}>"

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The connections that are not closed, in the order in which they were opened."""
        self._connections = [connection for connection in self._connections if not connection.is_closed]
        return tuple(self._connections)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send *request* and return the answer with its body unread; the caller closes the answer.

        Raises, Cancellation: as :meth:`send`.
        """
        body = await request.aread()
        timeouts = ExchangeTimeouts(
            read=request.extensions.get("timeout", {}).get("read"),
            write=request.extensions.get("timeout", {}).get("write"),
        )
        answer = await self._exchange(_header_block(request), body, timeouts)
        return answer if answer is not None else await self._send_over_http1(request)

    async def send(self, request: PlainRequest) -> httpx2.Response:
        """Send *request* and return the answer with its body unread; the caller closes the answer.

        Raises:
            httpx2.TransportError: ConnectError or ConnectTimeout before a connection stands, else what befell the stream.

        Cancellation: the stream is reset. A connection being set up goes on being set up, others wait for it too.
        """
        headers: Headers = [
            (b":method", request.method.encode("ascii")),
            (b":scheme", b"https"),
            (b":authority", self._authority),
            # No two requests have the same: it would only push what repeats out of the peer's table.
            NeverIndexedHeaderTuple(b":path", request.target.encode("ascii")),
        ]
        for name, value in request.headers.items():
            pair = name.encode("ascii"), value.encode("latin-1")
            headers.append(NeverIndexedHeaderTuple(*pair) if name == "authorization" else pair)
        answer = await self._exchange(headers, request.body, request.timeouts)
        return answer if answer is not None else await self._send_over_http1(self._as_httpx(request))

    async def _exchange(self, headers: Headers, body: bytes, timeouts: ExchangeTimeouts) -> httpx2.Response | None:
        """None when HTTP/1.1 is to be used."""
        for resends_left in reversed(range(_MAX_RESENDS + 1)):
            opened = await self._open_stream(headers, has_body=bool(body))
            if opened is None:
                return None
            connection, stream = opened
            try:
                return await connection.exchange(stream, body, timeouts)
            except RequestNotProcessed:
                if not resends_left:
                    raise
        raise AssertionError("unreachable")

    def drain(self) -> None:
        """Let every open connection end with its last stream; new requests open new ones, with a fresh TLS context.

        For when the client certificate has changed.
        """
        for connection in self.connections:
            connection.drain()
        if self._fallback is not None and self._origin.make_context is not None:
            # Its idle connections close with the garbage: they are bound to the old certificate.
            self._fallback = None

    def hang_up(self) -> None:
        """Close every connection at once: whoever waits on one gets ``ReadError``, and the next request a new one."""
        for connection in self.connections:
            connection.close(httpx2.ReadError("the connection was given up: it did not answer"))

    async def aclose(self) -> None:
        """Close everything at once; open streams fail with ``ReadError``."""
        self._is_closed = True
        for connection in self._connections:
            connection.close()
        if self._fallback is not None:
            await self._fallback.aclose()

    async def _open_stream(self, headers: Headers, *, has_body: bool) -> tuple[Connection, ClientStream] | None:
        """Find or make a connection with a free slot and take the slot; None when HTTP/1.1 is to be used."""
        while True:
            if self._is_closed:
                raise httpx2.ConnectError("the transport is closed")
            if self._fallback is not None:
                return None
            # No await between the look at the slots and taking one: two requests must not get the same.
            for connection in self.connections:
                if connection.free_slots:
                    return connection, connection.open_stream(headers, has_body=has_body)
            attempt = self._attempt
            if attempt is None:
                if len(self._connections) >= self._max_connections:
                    raise httpx2.PoolTimeout(f"all streams of {self._max_connections} connections are in use")
                attempt = self._attempt = _Attempt()
                self._nursery.start_soon(self._connect, attempt)
            await attempt.done.wait()
            if attempt.error is not None:
                raise type(attempt.error)(str(attempt.error))

    async def _connect(self, attempt: _Attempt) -> None:
        """Never raises: the outcome is in *attempt* and the list of connections.

        In a task of its own, so that the request which happened to come first can be cancelled without failing the rest.
        """
        attempt.error = httpx2.ConnectError("connecting was cancelled")
        try:
            with trio.fail_after(self._connect_timeout_s):
                stream = await self._dial()
                if stream.selected_alpn_protocol() == "h2":
                    connection = Connection(stream)
                    await self._nursery.start(connection.run)
                    if not connection.free_slots:
                        connection.close()
                        raise httpx2.ConnectError("the server allows no streams")
                    self._connections.append(connection)
                else:
                    await trio.aclose_forcefully(stream)
                    logger.info("the API server does not offer HTTP/2, falling back to HTTP/1.1")
                    self._fallback = self._make_fallback()
            attempt.error = None
        except trio.TooSlowError:
            attempt.error = httpx2.ConnectTimeout(f"no connection within {self._connect_timeout_s} s")
        except httpx2.TransportError as error:
            attempt.error = httpx2.ConnectError(str(error))
        except (OSError, ssl.SSLError, ssl.CertificateError, trio.BrokenResourceError) as error:
            attempt.error = httpx2.ConnectError(_reason(error))
        finally:
            self._attempt = None
            attempt.done.set()

    async def _dial(self) -> trio.SSLStream[trio.abc.Stream]:
        """TCP, by way of a proxy where there is one, and TLS. Cancellation: nothing stays open."""
        assert self._origin.make_context is not None
        context = self._origin.make_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        tcp = await dial(self._origin.host, self._origin.port, self._origin.proxy)
        name = self._origin.server_name or self._origin.host
        # https_compatible: peers close without close_notify, and frames say where the data ends.
        tls = trio.SSLStream(tcp, context, server_hostname=name, https_compatible=True)
        try:
            await tls.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(tls)
            raise
        return tls

    async def _send_over_http1(self, request: httpx2.Request) -> httpx2.Response:
        assert self._fallback is not None
        if self._origin.server_name:
            request.extensions = {**request.extensions, "sni_hostname": self._origin.server_name}
        return await self._fallback.handle_async_request(request)

    def _as_httpx(self, request: PlainRequest) -> httpx2.Request:
        return httpx2.Request(
            request.method,
            f"{self._origin.scheme}://{self._origin.authority}{request.target}",
            headers=request.headers,
            content=request.body or None,
            extensions={
                "timeout": {
                    "connect": self._connect_timeout_s,
                    "read": request.timeouts.read,
                    "write": request.timeouts.write,
                    "pool": None,
                }
            },
        )

    def _make_fallback(self) -> httpx2.AsyncHTTPTransport:
        verify = self._origin.make_context() if self._origin.make_context is not None else False
        unlimited = httpx2.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=90)
        proxy = self._origin.proxy
        if proxy is not None and proxy.scheme == "socks5":
            raise httpx2.ConnectError(
                "HTTP/1.1 through a SOCKS proxy is not supported: the API server offers no HTTP/2"
            )
        through = None
        if proxy is not None:
            through = httpx2.Proxy(str(proxy), auth=proxy.credentials())
        return httpx2.AsyncHTTPTransport(
            verify=verify, http1=True, http2=False, trust_env=False, limits=unlimited, proxy=through
        )


def _header_block(request: httpx2.Request) -> Headers:
    """Source: RFC 9113 §8.2.2 (what HTTP/1.1 headers must not be carried) and §8.3.1."""
    return [
        (b":method", request.method.encode("ascii")),
        (b":scheme", request.url.raw_scheme),
        (b":authority", request.headers["host"].encode("ascii")),
        (b":path", request.url.raw_path),
        *((name.lower(), value) for name, value in request.headers.raw if name.lower() not in _NOT_IN_HTTP2),
    ]


def _reason(error: BaseException) -> str:
    """What went wrong, in the words of whoever noticed it first: trio wraps TLS and socket errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):  # one failure per address of a name with several
        error = error.exceptions[-1]
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS handshake failed: {error.reason or type(error).__name__}"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:  # name resolution has negative ones
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__

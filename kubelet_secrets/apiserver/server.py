"""The listener: TLS connections, each run by anycorn's protocol code, each contained in its own task.

anycorn's own ``serve`` is not used: an exception in one connection - a flood of PRIORITY frames is enough, without any
credential - ends its whole server. Here every connection runs in a task that catches what its protocol code raises, so that it
ends alone. The names used are not a documented interface of anycorn; the pinned version and ``tests/apiserver/test_server.py``
guard them.

Not here: what a request means (``routes.py``).
"""

from __future__ import annotations

import errno
import logging
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

import anyio
import anyio.abc
import h11
import trio
from anycorn.app_wrappers import ASGIWrapper
from anycorn.config import Config
from anycorn.events import Closed, RawData
from anycorn.protocol import ProtocolWrapper
from anycorn.protocol.h2 import H2Protocol
from anycorn.tcp_server import TCPServer
from anycorn.typing import ASGIFramework
from anycorn.utils import build_tls_extension
from anycorn.worker_context import WorkerContext
from anyio.streams.stapled import MultiListener
from anyio.streams.tls import TLSAttribute, TLSStream
from h2.connection import H2Connection
from starlette.types import ASGIApp

from kubelet_secrets.apiserver.roundrobin import RoundRobin
from kubelet_secrets.apiserver.upgrades import ServeUpgrade, Upgrade, is_upgrade, wants_more
from kubelet_secrets.errors import HostError

log = logging.getLogger(__name__)

# The priority tree of a connection takes 1,000 entries, its root included; with 1,000 streams it breaks.
MAX_STREAMS = 998
HANDSHAKE_TIMEOUT_S = 10
IDLE_TIMEOUT_S = 180  # of a connection without any request; longer than client-go keeps one
GRACE_S = 2.0
_ACCEPT_RETRY_S = 0.1
_COUNT_PERIOD = 64  # requests
# Errors of the connection rather than of the listener. Source: accept(2), "Error handling".
_CLIENT_HAS_GONE = (
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EPERM,
)
_QUIET = logging.getLogger(f"{__name__}.protocol")


def anycorn_config() -> Config:
    """How anycorn runs a connection."""
    # At DEBUG it prints every header field, bearer tokens included.
    logging.getLogger("hpack").setLevel(logging.WARNING)
    config = Config()
    config.h2_max_concurrent_streams = MAX_STREAMS
    # Beyond this many requests it would send GOAWAY, and every watch of the connection would die with it.
    config.keep_alive_max_requests = 2**62
    config.keep_alive_timeout = IDLE_TIMEOUT_S
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = _QUIET
    return config


class _Protocol(H2Connection):
    """h2's state machine, which would look at every open stream for each new one."""

    _counted, _counted_at = 0, 0  # streams that were open when it was last looked, and the highest stream id then

    @property
    def open_inbound_streams(self) -> int:
        """Those there were and all that were opened since: what has ended meanwhile matters only near the limit."""
        opened = (self.highest_inbound_stream_id - self._counted_at) // 2
        if opened >= _COUNT_PERIOD or self._counted + opened + 1 >= self.local_settings.max_concurrent_streams:
            self._counted, opened = super().open_inbound_streams, 0  # it forgets closed streams while it counts
            self._counted_at = self.highest_inbound_stream_id
        return self._counted + opened


class _Connection(TCPServer):
    """anycorn's connection, with streams that take turns instead of its priority tree (see ``roundrobin.py``), and with a way
    out of HTTP for who asks for SPDY (see ``upgrades.py``).

    Attributes:
        serve_upgrade: what becomes of the latter.
    """

    serve_upgrade: ServeUpgrade

    async def _read_data(self) -> None:
        """The first request shows whether this is HTTP at all. Until it is whole, the time that an idle connection has runs."""
        assert isinstance(self.stream, TLSStream)  # nothing else is served
        if self.stream.extra(TLSAttribute.alpn_protocol) != "h2":
            head = b""
            try:
                while not head or wants_more(head):
                    head += await self.stream.receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, ssl.SSLZeroReturnError):
                pass  # the next to read finds the same
            if is_upgrade(head):
                await self.idle_task.stop()
                tls = build_tls_extension(self.config, self.stream)
                try:
                    await self.serve_upgrade(Upgrade(self.stream, head, tls))
                except (trio.BrokenResourceError, h11.RemoteProtocolError):
                    pass  # the client has gone, or was none
                await self.protocol.handle(Closed())
                return
            if head:
                await self.protocol.handle(RawData(head))
        await super()._read_data()

    @property
    def protocol(self) -> ProtocolWrapper:
        return self._wrapper

    @protocol.setter
    def protocol(self, wrapper: ProtocolWrapper) -> None:
        if isinstance(wrapper.protocol, H2Protocol):
            wrapper.protocol.priority = RoundRobin()  # type: ignore[assignment]  # what it needs of a PriorityTree
            wrapper.protocol.connection.__class__ = _Protocol  # nothing was said on it yet
        self._wrapper = wrapper


class Listener:
    """A bound socket and what serves it.

    Attributes:
        port: the one chosen by the system when 0 was asked for.
    """

    def __init__(self, listener: MultiListener[anyio.abc.SocketStream], context: ssl.SSLContext) -> None:
        self._listener = listener
        self._context = context
        self.port: int = listener.extra(anyio.abc.SocketAttribute.local_port)

    async def serve(
        self,
        application: ASGIApp,
        shutdown: trio.Event,
        on_shutdown: Callable[[], None],
        *,
        serve_upgrade: ServeUpgrade,
    ) -> None:
        """Serve connections until *shutdown*; then stop accepting, call *on_shutdown*, and give requests ``GRACE_S``.

        Args:
            serve_upgrade: answers who asks for SPDY.

        Resource handling: the socket is closed when *shutdown* comes; else by the caller, with :meth:`aclose`.
        """
        config, worker = anycorn_config(), WorkerContext(None)
        wrapper = ASGIWrapper(cast("ASGIFramework", application))
        run = partial(self._run_connection, wrapper, serve_upgrade, config, worker)
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for listener in self._listener.listeners:
                    accepting.start_soon(self._accept, listener, run, connections)
                await shutdown.wait()
                accepting.cancel_scope.cancel()
            await self.aclose()
            on_shutdown()
            await worker.terminated.set()
            connections.cancel_scope.deadline = trio.current_time() + GRACE_S

    async def aclose(self) -> None:
        """Close the socket; closed already is fine. Shielded: a cancelled server must free its port too."""
        with trio.CancelScope(shield=True):
            await self._listener.aclose()

    async def _accept(
        self,
        listener: anyio.abc.Listener[anyio.abc.SocketStream],
        run: Callable[[anyio.abc.SocketStream], Awaitable[None]],
        connections: trio.Nursery,
    ) -> None:
        """Accept until cancelled. anyio's own loop ends, and the server with it, when descriptors run out: anybody who can
        connect may take the last one."""
        is_waiting = False
        while True:
            try:
                stream = await listener.accept()  # type: ignore[attr-defined]  # what every socket's listener has
            except (OSError, anyio.BrokenResourceError) as error:
                reason = error if isinstance(error, OSError) else error.__cause__
                number = reason.errno if isinstance(reason, OSError) else None
                if number in _CLIENT_HAS_GONE:
                    continue
                if not is_waiting:
                    log.warning("no connection can be accepted: %s", errno.errorcode.get(number or 0, "unknown"))
                is_waiting = True
                await trio.sleep(_ACCEPT_RETRY_S)
                continue
            is_waiting = False
            connections.start_soon(run, stream)

    async def _run_connection(
        self,
        application: ASGIWrapper,
        serve_upgrade: ServeUpgrade,
        config: Config,
        worker: WorkerContext,
        stream: anyio.abc.SocketStream,
    ) -> None:
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT_S):
                tls = await TLSStream.wrap(
                    stream, server_side=True, ssl_context=self._context, standard_compatible=False
                )
        except (trio.TooSlowError, ssl.SSLError, OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            log.debug("TLS handshake failed: %s", type(error).__name__)
            await anyio.aclose_forcefully(stream)
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_close_when_cancelled, stream)
                connection = _Connection(application, config, worker, {}, tls)  # type: ignore[arg-type]  # a TLSStream is what it gets from anyio
                connection.serve_upgrade = serve_upgrade
                await connection.run()
                nursery.cancel_scope.cancel()
        except Exception as error:
            # A connection's border: whatever a peer provokes in the protocol code ends this connection only.
            log.warning("connection ended: %s", _kind(error))
            with trio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)


async def _close_when_cancelled(stream: anyio.abc.SocketStream) -> None:
    """Close the socket when the connection is to end. anycorn's protocol code sends behind a shield, which cancelling does not
    reach: one client that has stopped reading would keep the server from ever stopping."""
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await anyio.aclose_forcefully(stream)


def _kind(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return ", ".join(sorted({_kind(inner) for inner in error.exceptions}))
    return type(error).__name__


async def listen(host: str, port: int, context: ssl.SSLContext) -> Listener:
    """Bind.

    Raises:
        HostError: the address cannot be had; one line that says why.
    """
    try:
        multi = await anyio.create_tcp_listener(local_host=host, local_port=port, backlog=1024)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror}"
        raise HostError(f"address {host}:{port} {reason}") from None
    return Listener(multi, context)

"""The listener of the kubelet's HTTP API: TLS, each connection in a task that ends alone.

:func:`bind` comes first, since the Node object tells the port; :func:`serve` when there is something to tell. Built and run by
the composition root. Source: pkg/kubelet/server/server.go, ListenAndServeKubeletServer; semantics §12.1.
"""

from __future__ import annotations

import errno
import logging
import ssl
from collections.abc import Sequence

import trio

from kubelet_secrets.errors import HostError
from kubelet_secrets.kubeletapi.http1 import Handler, serve_connection

logger = logging.getLogger(__name__)

PORT = 10250
HANDSHAKE_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 512


async def bind(address: str, port: int) -> Sequence[trio.SocketListener]:
    """Take the port; 0 takes any.

    Raises:
        HostError: it cannot be had; one line that says why.
    """
    try:
        return await trio.open_tcp_listeners(port, host=address)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror}"
        raise HostError(
            f"the kubelet's API: address {address}:{port} {reason}; --kubelet-port chooses another"
        ) from None


def port_of(listeners: Sequence[trio.SocketListener]) -> int:
    """The port that :func:`bind` got."""
    return int(listeners[0].socket.getsockname()[1])


async def serve(
    listeners: Sequence[trio.SocketListener],
    context: ssl.SSLContext,
    handler: Handler,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer until cancelled; the listeners are closed then.

    Args:
        context: read at each handshake, so that a certificate may change.
    """
    limit = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def answer(stream: trio.SocketStream) -> None:
        async with limit:
            try:
                await _serve_stream(stream, context, handler)
            except Exception as error:
                # A connection's border: whatever a peer provokes ends its connection only.
                logger.debug("a connection to the kubelet's API ended: %s", type(error).__name__)

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, answer, list(listeners))
        task_status.started()


async def _serve_stream(stream: trio.SocketStream, context: ssl.SSLContext, handler: Handler) -> None:
    secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    try:
        with trio.fail_after(HANDSHAKE_TIMEOUT_S):
            await secured.do_handshake()
        certificate = secured.getpeercert()
        await serve_connection(secured, handler, certificate=certificate)
    finally:
        with trio.move_on_after(1) as scope:
            scope.shield = True
            await secured.aclose()

"""``/healthz`` over plain HTTP on the node's loopback, where systemd units and ``curl`` look for a kubelet's. No credentials.

That it answers is the news: it does so from the loop that everything else runs in. Run by the composition root.
Source: pkg/kubelet, cmd/kubelet/app/server.go (healthzPort); semantics §12.1.
"""

from __future__ import annotations

import logging
from functools import partial
from http import HTTPStatus

import trio

from kubelet_secrets.kubeletapi.http1 import Exchange, serve_connection

logger = logging.getLogger(__name__)

PORT = 10248
PATHS = ("/healthz", "/healthz/ping", "/healthz/log", "/healthz/syncloop")
RETRY_S = 5.0
MAX_CONNECTIONS = 64


async def run_healthz(address: str, port: int) -> None:
    """Answer until cancelled. A port that somebody else has is waited for, as by a kubelet: it is no reason not to run pods."""
    is_waiting = False
    while True:
        try:
            listeners = await trio.open_tcp_listeners(port, host=address)
        except OSError as error:
            if not is_waiting:
                logger.warning("Failed to start healthz server: %s:%d: %s", address, port, error.strerror)
            is_waiting = True
            await trio.sleep(RETRY_S)
            continue
        limit = trio.CapacityLimiter(MAX_CONNECTIONS)
        await trio.serve_listeners(partial(_serve, limit), listeners)


async def _serve(limit: trio.CapacityLimiter, stream: trio.SocketStream) -> None:
    try:
        async with limit:
            await serve_connection(stream, _answer)
    except Exception as error:
        # A connection's border: whatever a peer provokes ends its connection only.
        logger.debug("a connection to healthz ended: %s", type(error).__name__)


async def _answer(exchange: Exchange) -> None:
    if exchange.request.method in ("GET", "HEAD") and exchange.request.path in PATHS:
        await exchange.respond(HTTPStatus.OK, "ok")
    else:
        await exchange.respond(HTTPStatus.NOT_FOUND, "404 page not found\n")

"""How a request travels to the API server: which connections it rides on, as whom, and what its failure is called.

Requests ride in three lanes, each with connections of its own: a thousand watches must not use up the streams that the
node's lease and status need (kubernetes #74302: a kubelet lost its node that way), and a slow list must not hold up a lease.

Here httpx2's exceptions end: what leaves is an answer of success, an ``ApiError`` (the server said no) or ``ApiUnavailable``
(it said nothing). Only one thing is sent twice: a request refused with 401, when the credential could be renewed. Called by
``rest.py``, which knows what the bytes mean.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx2
import trio

from kubelet_secrets.client.answers import read_error
from kubelet_secrets.client.credentials import Credentials
from kubelet_secrets.client.http2 import H2Transport, Origin
from kubelet_secrets.client.kubeconfig import ClusterConfig
from kubelet_secrets.errors import ApiUnavailable

# At DEBUG hpack prints every header field, bearer tokens included; the others print URLs and frames.
_TALKATIVE = ("hpack", "hyperframe", "httpcore2", "httpx2")

JSON = "application/json"
REQUEST_TIMEOUT_S = 30.0  # for sending, and between two parts of an answer


class Lane(enum.Enum):
    WATCH = "watch"
    OBJECTS = "objects"
    HEARTBEAT = "heartbeat"  # leases, status, events: what keeps the node alive in the eyes of the cluster


@asynccontextmanager
async def open_lanes(config: ClusterConfig, *, user_agent: str, connect_timeout_s: float) -> AsyncIterator[Lanes]:
    """The lanes to *config*'s server for the length of the block; see ``rest.open_client``."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    credentials = Credentials(config)
    credentials.make_context()  # complain now
    origin = _origin(config, credentials)
    caught: Exception | None = None
    async with trio.open_nursery() as nursery:
        transports = {lane: H2Transport(nursery, origin, connect_timeout_s=connect_timeout_s) for lane in Lane}

        def drain() -> None:
            for transport in transports.values():
                transport.drain()

        credentials.on_key_pair_changed = drain
        clients = {
            lane: httpx2.AsyncClient(
                transport=transport, base_url=config.server, headers={"user-agent": user_agent}, trust_env=False
            )
            for lane, transport in transports.items()
        }
        try:
            yield Lanes(clients, credentials, config.host)
        except Exception as error:
            # Raised below, outside of the nursery, which would wrap it: callers catch NotFound, not a group of it.
            caught = error
        finally:
            for client in clients.values():
                await client.aclose()
            nursery.cancel_scope.cancel()
    if caught is not None:
        raise caught


class Lanes:
    """Made by :func:`open_lanes`; used by any number of tasks.

    Attributes:
        credentials: whose requests these are.
        host: ``host:port``, for messages.
    """

    def __init__(self, clients: Mapping[Lane, httpx2.AsyncClient], credentials: Credentials, host: str) -> None:
        self._clients = clients
        self.credentials = credentials
        self.host = host

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] = {},
        content: bytes = b"",
        content_type: str = JSON,
        lane: Lane = Lane.OBJECTS,
    ) -> bytes:
        """Send one request and return the body of its successful answer."""
        headers = {"content-type": content_type} if content else {}
        response = await self.send(
            lane,
            method,
            path,
            params=params,
            headers=headers,
            content=content,
            timeout=httpx2.Timeout(REQUEST_TIMEOUT_S),
        )
        try:
            return await response.aread()
        except httpx2.HTTPError as error:
            raise self.unavailable(error) from error
        finally:
            await response.aclose()

    async def send(
        self,
        lane: Lane,
        method: str,
        path: str,
        *,
        params: Mapping[str, str],
        headers: Mapping[str, str],
        timeout: httpx2.Timeout,
        content: bytes = b"",
    ) -> httpx2.Response:
        """Send one request and return its successful answer, body unread; the caller closes it."""
        client = self._clients[lane]
        for may_renew in (True, False):
            authorization = await self.credentials.authorize()
            credential = {} if authorization.header is None else {"authorization": authorization.header}
            request = client.build_request(
                method,
                path,
                params=params,
                content=content or None,
                headers={"accept": JSON, **headers, **credential},
                timeout=timeout,
            )
            try:
                with trio.move_on_after(REQUEST_TIMEOUT_S) as waiting:
                    response = await client.send(request, stream=True)
                if waiting.cancelled_caught:
                    # A watch's own read timeout is long; its headers are not worth as much patience.
                    raise httpx2.ReadTimeout(f"no answer within {REQUEST_TIMEOUT_S:g} s")
                if response.is_success:
                    return response
                try:
                    body = await response.aread()
                finally:
                    await response.aclose()
            except httpx2.HTTPError as error:
                raise self.unavailable(error) from error
            if response.status_code == 401 and may_renew and await self.credentials.renew(authorization.generation):
                continue
            raise read_error(response.status_code, response.headers, body)
        raise AssertionError("unreachable")

    def unavailable(self, error: httpx2.HTTPError) -> ApiUnavailable:
        return ApiUnavailable(f"API server {self.host}: {str(error) or type(error).__name__}")


def _origin(config: ClusterConfig, credentials: Credentials) -> Origin:
    url = httpx2.URL(config.server)
    is_tls = url.scheme == "https"
    return Origin(
        host=url.host,
        port=url.port or (443 if is_tls else 80),
        make_context=credentials.make_context if is_tls else None,
        server_name=config.tls_server_name,
    )

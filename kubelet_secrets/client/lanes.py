"""How a request travels to the API server: which connections it rides on, as whom, and what its failure is called.

Requests ride in four lanes, each with connections of its own: a thousand watches must not use up the streams that the
node's lease and status need (kubernetes #74302: a kubelet lost its node that way), and neither a slow list nor the statuses of
five hundred pods must hold up a lease.

Here httpx2's exceptions end: what leaves is an answer of success, an ``ApiError`` (the server said no) or ``ApiUnavailable``
(it said nothing). Only two things are sent again: a request refused with 401, when the credential could be renewed, and one
that the server asks to send again after a while. Called by ``rest.py``, which knows what the bytes mean.
"""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from urllib.parse import quote, urlencode

import httpx2
import trio

from kubelet_secrets.client.answers import read_error
from kubelet_secrets.client.connection import ExchangeTimeouts
from kubelet_secrets.client.credentials import Credentials
from kubelet_secrets.client.http2 import H2Transport, Origin, PlainRequest
from kubelet_secrets.client.kubeconfig import ClusterConfig
from kubelet_secrets.client.proxy import environment_proxy
from kubelet_secrets.errors import ApiUnavailable, TooManyRequests

# At DEBUG hpack prints every header field, bearer tokens included; the others print URLs and frames.
_TALKATIVE = ("hpack", "hyperframe", "httpcore2", "httpx2")

JSON = "application/json"
_SAFE_IN_PATH = "/:@!$&'()*+,;="  # RFC 3986 §3.3; letters, digits and -._~ are safe anyway
WATCHES_ASKED_AT_ONCE = 64
"""Watches whose answer has not begun. Thousands at once would each wait for all others, and time out together."""
REQUEST_TIMEOUT_S = 30.0  # for sending, and between two parts of an answer
HEARTBEAT_TIMEOUT_S = 10.0  # the same for what must be said in time: a lease lasts 40 s
MAX_RETRIES = 10  # of a request that the server is too busy for; client-go's


class Lane(enum.Enum):
    WATCH = "watch"
    OBJECTS = "objects"
    REPORTS = "reports"  # statuses of pods, events
    HEARTBEAT = "heartbeat"  # lease and status of the node: what keeps it alive in the eyes of the cluster


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
        try:
            yield Lanes(transports, credentials, config, user_agent=user_agent)
        except Exception as error:
            # Raised below, outside of the nursery, which would wrap it: callers catch NotFound, not a group of it.
            caught = error
        finally:
            for transport in transports.values():
                await transport.aclose()
            nursery.cancel_scope.cancel()
    if caught is not None:
        raise caught


class Lanes:
    """Made by :func:`open_lanes`; used by any number of tasks.

    Attributes:
        credentials: whose requests these are.
        host: ``host:port``, for messages.
        returns: how often the server has answered after it had not: the ends of outages so far.
    """

    def __init__(
        self,
        transports: Mapping[Lane, H2Transport],
        credentials: Credentials,
        config: ClusterConfig,
        *,
        user_agent: str,
    ) -> None:
        self._transports = transports
        self.credentials = credentials
        self.returns = 0
        self._is_away = False
        self._returned = trio.Event()
        self.host = config.host
        self._asking = trio.Semaphore(WATCHES_ASKED_AT_ONCE)
        self._prefix = httpx2.URL(config.server).raw_path.decode("ascii").rstrip("/")
        # Nothing between us and the server keeps our requests apart but the stream: no cookies, no redirects.
        self._headers = {"accept": JSON, "accept-encoding": "gzip", "user-agent": user_agent}

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
        """Send one request and return the body of its successful answer.

        A server that is too busy and says when to come back (``Retry-After``) is asked again then, :data:`MAX_RETRIES` times;
        one that wants more patience than a request has is not. Source: k8s.io/client-go rest/with_retry.go.
        """
        headers = {"content-type": content_type} if content else {}
        patience_s = _timeout_s(lane)
        for retries_left in reversed(range(MAX_RETRIES + 1)):
            try:
                response = await self.send(
                    lane,
                    method,
                    path,
                    params=params,
                    headers=headers,
                    content=content,
                    read_timeout_s=_timeout_s(lane),
                )
                break
            except TooManyRequests as error:
                if error.retry_after_s is None or error.retry_after_s > patience_s or not retries_left:
                    raise
                patience_s -= error.retry_after_s
                await trio.sleep(error.retry_after_s)
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
        read_timeout_s: float | None,
        content: bytes = b"",
    ) -> httpx2.Response:
        """Send one request and return its successful answer, body unread; the caller closes it.

        Args:
            path: not percent-encoded.
            headers: names in lower case.
            read_timeout_s: between two parts of the answer; None for no limit.
        """
        target = self._prefix + quote(path, safe=_SAFE_IN_PATH)
        if params:
            target = f"{target}?{urlencode(params, quote_via=quote)}"
        length = {"content-length": str(len(content))} if content or method in ("POST", "PUT", "PATCH") else {}
        for may_renew in (True, False):
            authorization = await self.credentials.authorize()
            credential = {} if authorization.header is None else {"authorization": authorization.header}
            request = PlainRequest(
                method=method,
                target=target,
                headers={**self._headers, **headers, **length, **credential},
                body=content,
                timeouts=ExchangeTimeouts(read=read_timeout_s, write=REQUEST_TIMEOUT_S),
            )
            try:
                async with self._asking if lane is Lane.WATCH else nullcontext():
                    with trio.move_on_after(_timeout_s(lane)) as waiting:
                        response = await self._transports[lane].send(request)
                if waiting.cancelled_caught:
                    # A watch's own read timeout is long; its headers are not worth as much patience.
                    raise httpx2.ReadTimeout(f"no answer within {_timeout_s(lane):g} s")
                if response.status_code < 500 and response.status_code != 429:
                    self._note_answer()
                if response.is_success:
                    return response
                try:
                    body = await response.aread()
                finally:
                    await response.aclose()
            except httpx2.HTTPError as error:
                if lane is Lane.HEARTBEAT and isinstance(error, httpx2.TimeoutException):
                    # The connection may be dead, which its PINGs would tell after 45 s: too late for the lease. Upstream's
                    # kubelet closes all of its connections then; here the watches' own PINGs decide about theirs.
                    self._transports[lane].hang_up()
                raise self.unavailable(error) from error
            if response.status_code == 401 and may_renew and await self.credentials.renew(authorization.generation):
                continue
            raise read_error(response.status_code, response.headers, body)
        raise AssertionError("unreachable")

    async def wait_returned(self, seen: int) -> int:
        """Wait for the end of an outage later than the first *seen* ones; what :attr:`returns` is then."""
        while self.returns <= seen:
            await self._returned.wait()
        return self.returns

    def _note_answer(self) -> None:
        if self._is_away:
            self._is_away = False
            self.returns += 1
            self._returned.set()
            self._returned = trio.Event()

    def unavailable(self, error: httpx2.HTTPError) -> ApiUnavailable:
        self._is_away = True
        return ApiUnavailable(f"API server {self.host}: {str(error) or type(error).__name__}")


def _timeout_s(lane: Lane) -> float:
    return HEARTBEAT_TIMEOUT_S if lane is Lane.HEARTBEAT else REQUEST_TIMEOUT_S


def _origin(config: ClusterConfig, credentials: Credentials) -> Origin:
    url = httpx2.URL(config.server)
    is_tls = url.scheme == "https"
    port = url.port or (443 if is_tls else 80)
    return Origin(
        host=url.host,
        port=port,
        make_context=credentials.make_context if is_tls else None,
        server_name=config.tls_server_name,
        proxy=config.proxy or environment_proxy(url.scheme, url.host, port, os.environ),
    )

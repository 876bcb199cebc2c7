"""The ASGI application: from a request to the registry and back to bytes.

One pass for every request: what is it about (``requestinfo``), who asks (``authn``), as whom (``impersonation``), may they
(``authz``), do it (``resource_call``, or starlette's router for what is no resource). No request body, no object and no token
is ever logged; an unexpected exception is logged by type and place only, since its text may quote data.

Source: k8s.io/apiserver pkg/server/config.go, DefaultBuildHandlerChain.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from functools import partial
from urllib.parse import parse_qsl

import trio
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from kubelet_secrets.api.times import parse_go_duration
from kubelet_secrets.apiserver import negotiation, statuses
from kubelet_secrets.apiserver.attributes import User
from kubelet_secrets.apiserver.authn import Authenticators, Credentials
from kubelet_secrets.apiserver.authz import Authorizers
from kubelet_secrets.apiserver.impersonation import impersonate
from kubelet_secrets.apiserver.negotiation import JSON
from kubelet_secrets.apiserver.node_proxy import NodeProxy
from kubelet_secrets.apiserver.pod_locations import COMMANDS, UPGRADES
from kubelet_secrets.apiserver.pod_streams import PodStreams
from kubelet_secrets.apiserver.pod_tunnels import KubeletRefused, PodTunnels
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.request_body import BodyDecoder
from kubelet_secrets.apiserver.requestinfo import RequestInfo, parse_request
from kubelet_secrets.apiserver.resource_call import ResourceCall
from kubelet_secrets.apiserver.reviews import Reviews
from kubelet_secrets.apiserver.subresources import Subresources
from kubelet_secrets.apiserver.upgrades import Upgrade
from kubelet_secrets.errors import ApiError

log = logging.getLogger(__name__)

TEXT = "text/plain; charset=utf-8"
REQUEST_TIMEOUT_S = 60.0  # upstream's --request-timeout


class ApiApplication:
    """See the module's text.

    Args:
        others: answers what is no resource: health, version, discovery, OpenAPI.
    """

    def __init__(
        self,
        registry: Registry,
        subresources: Subresources,
        reviews: Reviews,
        authenticators: Authenticators,
        authorizers: Authorizers,
        others: ASGIApp,
        pod_streams: PodStreams,
        pod_tunnels: PodTunnels,
        node_proxy: NodeProxy,
    ) -> None:
        self._registry = registry
        self._subresources = subresources
        self._reviews = reviews
        self._authenticators = authenticators
        self._authorizers = authorizers
        self._others = others
        self._pod_streams = pod_streams
        self._pod_tunnels = pod_tunnels
        self._node_proxy = node_proxy
        self._decoder = BodyDecoder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            response = await self._respond(Request(scope, receive))
        except ApiError as error:
            response = error_response(error)
        except ClientDisconnect:
            return
        except Exception as error:
            # A task's border: a bug in one request must not take the connection's other streams along.
            _log_bug(error)
            response = error_response(statuses.internal(type(error).__name__))
        try:
            await response(scope, receive, send)
        except ApiError as error:
            # Of a log, whose node is asked only here; nothing was sent.
            await error_response(error)(scope, receive, send)
        except Exception as error:
            # The same, in the middle of an answer: the client is told that it has ended, or it would wait for ever.
            _log_bug(error)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Commands in containers and forwarded ports are what is served over WebSockets."""
        try:
            connection = HTTPConnection(scope)
            pairs = _query(scope)
            # The handshake is a GET, and counts as the POST that does the same: to create is the right it takes.
            # Source: gate AuthorizePodWebsocketUpgradeCreatePermission. Differs: upstream wants the right to get as well,
            # and kubectl goes over to SPDY, which is a POST, from whoever has not got it.
            info, _ = await self._admit(connection, "POST", dict(pairs))
            if not _is_upgradable(info):
                raise statuses.path_not_found()
            if info.subresource in COMMANDS:
                await self._pod_streams.serve_command(info, pairs, scope, receive, send)
            else:
                offered = list(scope.get("subprotocols") or ())
                await self._pod_tunnels.serve_websocket(info, pairs, offered, receive, send)
        except ApiError as error:
            await _refuse_websocket(scope, send, error.code, *_encoded(error))
        except KubeletRefused as refused:
            await _refuse_websocket(scope, send, refused.code, refused.body, TEXT)
        except Exception as error:
            # A task's border, as in __call__.
            _log_bug(error)
            await send({"type": "websocket.close", "code": 1011})

    async def serve_upgrade(self, upgrade: Upgrade) -> None:
        """Answer a request that leaves HTTP for SPDY. Whatever comes of it ends its connection only.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        try:
            pairs = _query(upgrade.scope)
            info, _ = await self._admit(HTTPConnection(upgrade.scope), "POST", dict(pairs))
            if not _is_upgradable(info):
                raise statuses.path_not_found()
            async with self._pod_tunnels.open(info, pairs, upgrade.protocols) as tunnel:
                await upgrade.accept(tunnel.protocol)
                await tunnel.relay(upgrade)
        except ApiError as error:
            await upgrade.refuse(error.code, *_encoded(error))
        except KubeletRefused as refused:
            await upgrade.refuse(refused.code, refused.body, TEXT)
        except trio.BrokenResourceError:
            raise
        except Exception as error:
            # A task's border, as in __call__. Nothing of the answer was sent, or the connection ends in the middle of it.
            _log_bug(error)

    async def _admit(
        self, connection: HTTPConnection, method: str, query: Mapping[str, str]
    ) -> tuple[RequestInfo, User]:
        """Who asks for what; refused here if they may not."""
        info = parse_request(method, connection.scope["path"], query)
        user = await self._authenticators.authenticate(_credentials(connection), info.path)
        user = await impersonate(user, connection.headers.items(), self._authorizers)
        await self._authorizers.check(user, info)
        return info, user

    async def _respond(self, request: Request) -> ASGIApp:
        pairs = _query(request.scope)
        query = dict(pairs)
        info, user = await self._admit(request, request.method, query)
        if not info.is_resource:
            return self._others
        row = info.row
        if row is None:
            if info.verb == "list":
                return self._others  # one list that is empty is there
            raise statuses.path_not_found()
        if info.subresource and all(info.subresource != known.name for known in row.subresources):
            raise statuses.path_not_found()
        if row.kind == "Pod" and info.subresource == "log" and info.verb == "get":
            return partial(self._pod_streams.respond_log, info, pairs)
        if row.kind == "Node" and info.subresource == "proxy":
            if info.verb != "get":
                raise statuses.method_not_allowed(row, info.verb)
            return partial(self._node_proxy.respond, info)
        if row.kind == "Pod" and info.subresource in UPGRADES:
            await self._pod_streams.check(info, pairs)
            raise statuses.bad_request("Upgrade request required")
        parts = (self._registry, self._subresources, self._reviews, self._authorizers, self._decoder)
        call = ResourceCall(*parts, row, info, query, user, request)
        if info.verb == "watch":  # has a time of its own
            return await call.respond()
        with trio.move_on_after(_timeout_s(query)):
            return await call.respond()
        raise statuses.timed_out()


def _is_upgradable(info: RequestInfo) -> bool:
    return (info.group, info.plural) == ("", "pods") and info.subresource in UPGRADES


def _timeout_s(query: Mapping[str, str]) -> float:
    """How long a request may take, to the end of its body and its answer's beginning: what it asks for itself, up to a limit.

    Raises:
        Invalid: 400.

    Source: k8s.io/apiserver pkg/endpoints/filters/request_deadline.go; ``kubectl --request-timeout`` sends it.
    """
    if not (text := query.get("timeout", "")):
        return REQUEST_TIMEOUT_S
    try:
        wanted_s = parse_go_duration(text)
    except ValueError:
        raise statuses.bad_request(
            f'invalid timeout specified in the request URL - failed to parse duration: time: invalid duration "{text}"'
        ) from None
    return min(wanted_s, REQUEST_TIMEOUT_S) if wanted_s > 0 else REQUEST_TIMEOUT_S


def _log_bug(error: Exception) -> None:
    """The text of an exception may quote data, so its type and place have to do."""
    inner: BaseException = error
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    place = traceback.extract_tb(inner.__traceback__)[-1]
    log.error("request failed: %s in %s:%s", type(inner).__name__, place.filename, place.lineno)


def error_response(error: ApiError) -> Response:
    """An error as a ``Status``."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(int(error.retry_after_s))
    return Response(negotiation.encode(statuses.status_body(error), JSON), error.code, media_type=JSON, headers=headers)


def _encoded(error: ApiError) -> tuple[bytes, str]:
    return negotiation.encode(statuses.status_body(error), JSON), JSON


async def _refuse_websocket(scope: Scope, send: Send, code: int, body: bytes, content_type: str) -> None:
    """An error instead of the handshake, where the server can give one."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    headers = [(b"content-type", content_type.encode())]
    await send({"type": "websocket.http.response.start", "status": code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _credentials(request: HTTPConnection) -> Credentials:
    tls = request.scope.get("extensions", {}).get("tls") or {}
    chain = tls.get("client_cert_chain") or ()
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else None
    return Credentials(chain[0] if chain else None, bearer or None)

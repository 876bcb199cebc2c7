"""The ASGI application: from a request to the registry and back to bytes.

One pass for every request: what is it about (``requestinfo``), who asks (``authn``), as whom (``impersonation``), may they
(``authz``), do it (``resource_call``, or starlette's router for what is no resource). No request body, no object and no token
is ever logged; an unexpected exception is logged by type and place only, since its text may quote data.

Source: k8s.io/apiserver pkg/server/config.go, DefaultBuildHandlerChain.
"""

from __future__ import annotations

import logging
import traceback
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from kubelet_secrets.apiserver import negotiation, statuses
from kubelet_secrets.apiserver.authn import Authenticators, Credentials
from kubelet_secrets.apiserver.authz import Authorizers
from kubelet_secrets.apiserver.impersonation import impersonate
from kubelet_secrets.apiserver.negotiation import JSON
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.requestinfo import parse_request
from kubelet_secrets.apiserver.resource_call import ResourceCall
from kubelet_secrets.apiserver.reviews import Reviews
from kubelet_secrets.apiserver.subresources import Subresources
from kubelet_secrets.errors import ApiError

log = logging.getLogger(__name__)


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
    ) -> None:
        self._registry = registry
        self._subresources = subresources
        self._reviews = reviews
        self._authenticators = authenticators
        self._authorizers = authorizers
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
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
        except Exception as error:
            # The same, in the middle of an answer: the client is told that it has ended, or it would wait for ever.
            _log_bug(error)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _respond(self, request: Request) -> ASGIApp:
        query = dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True))
        info = parse_request(request.method, request.scope["path"], query)
        user = await self._authenticators.authenticate(_credentials(request), info.path)
        user = await impersonate(user, request.headers.items(), self._authorizers)
        await self._authorizers.check(user, info)
        if not info.is_resource:
            return self._others
        row = info.row
        if row is None:
            raise statuses.path_not_found()
        if info.subresource and all(info.subresource != known.name for known in row.subresources):
            raise statuses.path_not_found()
        call = ResourceCall(self._registry, self._subresources, self._reviews, row, info, query, user, request)
        return await call.respond()


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


def _credentials(request: Request) -> Credentials:
    tls = request.scope.get("extensions", {}).get("tls") or {}
    chain = tls.get("client_cert_chain") or ()
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else None
    return Credentials(chain[0] if chain else None, bearer or None)

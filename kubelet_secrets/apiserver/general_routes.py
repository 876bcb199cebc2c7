"""Paths that are no resource here: health, version, discovery, OpenAPI, and who signs service account tokens.

Who may read them has been decided before (``default_roles.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from kubelet_secrets.apiserver import discovery, openapi, openapi_v2, statuses
from kubelet_secrets.apiserver.keycount import KeyUse
from kubelet_secrets.apiserver.tokens import TokenIssuer

KUBERNETES_VERSION = "v1.36.0"
"""Whose behaviour this server follows; ``kubectl version`` shows it."""
_HEALTH = ("healthz", "livez", "readyz")


def general_routes(
    is_ready: Callable[[], bool], issuer: TokenIssuer, url: str, count_keys: Callable[[], Sequence[KeyUse]]
) -> Router:
    """The routes.

    Args:
        is_ready: whether the server takes work: false while it starts and once it shuts down.
        issuer: whose key is published.
        url: where this server is reached.
        count_keys: how many stored objects lie under which key.
    """

    async def health(request: Request) -> Response:
        checks = {"ping": True}
        if request.url.path.startswith("/readyz"):
            checks["shutdown"] = is_ready()
        return _health(request, checks)

    async def version(_request: Request) -> Response:
        major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
        return JSONResponse(
            {
                "major": major,
                "minor": minor,
                "gitVersion": f"{KUBERNETES_VERSION}+kubelet-secrets",
                "gitCommit": "",
                "gitTreeState": "clean",
                "buildDate": "",
                "goVersion": "",
                "compiler": "",
                "platform": "linux/amd64",
            }
        )

    async def issuer_configuration(_request: Request) -> Response:
        return JSONResponse(issuer.discovery(url), headers={"cache-control": "public, max-age=3600"})

    async def issuer_keys(_request: Request) -> Response:
        headers = {"cache-control": "public, max-age=3600"}
        return JSONResponse(issuer.jwks(), headers=headers, media_type="application/jwk-set+json")

    async def encryption(_request: Request) -> Response:
        # No path of upstream's: who rotates keys has to know when the old ones may go. For cluster-admin alone.
        return JSONResponse({"objects": [asdict(use) for use in count_keys()]})

    return Router(
        [
            Route("/debug/encryption", encryption),
            *(Route(f"/{name}{below}", health) for name in _HEALTH for below in ("", "/{check}")),
            Route("/version", version),
            Route("/version/", version),
            Route("/.well-known/openid-configuration", issuer_configuration),
            Route("/openid/v1/jwks", issuer_keys),
            Route("/api", _discover),
            Route("/api/{rest:path}", _discover),
            Route("/apis", _discover),
            Route("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", _no_custom_resources),
            Route("/apis/{rest:path}", _discover),
            Route("/openapi/v2", _openapi_v2),
            Route("/openapi/v3", _openapi_index),
            Route("/openapi/v3/{path:path}", _openapi_document),
        ],
        default=_not_found,
        redirect_slashes=False,
    )


def _health(request: Request, checks: Mapping[str, bool]) -> Response:
    """``ok``, or with ``?verbose`` and when something is wrong a line for each check. Source: apiserver healthz.go."""
    name, asked = request.url.path.split("/")[1], request.path_params.get("check")
    if asked is not None:
        if asked not in checks:
            return _not_found_response()
        checks = {asked: checks[asked]}
    is_well = all(checks.values())
    if is_well and "verbose" not in request.query_params:
        return PlainTextResponse("ok")
    lines = [f"[+]{check} ok" if passed else f"[-]{check} failed: reason withheld" for check, passed in checks.items()]
    return PlainTextResponse(
        "\n".join((*lines, f"{name} check {'passed' if is_well else 'failed'}\n")), 200 if is_well else 500
    )


async def _discover(request: Request) -> Response:
    path = request.scope["path"]
    first = request.headers.get("accept", "").partition(",")[0].replace(" ", "")
    if first == discovery.AGGREGATED_MEDIA_TYPE and (everything := discovery.aggregated(path)) is not None:
        return JSONResponse(everything, media_type=discovery.AGGREGATED_MEDIA_TYPE)
    found = discovery.answer(path)
    return JSONResponse(found) if found is not None else _not_found_response()


async def _no_custom_resources(_request: Request) -> Response:
    # There are none, and discovery does not name them. kubectl asks before it creates what cannot be patched, as a
    # TokenReview: without an answer it would not go on to validate the object by itself.
    # Source: k8s.io/cli-runtime/pkg/resource/query_param_verifier.go
    body = {"kind": "CustomResourceDefinitionList", "apiVersion": "apiextensions.k8s.io/v1"}
    return JSONResponse({**body, "metadata": {"resourceVersion": "1"}, "items": []})


async def _openapi_index(_request: Request) -> Response:
    return JSONResponse(openapi.index())


async def _openapi_document(request: Request) -> Response:
    document = openapi.find_document(request.path_params["path"])
    if document is None:
        return _not_found_response()
    return _document_response(request, document, "application/json")


async def _openapi_v2(request: Request) -> Response:
    """As JSON, unless the client would rather have protobuf. Source: kube-openapi pkg/handler, HandleOpenAPI."""
    for part in request.headers.get("accept", "*/*").split(","):
        # Threads, as the first of each takes some tenths of a second to make.
        match part.partition(";")[0].strip():
            case openapi_v2.PROTOBUF | openapi_v2.PROTOBUF_ASKED:
                document = await trio.to_thread.run_sync(openapi_v2.protobuf_document)
                return _document_response(request, document, openapi_v2.PROTOBUF)
            case "application/json" | "application/*" | "*/*":
                document = await trio.to_thread.run_sync(openapi_v2.json_document)
                return _document_response(request, document, "application/json")
    return Response(status_code=406)


def _document_response(request: Request, document: openapi.Document, media_type: str) -> Response:
    # A client that asks by hash may keep the document for good, as the index would name another hash.
    headers = {"etag": f'"{document.hash}"', "vary": "Accept"}
    if request.query_params.get("hash") == document.hash:
        headers["cache-control"] = "public, immutable"
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(document.body, media_type=media_type, headers=headers)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    await _not_found_response()(scope, receive, send)


def _not_found_response() -> Response:
    return JSONResponse(statuses.status_body(statuses.path_not_found()), 404)

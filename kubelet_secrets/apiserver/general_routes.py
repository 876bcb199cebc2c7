"""Paths that are no resource: health and version. Discovery and OpenAPI join here.

Who may read them has been decided before (``authz.PublicPaths``).
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from kubelet_secrets.apiserver import statuses

KUBERNETES_VERSION = "v1.36.0"
"""Whose behaviour this server follows; ``kubectl version`` shows it."""


def general_routes(is_ready: Callable[[], bool]) -> Router:
    """The routes.

    Args:
        is_ready: whether the server takes work: false while it starts and once it shuts down.
    """

    async def health(_request: Request) -> Response:
        return PlainTextResponse("ok")

    async def readiness(_request: Request) -> Response:
        if is_ready():
            return PlainTextResponse("ok")
        return PlainTextResponse("[-]shutdown failed: process is shutting down\nreadyz check failed", 500)

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

    return Router(
        [
            Route("/healthz", health),
            Route("/livez", health),
            Route("/readyz", readiness),
            Route("/version", version),
            Route("/version/", version),
        ],
        default=_not_found,
        redirect_slashes=False,
    )


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    body = statuses.status_body(statuses.path_not_found())
    await JSONResponse(body, 404)(scope, receive, send)

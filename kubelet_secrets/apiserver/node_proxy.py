"""``nodes/proxy``: what a kubelet's own API says, through the API server: ``kubectl get --raw /api/v1/nodes/N/proxy/metrics``.

Only reading, and nothing that leaves HTTP. Answers are passed on as they come, errors of the kubelet's included.

Source: pkg/registry/core/node/rest/proxy.go.
"""

from __future__ import annotations

from urllib.parse import quote

import h11
import trio
from starlette.types import Receive, Scope, Send

from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.kubelet_client import KubeletClient
from kubelet_secrets.apiserver.requestinfo import RequestInfo

_CHUNK_BYTES = 64 * 1024
_KEPT = (b"content-type", b"content-length")


class NodeProxy:
    """Passes requests on to kubelets."""

    def __init__(self, kubelets: KubeletClient) -> None:
        self._kubelets = kubelets

    async def respond(self, info: RequestInfo, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer ``GET nodes/proxy``.

        Raises:
            ApiError: before anything was answered: the node cannot be reached.
        """
        stream, address = await self._kubelets.connect(info.name)
        async with stream:
            machine = h11.Connection(h11.CLIENT)
            query = scope["query_string"]
            target = f"/{quote(info.rest)}".encode() + (b"?" + query if query else b"")
            headers = [("host", f"{address.host}:{address.port}"), ("connection", "close")]
            request = h11.Request(method="GET", target=target, headers=headers)
            try:
                await stream.send_all((machine.send(request) or b"") + (machine.send(h11.EndOfMessage()) or b""))
                response = await _next_event(stream, machine)
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                response = None
            if not isinstance(response, h11.Response):
                raise statuses.internal(f"the kubelet of {info.name} broke the connection")
            kept = [(name, value) for name, value in response.headers if name in _KEPT]
            await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_client, receive, nursery.cancel_scope)
                try:
                    while isinstance(event := await _next_event(stream, machine), h11.Data):
                        await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
                except (trio.BrokenResourceError, h11.RemoteProtocolError):
                    pass  # the node has gone: what was said until then is what there is
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                nursery.cancel_scope.cancel()


async def _watch_client(receive: Receive, scope: trio.CancelScope) -> None:
    """A client that has gone needs no answer: of a log that is followed there is no end."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _next_event(stream: trio.abc.Stream, machine: h11.Connection) -> object:
    while (event := machine.next_event()) is h11.NEED_DATA:
        machine.receive_data(bytes(await stream.receive_some(_CHUNK_BYTES)))
    return event

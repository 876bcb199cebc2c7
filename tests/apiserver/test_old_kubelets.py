"""Commands by way of kubelets that know no WebSocket protocol of today: kubectl is told so by HTTP, and tries SPDY.

Seen of kubectl 1.32 and 1.36 with kubelet 1.20.2: exec, cp and port-forward work. Source: kubectl's NewFallbackExecutor.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from kubelet_secrets.apiserver import pki
from kubelet_secrets.apiserver.process import ServerHandle
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from tests.apiserver.harness import PODS, Http, pod
from tests.podexec import websocket_exec

NODES = "/api/v1/nodes"


async def refuse(stream: trio.SSLStream[trio.SocketStream], answer: bytes) -> None:
    async with stream:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += await stream.receive_some()
        await stream.send_all(answer)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", {"code": 403}, id="knows-no-protocol"),
        pytest.param(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 14\r\n\r\nno such thing\n",
            {"code": 500, "message": "Internal error occurred: unable to upgrade connection: no such thing"},
            id="says-why",
        ),
    ],
)
async def test_a_refusal_without_a_word_is_passed_on(
    server: ServerHandle, admin: Http, tmp_path: Path, answer: bytes, expected: dict[str, object]
) -> None:
    serving = server.authority.issue_server(["old", "127.0.0.1"])
    context = pki.server_context(serving, server.ca_pem)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    ready = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    await admin.post(NODES, {"metadata": {"name": "old"}, "status": ready})
    await admin.post(PODS, pod("p", node="old"))

    async def handle(stream: trio.SocketStream) -> None:
        await refuse(trio.SSLStream(stream, context, server_side=True, https_compatible=True), answer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        kubeconfig = tmp_path / "admin.kubeconfig"
        pki.write_private(kubeconfig, server.admin_kubeconfig())
        done = await websocket_exec(load_kubeconfig(kubeconfig), "default", "p", ["true"])
        nursery.cancel_scope.cancel()
    assert expected.items() <= done.status.items()

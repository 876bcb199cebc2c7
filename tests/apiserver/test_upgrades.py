"""Which requests leave HTTP, told by their head; what is no such request is served as it was."""

from __future__ import annotations

import ssl

import pytest
import trio

from kubelet_secrets.apiserver.process import ServerHandle
from kubelet_secrets.apiserver.upgrades import LARGEST_HEAD_BYTES, is_upgrade, wants_more
from tests.apiserver.harness import client_context

PATH = "/api/v1/namespaces/default/pods/web/portforward"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"POST /x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n", True),
        (b"GET /x HTTP/1.1\r\nconnection:keep-alive, upgrade\r\nupgrade:spdy/3.1\r\n\r\nmore", True),
        (b"POST /x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", False),
        (b"POST /x HTTP/1.1\r\nUpgrade: SPDY/3.1\r\n\r\n", False),
        (b"POST /x HTTP/1.1\r\n\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n", False),
        (b"", False),
    ],
)
def test_is_upgrade(head: bytes, expected: bool) -> None:
    assert is_upgrade(head) is expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"POST /x HTTP/1.1\r\nHost", True),
        (b"GET /x HTTP/1.1\r\n\r\n", False),
        (b"PRI * HTTP/2.0\r\n", False),
        (b"\x16\x03\x01", False),
        (b"GET /" + bytes(LARGEST_HEAD_BYTES), False),
    ],
)
def test_wants_more(head: bytes, expected: bool) -> None:
    assert wants_more(head) is expected


async def ask(server: ServerHandle, context: ssl.SSLContext, *pieces: str) -> str:
    """Send a request in pieces, each on its own, and return all that comes back."""
    tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
    with trio.fail_after(60):
        async with trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True) as stream:
            for piece in pieces:
                await stream.send_all(piece.encode())
            answer = b""
            while data := await stream.receive_some():
                answer += data
    return answer.decode()


async def test_requests_on_http1_connections(server: ServerHandle) -> None:
    admin = client_context(server, server.authority.issue_admin())
    upgrade = (
        "Host: n\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n"
    )
    plain = "Host: n\r\nConnection: close\r\n\r\n"
    assert "HTTP/1.1 200" in await ask(server, admin, "GET /ver", "sion HTTP/1.1\r\nHo", plain.removeprefix("Ho"))
    refused = await ask(server, admin, f"POST {PATH} HT", f"TP/1.1\r\n{upgrade}")
    assert refused.startswith("HTTP/1.1 404 Not Found\r\n")
    assert '"message":"pods \\"web\\" not found"' in refused
    assert "HTTP/1.1 404" in await ask(server, admin, f"POST /api/v1/nodes/n/proxy HTTP/1.1\r\n{upgrade}")
    stranger = client_context(server, None)
    assert "HTTP/1.1 401" in await ask(server, stranger, f"POST {PATH} HTTP/1.1\r\n{upgrade}")

"""The listener over real TLS and HTTP/2: what one connection does to the others, and how the server ends."""

from __future__ import annotations

import ssl

import h2.config
import h2.connection
import httpx2
import pytest
import trio

from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.apiserver.server import MAX_STREAMS
from kubelet_secrets.errors import HostError
from tests.apiserver.harness import SECRETS, Http, http_client, secret


async def _raw_h2(server: ServerHandle) -> tuple[trio.SSLStream[trio.SocketStream], h2.connection.H2Connection]:
    """An HTTP/2 connection without any credential."""
    context = ssl.create_default_context(cadata=server.ca_pem.decode())
    context.set_alpn_protocols(["h2"])
    tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
    stream = trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True)
    await stream.do_handshake()
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    await stream.send_all(connection.data_to_send())
    connection.receive_data(await stream.receive_some(65536))
    return stream, connection


async def _drain(stream: trio.SSLStream[trio.SocketStream]) -> None:
    """Read until the peer closes, however it does."""
    try:
        while await stream.receive_some(65536):
            pass
    except (trio.BrokenResourceError, ssl.SSLError):
        pass


async def test_priority_flood_ends_only_the_attackers_connection(server: ServerHandle, admin: Http) -> None:
    """1,000 PRIORITY frames on idle streams raise out of anycorn's connection task and end its stock server."""
    async with admin.watch(f"{SECRETS}?watch=1") as watch:
        stream, connection = await _raw_h2(server)
        for index in range(1, 1201):
            connection.prioritize(2 * index + 1, weight=10)
        await stream.send_all(connection.data_to_send())
        with trio.fail_after(10):
            await _drain(stream)
        await trio.aclose_forcefully(stream)
        assert (await admin.post(SECRETS, secret("after-the-flood"))).status == 201
        assert (await watch.next())[1]["metadata"]["name"] == "after-the-flood"


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 4096, b"GET / HTTP/1.1\r\n\r\n", b""], ids=["binary", "plain-http", "nothing"]
)
async def test_garbage_instead_of_tls_is_survived(server: ServerHandle, admin: Http, garbage: bytes) -> None:
    tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
    if garbage:
        await tcp.send_all(garbage)
    await tcp.send_eof()
    with trio.fail_after(10):
        try:
            while await tcp.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            pass
    await tcp.aclose()
    assert (await admin.get("/healthz")).body == b"ok"


async def test_one_connection_carries_as_many_watches_as_it_announces(server: ServerHandle, admin: Http) -> None:
    """The last of the announced streams is still served: the watches do not starve the writes beside them."""
    count = MAX_STREAMS - 1
    arrived: list[str] = []

    async def watch_one(task_status: trio.TaskStatus[None]) -> None:
        path = f"{SECRETS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        async with admin.watch(path) as watch:
            assert (await watch.next())[0] == "BOOKMARK"
            task_status.started()
            arrived.append((await watch.next())[1]["metadata"]["name"])

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(0, count, 50):
                async with trio.open_nursery() as opening:
                    for _ in range(50):
                        opening.start_soon(nursery.start, watch_one)
            async with http_client(server, server.authority.issue_admin()) as writer:
                assert (await writer.post(SECRETS, secret("x"))).status == 201
    assert set(arrived) == {"x"}


async def test_shutdown_ends_watches_cleanly_and_returns(admin: Http, server: ServerHandle) -> None:
    async with admin.watch(f"{SECRETS}?watch=1") as watch:
        assert (await admin.post(SECRETS, secret("last"))).status == 201
        server.shut_down()
        with trio.fail_after(10):
            events = await watch.rest()  # a stream cut short would raise
    assert [event["object"]["metadata"]["name"] for event in events] == ["last"]


async def test_port_in_use_is_one_line(server: ServerHandle) -> None:
    with pytest.raises(HostError, match=f"address 127.0.0.1:{server.port} is in use"):
        await serve_apiserver(ServerOptions(port=server.port))


async def test_http1_is_served_too(server: ServerHandle) -> None:
    context = ssl.create_default_context(cadata=server.ca_pem.decode())
    async with httpx2.AsyncClient(verify=context) as client:
        answer = await client.get(f"{server.url}/version")
    assert answer.http_version == "HTTP/1.1"
    assert answer.json()["major"] == "1"


async def test_body_over_the_limit_is_refused(admin: Http) -> None:
    answer = await admin.post(SECRETS, b" " * (3 * 2**20 + 1))
    assert (answer.status, answer.json["reason"]) == (413, "RequestEntityTooLarge")


async def test_idle_clients_disconnect_leaves_no_subscription(server: ServerHandle) -> None:
    async with http_client(server, server.authority.issue_admin()) as client:
        async with client.watch(f"{SECRETS}?watch=1"):
            pass
    hub = server.registry._hub  # the only witness of what the server still holds
    with trio.fail_after(10):
        while any(place[0] == "secrets" for place in hub._subscriptions):  # noqa: ASYNC110 - the server tells nobody
            await trio.sleep(0.01)

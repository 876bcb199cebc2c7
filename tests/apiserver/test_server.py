"""The listener over real TLS and HTTP/2: what one connection does to the others, and how the server ends."""

from __future__ import annotations

import resource
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import httpx2
import priority
import pytest
import trio

from kubelet_secrets.apiserver import pki
from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.apiserver.resources import BY_PATH
from kubelet_secrets.apiserver.roundrobin import RoundRobin
from kubelet_secrets.apiserver.server import MAX_STREAMS
from kubelet_secrets.errors import HostError
from tests.apiserver.harness import SECRETS, Http, http_client, secret


class RawConnection:
    """An HTTP/2 connection without any credential, frame by frame."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))

    async def flush(self) -> None:
        await self._stream.send_all(self.h2.data_to_send())

    async def receive(self) -> list[h2.events.Event]:
        """The next events; none when the server has closed the connection, however it did."""
        try:
            data = await self._stream.receive_some(65536)
        except (trio.BrokenResourceError, ssl.SSLError):
            return []
        return self.h2.receive_data(data) if data else []


@asynccontextmanager
async def raw_connection(server: ServerHandle, *, negotiates: bool = True) -> AsyncIterator[RawConnection]:
    """Args: *negotiates*: by ALPN; else HTTP/2 is simply spoken (RFC 9113, 3.3)."""
    context = ssl.create_default_context(cadata=server.ca_pem.decode())
    if negotiates:
        context.set_alpn_protocols(["h2"])
    tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
    stream = trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True)
    try:
        with trio.fail_after(60):
            await stream.do_handshake()
            connection = RawConnection(stream)
            connection.h2.initiate_connection()
            await connection.flush()
            await connection.receive()
            yield connection
    finally:
        await trio.aclose_forcefully(stream)


def _flood(connection: RawConnection) -> None:
    for index in range(1, 1201):
        connection.h2.prioritize(2 * index + 1, weight=10)


async def test_priority_frames_are_read_and_ignored(server: ServerHandle) -> None:
    """anycorn's own scheduler would raise after 1,000 of them, and end the server with it."""
    async with raw_connection(server) as connection:
        _flood(connection)
        headers = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/healthz")]
        connection.h2.send_headers(4001, headers, end_stream=True)
        await connection.flush()
        bodies = []
        while not bodies:
            bodies = [event.data for event in await connection.receive() if isinstance(event, h2.events.DataReceived)]
    assert bodies == [b"ok"]


async def test_connection_whose_protocol_code_raises_ends_alone(
    server: ServerHandle, admin: Http, caplog: pytest.LogCaptureFixture
) -> None:
    """Without ALPN the stock scheduler is in place, and the flood does break it - for the attacker."""
    async with admin.watch(f"{SECRETS}?watch=1") as watch:
        async with raw_connection(server, negotiates=False) as connection:
            _flood(connection)
            await connection.flush()
            while await connection.receive():
                pass
        assert (await admin.post(SECRETS, secret("after-the-flood"))).status == 201
        assert (await watch.next())[1]["metadata"]["name"] == "after-the-flood"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "connection ended: TooManyStreamsError"
    ]


async def test_server_outlives_a_lack_of_descriptors(server: ServerHandle, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever can connect may take the last one; no credential is asked for before."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = [
        socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)
    ]  # in the backlog: nobody accepts yet
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(client.fileno() for client in clients) + 2, limits[1]))
        with trio.fail_after(60):
            # A log record wakes nobody.
            while "no connection can be accepted: EMFILE" not in caplog.messages:  # noqa: ASYNC110
                await trio.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for client in clients:
            client.close()
    async with http_client(server, server.authority.issue_admin()) as admin:
        assert (await admin.get(SECRETS)).status == 200
    caplog.clear()


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 4096, b"GET / HTTP/1.1\r\n\r\n", b""], ids=["binary", "plain-http", "nothing"]
)
async def test_garbage_instead_of_tls_is_survived(server: ServerHandle, admin: Http, garbage: bytes) -> None:
    tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
    if garbage:
        await tcp.send_all(garbage)
    await tcp.send_eof()
    with trio.fail_after(60):
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
        with trio.fail_after(60):
            events = await watch.rest()  # a stream cut short would raise
    assert [event["object"]["metadata"]["name"] for event in events] == ["last"]


async def test_shutdown_does_not_wait_for_who_does_not_read() -> None:
    """What is being sent to them is behind a shield in the protocol code."""
    row = BY_PATH["", "v1", "configmaps"]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server: ServerHandle = await nursery.start(serve_apiserver, ServerOptions(runs_scheduler=False))
            for number in range(12):  # more than fits into the buffers of two sockets
                large = {"metadata": {"name": f"x{number}"}, "data": {"a": "x" * 1_000_000}}
                await server.registry.create(row, "default", large)
            context = pki.kubelet_client_context(server.authority.issue_admin(), server.ca_pem)
            stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", server.port, ssl_context=context)
            await stream.send_all(b"GET /api/v1/configmaps HTTP/1.1\r\nhost: x\r\n\r\n")
            assert await stream.receive_some(100)  # the answer has begun
            server.shut_down()
    await trio.aclose_forcefully(stream)


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
    hub = server.registry._hub  # the only witness of what the server still holds

    def subscriptions() -> int:
        return sum(len(found) for place, found in hub._subscriptions.items() if place[0] == "secrets")

    before = subscriptions()  # the server's own
    async with http_client(server, server.authority.issue_admin()) as client:
        async with client.watch(f"{SECRETS}?watch=1"):
            assert subscriptions() == before + 1
    with trio.fail_after(60):
        while subscriptions() > before:  # noqa: ASYNC110 - the server tells nobody
            await trio.sleep(0.01)


def test_ready_streams_take_turns() -> None:
    tree = RoundRobin()
    for stream_id in (1, 3, 5):
        tree.insert_stream(stream_id)
    tree.block(3)
    assert [next(tree) for _ in range(4)] == [1, 5, 1, 5]
    tree.unblock(3)
    assert {next(tree) for _ in range(3)} == {1, 3, 5}
    tree.remove_stream(1)
    for stream_id in (3, 5):
        tree.block(stream_id)
    with pytest.raises(priority.DeadlockError):
        next(tree)
    with pytest.raises(priority.MissingStreamError):
        tree.unblock(1)
    with pytest.raises(priority.DuplicateStreamError):
        tree.insert_stream(3)
    tree.reprioritize(99, depends_on=3, weight=1, exclusive=True)
    with pytest.raises(priority.MissingStreamError):
        tree.block(99)

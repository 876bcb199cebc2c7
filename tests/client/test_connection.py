"""What only time shows, on an in-memory stream with a clock that jumps: PING, idle close, a peer that says nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
import trio
import trio.testing

from kubelet_secrets.client.connection import Connection, ExchangeTimeouts
from kubelet_secrets.client.stream import Headers
from tests.client.h2server import H2Server, ServerStream


async def echo(stream: ServerStream) -> None:
    await stream.answer(200, stream.path.encode())


async def never(stream: ServerStream) -> None:
    await trio.sleep_forever()


@asynccontextmanager
async def connected(handler: object) -> AsyncIterator[tuple[Connection, H2Server]]:
    ours, theirs = trio.testing.memory_stream_pair()
    server = H2Server(handler)  # type: ignore[arg-type]
    connection = Connection(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.accept, theirs)
        await nursery.start(connection.run)
        yield connection, server
        nursery.cancel_scope.cancel()


async def get(connection: Connection, path: str = "/x") -> httpx2.Response:
    return await connection.exchange(connection.open_stream(headers(path), has_body=False), b"", ExchangeTimeouts())


def headers(path: str = "/w") -> Headers:
    return [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"api.example"),
        (b":path", path.encode()),
    ]


async def test_quiet_connection_with_a_stream_is_pinged_and_lives(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(never) as (connection, server):
        stream = connection.open_stream(headers(), has_body=False)
        await trio.sleep(3601)
        assert not connection.is_closed
        assert stream.error is None
        assert server.connections[0].pings in range(115, 121)  # each 30 s


async def test_peer_that_answers_no_ping_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(never) as (connection, server):
        stream = connection.open_stream(headers(), has_body=False)
        await trio.testing.wait_all_tasks_blocked()
        server.gate = trio.Event()  # reads one more chunk, then none
        started = trio.current_time()
        with pytest.raises(httpx2.ReadError, match="PING"):
            await stream.wait_headers(None)
        assert 45 <= trio.current_time() - started <= 46 + 30
        assert connection.is_closed


async def test_unused_connection_closes_itself(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(echo) as (connection, _):
        answer = await get(connection)
        assert await answer.aread() == b"/x"
        await trio.sleep(80)
        assert not connection.is_closed
        await trio.sleep(60)
        assert connection.is_closed
        assert connection.free_slots == 0


async def test_peer_that_hangs_up_before_its_settings_fails_the_start() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    connection = Connection(ours)
    await theirs.send_eof()
    async with trio.open_nursery() as nursery:
        with pytest.raises(httpx2.ReadError, match="closed the connection"):
            await nursery.start(connection.run)
    assert connection.is_closed


async def test_garbage_is_a_protocol_error_without_the_garbage_in_it() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"HTTP/1.1 400 canary\r\n\r\n" + bytes(64))
    async with trio.open_nursery() as nursery:
        with pytest.raises(httpx2.RemoteProtocolError) as caught:
            await nursery.start(Connection(ours).run)
    assert "canary" not in str(caught.value)


async def test_streams_are_numbered_and_described() -> None:
    async with connected(never) as (connection, _):
        stream = connection.open_stream(headers(), has_body=False)
        assert repr(stream) == "<ClientStream 1 waiting, 0 bytes buffered>"
        assert repr(connection) == "<Connection open, 1 streams>"
        stream.release()
        stream.release()
        assert repr(connection) == "<Connection open, 0 streams>"
        connection.drain()
        assert connection.is_closed


async def test_cancelled_run_fails_the_streams_and_closes_the_socket() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    server = H2Server(never)
    connection = Connection(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.accept, theirs)
        async with trio.open_nursery() as inner:
            await inner.start(connection.run)
            stream = connection.open_stream(headers(), has_body=False)
            inner.cancel_scope.cancel()
        with pytest.raises(httpx2.ReadError):
            await stream.wait_headers(None)
        with trio.fail_after(60):
            while server.connections:  # noqa: ASYNC110
                await trio.sleep(0.002)

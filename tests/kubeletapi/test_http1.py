"""HTTP/1.1 exchanges over a pair of streams in memory: whole answers, long ones, upgrades, and what is no HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import h11
import pytest
import trio

from kubelet_secrets.kubeletapi.http1 import IDLE_S, LARGEST_BODY_BYTES, Exchange, HttpRequest, serve_connection

CERTIFICATE = {"subject": ((("organizationName", "system:masters"),), (("commonName", "admin"),))}


@asynccontextmanager
async def serving(handler: Callable[[Exchange], Awaitable[None]]) -> AsyncIterator[trio.StapledStream]:
    client, server = trio.testing.memory_stream_pair()

    async def run() -> None:
        await serve_connection(server, handler, certificate=CERTIFICATE)
        await server.aclose()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield client
            nursery.cancel_scope.cancel()


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def read_until(stream: trio.abc.ReceiveStream, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        chunk = await stream.receive_some()
        assert chunk, seen
        seen += chunk
    return seen


async def test_requests_follow_each_other_on_a_connection() -> None:
    seen: list[HttpRequest] = []

    async def handle(exchange: Exchange) -> None:
        seen.append(exchange.request)
        await exchange.respond(200, f"answer {len(seen)}\n")

    async with serving(handle) as client:
        await client.send_all(
            b"POST /a%20b/c?x=1&x=2&y= HTTP/1.1\r\nHost: h\r\nA: 1\r\na: 2\r\nContent-Length: 3\r\n\r\nabc"
        )
        await read_until(client, b"answer 1\n")
        await client.send_all(b"GET /d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert b"answer 2\n" in await read_all(client)
    first, second = seen
    assert (first.method, first.path, dict(first.query)) == ("POST", "/a b/c", {"x": ["1", "2"], "y": [""]})
    assert first.headers["a"] == "1, 2"
    assert first.certificate == CERTIFICATE
    assert (first.first("x"), first.first("z")) == ("1", None)
    assert second.path == "/d"


async def test_long_answer_is_chunked_and_ends_with_the_client() -> None:
    cancelled = trio.Event()

    async def handle(exchange: Exchange) -> None:
        await exchange.begin()
        async with exchange.while_connected():
            await exchange.write(b"first")
            await exchange.write(b"")
            try:
                await trio.sleep_forever()
            finally:
                cancelled.set()

    async with serving(handle) as client:
        await client.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"5\r\nfirst" in await read_until(client, b"first")
        await client.aclose()
        await cancelled.wait()


async def test_request_that_comes_before_a_long_answer_has_ended_is_answered() -> None:
    """kube-apiserver keeps connections: the next request comes the moment it has seen the last chunk. It waited for 30 s."""

    async def handle(exchange: Exchange) -> None:
        if exchange.request.path == "/second":
            await exchange.respond(200, "answered\n")
            return
        await exchange.begin()
        async with exchange.while_connected():
            await exchange.write(b"first")
            await trio.testing.wait_all_tasks_blocked()  # what the client sends now is read by who looks after it
            await exchange.finish()

    async with serving(handle) as client:
        await client.send_all(b"GET /first HTTP/1.1\r\nHost: h\r\n\r\n")
        await read_until(client, b"first")
        await client.send_all(b"GET /second HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"\r\n\r\nHTTP/1.1 200" in await read_until(client, b"answered\n")


async def test_client_that_talks_on_through_a_long_answer_is_left(autojump_clock: trio.testing.MockClock) -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.begin()
        async with exchange.while_connected():
            await trio.sleep_forever()

    async with serving(handle) as client:
        await client.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await read_until(client, b"\r\n\r\n")
        await client.send_all(b"x" * 70_000)
        assert await read_all(client) == b""


async def test_upgrade_hands_out_the_stream_with_what_came_early() -> None:
    async def handle(exchange: Exchange) -> None:
        assert exchange.request.is_upgrade_to("spdy/3.1")
        assert not exchange.request.is_upgrade_to("websocket")
        stream = await exchange.upgrade([("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")])
        got = b""
        while len(got) < 9:
            got += await stream.receive_some(4)
        await stream.send_all(b"echo " + got)
        await stream.aclose()

    async with serving(handle) as client:
        head = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
        await client.send_all(head + b"early")
        answer = await read_until(client, b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 Switching Protocols")
        await client.send_all(b"late")
        assert await read_all(client) == b"echo earlylate"


async def test_upgraded_stream_is_idle_when_nothing_goes_either_way(autojump_clock: trio.testing.MockClock) -> None:
    ended_at: list[float] = []

    async def handle(exchange: Exchange) -> None:
        stream = await exchange.upgrade([("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")])
        async with trio.open_nursery() as nursery:

            async def echo() -> None:
                while data := await stream.receive_some(100):
                    await stream.send_all(data)

            nursery.start_soon(echo)
            await exchange.wait_idle(1.0)
            ended_at.append(trio.current_time())
            nursery.cancel_scope.cancel()
        await stream.aclose()

    async with serving(handle) as client:
        await client.send_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
        await read_until(client, b"\r\n\r\n")
        started_at = trio.current_time()
        for _ in range(3):
            await trio.sleep(0.6)
            await client.send_all(b"x")
            await client.receive_some(1)
        assert await read_all(client) == b""
    assert ended_at == [pytest.approx(started_at + 3 * 0.6 + 1.0)]


async def test_no_request_follows_a_refused_upgrade() -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.respond(403, "no\n")

    async with serving(handle) as client:
        await client.send_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
        assert (await read_until(client, b"no\n")).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 70_000, b"431"),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n" + bytes(LARGEST_BODY_BYTES + 1), b"413"),
    ],
)
async def test_what_is_refused(request_bytes: bytes, status: bytes) -> None:
    async def handle(exchange: Exchange) -> None:
        raise AssertionError

    async with serving(handle) as client:
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                try:
                    await client.send_all(request_bytes)
                except trio.BrokenResourceError:
                    pass

            nursery.start_soon(send)
            assert (await read_until(client, b"\r\n\r\n")).startswith(b"HTTP/1.1 " + status)


async def test_head_gets_no_body() -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.respond(200, "body")

    async with serving(handle) as client:
        await client.send_all(b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert (await read_all(client)).endswith(b"\r\n\r\n")


async def test_silent_connection_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    async def handle(exchange: Exchange) -> None:
        raise AssertionError

    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, server, handle)
        await trio.sleep(IDLE_S + 1)
    await client.aclose()


def test_handshake_machine_is_the_one_we_know() -> None:
    """``upgrade`` relies on trailing data being there for an upgraded connection."""
    machine = h11.Connection(h11.SERVER)
    machine.receive_data(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nrest")
    assert isinstance(machine.next_event(), h11.Request)
    assert isinstance(machine.next_event(), h11.EndOfMessage)
    machine.send(h11.InformationalResponse(status_code=101, headers=[]))
    assert machine.trailing_data == (b"rest", False)

"""The transport against a real HTTP/2 server over TLS, in this process."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import h2.errors
import httpx2
import pytest
import trio

from kubelet_secrets.client.http2 import H2Transport, Origin
from tests.client.h2server import H2Server, ServerStream, client_context, eventually, serve, server_context


@asynccontextmanager
async def transport_to(server: H2Server, **options: object) -> AsyncIterator[tuple[H2Transport, httpx2.AsyncClient]]:
    origin = Origin(host="127.0.0.1", port=server.port, make_context=client_context)
    async with trio.open_nursery() as nursery:
        transport = H2Transport(nursery, origin, **options)  # type: ignore[arg-type]
        async with httpx2.AsyncClient(transport=transport, base_url=server.url, timeout=60) as client:
            yield transport, client
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def watching(client: httpx2.AsyncClient, path: str) -> AsyncIterator[AsyncGenerator[bytes]]:
    """GET *path*; the block has the parts of the body as they arrive."""
    async with client.stream("GET", path, timeout=None) as answer, aclosing(aiter(answer.stream)) as body:  # type: ignore
        yield body


async def echo(stream: ServerStream) -> None:
    await stream.complete.wait()
    await stream.answer(200, stream.body or stream.path.encode())


class Watches:
    """A handler whose GETs stay open; :meth:`tell` sends one of them a line."""

    def __init__(self) -> None:
        self.channels: dict[str, trio.MemorySendChannel[bytes]] = {}

    async def __call__(self, stream: ServerStream) -> None:
        send, receive = trio.open_memory_channel[bytes](10)
        self.channels[stream.path] = send
        await stream.respond()
        async for line in receive:
            await stream.send(line)

    async def tell(self, path: str, line: bytes) -> None:
        await eventually(lambda: path in self.channels)
        await self.channels[path].send(line)


async def test_request_and_answer() -> None:
    with trio.fail_after(60):
        async with serve(echo) as server, transport_to(server) as (_, client):
            answer = await client.post("/x?a=b", content=b"hello")
    assert (answer.status_code, answer.content, answer.http_version) == (200, b"hello", "HTTP/2")
    [stream] = server.seen
    assert stream.headers[":authority"] == f"127.0.0.1:{server.port}"
    assert stream.path == "/x?a=b"
    assert "host" not in stream.headers


async def test_event_on_one_of_300_idle_watches_arrives() -> None:
    """What httpx2's own pool cannot do: the task that reads for the connection must not be one of the waiting ones."""
    watches = Watches()
    got: dict[int, bytes] = {}
    with trio.fail_after(60):
        async with serve(watches, max_streams=500) as server, transport_to(server) as (transport, client):
            async with trio.open_nursery() as nursery:

                async def watch(number: int) -> None:
                    async with watching(client, f"/{number}") as body:
                        got[number] = await anext(body)

                for number in range(300):
                    nursery.start_soon(watch, number)
                await server.wait_open_streams(300)
                assert len(transport.connections) == 1
                await watches.tell("/117", b"x")
                await server.wait_open_streams(299)
                assert got == {117: b"x"}
                # The connection still works for others, and the answered watch gave its slot back.
                assert transport.connections[0].open_streams == 299
                nursery.cancel_scope.cancel()
            await server.wait_open_streams(0)
            assert transport.connections[0].open_streams == 0


async def test_full_connection_makes_the_next_one() -> None:
    watches = Watches()
    with trio.fail_after(60):
        async with serve(watches, max_streams=100) as server, transport_to(server) as (transport, client):
            async with trio.open_nursery() as nursery:
                for number in range(250):
                    nursery.start_soon(hold, client, f"/{number}")
                await server.wait_open_streams(250)
                assert [connection.open_streams for connection in transport.connections] == [100, 100, 50]
                assert server.accepted == 3
                nursery.cancel_scope.cancel()
    assert server.errors == []


async def hold(client: httpx2.AsyncClient, path: str) -> None:
    async with watching(client, path) as body:
        async for _ in body:
            pass


async def test_too_many_connections_is_a_pool_timeout() -> None:
    with trio.fail_after(60):
        async with serve(Watches(), max_streams=1) as server, transport_to(server, max_connections=2) as (_, client):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hold, client, "/1")
                nursery.start_soon(hold, client, "/2")
                await server.wait_open_streams(2)
                with pytest.raises(httpx2.PoolTimeout):
                    await client.get("/3")
                nursery.cancel_scope.cancel()


async def test_server_that_allows_no_stream_is_refused() -> None:
    with trio.fail_after(60):
        async with serve(echo, max_streams=0) as server, transport_to(server) as (_, client):
            with pytest.raises(httpx2.ConnectError, match="allows no streams"):
                await client.get("/")


async def test_closing_an_answer_resets_its_stream() -> None:
    with trio.fail_after(60):
        async with serve(Watches()) as server, transport_to(server) as (_, client):
            async with client.stream("GET", "/w") as answer:
                assert answer.status_code == 200
            await server.wait_open_streams(0)
    assert server.seen[0].reset_code == h2.errors.ErrorCodes.CANCEL


async def test_goaway_lets_seen_streams_finish_and_resends_the_others() -> None:
    """Streams up to last_stream_id run on, later ones go to a new connection, and the old one closes when empty."""
    watches = Watches()
    got: list[bytes] = []
    bodies: list[bytes] = []

    async def handler(stream: ServerStream) -> None:
        if stream.path.startswith("/slow"):
            if stream.connection is old:
                await trio.sleep_forever()  # the server that goes away never gets to it
            await stream.answer(200, b"second")
        else:
            await watches(stream)

    with trio.fail_after(60):
        async with serve(handler) as server, transport_to(server) as (transport, client):
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    async with watching(client, "/w") as body:
                        got.append(await anext(body))

                async def slow() -> None:
                    bodies.append((await client.get("/slow")).content)

                nursery.start_soon(watch)
                await server.wait_open_streams(1)
                [old] = server.connections
                seen = next(iter(old.streams))
                nursery.start_soon(slow)
                await server.wait_open_streams(2)
                await old.goaway(seen)
                await eventually(lambda: bool(bodies))
                assert server.accepted == 2
                await watches.tell("/w", b"still here")
                # The last stream of the old connection ends, and with it the connection.
                await eventually(lambda: old not in server.connections)
            assert got == [b"still here"]
            assert bodies == [b"second"]
            assert len(transport.connections) == 1


async def test_refused_stream_is_sent_again() -> None:
    async def handler(stream: ServerStream) -> None:
        if len(server.seen) == 1:
            await stream.reset(h2.errors.ErrorCodes.REFUSED_STREAM)
        else:
            await echo(stream)

    with trio.fail_after(60):
        async with serve(handler) as server, transport_to(server) as (_, client):
            assert (await client.post("/", content=b"body")).content == b"body"
    assert len(server.seen) == 2


async def test_refusing_for_ever_is_an_error() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.reset(h2.errors.ErrorCodes.REFUSED_STREAM)

    with trio.fail_after(60):
        async with serve(handler) as server, transport_to(server) as (_, client):
            with pytest.raises(httpx2.RemoteProtocolError, match="refused"):
                await client.get("/")
    assert len(server.seen) == 4


async def test_server_death_fails_every_stream_and_the_next_request_reconnects() -> None:
    watches = Watches()
    failures: list[Exception] = []
    with trio.fail_after(60):
        async with serve(watches) as server, transport_to(server) as (_, client):
            async with trio.open_nursery() as nursery:

                async def watch(number: int) -> None:
                    try:
                        await hold(client, f"/{number}")
                    except httpx2.TransportError as error:
                        failures.append(error)

                for number in range(5):
                    nursery.start_soon(watch, number)
                await server.wait_open_streams(5)
                server.connections[0].kill()
            assert [type(failure) for failure in failures] == [httpx2.ReadError] * 5
            assert len({id(failure) for failure in failures}) == 5
            server.handler = echo
            assert (await client.get("/again")).content == b"/again"


async def test_reset_by_the_server_fails_that_stream_only() -> None:
    watches = Watches()

    async def handler(stream: ServerStream) -> None:
        if stream.path == "/bad":
            await stream.respond()
            await stream.send(b"half")
            await stream.reset(h2.errors.ErrorCodes.INTERNAL_ERROR)
        else:
            await watches(stream)

    with trio.fail_after(60):
        async with serve(handler) as server, transport_to(server) as (_, client):
            async with watching(client, "/good") as good:
                async with watching(client, "/bad") as bad:
                    assert await anext(bad) == b"half"
                    with pytest.raises(httpx2.RemoteProtocolError, match="INTERNAL_ERROR"):
                        await anext(bad)
                await watches.tell("/good", b"fine")
                assert await anext(good) == b"fine"


async def test_unread_stream_stops_at_its_window_and_others_go_on() -> None:
    """Back-pressure: the server is stopped by the window, memory is bounded by it, other streams are not held up."""
    sent = 0

    async def handler(stream: ServerStream) -> None:
        nonlocal sent
        if stream.path == "/big":
            await stream.respond()
            while sent < 2**21:
                await stream.send(bytes(16384))
                sent += 16384
            await stream.end()
        else:
            await echo(stream)

    with trio.fail_after(60):
        async with serve(handler) as server, transport_to(server) as (_, client):
            async with watching(client, "/big") as big:
                for _ in range(5):
                    assert (await client.get("/small")).status_code == 200
                assert sent <= 256 * 1024
                total = 0
                async for part in big:
                    assert len(part) <= 256 * 1024
                    total += len(part)
                assert total == 2**21


async def test_upload_waits_for_the_servers_window() -> None:
    body = bytes(range(256)) * 4096  # 1 MiB against windows of 64 KiB
    with trio.fail_after(60):
        async with serve(echo) as server, transport_to(server) as (_, client):
            answer = await client.post("/", content=body)
    assert answer.content == body


async def test_upload_the_server_does_not_take_times_out() -> None:
    with trio.fail_after(60):
        async with serve(echo) as server, transport_to(server) as (transport, client):
            server.acknowledges = False
            with pytest.raises(httpx2.WriteTimeout):
                await client.post("/", content=bytes(2**20), timeout=httpx2.Timeout(60, write=0.2))
            await server.wait_open_streams(0)
            assert transport.connections[0].open_streams == 0


async def test_answer_before_the_upload_ends_is_delivered() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.answer(413, b"too large")

    with trio.fail_after(60):
        async with serve(handler) as server, transport_to(server) as (transport, client):
            server.acknowledges = False
            answer = await client.post("/", content=bytes(2**20))
            assert (answer.status_code, answer.content) == (413, b"too large")
            assert transport.connections[0].open_streams == 0


async def test_read_timeout_resets_the_stream() -> None:
    with trio.fail_after(60):
        async with serve(Watches()) as server, transport_to(server) as (_, client):
            with pytest.raises(httpx2.ReadTimeout):
                await client.get("/w", timeout=httpx2.Timeout(60, read=0.2))
            await server.wait_open_streams(0)


@pytest.mark.parametrize("checkpoint", range(8))
async def test_cancelled_request_leaves_no_stream(checkpoint: int) -> None:
    """Cancel after the n-th schedule point, wherever that is: connecting, uploading, waiting, reading."""

    async def handler(stream: ServerStream) -> None:
        await stream.complete.wait()
        await stream.respond()
        await stream.send(b"x" * 1000)
        await trio.sleep_forever()

    with trio.fail_after(60):
        async with serve(handler) as server, transport_to(server) as (transport, client):
            reached = trio.Event()
            scope = trio.CancelScope()

            async def request() -> None:
                with scope:
                    reached.set()
                    await client.post("/", content=bytes(200_000))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(request)
                await reached.wait()
                for _ in range(checkpoint * 3):
                    await trio.sleep(0.002)
                scope.cancel()
            await server.wait_open_streams(0)
            for connection in transport.connections:
                assert connection.open_streams == 0
                assert not connection.is_closed
            server.handler = echo
            assert (await client.get("/after")).content == b"/after"
    assert server.errors == []


async def test_cancelling_the_first_request_does_not_fail_those_waiting_for_its_connection() -> None:
    with trio.fail_after(60):
        async with serve(echo) as server, transport_to(server) as (_, client):
            answers: list[bytes] = []
            async with trio.open_nursery() as nursery:
                first = trio.CancelScope()

                async def cancelled() -> None:
                    with first:
                        await client.get("/first")

                async def waiting() -> None:
                    answers.append((await client.get("/second")).content)

                nursery.start_soon(cancelled)
                nursery.start_soon(waiting)
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                first.cancel()
            assert answers == [b"/second"]
            assert server.accepted == 1


async def test_refused_connection_names_the_reason() -> None:
    async with serve(echo) as server:
        pass
    with trio.fail_after(60):
        async with transport_to(server) as (_, client):
            with pytest.raises(httpx2.ConnectError, match="connection refused"):
                await client.get("/")


async def test_wrong_certificate_names_the_reason() -> None:
    context = server_context(names=("elsewhere.example",))
    with trio.fail_after(60):
        async with serve(echo, context=context) as server, transport_to(server) as (_, client):
            with pytest.raises(httpx2.ConnectError, match=r"certificate verify failed.*mismatch"):
                await client.get("/")


async def test_server_name_overrides_the_host() -> None:
    context = server_context(names=("kubernetes",))
    with trio.fail_after(60):
        async with serve(echo, context=context) as server, trio.open_nursery() as nursery:
            make = client_context
            origin = Origin(host="127.0.0.1", port=server.port, make_context=make, server_name="kubernetes")
            async with httpx2.AsyncClient(transport=H2Transport(nursery, origin), base_url=server.url) as client:
                assert (await client.get("/x")).content == b"/x"
            nursery.cancel_scope.cancel()


async def test_connecting_to_a_silent_server_times_out() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(functools.partial(trio.serve_tcp, silent, 0, host="127.0.0.1"))
            server = H2Server(echo)
            server.port = listener.socket.getsockname()[1]
            async with transport_to(server, connect_timeout_s=0.2) as (_, client):
                with pytest.raises(httpx2.ConnectTimeout):
                    await client.get("/")
            nursery.cancel_scope.cancel()


async def test_drain_moves_to_a_new_connection() -> None:
    watches = Watches()
    with trio.fail_after(60):
        async with serve(watches) as server, transport_to(server) as (transport, client):
            async with watching(client, "/old") as old:
                transport.drain()
                async with watching(client, "/new"):
                    assert server.accepted == 2
                await watches.tell("/old", b"x")
                assert await anext(old) == b"x"
            await eventually(lambda: len(server.connections) == 1)


async def test_http11_server_is_spoken_to_over_http11() -> None:
    async def serve_once(tcp: trio.SocketStream) -> None:
        tls = trio.SSLStream(tcp, server_context(("http/1.1",)), server_side=True, https_compatible=True)
        data = b""
        while b"\r\n\r\n" not in data:
            part = await tls.receive_some(4096)
            if not part:
                return
            data += bytes(part)
        await tls.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await tls.aclose()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(functools.partial(trio.serve_tcp, serve_once, 0, host="127.0.0.1"))
            server = H2Server(echo)
            server.port = listener.socket.getsockname()[1]
            async with transport_to(server) as (_, client):
                for _ in range(2):
                    answer = await client.get("/")
                    assert (answer.content, answer.http_version) == (b"hello", "HTTP/1.1")
            nursery.cancel_scope.cancel()

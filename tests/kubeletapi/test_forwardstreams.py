"""Pairs of streams as dialogues: frames in, frames out. Source: k8s.io/cri-streaming, portforward/httpstream_test.go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from kubelet_secrets.kubeletapi.forwardstreams import Forward, ForwardStreams, StreamRefused, parse_port
from kubelet_secrets.kubeletapi.spdy import Data, Frame, PingFrame, Reset, SpdyMachine, SynReply


class Client:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._pending: list[Frame] = []
        self.machine = SpdyMachine()

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def open(self, number: int, **headers: str) -> None:
        await self.send(self.machine.syn_stream(number, headers))

    async def next(self) -> Frame:
        while not self._pending:
            data = await self._stream.receive_some()
            assert data
            self._pending += self.machine.receive(bytes(data))
        return self._pending.pop(0)


@asynccontextmanager
async def connection(served: list[Forward] | None = None) -> AsyncIterator[Client]:
    """A client of a pod that says "port: …" and then gives back what it is told until it is told "break"."""

    async def serve(forward: Forward) -> str:
        if served is not None:
            served.append(forward)
        await streams.send(forward, f"port {forward.port}".encode())
        while data := await forward.receive():
            if data == b"break":
                return "broken"
            await streams.send(forward, data)
        return ""

    ours, theirs = memory_stream_pair()
    streams = ForwardStreams(theirs, serve, described="default/web")
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(streams.run)
            yield Client(ours)
            await ours.aclose()


async def test_one_connection() -> None:
    async with connection() as client:
        await client.open(1, streamType="error", port="80", requestID="0")
        assert await client.next() == SynReply(1, {})
        await client.open(3, streamType="data", port="80", requestID="0")
        assert await client.next() == SynReply(3, {})
        assert await client.next() == Data(3, b"port 80")
        await client.send(client.machine.data(1, b"", is_last=True))  # as kubectl does; says nothing
        await client.send(client.machine.data(3, b"hello"))
        assert await client.next() == Data(3, b"hello")
        await client.send(client.machine.ping(7))
        assert await client.next() == PingFrame(7)
        await client.send(client.machine.data(3, b"", is_last=True))
        assert [await client.next(), await client.next()] == [Data(3, b"", True), Data(1, b"", True)]


async def test_connections_side_by_side_and_why_one_broke() -> None:
    async with connection() as client:
        for number, request in ((1, "0"), (5, "1")):
            await client.open(number, streamType="error", port="80", requestID=request)
            await client.open(number + 2, streamType="data", port="81", requestID=request)
            assert [await client.next() for _ in range(3)] == [
                SynReply(number, {}),
                SynReply(number + 2, {}),
                Data(number + 2, b"port 81"),
            ]
        await client.send(client.machine.data(3, b"break"))
        assert [await client.next() for _ in range(3)] == [Data(3, b"", True), Data(1, b"broken"), Data(1, b"", True)]
        await client.send(client.machine.data(7, b"hello"))
        assert await client.next() == Data(7, b"hello")


async def test_old_client_without_request_ids() -> None:
    async with connection() as client:
        await client.open(1, streamType="error", port="80")
        await client.open(3, streamType="data", port="80")
        assert [await client.next() for _ in range(3)] == [SynReply(1, {}), SynReply(3, {}), Data(3, b"port 80")]


async def test_client_that_wants_no_more() -> None:
    """kubectl resets the data stream once its own side is closed, and waits for the end of the error stream."""
    served: list[Forward] = []
    async with connection(served) as client:
        await client.open(1, streamType="error", port="80", requestID="0")
        await client.open(3, streamType="data", port="80", requestID="0")
        assert [await client.next() for _ in range(3)] == [SynReply(1, {}), SynReply(3, {}), Data(3, b"port 80")]
        await client.send(client.machine.reset(3, 5))
        assert await client.next() == Data(1, b"", True)
        await wait_all_tasks_blocked()
        assert served[0].scope.cancelled_caught


async def test_half_a_pair(autojump_clock: MockClock) -> None:
    async with connection() as client:
        await client.open(1, streamType="error", port="80", requestID="0")
        assert await client.next() == SynReply(1, {})
        assert await client.next() == Data(1, b"(request=0) timed out waiting for streams")
        assert await client.next() == Data(1, b"", True)


async def test_refused_streams() -> None:
    async with connection() as client:
        await client.open(1, streamType="error", port="80", requestID="0")
        assert await client.next() == SynReply(1, {})
        for number, headers in enumerate(
            (
                {"streamType": "error", "port": "80", "requestID": "0"},
                {"streamType": "stdin", "port": "80"},
                {"port": "80"},
            )
        ):
            await client.open(2 * number + 3, **headers)
            assert await client.next() == Reset(2 * number + 3)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", '"port" header is required'),
        ("x", 'unable to parse "x" as a port'),
        ("65536", 'unable to parse "65536" as a port'),
        ("-1", 'unable to parse "-1" as a port'),
        ("0", 'port "0" must be > 0'),
    ],
)
def test_ports(text: str, problem: str) -> None:
    with pytest.raises(StreamRefused, match=problem):
        parse_port(text)

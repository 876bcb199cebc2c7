"""``kubectl port-forward`` to a real container: by kubectl, by both ways to the API server, and straight to the kubelet."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Event
from wsproto.events import Request as Handshake

from kubelet_secrets.client.kubeconfig import load_kubeconfig, ssl_context
from kubelet_secrets.kubeletapi.spdy import Data, SpdyMachine, SynReply
from tests.apiserver.kubectl import find_kubectl
from tests.e2e.stacks import Cluster, container
from tests.e2e.test_kubelet_api import kubelet_stream, unique

_PATH = find_kubectl()
needs_kubectl = pytest.mark.skipif(_PATH is None, reason="needs kubectl 1.27 or later on PATH")

# Says again whatever it is told, to the other side's end.
ECHO = "nc -ll -p 7777 -e cat & trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"
HEAD = "Host: n\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n"


@pytest.fixture
async def echo(cluster: Cluster) -> str:
    """A pod that echoes at port 7777."""
    name = unique("echo")
    # At the start alone: the pod stays, and so would a command each second.
    probe = {"exec": {"command": ["sh", "-c", "netstat -ltn | grep :7777"]}, "periodSeconds": 1, "failureThreshold": 60}
    await cluster.run_pod(name, container(script=ECHO, startupProbe=probe))
    return name


# --- kubectl ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def port_forward(
    cluster: Cluster, pod: str, port: int, *, websockets: bool
) -> AsyncIterator[tuple[int, trio.Process]]:
    """A running ``kubectl port-forward`` and the local port it took. Its standard error goes to *process.stderr*."""
    command = [str(_PATH), f"--kubeconfig={cluster.stack.kubeconfig}", "port-forward", f"pod/{pod}", f":{port}"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    environment["KUBECTL_PORT_FORWARD_WEBSOCKETS"] = "true" if websockets else "false"
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True
    )
    try:
        with trio.fail_after(60):
            assert process.stdout is not None
            said = ""
            while not (found := re.search(r"127\.0\.0\.1:(\d+) -> ", said)):
                piece = await process.stdout.receive_some()
                assert piece, f"it ended: {said} {await process.stderr.receive_some() if process.stderr else ''}"
                said += piece.decode()
            yield int(found[1]), process
    finally:
        process.kill()
        await process.wait()


async def say(port: int, data: bytes) -> bytes:
    """Send *data* to a local port, close that side, and return all that comes back."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream, trio.open_nursery() as nursery:

        async def send() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        nursery.start_soon(send)
        answer = b""
        while piece := await stream.receive_some():
            answer += piece
    return answer


@pytest.mark.kubectl
@needs_kubectl
@pytest.mark.parametrize("websockets", [True, False], ids=["websockets", "spdy"])
async def test_kubectl_port_forward(cluster: Cluster, echo: str, websockets: bool) -> None:
    async with port_forward(cluster, echo, 7777, websockets=websockets) as (port, _):
        data = os.urandom(300_000)
        assert await say(port, data) == data
        answers: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            answers[number] = await say(port, b"%d" % number)

        async with trio.open_nursery() as nursery:  # side by side, over one connection
            for number in range(5):
                nursery.start_soon(ask, number)
        assert answers == {number: b"%d" % number for number in range(5)}


@pytest.mark.kubectl
@needs_kubectl
async def test_kubectl_port_forward_to_where_nobody_listens(cluster: Cluster, echo: str) -> None:
    async with port_forward(cluster, echo, 7778, websockets=True) as (port, process):
        assert await say(port, b"") == b""
        assert process.stderr is not None
        told = b""
        while b"refused" not in told:
            piece = await process.stderr.receive_some()
            assert piece, told
            told += piece
    assert b"error forwarding port 7778 to pod" in told
    assert b"failed to connect to localhost:7778 inside namespace" in told


# --- without it: the three doors ----------------------------------------------------------------------------------------


class Client:
    """A SPDY client of ``portforward.k8s.io``, over whatever carries its bytes."""

    def __init__(
        self, receive: Callable[[], Awaitable[bytes]], send: Callable[[bytes], Awaitable[None]], rest: bytes = b""
    ) -> None:
        self._receive = receive
        self._send = send
        self._machine = SpdyMachine()
        self._frames = list(self._machine.receive(rest))
        self._next_id = 1

    async def say(self, port: int) -> tuple[bytes, bytes]:
        """Make a connection and say hello over it: what comes back, and the error."""
        ids = {"error": self._next_id, "data": self._next_id + 2}
        self._next_id += 4
        for kind, number in ids.items():
            headers = {"port": str(port), "requestID": str(ids["error"]), "streamType": kind}
            await self._send(self._machine.syn_stream(number, headers))
        await self._send(self._machine.data(ids["error"], b"", is_last=True))
        await self._send(self._machine.data(ids["data"], b"hello", is_last=True))
        said = dict.fromkeys(ids.values(), b"")
        opened = set()
        while True:
            for frame in self._frames:
                if isinstance(frame, SynReply):
                    opened.add(frame.stream_id)
                elif isinstance(frame, Data):
                    said[frame.stream_id] += frame.data
            is_ended = any(
                isinstance(each, Data) and each.stream_id == ids["error"] and each.is_last for each in self._frames
            )
            self._frames = []
            if is_ended:
                break
            data = await self._receive()
            assert data, said
            self._frames += self._machine.receive(bytes(data))
        assert opened == set(ids.values())
        return said[ids["data"]], said[ids["error"]]


async def upgrade(stream: trio.abc.Stream, path: str, headers: str = HEAD) -> tuple[bytes, Client]:
    """The whole answer, and who goes on from there if it is 101."""
    await stream.send_all(f"POST {path} HTTP/1.1\r\n{headers}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer and (piece := await stream.receive_some()):
        answer += piece
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        while b"Content-Length: 0" not in head and not rest:
            rest += await stream.receive_some()
        return head + b"\r\n\r\n" + rest, Client(stream.receive_some, stream.send_all)  # type: ignore[arg-type]
    return head, Client(stream.receive_some, stream.send_all, rest)  # type: ignore[arg-type]


async def test_straight_to_the_kubelet(cluster: Cluster, echo: str) -> None:
    async with kubelet_stream(cluster) as stream:
        head, client = await upgrade(stream, f"/portForward/default/{echo}")
        assert b"x-stream-protocol-version: portforward.k8s.io" in head.lower()
        assert await client.say(7777) == (b"hello", b"")
        data, error = await client.say(7779)
        assert data == b""
        assert re.fullmatch(
            rb'error forwarding port 7779 to pod (\S+), uid : failed to execute portforward in network namespace "\S+/net": '
            rb'failed to connect to localhost:7779 inside namespace "\1", IPv4: dial tcp4 127.0.0.1:7779: connect: connection '
            rb"refused IPv6 dial tcp6 \[::1\]:7779: connect: [a-z ]+ ",
            error,
        )
        assert await client.say(7777) == (b"hello", b"")


async def test_refused_by_the_kubelet(cluster: Cluster, echo: str) -> None:
    for path, headers, code, text in (
        ("default/nobody", HEAD, 404, "pod does not exist"),
        (f"default/{echo}/other", HEAD, 404, "pod not found"),
        (f"default/{echo}", "Host: n\r\n", 400, "unable to upgrade: missing upgrade headers"),
        (f"default/{echo}", HEAD.replace("portforward.k8s.io", "v9"), 403, "client supports [v9], server accepts"),
    ):
        async with kubelet_stream(cluster) as stream:
            answer, _ = await upgrade(stream, f"/portForward/{path}", headers)
        assert int(answer.split()[1]) == code
        assert text in answer.decode()


@asynccontextmanager
async def server_stream(cluster: Cluster) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
    """A connection to the API server with the admin's certificate."""
    config = load_kubeconfig(cluster.stack.kubeconfig)
    url = urlsplit(config.server)
    context = ssl_context(config)
    context.set_alpn_protocols(["http/1.1"])
    tcp = await trio.open_tcp_stream(str(url.hostname), url.port or 443)
    stream = trio.SSLStream(tcp, context, server_hostname=url.hostname, https_compatible=True)
    with trio.fail_after(60):
        async with stream:
            yield stream


def path_of(pod: str) -> str:
    return f"/api/v1/namespaces/default/pods/{pod}/portforward"


async def test_spdy_through_the_server(cluster: Cluster, echo: str) -> None:
    async with server_stream(cluster) as stream:
        _, client = await upgrade(stream, path_of(echo))
        assert await client.say(7777) == (b"hello", b"")
        assert await client.say(7777) == (b"hello", b"")
    for headers, code, text in (
        (f"{HEAD}Impersonate-User: jane\r\n", 403, 'User \\"jane\\" cannot create resource \\"pods/portforward\\"'),
        (HEAD.replace("portforward.k8s.io", "v9"), 403, "client supports [v9]"),
    ):
        async with server_stream(cluster) as stream:
            answer, _ = await upgrade(stream, path_of(echo), headers)
        assert int(answer.split()[1]) == code
        assert text in answer.decode()
    async with server_stream(cluster) as stream:
        answer, _ = await upgrade(stream, path_of("nobody"))
    assert b'pods \\"nobody\\" not found' in answer


async def test_websocket_through_the_server(cluster: Cluster, echo: str) -> None:
    async with server_stream(cluster) as stream:
        machine = WSConnection(ConnectionType.CLIENT)
        tunnel = "SPDY/3.1+portforward.k8s.io"
        await stream.send_all(machine.send(Handshake(host="n", target=path_of(echo), subprotocols=[tunnel])))

        async def next_event() -> Event:
            while True:
                for event in machine.events():
                    return event
                machine.receive_data(bytes(await stream.receive_some()))

        accepted = await next_event()
        assert isinstance(accepted, AcceptConnection)
        assert accepted.subprotocol == tunnel

        async def receive() -> bytes:
            event = await next_event()
            assert isinstance(event, BytesMessage)
            return bytes(event.data)

        async def send(data: bytes) -> None:
            await stream.send_all(machine.send(BytesMessage(data=data)))

        assert await Client(receive, send).say(7777) == (b"hello", b"")


async def test_host_network(cluster: Cluster) -> None:
    """A pod on the host's network has the host's loopback."""
    name = unique("host")
    await cluster.run_pod(name, container(), hostNetwork=True)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, echo_back, [listener])
        async with server_stream(cluster) as stream:
            _, client = await upgrade(stream, path_of(name))
            assert await client.say(listener.socket.getsockname()[1]) == (b"hello", b"")
        nursery.cancel_scope.cancel()


async def echo_back(stream: trio.SocketStream) -> None:
    async for piece in stream:
        await stream.send_all(piece)

"""Probes and hooks over real sockets: what counts as well, and in which words it is told when it does not.

Source: pkg/probe/http/http_test.go, pkg/probe/tcp/tcp_test.go, pkg/probe/grpc/grpc_test.go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import trio
from trio.testing import MockClock

from kubelet_secrets.api.core import (
    Container,
    ContainerPort,
    GRPCAction,
    HTTPGetAction,
    HTTPHeader,
    LifecycleHandler,
    Probe,
    TCPSocketAction,
)
from kubelet_secrets.pod.grpchealth import decode_answer, encode_request
from kubelet_secrets.pod.handlers import (
    HookFailed,
    ProbeErrored,
    ProbeFailed,
    ProbeWarned,
    Target,
    run_hook,
    run_probe,
)

Serve = Callable[[trio.SocketStream], Awaitable[None]]
NO_RUNTIME: Any = None  # nothing here runs a command
POD = "web_default(uid-1)"


@asynccontextmanager
async def listening(serve: Serve):  # type: ignore[no-untyped-def]
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def target(port: int = 0) -> Target:
    container = Container(name="c", ports=(ContainerPort(name="web", container_port=port),))
    return Target(container=container, container_id="1", pod=POD, pod_ip="127.0.0.1", network=None)


def http(text: str, seen: list[bytes] | None = None) -> Serve:
    async def serve(stream: trio.SocketStream) -> None:
        request = await stream.receive_some(4096)
        if seen is not None:
            seen.append(request)
        await stream.send_all(text.replace("\n", "\r\n").encode())
        await stream.aclose()

    return serve


async def probe(port: int, *, timeout_s: int = 30, **handler: Any) -> str:
    """What came of it: the kind of failure and its text; empty when all is well."""
    try:
        await run_probe(NO_RUNTIME, Probe(timeout_seconds=timeout_s, **handler), target(port))
    except (ProbeFailed, ProbeErrored, ProbeWarned) as error:
        return f"{type(error).__name__}: {error}".replace(f":{port}", ":PORT")
    return ""


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param("HTTP/1.1 200 OK\n\n", "", id="ok"),
        pytest.param("HTTP/1.0 399 Odd\n\n", "", id="any-code-below-400"),
        pytest.param("HTTP/1.1 302 Found\n\n", "", id="redirect-to-nowhere"),
        pytest.param("HTTP/1.1 404 Not Found\n\n", "ProbeFailed: HTTP probe failed with statuscode: 404", id="404"),
        pytest.param("HTTP/1.1 503 Away\n\n", "ProbeFailed: HTTP probe failed with statuscode: 503", id="503"),
        pytest.param("", 'ProbeFailed: Get "http://127.0.0.1:PORT/ok": EOF', id="nothing"),
        pytest.param(
            "hello\n\n",
            'ProbeFailed: Get "http://127.0.0.1:PORT/ok": net/http: HTTP/1.x transport connection broken: '
            "malformed HTTP response",
            id="not-http",
        ),
        pytest.param(
            "HTTP/1.1 301 Moved\nLocation: http://example.com/\n\n",
            "ProbeWarned: Probe terminated redirects, Response body: ",
            id="redirect-to-another-host",
        ),
    ],
)
async def test_http_probe(answer: str, expected: str) -> None:
    with trio.fail_after(60):
        async with listening(http(answer)) as port:
            assert await probe(port, http_get=HTTPGetAction(path="ok", port="web")) == expected


async def test_redirect_within_the_host_is_followed() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        request = await stream.receive_some(4096)
        answer = "HTTP/1.1 500 No\n\n" if b"GET /login" in request else "HTTP/1.1 302 Found\nLocation: /login?a=b\n\n"
        await stream.send_all(answer.replace("\n", "\r\n").encode())
        await stream.aclose()

    async def serve_loop(stream: trio.SocketStream) -> None:
        await http("HTTP/1.1 302 Found\nLocation: /\n\n")(stream)

    with trio.fail_after(60):
        async with listening(serve) as port:
            expected = "ProbeFailed: HTTP probe failed with statuscode: 500"
            assert await probe(port, http_get=HTTPGetAction(path="/", port=port)) == expected
        async with listening(serve_loop) as port:
            expected = 'ProbeFailed: Get "http://127.0.0.1:PORT/": stopped after 10 redirects'
            assert await probe(port, http_get=HTTPGetAction(path="/", port=port)) == expected


async def test_headers_of_an_http_probe() -> None:
    seen: list[bytes] = []
    with trio.fail_after(60):
        async with listening(http("HTTP/1.1 200 OK\n\n", seen)) as port:
            await probe(port, http_get=HTTPGetAction(path="/a?b=c", port=port))
            headers = (HTTPHeader(name="x-one", value="1"), HTTPHeader(name="accept", value=""))
            await probe(port, http_get=HTTPGetAction(path="/", port=port, http_headers=headers))
    first, second = (request.decode().split("\r\n") for request in seen)
    assert first[:4] == [
        "GET /a?b=c HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "User-Agent: kube-probe/1.36",
        "Accept: */*",
    ]
    assert "X-One: 1" in second
    assert not any(line.startswith("Accept") for line in second)


async def test_nobody_listens() -> None:
    async with listening(http("")) as port:
        pass  # and now it is free
    with trio.fail_after(60):
        refused = "dial tcp 127.0.0.1:PORT: connect: connection refused"
        assert await probe(port, tcp_socket=TCPSocketAction(port=port)) == f"ProbeFailed: {refused}"
        expected = f'ProbeFailed: Get "http://127.0.0.1:PORT/": {refused}'
        assert await probe(port, http_get=HTTPGetAction(path="/", port=port)) == expected
        expected = f'ProbeFailed: Get "https://127.0.0.1:PORT/": {refused}'
        assert await probe(port, http_get=HTTPGetAction(path="/", port=port, scheme="HTTPS")) == expected
        expected = 'ProbeFailed: error: failed to connect service at "127.0.0.1:PORT": connection error: '
        assert (await probe(port, grpc=GRPCAction(port=port))).startswith(expected)


def test_nobody_answers_in_time() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        async with listening(serve) as port:
            assert await probe(port, tcp_socket=TCPSocketAction(port=port)) == ""
            assert await probe(port, http_get=HTTPGetAction(path="/", port=port)) == (
                'ProbeFailed: Get "http://127.0.0.1:PORT/": '
                "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            )
            expected = "ProbeFailed: timeout: health rpc did not complete within 20s"
            assert await probe(port, grpc=GRPCAction(port=port), timeout_s=20) == expected

    trio.run(main, clock=MockClock(autojump_threshold=0.1))


async def test_tls_is_not_verified_and_plain_http_is_told_apart() -> None:
    with trio.fail_after(60):
        async with listening(http("HTTP/1.1 400 Bad Request\n\n")) as port:
            action = HTTPGetAction(path="/", port=port, scheme="HTTPS")
            expected = 'ProbeFailed: Get "https://127.0.0.1:PORT/": http: server gave HTTP response to HTTPS client'
            assert await probe(port, http_get=action) == expected


@pytest.mark.parametrize(
    ("port", "text"),
    [("ghost", 'strconv.Atoi: parsing "ghost": invalid syntax'), (70000, "invalid port number: 70000")],
)
async def test_port_that_is_none_says_nothing_about_the_container(port: int | str, text: str) -> None:
    assert await probe(1, http_get=HTTPGetAction(path="/", port=port)) == f"ProbeErrored: {text}"
    assert await probe(1, tcp_socket=TCPSocketAction(port=port)) == f"ProbeErrored: {text}"


# --- gRPC --------------------------------------------------------------------------------------------------------------


def grpc(body: bytes, seen: list[tuple[str, bytes]], **trailers: str) -> Serve:
    async def serve(stream: trio.SocketStream) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        await stream.send_all(connection.data_to_send())
        path, data = "", b""
        async for chunk in stream:
            for event in connection.receive_data(chunk):
                if isinstance(event, h2.events.RequestReceived):
                    path = dict(event.headers or ())[":path"]  # type: ignore[assignment, index]
                elif isinstance(event, h2.events.DataReceived):
                    data += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    seen.append((path, data))
                    assert event.stream_id is not None
                    headers = [(":status", "200"), ("content-type", "application/grpc")]
                    connection.send_headers(event.stream_id, headers)
                    if body:
                        connection.send_data(event.stream_id, b"\0" + len(body).to_bytes(4, "big") + body)
                    wanted = [(name.replace("_", "-"), value) for name, value in trailers.items()]
                    connection.send_headers(event.stream_id, wanted, end_stream=True)
            await stream.send_all(connection.data_to_send())

    return serve


@pytest.mark.parametrize(
    ("body", "trailers", "expected"),
    [
        pytest.param(b"\x08\x01", {"grpc_status": "0"}, "", id="serving"),
        pytest.param(
            b"\x08\x02",
            {"grpc_status": "0"},
            'ProbeFailed: service unhealthy (responded with "NOT_SERVING")',
            id="not-serving",
        ),
        pytest.param(
            b"\x08",
            {"grpc_status": "0"},
            "ProbeFailed: error: health rpc probe failed: grpc: failed to unmarshal the received message",
            id="nonsense",
        ),
        pytest.param(
            b"",
            {"grpc_status": "12", "grpc_message": "unknown service"},
            "ProbeFailed: error: this server does not implement the grpc health protocol (grpc.health.v1.Health): "
            "unknown service",
            id="no-health-service",
        ),
        pytest.param(
            b"",
            {"grpc_status": "5", "grpc_message": "unknown%20service"},
            "ProbeFailed: error: health rpc probe failed: unknown service",
            id="unknown-service",
        ),
    ],
)
async def test_grpc_probe(body: bytes, trailers: dict[str, str], expected: str) -> None:
    seen: list[tuple[str, bytes]] = []
    with trio.fail_after(60):
        async with listening(grpc(body, seen, **trailers)) as port:
            assert await probe(port, grpc=GRPCAction(port=port, service="db")) == expected
    assert seen == [("/grpc.health.v1.Health/Check", b"\0\0\0\0\x04\x0a\x02db")]


def test_grpc_messages() -> None:
    assert encode_request("") == b""
    assert encode_request("a" * 200)[:3] == b"\x0a\xc8\x01"
    assert [decode_answer(each) for each in (b"", b"\x08\x03", b"\x08\x09")] == ["UNKNOWN", "SERVICE_UNKNOWN", "9"]


async def test_grpc_probe_of_what_speaks_no_http2() -> None:
    with trio.fail_after(60):
        async with listening(http("HTTP/1.1 200 OK\n\n")) as port:
            expected = "ProbeFailed: error: health rpc probe failed: error reading from server: EOF"
            assert await probe(port, grpc=GRPCAction(port=port)) == expected


# --- hooks -------------------------------------------------------------------------------------------------------------


async def test_http_hook_has_run_whatever_the_answer_is() -> None:
    with trio.fail_after(60):
        seen: list[bytes] = []
        async with listening(http("HTTP/1.1 500 No\n\n", seen)) as port:
            await run_hook(NO_RUNTIME, LifecycleHandler(http_get=HTTPGetAction(path="/bye", port=port)), target(port))
        assert b"User-Agent: kube-lifecycle/1.36" in seen[0]
        with pytest.raises(HookFailed) as caught:
            await run_hook(NO_RUNTIME, LifecycleHandler(http_get=HTTPGetAction(path="/bye", port=port)), target(port))
    assert str(caught.value) == (
        f'HTTP lifecycle hook (/bye) for Container "c" in Pod "{POD}" failed - error: '
        f'Get "http://127.0.0.1:{port}/bye": dial tcp 127.0.0.1:{port}: connect: connection refused'
    )


async def test_tcp_hook_is_no_hook() -> None:
    with pytest.raises(HookFailed, match="Cannot run handler: invalid handler"):
        await run_hook(NO_RUNTIME, LifecycleHandler(tcp_socket=TCPSocketAction(port=1)), target())


async def test_host_of_its_own_is_reached_from_the_node() -> None:
    """Not from within the pod: ``host`` means what it means to the kubelet."""
    with trio.fail_after(60):
        async with listening(http("HTTP/1.1 200 OK\n\n")) as port:
            there = Target(
                container=Container(name="c"), container_id="1", pod=POD, pod_ip="10.88.0.2", network=Path("/nowhere")
            )
            await run_probe(NO_RUNTIME, Probe(tcp_socket=TCPSocketAction(port=port, host="localhost")), there)
            with pytest.raises(ProbeFailed, match="no such file or directory"):
                await run_probe(NO_RUNTIME, Probe(tcp_socket=TCPSocketAction(port=port)), there)

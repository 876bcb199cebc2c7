"""The gRPC health check of a probe: one call over HTTP/2, on a connection of its own.

Request and answer are one small field each, so they are written and read here by hand. Called by ``pod/handlers.py``.
Source: pkg/probe/grpc/grpc.go; grpc.health.v1 health.proto; gRPC over HTTP2 (doc/PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

import struct
from pathlib import Path
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trio

from kubelet_secrets.api.times import go_duration
from kubelet_secrets.pod.httpget import dial_error, join_host_port
from kubelet_secrets.pod.podnet import connect

_FRAME = struct.Struct("!BI")
_STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_MAX_ANSWER_BYTES = 64 * 1024
_MAX_MESSAGE = 200
_UNIMPLEMENTED, _DEADLINE_EXCEEDED = 12, 4


class Unhealthy(Exception):
    """The service is not serving, or cannot say so. The text is the kubelet's."""


async def check_health(*, network: Path | None, host: str, port: int, service: str, timeout_s: float) -> None:
    """Ask ``grpc.health.v1.Health/Check``; returns when the answer is SERVING.

    Args:
        service: which one of the server's; empty: the server as a whole.

    Raises:
        Unhealthy: see there.
    """
    address = join_host_port(host, port)
    is_connected = False
    with trio.move_on_after(timeout_s):
        try:
            stream = await connect(network, host, port)
        except OSError as error:
            cause = f'connection error: desc = "transport: Error while dialing: {dial_error(host, port, error)}"'
            raise Unhealthy(f'error: failed to connect service at "{address}": {cause}') from error
        is_connected = True
        async with stream:
            try:
                status = await _Call(stream, address).run(service, timeout_s)
            except (trio.BrokenResourceError, h2.exceptions.ProtocolError):
                raise Unhealthy("error: health rpc probe failed: error reading from server: EOF") from None
        if status != "SERVING":
            raise Unhealthy(f'service unhealthy (responded with "{status}")')
        return
    span = go_duration(timeout_s)
    if not is_connected:
        raise Unhealthy(f'timeout: failed to connect service "{address}" within {span}: context deadline exceeded')
    raise Unhealthy(f"timeout: health rpc did not complete within {span}")


class _Call:
    """One request and its answer."""

    def __init__(self, stream: trio.SocketStream, authority: str) -> None:
        self._stream = stream
        self._authority = authority
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._is_ended = False

    async def run(self, service: str, timeout_s: float) -> str:
        """The name of the status that the server answers with."""
        connection = self._connection
        connection.initiate_connection()
        stream_id = connection.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/grpc.health.v1.Health/Check"),
            (":authority", self._authority),
            ("content-type", "application/grpc"),
            ("user-agent", "kube-probe/1.36"),
            ("te", "trailers"),
            ("grpc-timeout", f"{max(1, int(timeout_s * 1000))}m"),
        ]
        connection.send_headers(stream_id, headers)
        body = encode_request(service)
        connection.send_data(stream_id, _FRAME.pack(0, len(body)) + body, end_stream=True)
        await self._stream.send_all(connection.data_to_send())
        while not self._is_ended:
            received = await self._stream.receive_some(65536)
            if not received:
                raise trio.BrokenResourceError
            for event in connection.receive_data(received):
                self._note(event)
            await self._stream.send_all(connection.data_to_send())
        return self._answer(timeout_s)

    def _note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self._headers.update((str(name), str(value)) for name, value in event.headers or ())
        elif isinstance(event, h2.events.DataReceived):
            self._body += event.data or b""
            if len(self._body) > _MAX_ANSWER_BYTES:
                raise trio.BrokenResourceError
        elif isinstance(event, h2.events.StreamEnded):
            self._is_ended = True
        elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
            raise trio.BrokenResourceError

    def _answer(self, timeout_s: float) -> str:
        code = self._headers.get("grpc-status", "")
        if code == "0":
            return decode_answer(bytes(self._body[_FRAME.size :]))
        message = "".join(each for each in unquote(self._headers.get("grpc-message", "")) if each.isprintable())
        message = message[:_MAX_MESSAGE]
        if code == str(_UNIMPLEMENTED):
            raise Unhealthy(
                f"error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
            )
        if code == str(_DEADLINE_EXCEEDED):
            raise Unhealthy(f"timeout: health rpc did not complete within {go_duration(timeout_s)}")
        if not code:
            message = f"unexpected HTTP status code received from server: {self._headers.get(':status', 'none')}"
        raise Unhealthy(f"error: health rpc probe failed: {message}")


def encode_request(service: str) -> bytes:
    """``HealthCheckRequest``: field 1, a string; left out when it is empty."""
    name = service.encode()
    return b"\x0a" + _varint(len(name)) + name if name else b""


def decode_answer(body: bytes) -> str:
    """The status in a ``HealthCheckResponse``: field 1, an enum, UNKNOWN when it is left out."""
    if not body:
        return _STATUSES[0]
    if body[0] != 0x08 or len(body) < 2:
        raise Unhealthy("error: health rpc probe failed: grpc: failed to unmarshal the received message")
    return _STATUSES[body[1]] if body[1] < len(_STATUSES) else str(body[1])


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))

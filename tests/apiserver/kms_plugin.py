"""A KMS v2 plugin as a third party would write it: a gRPC server over h2 on a unix socket, with its own protobuf and keys."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def field(number: int, value: bytes | int) -> bytes:
    """One field of a message on the wire."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def annotations(number: int, given: dict[str, bytes]) -> bytes:
    return b"".join(field(number, field(1, name.encode()) + field(2, value)) for name, value in given.items())


def fields(message: bytes) -> dict[int, list[Any]]:
    """Every field of a message; lengths and varints only."""
    found: dict[int, list[Any]] = {}
    position = 0

    def read() -> int:
        nonlocal position
        number = shift = 0
        while True:
            byte = message[position]
            position += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while position < len(message):
        tag = read()
        value: Any = read()
        if tag & 7 == 2:
            value, position = message[position : position + value], position + value
        found.setdefault(tag >> 3, []).append(value)
    return found


class Plugin:
    """Wraps keys under a key of its own per key id.

    Attributes:
        path: its socket.
        calls: names of the methods called.
        error: (code, message) to answer everything with.
        failing: the only method that *error* concerns; empty for all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key_id = "key-1"
        self.keys: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.uids: list[str] = []
        self.error: tuple[int, str] | None = None
        self.failing = ""
        self.healthz = "ok"
        self.version = "v2"
        self.annotations: dict[str, bytes] = {"version.encryption.example.com": b"1"}
        self.is_silent = False
        self.raw_answer: bytes | None = None  # instead of a framed message
        self.http_status = "200"

    @property
    def endpoint(self) -> str:
        return f"unix://{self.path}"

    @property
    def config(self) -> str:
        """A configuration file that uses it for Secrets."""
        return (
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n"
            f"  providers:\n  - kms: {{apiVersion: v2, name: test, endpoint: '{self.endpoint}', timeout: 2s}}\n"
        )

    def _cipher(self, key_id: str) -> AESGCM:
        return AESGCM(self.keys.setdefault(key_id, os.urandom(32)))

    def answer(self, method: str, request: dict[int, list[Any]]) -> bytes:
        if method == "Status":
            return field(1, self.version.encode()) + field(2, self.healthz.encode()) + field(3, self.key_id.encode())
        self.uids.append(request[2][0].decode())
        if method == "Encrypt":
            nonce = os.urandom(12)
            ciphertext = nonce + self._cipher(self.key_id).encrypt(nonce, request[1][0], None)
            return field(1, ciphertext) + field(2, self.key_id.encode()) + annotations(3, self.annotations)
        assert method == "Decrypt"
        entries = [fields(entry) for entry in request.get(4, [])]
        assert {entry[1][0].decode(): entry[2][0] for entry in entries} == self.annotations
        ciphertext = request[1][0]
        plaintext = self._cipher(request[3][0].decode()).decrypt(ciphertext[:12], ciphertext[12:], None)
        return field(1, plaintext)

    async def _serve(self, stream: trio.SocketStream) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        method, body = "", b""
        async with stream:
            await stream.send_all(connection.data_to_send())
            while received := await stream.receive_some(65536):
                for event in connection.receive_data(received):
                    if isinstance(event, h2.events.RequestReceived):
                        headers = dict(event.headers)
                        assert headers["content-type"] == "application/grpc"
                        assert headers["te"] == "trailers"
                        method = headers[":path"].removeprefix("/v2.KeyManagementService/")
                    elif isinstance(event, h2.events.DataReceived):
                        body += event.data
                        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded) and not self.is_silent:
                        self._respond(connection, event.stream_id, method, body)
                await stream.send_all(connection.data_to_send())

    def _respond(self, connection: h2.connection.H2Connection, stream_id: int, method: str, body: bytes) -> None:
        compressed, length = struct.unpack_from(">BI", body)
        assert (compressed, length) == (0, len(body) - 5)
        self.calls.append(method)
        head = [(":status", self.http_status), ("content-type", "application/grpc")]
        if self.error is not None and self.failing in ("", method):  # "trailers only"
            trailers = [("grpc-status", str(self.error[0])), ("grpc-message", self.error[1])]
            connection.send_headers(stream_id, head + trailers, end_stream=True)
            return
        message = self.answer(method, fields(body[5:]))
        framed = struct.pack(">BI", 0, len(message)) + message if self.raw_answer is None else self.raw_answer
        connection.send_headers(stream_id, head)
        for start in range(0, len(framed), 7):  # as small as a server may cut it
            connection.send_data(stream_id, framed[start : start + 7])
        connection.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        self.path.unlink(missing_ok=True)
        await listener.bind(str(self.path))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._serve, [trio.SocketListener(listener)])
            yield
            nursery.cancel_scope.cancel()

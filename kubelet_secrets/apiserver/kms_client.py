"""Calls to a KMS v2 plugin: unary gRPC over HTTP/2 on a unix socket.

A connection per call: calls are rare (a key is asked for once and kept), and a plugin that was restarted is met without any
reconnecting. Not here: what the answers mean (``kms.py``).

Source: gRPC over HTTP2 (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md); k8s.io/kms apis/v2/api.proto, KeyManagementService.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trio

from kubelet_secrets.apiserver import kms_messages
from kubelet_secrets.apiserver.encryption import TransformError
from kubelet_secrets.apiserver.kms_messages import PluginStatus, WrappedKey
from kubelet_secrets.sensitive import SensitiveBytes

T = TypeVar("T")

_SERVICE = "/v2.KeyManagementService/"
_FRAME = struct.Struct(">BI")  # compressed?, length
_ANSWER_LIMIT_BYTES = 4 * 2**20  # gRPC's own default
_MESSAGE_LIMIT = 1024
_CODES = (
    *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists"),
    *("PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented"),
    *("Internal", "Unavailable", "DataLoss", "Unauthenticated"),
)


class RpcError(TransformError):
    """The plugin did not answer, or with an error: in gRPC's words, ``rpc error: code = … desc = …``."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"rpc error: code = {code} desc = {description}")
        self.code = code


class KmsClient:
    """One plugin.

    Args:
        endpoint: ``unix:///run/kms.sock``, or ``unix:///@name`` for a socket in the abstract namespace.
        timeout_s: for each call, connecting included.

    Every call raises RpcError. Cancellation: the connection is dropped; a plugin has nothing to undo.
    """

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        self._path = _socket_path(endpoint)
        self._timeout_s = timeout_s

    async def status(self) -> PluginStatus:
        return _decoded(kms_messages.decode_status, await self._call("Status", kms_messages.encode_status_request()))

    async def encrypt(self, plaintext: SensitiveBytes, uid: str) -> WrappedKey:
        body = kms_messages.encode_encrypt_request(plaintext, uid)
        return _decoded(kms_messages.decode_encrypted, await self._call("Encrypt", body))

    async def decrypt(self, wrapped: WrappedKey, uid: str) -> SensitiveBytes:
        body = kms_messages.encode_decrypt_request(wrapped, uid)
        return _decoded(kms_messages.decode_decrypted, await self._call("Decrypt", body))

    async def _call(self, method: str, body: bytes) -> bytes:
        with trio.move_on_after(self._timeout_s):
            try:
                stream = await trio.open_unix_socket(self._path)
            except OSError as error:
                shown = self._path.replace("\0", "@")
                reason = (error.strerror or "failed").lower()
                text = (
                    f'connection error: desc = "transport: Error while dialing: dial unix {shown}: connect: {reason}"'
                )
                raise RpcError("Unavailable", text) from None
            async with stream:
                try:
                    return await _Exchange(stream, self._timeout_s).run(_SERVICE + method, body)
                except (trio.BrokenResourceError, h2.exceptions.ProtocolError):
                    raise RpcError("Unavailable", "error reading from server: connection broken") from None
        raise RpcError("DeadlineExceeded", "context deadline exceeded")


def _socket_path(endpoint: str) -> str:
    """Source: k8s.io/apiserver storage/value/encrypt/envelope/kmsv2/grpc_service.go, util.ParseEndpoint."""
    parts = urlsplit(endpoint)
    path = unquote(parts.path)
    return "\0" + path[2:] if path.startswith("/@") else path


def _decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except ValueError as error:
        raise RpcError("Internal", f"grpc: failed to unmarshal the received message: {error}") from None


class _Exchange:
    """One request and its answer on a fresh connection."""

    def __init__(self, stream: trio.SocketStream, timeout_s: float) -> None:
        self._stream = stream
        self._timeout_s = timeout_s
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._is_ended = False

    async def run(self, path: str, body: bytes) -> bytes:
        connection = self._connection
        connection.initiate_connection()
        stream_id = connection.get_next_available_stream_id()
        connection.send_headers(
            stream_id,
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "localhost"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("grpc-timeout", f"{max(1, int(self._timeout_s * 1000))}m"),
            ],
        )
        # A wrapped key and its annotations are some 40 KiB at most: below the initial window of 64 KiB, but several frames.
        message, size = _FRAME.pack(0, len(body)) + body, connection.max_outbound_frame_size
        for start in range(0, len(message), size):
            connection.send_data(stream_id, message[start : start + size])
        connection.end_stream(stream_id)
        await self._stream.send_all(connection.data_to_send())
        while not self._is_ended:
            received = await self._stream.receive_some(65536)
            if not received:
                raise RpcError("Unavailable", "error reading from server: EOF")
            for event in connection.receive_data(received):
                self._note(event)
            await self._stream.send_all(connection.data_to_send())
        return self._answer()

    def _note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self._headers.update((str(name), str(value)) for name, value in event.headers or ())
        elif isinstance(event, h2.events.DataReceived):
            self._body += event.data or b""
            if len(self._body) > _ANSWER_LIMIT_BYTES:
                raise RpcError("ResourceExhausted", f"grpc: received message larger than max ({_ANSWER_LIMIT_BYTES})")
            if event.flow_controlled_length and event.stream_id is not None:
                self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self._is_ended = True
        elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated) and event.error_code:
            raise RpcError("Unavailable", f"the stream was ended by the server with error code {event.error_code}")

    def _answer(self) -> bytes:
        if self._headers.get(":status") != "200":
            status = self._headers.get(":status", "none")
            raise RpcError("Unknown", f"unexpected HTTP status code received from server: {status}")
        code = self._headers.get("grpc-status", "")
        if code != "0":
            number = int(code) if code.isascii() and code.isdecimal() else 2
            name = _CODES[number] if number < len(_CODES) else f"Code({number})"
            raise RpcError(name, _one_line(unquote(self._headers.get("grpc-message", ""))))
        if len(self._body) < _FRAME.size:
            raise RpcError(
                "Internal", "cardinality violation: received no response message from non-server-streaming RPC"
            )
        compressed, length = _FRAME.unpack_from(self._body)
        if compressed or length != len(self._body) - _FRAME.size:
            raise RpcError("Internal", "grpc: the response is compressed or of another length than it says")
        return bytes(self._body[_FRAME.size :])


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_MESSAGE_LIMIT]

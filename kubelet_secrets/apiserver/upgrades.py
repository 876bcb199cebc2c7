"""Connections that leave HTTP for SPDY/3.1: what ASGI has no word for, taken from anycorn before it sees the request.

A client that wants SPDY - kubectl before 1.31, and later ones that were refused a WebSocket - opens a connection for it, and
the request is the first thing on it. :func:`is_upgrade` tells such a request by its head; :class:`Upgrade` is the request and
its connection. What comes of it is ``routes.py``'s.

Source: k8s.io/apimachinery pkg/util/httpstream/spdy/roundtripper.go; RFC 9110, 7.8.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import anyio
import anyio.abc
import h11
import trio
from starlette.types import Scope

LARGEST_HEAD_BYTES = 1 << 16
_CHUNK_BYTES = 64 * 1024
_END = b"\r\n\r\n"


def wants_more(head: bytes) -> bool:
    """Whether *head* is the beginning of a request that might be one for SPDY."""
    return head[:5] in (b"POST ", b"GET /") and _END not in head and len(head) < LARGEST_HEAD_BYTES


def is_upgrade(head: bytes) -> bool:
    """Whether *head*, whole, asks for SPDY/3.1."""
    lines = head.partition(_END)[0].lower().split(b"\r\n")[1:]
    headers = {name.strip(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    return headers.get(b"upgrade") == b"spdy/3.1" and b"upgrade" in headers.get(b"connection", b"")


class Upgrade:
    """A request for SPDY/3.1 and the connection that it came on.

    Args:
        head: the request, and whatever the client has sent after it.
        tls: what ASGI scopes say of a connection's TLS.

    Attributes:
        scope: an ASGI scope, for whoever reads credentials and query from one.
        protocols: that the client offers, of the header X-Stream-Protocol-Version.

    Raises:
        h11.RemoteProtocolError: it is no request.
    """

    def __init__(self, stream: anyio.abc.ByteStream, head: bytes, tls: Any) -> None:
        self._stream = stream
        machine = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST_HEAD_BYTES)
        machine.receive_data(head)
        request = machine.next_event()
        if not isinstance(request, h11.Request):
            raise h11.RemoteProtocolError("no whole request")
        machine.next_event()  # the end of a message without a body
        self._rest = bytes(machine.trailing_data[0])
        path, _, query = request.target.partition(b"?")
        self.scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": request.method.decode("latin-1"),
            "scheme": "https",
            "path": unquote(path.decode("latin-1")),
            "query_string": query,
            "headers": list(request.headers),
            "extensions": {"tls": tls or {}},
        }
        offered = [value for name, value in request.headers if name == b"x-stream-protocol-version"]
        self.protocols = [each.strip() for value in offered for each in value.decode("latin-1").split(",")]

    async def accept(self, protocol: str) -> None:
        """Answer 101. From then on :meth:`receive` and :meth:`send` carry the new protocol.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        chosen = [("X-Stream-Protocol-Version", protocol)] if protocol else []
        headers = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), *chosen]
        await self.send(_head("101 Switching Protocols", headers))

    async def refuse(self, code: int, body: bytes, content_type: str) -> None:
        """Answer anything else, and be done with the connection.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), ("Connection", "close")]
        await self.send(_head(f"{code} {_phrase(code)}", headers) + body)

    async def receive(self) -> bytes:
        """The next bytes; empty at the end."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        try:
            return await self._stream.receive(_CHUNK_BYTES)
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return b""

    async def send(self, data: bytes) -> None:
        try:
            await self._stream.send(data)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            raise trio.BrokenResourceError from None


ServeUpgrade = Callable[[Upgrade], Awaitable[None]]


def _head(status: str, headers: Sequence[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _phrase(code: int) -> str:
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return "Unknown"

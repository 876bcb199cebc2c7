"""HTTP/1.1 connections as exchanges: one request, one answer, or an upgrade that hands out the stream. h11 does the protocol.

HTTP/1.1 only, because what this server is for (``exec``) begins with an upgrade. Knows nothing of Kubernetes. Used by
``server.py``, which owns the listener, and by the handlers that answer.

Source: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote

import h11
import trio

IDLE_S = 180.0
LARGEST_BODY_BYTES = 1 << 20
_CHUNK_BYTES = 64 * 1024
_LARGEST_EARLY_BYTES = 64 * 1024  # of requests that do not wait for the answer before them

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request's head."""

    method: str
    path: str  # percent-decoded
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]  # names in lower case; of several with one name, joined by ", "
    certificate: Mapping[str, Any] | None = None  # the client's, verified; what ``SSLSocket.getpeercert()`` says of it

    def is_upgrade_to(self, protocol: str) -> bool:
        """Whether the client offers to go on in *protocol*, as ``Connection: Upgrade`` says."""
        options = {each.strip().lower() for each in self.headers.get("connection", "").split(",")}
        return "upgrade" in options and self.headers.get("upgrade", "").lower() == protocol.lower()

    def first(self, name: str) -> str | None:
        """The first value of a query parameter."""
        values = self.query.get(name)
        return values[0] if values else None


class Exchange:
    """One request and its answer.

    Attributes:
        is_answered: an answer has been begun.
    """

    def __init__(self, stream: trio.abc.Stream, machine: h11.Connection, request: HttpRequest) -> None:
        self.request = request
        self.is_answered = False
        self._stream = stream
        self._machine = machine
        self._upgraded: PrefixedStream | None = None

    async def respond(self, code: int, body: bytes | str = b"", *, content_type: str = TEXT) -> None:
        """Answer with a whole body."""
        content = body.encode() if isinstance(body, str) else body
        await self._begin(code, [("content-type", content_type), ("content-length", str(len(content)))])
        await self._send(h11.Data(content if self.request.method != "HEAD" else b""))
        await self._send(h11.EndOfMessage())

    async def respond_json(self, body: Any, code: int = HTTPStatus.OK) -> None:
        await self.respond(code, json.dumps(body), content_type=JSON)

    async def begin(self, *, content_type: str = TEXT) -> None:
        """Answer 200 with a body of unknown length: :meth:`write` it, then :meth:`finish`."""
        await self._begin(HTTPStatus.OK, [("content-type", content_type), ("transfer-encoding", "chunked")])

    async def write(self, data: bytes) -> None:
        if data:
            await self._send(h11.Data(data))

    async def finish(self) -> None:
        await self._send(h11.EndOfMessage())

    @asynccontextmanager
    async def while_connected(self) -> AsyncIterator[None]:
        """Cancel the body when the client goes away: for answers that may wait long for something to send.

        To notice it is to read. What is read is the next request, whose turn comes after this answer: an API server sends it as
        soon as it has seen the answer's end, which may be before the block is left.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_connection, nursery.cancel_scope)
            yield
            nursery.cancel_scope.cancel()

    async def upgrade(self, headers: Sequence[tuple[str, str]]) -> trio.abc.Stream:
        """Answer 101 and leave HTTP. What the client has sent beyond its request is read first from the stream returned."""
        self.is_answered = True
        response = h11.InformationalResponse(status_code=101, headers=list(headers), reason=b"Switching Protocols")
        await self._send(response)
        rest, _ = self._machine.trailing_data
        self._upgraded = PrefixedStream(self._stream, rest)
        return self._upgraded

    async def wait_idle(self, seconds: float) -> None:
        """Return when the stream of :meth:`upgrade` has carried nothing, in either direction, for so long."""
        assert self._upgraded is not None, "the exchange has not left HTTP"
        while (until := self._upgraded.used_at + seconds) > trio.current_time():  # noqa: ASYNC110  # nobody tells of silence
            await trio.sleep_until(until)

    async def _begin(self, code: int, headers: list[tuple[str, str]]) -> None:
        self.is_answered = True
        reason = HTTPStatus(code).phrase.encode()
        await self._send(h11.Response(status_code=code, headers=headers, reason=reason))

    async def _send(self, event: h11.Event) -> None:
        data = self._machine.send(event)
        if data:
            await self._stream.send_all(data)

    async def _watch_connection(self, scope: trio.CancelScope) -> None:
        early = 0
        try:
            while early <= _LARGEST_EARLY_BYTES and (data := await self._stream.receive_some(_CHUNK_BYTES)):
                self._machine.receive_data(bytes(data))
                early += len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


class PrefixedStream(trio.abc.Stream):
    """A stream some of whose bytes have been read already.

    Attributes:
        used_at: when it carried something last, by trio's clock.
    """

    def __init__(self, stream: trio.abc.Stream, prefix: bytes) -> None:
        self._stream = stream
        self._prefix = prefix
        self.used_at = trio.current_time()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._prefix:
            await trio.lowlevel.checkpoint()
            count = len(self._prefix) if max_bytes is None else max_bytes
            taken, self._prefix = self._prefix[:count], self._prefix[count:]
            return taken
        received = await self._stream.receive_some(max_bytes)
        self.used_at = trio.current_time()
        return received

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)
        self.used_at = trio.current_time()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


Handler = Callable[[Exchange], Awaitable[None]]


async def serve_connection(
    stream: trio.abc.Stream, handler: Handler, *, certificate: Mapping[str, Any] | None = None
) -> None:
    """Answer the requests of one connection until the client closes it, is silent for three minutes, or leaves HTTP.

    Raises:
        trio.BrokenResourceError: the connection is gone.
    """
    machine = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)
    while True:
        try:
            with trio.fail_after(IDLE_S):
                head = await _next_event(stream, machine)
                if not isinstance(head, h11.Request):
                    return  # closed
                await _read_body(stream, machine)
        except trio.TooSlowError:
            return
        except h11.RemoteProtocolError as error:
            await _refuse(stream, machine, error.error_status_hint)
            return
        exchange = Exchange(stream, machine, _make_request(head, certificate))
        await handler(exchange)
        if machine.our_state is h11.MUST_CLOSE or machine.our_state is not h11.DONE:
            return
        if machine.their_state is not h11.DONE:
            return  # an upgrade, answered or not: whatever follows is no request
        machine.start_next_cycle()


async def _next_event(stream: trio.abc.Stream, machine: h11.Connection) -> h11.Event | type[h11.PAUSED]:
    while True:
        event = machine.next_event()
        if event is not h11.NEED_DATA:
            return event  # type: ignore[return-value]  # h11 has no type for "anything but NEED_DATA"
        machine.receive_data(bytes(await stream.receive_some(_CHUNK_BYTES)))


async def _read_body(stream: trio.abc.Stream, machine: h11.Connection) -> None:
    """Nothing that is asked here has a body that matters; one that is sent is read and dropped, up to a limit."""
    size = 0
    while isinstance(event := await _next_event(stream, machine), h11.Data):
        size += len(event.data)
        if size > LARGEST_BODY_BYTES:
            raise h11.RemoteProtocolError("too large", error_status_hint=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


async def _refuse(stream: trio.abc.Stream, machine: h11.Connection, code: int) -> None:
    if machine.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    body = HTTPStatus(code).phrase.encode()
    headers = [("content-length", str(len(body))), ("connection", "close")]
    events = (h11.Response(status_code=code, headers=headers), h11.Data(body), h11.EndOfMessage())
    await stream.send_all(b"".join(machine.send(event) or b"" for event in events))


def _make_request(head: h11.Request, certificate: Mapping[str, Any] | None) -> HttpRequest:
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    path, _, query = head.target.decode("latin-1").partition("?")
    return HttpRequest(
        method=head.method.decode("latin-1"),
        path=unquote(path),
        query=parse_qs(query, keep_blank_values=True),
        headers=headers,
        certificate=certificate,
    )

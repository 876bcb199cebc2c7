"""One HTTP/2 connection: a reader task, a writer task, a keepalive task, and up to the peer's limit of streams.

Not a pool (``http2.py`` is) and not HTTP semantics. One instance lives in one task, :meth:`Connection.run`; requests come
from any other task and only ever touch memory: they put frames into h2's buffer and wake the writer. So no request can be
cancelled inside ``send_all`` of the TLS stream, which would leave half a record on the wire and poison every other stream.

Why not httpx2's own HTTP/2: it has no reader task, so an event for an idle stream waits until another stream happens to
read; it never opens more than 100 streams, sends no RST_STREAM on close, and no PING (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import httpx2
import trio

from kubelet_secrets.client.frames import GoAway, GoAwayFilter
from kubelet_secrets.client.stream import ClientStream, Headers, RequestNotProcessed, ResponseBody, unlimited

STREAM_WINDOW_BYTES = 256 * 1024  # what one unread stream may hold in memory
CONNECTION_WINDOW_BYTES = 2**30  # as Go's transport: a stream nobody reads must not stop the others
_RECEIVE_BYTES = 64 * 1024
_OUTBOUND_BACKLOG_BYTES = 256 * 1024  # an upload waits for the writer beyond this
_LAST_USABLE_STREAM_ID = 2**31 - 1001
_COUNT_PERIOD = 128  # stream ids: 64 requests
_MAX_STREAMS = 1000  # where the peer names no limit; Go's default


@dataclass(frozen=True, slots=True)
class ExchangeTimeouts:
    """Seconds; None waits for ever. ``read`` bounds each wait: for the headers, then for each part of the body."""

    read: float | None = None
    write: float | None = None


class _Protocol(h2.connection.H2Connection):
    """h2's state machine, which would look at every open stream for each new one, and check headers that we have made."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._connection = connection
        self._counted_at = 0  # highest stream id when streams were last looked at

    @property
    def open_outbound_streams(self) -> int:
        if self.highest_outbound_stream_id >= self._counted_at + _COUNT_PERIOD:
            self._counted_at = self.highest_outbound_stream_id
            super().open_outbound_streams  # noqa: B018 - it forgets closed streams while it counts
        return self._connection.open_streams

    @property
    def open_inbound_streams(self) -> int:
        return 0  # no pushes; it asks with each late answer to a stream that was reset


class Connection:
    """An HTTP/2 client connection over *stream*, which it owns and closes.

    Args:
        stream: connected, TLS done, ``h2`` negotiated.
        ping_idle_s: silence after which a PING is sent; client-go's ReadIdleTimeout.
        ping_timeout_s: how long its answer may take; client-go's PingTimeout.
        idle_close_s: a connection without streams closes itself after this long; client-go's IdleConnTimeout.
    """

    def __init__(
        self, stream: trio.abc.Stream, *, ping_idle_s: float = 30, ping_timeout_s: float = 15, idle_close_s: float = 90
    ) -> None:
        self._io = stream
        self._ping_idle_s = ping_idle_s
        self._ping_timeout_s = ping_timeout_s
        self._idle_close_s = idle_close_s
        self._h2 = _Protocol(self)
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 64 * 1024,
            },
        )
        self._goaway_filter = GoAwayFilter()
        self._streams: dict[int, ClientStream] = {}  # exactly those that hold a slot at the peer
        self._uploads: set[ClientStream] = set()  # those with a body still to send
        self._backlog_bytes = 0  # of bodies, given to h2 and not yet taken by the writer
        self._peer_is_ready = trio.Event()
        self._writer_wake = trio.Event()
        self._received = trio.Event()  # replaced whenever bytes arrive
        self._received_at = 0.0
        self._last_used_at = 0.0
        self._draining = False
        self._failure: httpx2.TransportError | None = None
        self._scope = trio.CancelScope()

    def __repr__(self) -> str:
        state = f"failed: {self._failure}" if self._failure else "draining" if self._draining else "open"
        return f"<Connection {state}, {len(self._streams)} streams>"

    @property
    def is_closed(self) -> bool:
        return self._failure is not None

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    @property
    def free_slots(self) -> int:
        """How many more streams the peer lets us open now; 0 on a connection that drains or has failed."""
        if self._failure is not None or self._draining or self._h2.highest_outbound_stream_id > _LAST_USABLE_STREAM_ID:
            return 0
        limit = min(self._h2.remote_settings.max_concurrent_streams, _MAX_STREAMS)
        return max(0, limit - len(self._streams))

    # --- Requests ---

    def open_stream(self, headers: Headers, *, has_body: bool) -> ClientStream:
        """Take a slot and queue the request's headers. Does not wait; the caller has just seen ``free_slots > 0``.

        Whoever gets the stream must end with its ``release()``.

        Args:
            headers: all of them, pseudo-headers first, names in lower case, nothing that HTTP/2 forbids: they go out as
                they are.
        """
        # No await in here: the slot is counted by the same statement that shows it taken.
        stream_id = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream_id, headers, end_stream=not has_body)
        stream = self._streams[stream_id] = ClientStream(stream_id, self)
        self._wake_writer()
        return stream

    async def exchange(self, stream: ClientStream, body: bytes, timeouts: ExchangeTimeouts) -> httpx2.Response:
        """Send *body* on *stream*, wait for the answer's headers and return it, body unread.

        Raises:
            httpx2.TransportError: of the kind that fits; :class:`RequestNotProcessed` when it may be sent again.

        Cancellation: the stream is reset; other streams notice nothing.
        """
        try:
            if body:
                with trio.move_on_after(unlimited(timeouts.write)) as upload:
                    await self._upload(stream, body)
                if upload.cancelled_caught:
                    raise httpx2.WriteTimeout(f"the request was not taken within {timeouts.write} s")
            headers = await stream.wait_headers(timeouts.read)
            return httpx2.Response(
                _status(headers),
                headers=[(name, value) for name, value in headers if not name.startswith(b":")],
                stream=ResponseBody(stream, timeouts.read),
                extensions={"http_version": b"HTTP/2", "stream_id": stream.stream_id},
            )
        except BaseException:
            stream.release()
            raise

    async def _upload(self, stream: ClientStream, body: bytes) -> None:
        rest = memoryview(body)
        self._uploads.add(stream)
        try:
            while rest:
                if stream.error is not None:
                    raise stream.error
                if stream.ended:
                    return  # answered before it had read everything; the answer says why
                window = self._h2.local_flow_control_window(stream.stream_id)
                size = min(window, self._h2.max_outbound_frame_size, len(rest))
                if size <= 0 or self._backlog_bytes > _OUTBOUND_BACKLOG_BYTES:
                    await stream.wait_changed()
                    continue
                self._h2.send_data(stream.stream_id, bytes(rest[:size]), end_stream=size == len(rest))
                self._backlog_bytes += size
                rest = rest[size:]
                self._wake_writer()
        finally:
            self._uploads.discard(stream)

    # --- StreamControl ---

    def acknowledge(self, stream: ClientStream, flow_controlled_bytes: int) -> None:
        if self._failure is None:
            self._h2.acknowledge_received_data(flow_controlled_bytes, stream.stream_id)
            self._wake_writer()

    def release(self, stream: ClientStream) -> None:
        if self._streams.pop(stream.stream_id, None) is None or self._failure is not None:
            return
        try:
            self._h2.reset_stream(stream.stream_id, h2.errors.ErrorCodes.CANCEL)
        except h2.exceptions.StreamClosedError:
            pass  # the peer's own reset came in the same read as the event being handled
        self._wake_writer()
        self._after_stream()

    # --- Life ---

    def drain(self) -> None:
        """Take no new streams and close when the last one ends. Does not wait."""
        self._draining = True
        self._after_stream()

    def close(self, error: httpx2.TransportError | None = None) -> None:
        """End at once: every stream fails with *error* and :meth:`run` returns. Does not wait."""
        if self._failure is None:
            self._failure = error or httpx2.ReadError("the connection was closed")
            for stream in list(self._streams.values()):
                # One exception object per stream: raising a shared one would pile up tracebacks.
                stream.fail(type(self._failure)(str(self._failure)))
            self._streams.clear()
        self._scope.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the connection until it ends. ``started`` is called when the peer's SETTINGS have arrived.

        Raises:
            httpx2.TransportError: it failed before it was usable. Later failures go to the streams, not to the nursery.
        """
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES - self._h2.inbound_flow_control_window)
        self._received_at = self._last_used_at = trio.current_time()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_forever)
                    nursery.start_soon(self._read_forever)
                    await self._peer_is_ready.wait()
                    task_status.started()
                    nursery.start_soon(self._keep_alive)
        finally:
            self.close()
            # Forcefully: a close_notify nobody waits for is not worth blocking the caller's cancellation.
            await trio.aclose_forcefully(self._io)
        if not self._peer_is_ready.is_set():
            assert self._failure is not None
            raise self._failure

    def _wake_writer(self) -> None:
        self._writer_wake.set()

    async def _write_forever(self) -> None:
        try:
            while True:
                if data := self._h2.data_to_send():
                    self._backlog_bytes = 0
                    await self._io.send_all(data)
                    _notify(self._uploads)
                else:
                    self._writer_wake = trio.Event()
                    await self._writer_wake.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.close(httpx2.WriteError(f"the connection broke: {_root_cause(error)}"))

    async def _read_forever(self) -> None:
        try:
            while data := await self._io.receive_some(_RECEIVE_BYTES):
                self._received_at = trio.current_time()
                self._received.set()
                self._received = trio.Event()
                for piece in self._goaway_filter.feed(bytes(data)):
                    if isinstance(piece, GoAway):
                        self._handle_goaway(piece)
                    else:
                        for event in self._h2.receive_data(piece):
                            self._handle_event(event)
                self._wake_writer()
        except h2.exceptions.ProtocolError as error:
            self.close(httpx2.RemoteProtocolError(f"the server broke HTTP/2: {type(error).__name__}"))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.close(httpx2.ReadError(f"the connection broke: {_root_cause(error)}"))
        else:
            self.close(httpx2.ReadError("the server closed the connection"))

    def _handle_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self._peer_is_ready.set()
            _notify(self._uploads)  # INITIAL_WINDOW_SIZE may have grown
            return
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, h2.events.WindowUpdated):
            _notify(self._uploads)
        elif isinstance(event, h2.events.DataReceived):
            if stream is None:  # reset by us a moment ago: nobody will take it
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            else:
                stream.receive_data(event.data, event.flow_controlled_length)
        elif stream is None:
            return
        elif isinstance(event, h2.events.ResponseReceived):
            stream.receive_headers([(bytes(name), bytes(value)) for name, value in event.headers])
        elif isinstance(event, h2.events.StreamEnded):
            stream.finish()
            if stream in self._uploads:
                self.release(stream)  # half-closed: our half still holds the slot
            else:
                self._forget(stream)
        elif isinstance(event, h2.events.StreamReset):
            if event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM:
                stream.fail(RequestNotProcessed("the server refused the stream"))
            else:
                stream.fail(httpx2.RemoteProtocolError(f"the server reset the stream: {_error_name(event.error_code)}"))
            self._forget(stream)

    def _handle_goaway(self, goaway: GoAway) -> None:
        """Drain: streams the server has seen run on, the others were never looked at."""
        for stream in [stream for number, stream in self._streams.items() if number > goaway.last_stream_id]:
            stream.fail(RequestNotProcessed(f"the server is going away: {_error_name(goaway.error_code)}"))
            self._forget(stream)
        self.drain()

    def _forget(self, stream: ClientStream) -> None:
        self._streams.pop(stream.stream_id, None)
        self._after_stream()

    def _after_stream(self) -> None:
        if self._peer_is_ready.is_set():
            self._last_used_at = trio.current_time()
        if self._draining and not self._streams:
            self.close()

    async def _keep_alive(self) -> None:
        """Ping a silent peer, give up on a dead one, close a connection nobody uses."""
        while True:
            now = trio.current_time()
            if not self._streams and now >= self._last_used_at + self._idle_close_s:
                self.drain()
                return
            if now < self._received_at + self._ping_idle_s:
                await trio.sleep_until(self._received_at + self._ping_idle_s)
                continue
            self._h2.ping(b"keepaliv")
            self._wake_writer()
            with trio.move_on_after(self._ping_timeout_s) as wait:
                await self._received.wait()
            if wait.cancelled_caught:
                self.close(httpx2.ReadError(f"no answer to a PING within {self._ping_timeout_s} s"))


def _status(headers: Headers) -> int:
    for name, value in headers:
        if name == b":status" and len(value) == 3 and value.isdigit():
            return int(value)
    raise httpx2.RemoteProtocolError("the answer has no status")


def _notify(streams: Iterable[ClientStream]) -> None:
    for stream in list(streams):
        stream.notify()


def _error_name(code: h2.errors.ErrorCodes | int) -> str:
    try:
        return h2.errors.ErrorCodes(code).name
    except ValueError:
        return f"error {code:#x}"


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__

"""Container logs in CRI format: the rules (pure) and the reading, up to the live end of a running container.

One line per line of output: ``<RFC 3339 time> <stdout|stderr> <F|P> <content>``; ``P`` marks a piece of a line that goes on.
Writing, and throwing old lines away, is conmon's. Log content may be anything, so nothing of it goes into an exception.

Source: pkg/kubelet/kuberuntime/logs/logs.go (ReadLogs, parseCRILog, logWriter).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trio

from kubelet_secrets.dirwatch import FILES_GROW, watch_or_poll

_CHUNK_BYTES = 64 * 1024
_BACKWARD_BYTES = 8 * 1024

Send = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """What ``kubectl logs`` asks for; the defaults are everything there is, to the present end."""

    follow: bool = False
    tail_lines: int | None = None  # the last n lines of the file; 0: none
    since: datetime | None = None  # only lines at or after; aware
    limit_bytes: int | None = None  # of output, at least 1
    timestamps: bool = False
    streams: frozenset[str] = frozenset({"stdout", "stderr"})


@dataclass(frozen=True, slots=True)
class LogLine:
    stamp: bytes  # as written
    stream: str
    is_partial: bool
    content: bytes  # with its newline, unless partial

    @property
    def time(self) -> datetime:
        return parse_time(self.stamp.decode())


def since_seconds(seconds: int, now: datetime) -> datetime:
    """What ``sinceSeconds`` means at *now*."""
    return now - timedelta(seconds=seconds)


def parse_line(line: bytes) -> LogLine | None:
    """Read one line of the file, newline included. None for what is no CRI log line."""
    parts = line.removesuffix(b"\n").split(b" ", 3)
    if len(parts) < 3 or parts[1] not in (b"stdout", b"stderr"):
        return None
    content = parts[3] if len(parts) == 4 else b""
    # Tags are separated by colons; the first one alone has a meaning.
    is_partial = parts[2].split(b":", 1)[0] == b"P"
    return LogLine(parts[0], parts[1].decode(), is_partial, content if is_partial else content + b"\n")


def parse_time(text: str) -> datetime:
    """RFC 3339 with up to nine digits of a second; what Python cannot hold (nanoseconds) is cut off.

    Raises:
        ValueError: it is none.
    """
    text = text.removesuffix("Z") + "+00:00" if text.endswith("Z") else text
    head, dot, rest = text.partition(".")
    if not dot:
        return datetime.fromisoformat(head)
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return datetime.fromisoformat(f"{head}.{rest[:digits][:6].ljust(6, '0')}{rest[digits:]}")


def format_stamp(stamp: bytes) -> bytes:
    """The time in front of a line with ``timestamps``: always nine digits, UTC written as ``Z``.

    Source: types.RFC3339NanoLenient, RFC3339NanoFixed.
    """
    moment = parse_time(stamp.decode())
    _, dot, rest = stamp.decode().partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))] if dot else ""
    nanoseconds = digits[:9].ljust(9, "0")
    offset = moment.isoformat()[-6:]
    zone = "Z" if offset == "+00:00" else offset
    return f"{moment.strftime('%Y-%m-%dT%H:%M:%S')}.{nanoseconds}{zone}".encode()


class LogFilter:
    """Turns lines of the file into bytes for the reader; a machine without I/O.

    Attributes:
        is_done: the byte limit is reached; nothing more will come out.
    """

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._remaining = options.limit_bytes
        self._in_line = False  # the last piece left a line open: the next one gets no timestamp

    @property
    def is_done(self) -> bool:
        return self._remaining == 0

    def feed(self, raw: bytes) -> bytes:
        """What one raw line (newline included) adds to the output; empty when it is left out."""
        line = parse_line(raw)
        if line is None or line.stream not in self._options.streams or self._is_too_old(line):
            return b""
        output = line.content
        if self._options.timestamps and not self._in_line:
            output = format_stamp(line.stamp) + b" " + output
        self._in_line = line.is_partial
        if self._remaining is not None:
            output = output[: self._remaining]
            self._remaining -= len(output)
        return output

    def _is_too_old(self, line: LogLine) -> bool:
        if self._options.since is None:
            return False
        try:
            return line.time < self._options.since.astimezone(UTC)
        except ValueError:
            return False


async def copy_log(
    path: Path, options: LogOptions, send: Send, *, ended: Callable[[], Awaitable[object]] | None = None
) -> None:
    """Send a container's log, and with ``follow`` go on until the container has ended.

    Args:
        send: gets pieces of at most some 64 KiB, in order; its back-pressure slows the reading, and nothing is lost.
        ended: for ``follow``: returns when the container has ended and its log is complete
            (``OciRuntime.wait_exit``). None follows for ever.

    Raises:
        FileNotFoundError: there is no log (yet).

    Cancellation: between two pieces.
    """
    filtering = LogFilter(options)
    with _Source(path, options) as source:
        if options.follow:
            await _follow(path, source, filtering, send, ended)
        else:
            await _drain(source, filtering, send)


async def _follow(
    path: Path, source: _Source, filtering: LogFilter, send: Send, ended: Callable[[], Awaitable[object]] | None
) -> None:
    is_complete = False
    waiting: trio.CancelScope | None = None

    async def note_end() -> None:
        nonlocal is_complete
        assert ended is not None
        await ended()
        is_complete = True
        if waiting is not None:
            waiting.cancel()  # the wait for more, never a send that is under way

    # The directory, not the file: that survives the file being replaced. A sibling's log wakes us for nothing.
    with watch_or_poll(path.parent, FILES_GROW) as watch:
        async with trio.open_nursery() as nursery:
            if ended is not None:
                nursery.start_soon(note_end)
            while True:
                is_last = is_complete  # looked up first: what was written before the end is drained after it
                source.reopen_if_replaced()
                await _drain(source, filtering, send)
                if is_last or filtering.is_done:
                    break
                with trio.CancelScope() as waiting:
                    if not is_complete:
                        await watch.wait()
            nursery.cancel_scope.cancel()


def read_tail(path: Path, *, lines: int, max_bytes: int) -> bytes:
    """The end of a log, for ``terminationMessagePolicy: FallbackToLogsOnError``. Empty when there is none.

    Source: kuberuntime, readLastStringFromContainerLogs: 80 lines, 2048 bytes.
    """
    filtering = LogFilter(LogOptions())
    try:
        with _Source(path, LogOptions(tail_lines=lines)) as source:
            text = b"".join(filtering.feed(line) for line in source.lines())
    except FileNotFoundError:
        return b""
    return text[-max_bytes:]


async def _drain(source: _Source, filtering: LogFilter, send: Send) -> None:
    """Send everything that is in the file now."""
    pending = bytearray()
    for line in source.lines():
        pending += filtering.feed(line)
        if len(pending) >= _CHUNK_BYTES or filtering.is_done:
            await send(bytes(pending))
            pending.clear()
        if filtering.is_done:
            return
    if pending:
        await send(bytes(pending))


class _Source:
    """The file, by whole lines. conmon replaces it by an empty one when it has grown too large."""

    def __init__(self, path: Path, options: LogOptions) -> None:
        self._path = path
        self._file = path.open("rb", buffering=_CHUNK_BYTES)
        self._rest = b""
        if options.tail_lines is not None:
            self._file.seek(find_tail(self._file.fileno(), options.tail_lines))

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def lines(self) -> Iterator[bytes]:
        """The complete lines up to the present end; one that is still being written is kept for later."""
        while True:
            line = self._rest + self._file.readline()
            if not line.endswith(b"\n"):
                self._rest = line
                return
            self._rest = b""
            yield line

    def reopen_if_replaced(self) -> None:
        """Go on with the new file once the old one is read to its end."""
        mine = os.fstat(self._file.fileno())
        try:
            replaced = os.stat(self._path).st_ino != mine.st_ino
        except FileNotFoundError:
            return
        if replaced and self._file.tell() >= mine.st_size:
            self._file.close()
            self._file = self._path.open("rb", buffering=_CHUNK_BYTES)
            self._rest = b""


def find_tail(fd: int, lines: int) -> int:
    """Offset of the last *lines* lines of a file, counted by newlines; 0 when it has fewer.

    Source: pkg/util/tail, FindTailLineStartIndex.
    """
    end = os.fstat(fd).st_size
    position, wanted = end, lines + 1
    while position > 0 and wanted > 0:
        start = max(0, position - _BACKWARD_BYTES)
        block = os.pread(fd, position - start, start)
        for index in range(len(block) - 1, -1, -1):
            if block[index : index + 1] == b"\n":
                wanted -= 1
                if wanted == 0:
                    return start + index + 1
        position = start
    return 0

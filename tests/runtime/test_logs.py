"""The CRI log format: rules as tables, reading as a dialogue with a growing file."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kubelet_secrets import dirwatch
from kubelet_secrets.runtime.logs import (
    LogFilter,
    LogOptions,
    copy_log,
    find_tail,
    format_stamp,
    parse_line,
    parse_time,
    read_tail,
)

T1, T2, T3 = (f"2026-01-01T00:00:0{second}.000000000Z" for second in (1, 2, 3))
LOG = f"{T1} stdout F one\n{T2} stderr F two\n{T3} stdout F three\n".encode()


class Sink:
    def __init__(self) -> None:
        self.data = b""

    async def send(self, piece: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.data += piece


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(b"T stdout F a b\n", ("stdout", False, b"a b\n"), id="full"),
        pytest.param(b"T stderr P part\n", ("stderr", True, b"part"), id="partial-loses-its-newline"),
        pytest.param(b"T stdout F \n", ("stdout", False, b"\n"), id="empty-line"),
        pytest.param(b"T stdout F\n", ("stdout", False, b"\n"), id="no-content"),
        pytest.param(b"T stdout P:x:y more\n", ("stdout", True, b"more"), id="further-tags"),
        pytest.param(b"T stdwrong F a\n", None, id="unknown-stream"),
        pytest.param(b"garbage\n", None, id="garbage"),
    ],
)
def test_lines_are_parsed(raw: bytes, expected: tuple[str, bool, bytes] | None) -> None:
    """Source: kuberuntime/logs, TestParseLog."""
    line = parse_line(raw)
    assert (line and (line.stream, line.is_partial, line.content)) == expected


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("2026-11-23T19:50:16.410000169+00:00", "2026-11-23T19:50:16.410000169Z"),
        ("2026-11-23T19:50:16.41Z", "2026-11-23T19:50:16.410000000Z"),
        ("2026-11-23T19:50:16Z", "2026-11-23T19:50:16.000000000Z"),
        ("2026-11-23T19:50:16.1+02:00", "2026-11-23T19:50:16.100000000+02:00"),
    ],
)
def test_timestamps_have_nine_digits(stamp: str, expected: str) -> None:
    assert format_stamp(stamp.encode()).decode() == expected


def test_time_is_read_with_its_zone() -> None:
    assert parse_time("2026-11-23T19:50:16.123456789+02:00") == datetime(2026, 11, 23, 17, 50, 16, 123456, UTC)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(LogOptions(), b"one\ntwo\nthree\n", id="everything"),
        pytest.param(LogOptions(tail_lines=2), b"two\nthree\n", id="tail"),
        pytest.param(LogOptions(tail_lines=0), b"", id="tail-zero"),
        pytest.param(LogOptions(tail_lines=9), b"one\ntwo\nthree\n", id="tail-more-than-there-is"),
        pytest.param(LogOptions(limit_bytes=6), b"one\ntw", id="limit"),
        pytest.param(LogOptions(since=datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)), b"two\nthree\n", id="since"),
        pytest.param(LogOptions(streams=frozenset({"stderr"})), b"two\n", id="one-stream"),
        pytest.param(LogOptions(timestamps=True, tail_lines=1), f"{T3} three\n".encode(), id="timestamps"),
    ],
)
async def test_options_choose_what_is_sent(tmp_path: Path, options: LogOptions, expected: bytes) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(LOG)
    sink = Sink()
    await copy_log(path, options, sink.send)
    assert sink.data == expected


def test_pieces_of_a_line_are_joined_under_one_timestamp() -> None:
    filtering = LogFilter(LogOptions(timestamps=True))
    pieces = [f"{T1} stdout P a\n", f"{T2} stdout P b\n", f"{T3} stdout F c\n", f"{T3} stdout F d\n"]
    assert b"".join(filtering.feed(piece.encode()) for piece in pieces) == f"{T1} abc\n{T3} d\n".encode()


def test_tail_looks_back_over_several_blocks(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(b"".join(b"%06d" % n + b"x" * 1000 + b"\n" for n in range(100)))
    with path.open("rb") as file:
        file.seek(find_tail(file.fileno(), 30))
        assert file.read(6) == b"000070"


async def test_missing_log_is_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await copy_log(tmp_path / "0.log", LogOptions(), Sink().send)


def test_fallback_message_is_the_bounded_end_of_the_log(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    assert read_tail(path, lines=80, max_bytes=2048) == b""
    path.write_bytes(LOG)
    assert read_tail(path, lines=2, max_bytes=2048) == b"two\nthree\n"
    assert read_tail(path, lines=80, max_bytes=4) == b"ree\n"


async def test_follow_sends_what_is_appended_and_ends_with_the_container(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(LOG[: len(LOG) - 3])  # the last line is still being written
    sink, ended, finished = Sink(), trio.Event(), trio.Event()

    async def follow() -> None:
        await copy_log(path, LogOptions(follow=True, tail_lines=1), sink.send, ended=ended.wait)
        finished.set()

    with trio.fail_after(60):
        nursery.start_soon(follow)
        await _wait_for(lambda: sink.data == b"two\n")
        with path.open("ab") as file:
            file.write(LOG[-3:])
        await _wait_for(lambda: sink.data == b"two\nthree\n")
        with path.open("ab") as file:
            file.write(f"{T3} stdout F four\n".encode())
        ended.set()  # at once: what was written before must still come
        await finished.wait()
    assert sink.data == b"two\nthree\nfour\n"


async def test_follow_goes_on_where_no_more_can_be_watched(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All programs of root's share 128 inotify instances on many a machine."""

    def exhausted() -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(dirwatch, "inotify_open", exhausted)
    monkeypatch.setattr(dirwatch, "POLL_S", 0.01)
    path = tmp_path / "0.log"
    path.write_bytes(LOG[: len(LOG) - 3])
    sink = Sink()
    with trio.fail_after(60):
        nursery.start_soon(copy_log, path, LogOptions(follow=True), sink.send)
        await _wait_for(lambda: sink.data == b"one\ntwo\n")
        with path.open("ab") as file:
            file.write(LOG[-3:])
        await _wait_for(lambda: sink.data == b"one\ntwo\nthree\n")
    nursery.cancel_scope.cancel()


async def test_follow_goes_on_when_the_file_is_replaced(tmp_path: Path, nursery: trio.Nursery) -> None:
    """conmon starts a new file when the old one has reached its size."""
    path = tmp_path / "0.log"
    path.write_bytes(LOG)
    sink = Sink()
    with trio.fail_after(60):
        nursery.start_soon(copy_log, path, LogOptions(follow=True), sink.send)
        await _wait_for(lambda: sink.data == b"one\ntwo\nthree\n")
        new = tmp_path / "0.log.tmp"
        new.write_bytes(f"{T3} stdout F four\n".encode())
        new.rename(path)
        await _wait_for(lambda: sink.data == b"one\ntwo\nthree\nfour\n")
    nursery.cancel_scope.cancel()


async def test_follow_does_not_lose_a_piece_that_is_being_sent_when_the_container_ends(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(LOG)
    ended, go_on, finished = trio.Event(), trio.Event(), trio.Event()
    got = []

    async def slow_send(piece: bytes) -> None:
        await go_on.wait()
        got.append(piece)

    async def follow() -> None:
        await copy_log(path, LogOptions(follow=True), slow_send, ended=ended.wait)
        finished.set()

    with trio.fail_after(60):
        nursery.start_soon(follow)
        await wait_all_tasks_blocked()
        ended.set()
        await wait_all_tasks_blocked()
        go_on.set()
        await finished.wait()
    assert b"".join(got) == b"one\ntwo\nthree\n"


async def test_follow_stops_at_the_byte_limit(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(LOG)
    sink = Sink()
    with trio.fail_after(60):
        await copy_log(path, LogOptions(follow=True, limit_bytes=5), sink.send, ended=trio.sleep_forever)
    assert sink.data == b"one\nt"


async def _wait_for(condition: object) -> None:
    assert callable(condition)
    while not condition():  # noqa: ASYNC110 - inotify wakes the reader, not us
        await trio.sleep(0.005)

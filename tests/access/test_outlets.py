"""Copies of the trail: a real file that is rotated, filled and locked, a real datagram socket in journald's place."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import trio

from kubelet_secrets.access.audit import AuditLog
from kubelet_secrets.access.auditfile import AuditFile
from kubelet_secrets.access.bookkeeping import Bookkeeping
from kubelet_secrets.access.checking import ChainChecker
from kubelet_secrets.access.journal import (
    MESSAGE_ID,
    Journal,
    encode_fields,
    is_logged_to_journal,
    journal_fields,
    journal_socket,
)
from kubelet_secrets.access.outlets import Delivery
from kubelet_secrets.access.record import AuditRecord, Entry, Head, Kind, chain_record, read_line
from kubelet_secrets.access.trail import Trail
from kubelet_secrets.errors import HostError

NOW = datetime(2026, 1, 2, 15, 4, 5, tzinfo=UTC)
COUNT = 5


def opened(path: str, **fields: object) -> AuditRecord:
    record = AuditRecord(
        time=NOW, verdict="allowed", reason="mounted", namespace="ns", pod="web", volume="v", path=path
    )
    return msgspec.structs.replace(record, **fields)


def now() -> datetime:
    return NOW


def check(*paths: Path) -> ChainChecker:
    checker = ChainChecker("file")
    for path in paths:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            checker.feed(line, f"{path.name}:{number}")
    checker.finish()
    return checker


def outline(path: Path) -> list[str]:
    records = [read_line(line).record for line in path.read_bytes().splitlines()]
    return [record.path or record.kind for record in records]


@asynccontextmanager
async def agent(
    directory: Path, *, file: Path | None = None, journal: Path | None = None, resumed: bool = False
) -> AsyncIterator[Bookkeeping]:
    """One agent's life as far as its trail goes; it is killed at the end, unless it was told to end before."""
    books = Bookkeeping(directory / "audit", file=file, journal=journal, resumed=resumed, now=now)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(books.run)
            with trio.fail_after(60):
                yield books
            nursery.cancel_scope.cancel()
    finally:
        books.close()


async def delivered(books: Bookkeeping) -> None:
    for delivery in books.deliveries:
        await delivery.drain()


# --- the file -------------------------------------------------------------------------------------------------------


async def test_the_file_has_every_record_from_start_to_stop(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    async with agent(tmp_path, file=file) as books:
        for number in range(COUNT):
            books.log.append(opened(str(number)))
        await books.end()
    assert outline(file) == ["start", "0", "1", "2", "3", "4", "stop"]
    assert check(file).findings == []
    assert file.stat().st_mode & 0o777 == 0o600


async def test_the_chain_goes_on_after_a_kill_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    async with agent(tmp_path, file=file) as books:
        books.log.append(opened("a"))
        await delivered(books)
        books.log.append(opened("b"))  # recorded, but the agent dies before it is delivered
    assert "b" not in outline(file)
    async with agent(tmp_path, file=file, resumed=True) as books:
        assert [record.path for record in books.log.records()] == ["", "a", "b", ""], "the next agent knows them"
        books.log.append(opened("c"))
        await delivered(books)
    assert outline(file) == ["start", "a", "b", "start", "c"]
    checker = check(file)
    assert (checker.findings, checker.starts, checker.kills) == ([], 2, 1)
    assert "ended without a word" in read_line(file.read_bytes().splitlines()[3]).record.reason


async def test_the_chain_goes_on_when_the_machine_was_started_anew(tmp_path: Path) -> None:
    """The notes in memory are gone; the file is there."""
    file = tmp_path / "audit.log"
    for boot in ("one", "two"):
        (tmp_path / boot).mkdir()
        async with agent(tmp_path / boot, file=file) as books:
            books.log.append(opened(boot))
            await books.end()
    assert outline(file) == ["start", "one", "stop", "start", "two", "stop"]
    checker = check(file)
    assert (checker.findings, checker.kills) == ([], 0)


async def test_a_line_that_a_power_cut_left_half_written_stands_alone(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    (tmp_path / "again").mkdir()
    async with agent(tmp_path, file=file) as books:
        books.log.append(opened("a"))
        await delivered(books)
    with file.open("ab") as half:
        half.write(b'{"seq":3,"time":"2026')
    async with agent(tmp_path / "again", file=file) as books:
        await delivered(books)
    checker = check(file)
    assert checker.findings == []
    assert [each.where for each in checker.notes] == ["audit.log:3"]


@pytest.mark.parametrize("how", ["moved", "removed", "copied-and-truncated"])
async def test_rotation_loses_nothing(tmp_path: Path, how: str) -> None:
    file, old = tmp_path / "audit.log", tmp_path / "audit.log.1"
    async with agent(tmp_path, file=file) as books:
        books.log.append(opened("a"))
        await delivered(books)
        if how == "copied-and-truncated":
            old.write_bytes(file.read_bytes())
            os.truncate(file, 0)
        else:
            os.link(file, old)
            file.unlink()
            if how == "moved":
                file.touch(mode=0o600)  # logrotate's "create"
        books.log.append(opened("b"))
        await delivered(books)
    assert (outline(old), outline(file)) == (["start", "a"], ["b"])
    assert check(old, file).findings == []


async def test_the_chain_is_found_in_the_rotated_file(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    (tmp_path / "again").mkdir()
    async with agent(tmp_path, file=file) as books:
        await books.end()
    file.rename(tmp_path / "audit.log.1")
    (tmp_path / "audit.log.2.gz").write_bytes(b"old")
    async with agent(tmp_path / "again", file=file) as books:
        await books.end()
    assert check(tmp_path / "audit.log.1", file).findings == []
    assert read_line(file.read_bytes().splitlines()[0]).record.seq == 3


async def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "precious.txt"
    file.write_text("not yours\n")
    with pytest.raises(HostError, match=r"cannot write the audit trail to .*precious\.txt: it holds something else"):
        Bookkeeping(tmp_path / "audit", file=file, journal=None, resumed=False, now=now)
    assert file.read_text() == "not yours\n"


async def test_nor_is_one_that_takes_the_place_of_the_trail_later(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    async with agent(tmp_path, file=file) as books:
        await delivered(books)
    file.write_text("not yours\n")
    async with agent(tmp_path, file=file, resumed=True) as books:
        (copy,) = books.deliveries
        while not copy.problem:  # noqa: ASYNC110 - set by a thread's answer
            await trio.sleep(0.01)
        assert copy.problem == "it holds something else"
        assert file.read_text() == "not yours\n"
        file.unlink()
        await delivered(books)
    assert outline(file) == ["start"], "what had been delivered is not repeated"


@pytest.mark.parametrize("kind", ["fifo", "directory", "link", "no-directory"])
def test_only_a_regular_file_will_do(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "audit.log"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path = tmp_path / "nowhere" / "audit.log"
    with pytest.raises(HostError, match="cannot write the audit trail to"):
        AuditFile(path).open()


def test_two_agents_do_not_share_a_file(tmp_path: Path) -> None:
    first = AuditFile(tmp_path / "audit.log")
    first.open()
    with pytest.raises(HostError, match="another agent writes its own there"):
        AuditFile(tmp_path / "audit.log").open()
    first.close()
    second = AuditFile(tmp_path / "audit.log")
    second.open()
    second.close()


async def test_an_agent_that_takes_over_does_not_stop_for_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "audit.log"
    async with agent(tmp_path, file=file) as books:
        await delivered(books)
    with file.open("rb") as stuck:
        fcntl.flock(stuck, fcntl.LOCK_EX)  # as a thread of the old agent that cannot end would
        async with agent(tmp_path, file=file, resumed=True) as books:
            books.log.append(opened("meanwhile"))
            (copy,) = books.deliveries
            while not copy.problem:  # noqa: ASYNC110 - set by a thread's answer
                await trio.sleep(0.01)
            fcntl.flock(stuck, fcntl.LOCK_UN)
            await delivered(books)
            assert copy.problem == ""
    assert outline(file) == ["start", "start", "meanwhile"]
    assert check(file).findings == []
    assert "trying again" in caplog.text


def test_lines_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A filesystem that is full in the midst of a line."""
    import resource
    import signal

    file = AuditFile(tmp_path / "audit.log")
    file.open()
    first = chain_record(opened("a"), Head())
    second = chain_record(opened("b"), first.head)
    assert file.write([first]) == 1
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(first.line) + 20, limits[1]))
        with pytest.raises(OSError, match=r"No space left|File too large"):
            file.write([second])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert outline(tmp_path / "audit.log") == ["a"]
    assert file.write([second]) == 1
    file.close()
    assert check(tmp_path / "audit.log").findings == []


# --- an outlet that is too slow -------------------------------------------------------------------------------------


class Stuck:
    """Takes nothing until it is let go."""

    name = "file"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.let_go = threading.Event()
        self.is_stuck = threading.Event()

    def write(self, entries: Sequence[Entry]) -> int:
        self.is_stuck.set()
        self.let_go.wait(30)
        self.entries += entries
        return len(entries)

    def close(self) -> None:
        pass


async def test_a_stuck_outlet_holds_up_nobody_and_its_loss_is_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, trail, outlet = AuditLog(capacity=8), Trail(tmp_path / "audit"), Stuck(tmp_path)
    delivery = Delivery(log, outlet, trail, after=0, now=now)
    log.append(opened("first"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(delivery.run)
        with trio.fail_after(60):
            await trio.to_thread.run_sync(outlet.is_stuck.wait)
            for number in range(100):
                log.append(opened(str(number)))  # returns at once, though nobody takes them
            assert log.head.seq == 101
            outlet.let_go.set()
            await delivery.drain()
            nursery.cancel_scope.cancel()
    trail.close()
    numbers = [entry.record.seq for entry in outlet.entries]
    assert numbers == [1, *range(95, 103)]
    gap = outlet.entries[-1].record
    assert (gap.kind, gap.outlet, gap.first, gap.last, gap.count) == (Kind.GAP, "file", 2, 94, 93)
    assert delivery.dropped == log.dropped == 93
    checker = ChainChecker("file")
    for entry in outlet.entries:
        checker.feed(entry.line, "")
    assert checker.finish() == []
    assert "93 audit records were not delivered to the file in time" in caplog.text


# --- notes for the next agent ---------------------------------------------------------------------------------------


def test_the_trail_keeps_the_latest_and_is_bounded(tmp_path: Path) -> None:
    trail = Trail(tmp_path / "audit", segment_records=10)
    log = AuditLog(notebook=trail)
    for number in range(47):
        log.note(opened(str(number)))
    trail.close()
    again = Trail(tmp_path / "audit", segment_records=10)
    assert [entry.record.seq for entry in again.load()] == list(range(31, 48))
    assert len(list((tmp_path / "audit").iterdir())) == 2
    again.close()


def test_a_trail_is_believed_as_far_as_it_hangs_together(tmp_path: Path) -> None:
    trail = Trail(tmp_path / "audit")
    log = AuditLog(notebook=trail)
    for number in range(6):
        log.note(opened(str(number)))
    trail.close()
    current = tmp_path / "audit" / "current"
    lines = current.read_bytes().splitlines()
    current.write_bytes(b"\n".join([*lines[:2], b"rubbish", *lines[3:]]) + b'\n{"seq":7,"ti')
    again = Trail(tmp_path / "audit")
    assert [entry.record.seq for entry in again.load()] == [4, 5, 6]
    AuditLog(notebook=again, earlier=again.load()).note(opened("next"))
    assert [entry.record.seq for entry in again.load()] == [4, 5, 6, 7], "what was cut off is not in its way"
    again.close()


# --- the journal ----------------------------------------------------------------------------------------------------


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    """What journald listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "journal"))
        listener.settimeout(20)
        yield listener


def receive(journald: socket.socket) -> dict[str, str]:
    """One entry, as journald takes it apart."""
    datagram, descriptors, _, _ = socket.recv_fds(journald, 1 << 20, 4)
    if descriptors:
        assert datagram == b""
        (fd,) = descriptors
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        assert seals & fcntl.F_SEAL_WRITE
        assert seals & fcntl.F_SEAL_SHRINK
        with os.fdopen(fd, "rb") as file:
            datagram = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
    return parse(datagram)


def parse(datagram: bytes) -> dict[str, str]:
    fields = {}
    while datagram:
        head, _, rest = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, datagram = rest[8 : 8 + length], rest[9 + length :]
        else:
            datagram = rest
        fields[name.decode()] = value.decode()
    return fields


async def test_the_journal_gets_each_record_with_fields_of_its_own(tmp_path: Path, journald: socket.socket) -> None:
    async with agent(tmp_path, journal=tmp_path / "journal") as books:
        books.log.append(opened("tls/key", verdict="denied", pid=7, uid=1000, exe="/bin/cat", reason="host process"))
        await books.end()
    entries = [receive(journald) for _ in range(3)]
    assert [entry["KUBELET_SECRETS_KIND"] for entry in entries] == ["start", "open", "stop"]
    refusal = entries[1]
    assert {name: refusal[name] for name in ("MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER")} == {
        "MESSAGE_ID": MESSAGE_ID,
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "kubelet-secrets",
    }
    assert refusal["MESSAGE"] == "denied open of ns/web/v/tls/key by host process 7 (/bin/cat): host process"
    assert refusal["KUBELET_SECRETS_VERDICT"] == "denied"
    assert (refusal["KUBELET_SECRETS_PID"], refusal["KUBELET_SECRETS_UID"]) == ("7", "1000")
    assert "KUBELET_SECRETS_CONTAINER" not in refusal
    checker = ChainChecker()
    for entry in entries:
        checker.feed(entry["KUBELET_SECRETS_RECORD"].encode(), "")
    assert checker.finish() == []


async def test_a_record_too_large_for_a_datagram_travels_in_a_memfd(tmp_path: Path, journald: socket.socket) -> None:
    path = "directory/" * 60_000
    Journal(tmp_path / "journal").write([chain_record(opened(path), Head())])
    entry = receive(journald)
    assert entry["KUBELET_SECRETS_PATH"] == path


def test_what_several_processes_did_is_not_said_of_one() -> None:
    record = opened("k", pid=7, exe="/bin/cat", count=900, merged=True)
    fields = journal_fields(chain_record(record, Head()))
    assert fields["MESSAGE"] == "allowed open of ns/web/v/k by host process 7 (/bin/cat) and others, 900 times: mounted"
    assert fields["KUBELET_SECRETS_MERGED"] == "True"
    assert "KUBELET_SECRETS_MERGED" not in journal_fields(chain_record(opened("k"), Head()))


def test_a_value_with_a_newline_goes_behind_its_length() -> None:
    fields = {"A": "plain", "B": "two\nlines=", "C": ""}
    assert encode_fields(fields) == b"A=plain\nB\n\x0a\0\0\0\0\0\0\0two\nlines=\nC=\n"
    assert parse(encode_fields(fields)) == fields
    entry = chain_record(opened("a\nb"), Head())
    assert parse(encode_fields(journal_fields(entry)))["KUBELET_SECRETS_PATH"] == "a\nb"


async def test_a_journal_that_is_not_there_yet_gets_everything_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent(tmp_path, journal=tmp_path / "journal") as books:
        books.log.append(opened("a"))
        (copy,) = books.deliveries
        while not copy.problem:  # noqa: ASYNC110 - set by a thread's answer
            await trio.sleep(0.01)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(tmp_path / "journal"))
            await delivered(books)
            assert [receive(listener)["KUBELET_SECRETS_SEQ"] for _ in range(2)] == ["1", "2"]
    assert "does not get to the journal: No such file or directory" in caplog.text


async def test_the_next_agent_tells_the_journal_what_it_has_not_heard(tmp_path: Path, journald: socket.socket) -> None:
    async with agent(tmp_path, journal=tmp_path / "journal") as books:
        await delivered(books)
        books.log.append(opened("late"))
    async with agent(tmp_path, journal=tmp_path / "journal", resumed=True) as books:
        await delivered(books)
    assert [receive(journald)["KUBELET_SECRETS_SEQ"] for _ in range(3)] == ["1", "2", "3"]


def test_the_journal_is_told_when_it_is_what_we_log_to(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        status = os.fstat(log.fileno())
        ours = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_logged_to_journal(ours, log.fileno())
        assert not is_logged_to_journal({"JOURNAL_STREAM": "1:2"}, log.fileno()), "inherited from a unit around us"
        assert not is_logged_to_journal({}, log.fileno())
    assert journal_socket("off", ours) is None
    assert journal_socket("/run/other", {}) == Path("/run/other")
    assert journal_socket("auto", {}) is None


# --- killed at any instant ------------------------------------------------------------------------------------------

BUSY_AGENT = """
import sys
from datetime import UTC, datetime
from pathlib import Path
import trio
from kubelet_secrets.access.bookkeeping import Bookkeeping
from kubelet_secrets.access.record import AuditRecord

async def main(directory, resumed):
    now = lambda: datetime.now(UTC)
    books = Bookkeeping(directory / "audit", file=directory / "audit.log", journal=None, resumed=resumed, now=now)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(books.run)
        number = 0
        while True:
            number += 1
            books.log.append(AuditRecord(time=now(), verdict="allowed", reason="mounted", path=str(number)))
            await trio.sleep(0)
            if number == 200:
                print("busy", flush=True)

trio.run(main, Path(sys.argv[1]), sys.argv[2] == "resumed")
"""


def test_an_agent_killed_at_any_instant_leaves_a_chain_that_goes_on(tmp_path: Path) -> None:
    """The last record of each agent, in memory or not, is in the file in the end: none is lost between agents."""
    last_noted = []
    for turn in ("first", "resumed", "resumed", "resumed"):
        command = [sys.executable, "-c", BUSY_AGENT, str(tmp_path), turn]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"busy\n"
            process.kill()
        trail = Trail(tmp_path / "audit")
        last_noted.append(trail.load()[-1].head)
        trail.close()
    books = Bookkeeping(tmp_path / "audit", file=tmp_path / "audit.log", journal=None, resumed=True, now=now)

    async def finish() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(books.run)
            with trio.fail_after(60):
                await books.end()
            nursery.cancel_scope.cancel()

    trio.run(finish)
    books.close()
    checker = check(tmp_path / "audit.log")
    assert checker.findings == []
    assert (checker.starts, checker.kills) == (5, 4)
    kept = {entry.head for entry in map(read_line, (tmp_path / "audit.log").read_bytes().splitlines())}
    assert kept >= set(last_noted)

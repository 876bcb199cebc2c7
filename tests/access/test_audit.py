"""Folding, and the log that is kept in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import trio
import trio.testing

from kubelet_secrets.access.audit import AuditLog
from kubelet_secrets.access.folding import Folding
from kubelet_secrets.access.record import AuditRecord, Kind

START = datetime(2026, 1, 2, 15, 4, 5, tzinfo=UTC)


def record(at: float = 0, **changes: object) -> AuditRecord:
    base = AuditRecord(
        time=START + timedelta(seconds=at),
        verdict="allowed",
        reason="mounted",
        volume="db",
        path="password",
        pid=10,
        tid=11,
    )
    return msgspec.structs.replace(base, **changes)


def outline(records: list[AuditRecord]) -> list[tuple[float, str, int]]:
    return [((each.time - START).total_seconds(), each.path, each.count) for each in records]


@pytest.mark.parametrize(
    ("arriving", "recorded"),
    [
        pytest.param([record(0)], [(0, "password", 1)], id="one"),
        pytest.param([record(0), record(0.5)], [(0, "password", 1)], id="a-repeat-is-held-back"),
        pytest.param(
            [record(0), record(0.1), record(0.9), record(1.0)],
            [(0, "password", 1), (0.9, "password", 2), (1.0, "password", 1)],
            id="repeats-are-counted-when-the-window-is-over",
        ),
        pytest.param(
            [record(0), record(0.9), record(1.8), record(1.9)],
            [(0, "password", 1), (0.9, "password", 1), (1.8, "password", 1)],
            id="repeats-do-not-prolong-the-window",
        ),
        pytest.param(
            [record(0), record(0, path="other"), record(0, pid=12), record(0, exe="/x"), record(0, verdict="denied")],
            [(0, "password", 1), (0, "other", 1), (0, "password", 1), (0, "password", 1), (0, "password", 1)],
            id="unlike-ones-all-pass",
        ),
        pytest.param([record(0), record(0.1, tid=99)], [(0, "password", 1)], id="another-thread-is-alike"),
        pytest.param(
            [record(0), record(0.2), record(0.1, path="b"), record(-50, path="c")],
            [(0, "password", 1), (0.1, "b", 1), (0.2, "password", 1), (-50, "c", 1)],
            id="a-clock-set-back-closes-all",
        ),
    ],
)
def test_folding(arriving: list[AuditRecord], recorded: list[tuple[float, str, int]]) -> None:
    folding = Folding(window=timedelta(seconds=1))
    assert outline([out for each in arriving for out in folding.add(each)[0]]) == recorded


def test_folding_loses_no_verdict() -> None:
    folding = Folding(window=timedelta(seconds=1), capacity=3)
    out: list[AuditRecord] = []
    for number in range(200):
        out += folding.add(record(number * 0.05, path=str(number % 7), pid=number % 3))[0]
    out += folding.expire(START + timedelta(days=1))
    assert sum(each.count for each in out) == 200
    assert folding.next_expiry() is None


def test_a_process_for_each_open_does_not_flood_the_trail() -> None:
    """``while :; do cat /etc/db/password; done``: alike but for the process."""
    folding = Folding(window=timedelta(seconds=1), burst=10)
    out: list[AuditRecord] = []
    for number in range(3000):
        out += folding.add(record(number * 0.001, pid=1000 + number, uid=number % 5, exe=f"/bin/{number % 3}"))[0]
    out += folding.add(record(2.9, path="other", pid=7))[0]
    out += folding.close()
    assert sum(each.count for each in out) == 3001
    assert len(out) <= 3 * (10 + 2) + 1
    assert [each.merged for each in out if each.count > 100] == [True] * 3
    assert [each.pid for each in out if each.path == "other"] == [7], "others are recorded as before"
    assert not any(each.merged for each in folding.add(record(9, pid=1))[0]), "and so is this one, once it is over"


def test_a_million_names_looked_up_do_not_flood_the_trail() -> None:
    folding = Folding(window=timedelta(seconds=1), burst=10)
    out: list[AuditRecord] = []
    for number in range(2000):
        out += folding.add(record(number * 0.0001, kind="lookup", path=str(number), verdict="denied"))[0]
    out += folding.close()
    assert sum(each.count for each in out) == 2000
    assert len(out) == 12


def test_repeats_can_be_counted_without_a_record_each() -> None:
    folding = Folding(window=timedelta(seconds=1))
    _, window = folding.add(record(0))
    assert window.repeat(START + timedelta(seconds=0.2), 98)
    assert folding.add(record(0.3, tid=97)) == ([], window)
    assert window.repeat(START + timedelta(seconds=0.4), 99)
    assert not window.repeat(START + timedelta(seconds=1), 99), "the window is over"
    assert not window.repeat(START - timedelta(seconds=1), 99), "the clock was set back"
    (folded,) = folding.expire(START + timedelta(seconds=1))
    assert folded == record(0.4, tid=99, count=3)
    assert not window.repeat(START + timedelta(seconds=0.5), 99), "it was reported already"


def test_only_the_most_recent_are_kept() -> None:
    log = AuditLog(capacity=3)
    for number in range(5):
        log.append(record(path=str(number), verdict="allowed" if number % 2 == 0 else "denied"))
    assert [each.path for each in log.records()] == ["2", "3", "4"]
    assert [each.path for each in log.records(denied_only=True)] == ["3"]
    assert (log.oldest, log.head.seq, log.verdicts, log.denied) == (3, 5, 5, 2)


async def test_a_follower_sees_what_comes_and_how_much_it_missed() -> None:
    log = AuditLog(capacity=3)
    log.append(record(path="before"))
    events = log.follow(log.head.seq)
    with trio.fail_after(60):
        log.append(record(path="0"))
        seen = [await anext(events)]
        for number in range(1, 6):
            log.append(record(path=str(number)))
        seen += [await anext(events) for _ in range(3)]
    assert [(event.entry.record.path, event.dropped) for event in seen] == [("0", 0), ("3", 2), ("4", 0), ("5", 0)]
    assert log.dropped == 2
    await events.aclose()


async def test_a_follower_waits_for_what_comes() -> None:
    log = AuditLog()
    seen: list[str] = []

    async def follow() -> None:
        async for event in log.follow(0):
            seen.append(event.entry.record.path)  # noqa: PERF401 - looked at while it goes on

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        for path in ("a", "b"):
            await trio.testing.wait_all_tasks_blocked()
            log.append(record(path=path))
        await trio.testing.wait_all_tasks_blocked()
        assert seen == ["a", "b"]
        nursery.cancel_scope.cancel()


async def test_repeats_are_recorded_soon_after_their_window(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()

    def now() -> datetime:
        return START + timedelta(seconds=trio.current_time() - began)

    log = AuditLog()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run, now)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(60):
            for _ in range(3):
                log.append(record())
            await log.wait_after(1)
            assert [each.count for each in log.records()] == [1, 2]
            assert (now() - START).total_seconds() == 1
            await trio.sleep(30)
            log.append(record(30))
            assert [each.count for each in log.records()] == [1, 2, 1]
        nursery.cancel_scope.cancel()


def test_the_end_of_the_trail_has_what_was_being_folded() -> None:
    log = AuditLog()
    for _ in range(3):
        log.append(record())
    log.note(AuditRecord(time=START, kind=Kind.STOP, reason="agent stopped"))
    assert [(each.kind, each.count) for each in log.records()] == [("open", 1), ("open", 2), ("stop", 1)]
    assert (log.verdicts, log.denied) == (3, 0)

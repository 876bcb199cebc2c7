from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import trio
import trio.testing

from kubelet_secrets.access.audit import AuditLog, AuditRecord, Folding, chain_hash, is_chain_intact

START = datetime(2026, 1, 2, 15, 4, 5, tzinfo=UTC)


def record(at: float = 0, **changes: object) -> AuditRecord:
    base = AuditRecord(
        time=START + timedelta(seconds=at), allowed=True, reason="mounted", volume="db", path="password", pid=10, tid=11
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
            [record(0), record(0, path="other"), record(0, pid=12), record(0, exe="/x"), record(0, allowed=False)],
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
        out += folding.add(record(number * 0.05, path=str(number % 7)))[0]
    out += folding.expire(START + timedelta(days=1))
    assert sum(each.count for each in out) == 200
    assert folding.next_expiry() is None


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


def test_records_are_chained() -> None:
    log = AuditLog()
    for number in range(5):
        log.append(record(path=str(number)))
    records = log.records()
    assert is_chain_intact(records)
    assert is_chain_intact(records[2:], records[1].chain)
    assert not is_chain_intact(records[2:])
    assert not is_chain_intact([records[0], *records[2:]])
    assert not is_chain_intact([records[1], records[0]])
    forged = msgspec.structs.replace(records[2], allowed=False)
    assert not is_chain_intact([*records[:2], forged, *records[3:]])
    assert records[1].chain == chain_hash(records[0].chain, records[1])


def test_only_the_most_recent_are_kept() -> None:
    log = AuditLog(capacity=3)
    for number in range(5):
        log.append(record(path=str(number), allowed=number % 2 == 0))
    assert [each.path for each in log.records()] == ["2", "3", "4"]
    assert [each.path for each in log.records(denied_only=True)] == ["3"]


async def test_a_follower_sees_what_comes_and_how_much_it_missed() -> None:
    log = AuditLog()
    log.append(record(path="before"))
    with log.subscribe(capacity=2) as follower:
        for number in range(5):
            log.append(record(path=str(number)))
        with trio.fail_after(5):
            first, second = await anext(follower), await anext(follower)
            log.append(record(path="later"))
            third = await anext(follower)
    assert [(event.record.path, event.dropped) for event in (first, second, third)] == [
        ("0", 0),
        ("1", 0),
        ("later", 3),
    ]
    log.append(record(path="after"))  # nobody follows any more


async def test_repeats_are_recorded_soon_after_their_window(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()

    def now() -> datetime:
        return START + timedelta(seconds=trio.current_time() - began)

    log = AuditLog()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run, now)
        await trio.testing.wait_all_tasks_blocked()
        with log.subscribe() as follower, trio.fail_after(60):
            for _ in range(3):
                log.append(record())
            assert (await anext(follower)).record.count == 1
            assert (await anext(follower)).record.count == 2
            assert (now() - START).total_seconds() == 1
            await trio.sleep(30)
            log.append(record(30))
            assert (await anext(follower)).record.count == 1
        nursery.cancel_scope.cancel()


def test_a_record_has_no_room_for_a_value() -> None:
    """What is recorded is closed: a new field must be looked at here."""
    assert set(AuditRecord.__struct_fields__) == {
        *("time", "allowed", "reason", "kind", "pod_uid", "namespace", "pod", "volume", "path", "version", "container"),
        *("container_id", "tid", "pid", "uid", "exe", "count", "chain"),
    }

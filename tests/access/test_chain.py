"""The hash chain: what is made, and what a check says about lines that somebody had in hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest

from kubelet_secrets.access.audit import AuditLog
from kubelet_secrets.access.checking import ChainChecker
from kubelet_secrets.access.record import CHAIN_START, AuditRecord, Head, Kind, NotARecord, chain_record, read_line

NOW = datetime(2026, 1, 2, 15, 4, 5, 123456, tzinfo=UTC)


def note(kind: str = Kind.START, **fields: object) -> AuditRecord:
    return msgspec.structs.replace(AuditRecord(time=NOW, kind=str(kind), reason=str(kind)), **fields)


def opened(path: str, **fields: object) -> AuditRecord:
    return note("open", path=path, verdict="allowed", **fields)


def trail(*records: AuditRecord, head: Head | None = None) -> list[bytes]:
    log = AuditLog(head=head)
    for record in records:
        log.note(record)
    return [entry.line for entry in log.entries()]


def check(lines: list[bytes], outlet: str = "") -> ChainChecker:
    checker = ChainChecker(outlet)
    for number, line in enumerate(lines, 1):
        checker.feed(line, f"line {number}")
    checker.finish()
    return checker


def said(lines: list[bytes], outlet: str = "") -> list[str]:
    return [f"{each.where}: {each.what}" for each in check(lines, outlet).findings]


FIVE = trail(note(), *(opened(str(number)) for number in range(3)), note(Kind.STOP))


def test_a_record_has_no_room_for_a_value() -> None:
    """What is recorded is closed: a new field must be looked at here."""
    assert AuditRecord.__struct_fields__ == (
        *("seq", "time", "kind", "verdict", "reason", "namespace", "pod", "pod_uid", "volume", "path", "version"),
        *("container", "container_id", "tid", "pid", "uid", "exe", "user", "count", "merged", "outlet", "first"),
        *("last", "previous", "chain"),
    )


def test_a_line_is_json_that_ends_in_its_own_hash() -> None:
    entry = chain_record(opened('tls/\N{SNOWMAN} "key"', exe="/bin/cat"), Head(4, "a" * 64))
    plain = json.loads(entry.line)
    assert (plain["seq"], plain["previous"], plain["path"]) == (5, "a" * 64, 'tls/\N{SNOWMAN} "key"')
    assert list(plain)[-1] == "chain"
    assert read_line(entry.line) == entry
    assert entry.record.chain == plain["chain"]


def test_a_field_of_a_later_release_does_not_spoil_the_hash() -> None:
    body = FIVE[1].replace(b'"kind"', b'"severity":3,"kind"')
    with pytest.raises(NotARecord, match="changed"):
        read_line(body)
    import hashlib

    unsigned = body[:-66] + b'"}'
    later = unsigned[:-2] + hashlib.sha256(unsigned).hexdigest().encode() + b'"}'
    assert read_line(later).record.path == "0"


def test_an_untouched_trail_is_whole() -> None:
    checker = check(FIVE)
    assert checker.findings == checker.notes == []
    assert checker.first is not None
    assert checker.first.previous == CHAIN_START
    assert (checker.records, checker.verdicts, checker.denied, checker.starts, checker.kills) == (5, 3, 0, 1, 0)
    assert said(FIVE[2:]) == [], "from the middle on, as after a rotation"


def resealed(line: bytes, **changes: object) -> bytes:
    """What a forger does who knows how it works: change a record and give it a fitting hash."""
    record = msgspec.structs.replace(read_line(line).record, **changes)
    return chain_record(record, Head(record.seq - 1, record.previous)).line


@pytest.mark.parametrize(
    ("tamper", "finding"),
    [
        pytest.param(lambda lines: lines[:2] + lines[3:], "line 3: record 3 is missing before this line", id="removed"),
        pytest.param(
            lambda lines: lines[:1] + lines[4:], "line 2: records 2 to 4 are missing before this line", id="several"
        ),
        pytest.param(
            lambda lines: [*lines[:2], lines[2].replace(b"allowed", b"denied!"), *lines[3:]],
            "line 3: changed: its hash is not that of its content",
            id="changed",
        ),
        pytest.param(
            lambda lines: [*lines[:2], resealed(lines[2], path="x"), *lines[3:]],
            "line 4: record 4 does not belong behind the record 3 that stands before it",
            id="changed-with-a-fitting-hash",
        ),
        pytest.param(
            lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
            "line 3: record 2 stands behind record 3",
            id="swapped",
        ),
        pytest.param(lambda lines: [*lines[:3], b"what?", *lines[3:]], "line 4: not an audit record", id="put-in"),
        pytest.param(lambda lines: [*lines[:-1], lines[-1][:40]], "line 5: not an audit record", id="cut-off"),
        pytest.param(
            lambda lines: lines + trail(note(reason="other")),
            "line 6: another chain begins, which knows nothing of the 5 records before",
            id="a-second-chain",
        ),
    ],
)
def test_tampering_is_found(tamper: Callable[[list[bytes]], list[bytes]], finding: str) -> None:
    assert finding in said(tamper(list(FIVE)))


def test_whatever_single_byte_is_changed_is_found() -> None:
    line = FIVE[2]
    for position in range(0, len(line), 7):
        forged = line[:position] + bytes([line[position] ^ 1]) + line[position + 1 :]
        assert said([*FIVE[:2], forged, *FIVE[3:]]), position


def test_a_loss_that_the_trail_itself_records_is_explained() -> None:
    gap = note(Kind.GAP, outlet="file", first=3, last=4, count=2)
    lines = trail(note(), *(opened(str(number)) for number in range(5)), gap, opened("z"))
    kept = lines[:2] + lines[4:]
    checker = check(kept, "file")
    assert checker.findings == []
    assert [each.what for each in checker.notes] == ["records 3 to 4 are missing: never written, says record 7"]
    assert said(kept, "journal"), "of another copy it says nothing"
    assert said(lines[:2] + lines[5:], "file"), "nor of more than was lost"


def test_a_line_that_a_crash_of_the_machine_cut_off_is_explained_by_the_next_start() -> None:
    before = trail(note(), opened("a"))
    last = read_line(before[-1]).record
    after = trail(note(reason="agent started"), opened("b"), head=Head(last.seq, last.chain))
    checker = check([*before, FIVE[2][:100], *after])
    assert checker.findings == []
    assert [each.where for each in checker.notes] == ["line 3"]
    assert checker.kills == 1
    elsewhere = trail(note(), head=Head(last.seq, "b" * 64))
    assert said([*before, FIVE[2][:100], *elsewhere]), "but only when it goes on behind the line before"


def test_a_record_that_was_delivered_twice_does_no_harm() -> None:
    checker = check([*FIVE[:3], FIVE[2], *FIVE[3:]])
    assert (checker.findings, len(checker.notes)) == ([], 1)

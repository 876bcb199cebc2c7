"""One line of the audit trail, and how lines are chained. Pure.

A record is a verdict, repeats of one folded together, or an event of the trail itself: that an agent started, stopped, or could
not deliver records. Chained, it is one line of JSON that ends in its own SHA-256 and holds that of the line before, so a
line that was changed does not fit its own hash, and one that was taken out is missed by its successor. What a chain without
a key cannot show is in docs/threat-model.md.

``audit`` makes the chain, ``checking`` verifies it from the bytes of the lines: fields may be added, and older trails still
fit their hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import msgspec

CHAIN_START = "0" * 64
_HASH_CHARACTERS = 64
_END = b'"}'


class Kind(StrEnum):
    """What a record is about."""

    OPEN = "open"
    OPENDIR = "opendir"
    READ = "read"  # refused, as are the next two: nobody records that what was opened is read on, or a name looked at
    READDIR = "readdir"
    LOOKUP = "lookup"
    EXEC = "exec"  # ``user`` may run a command in ``container`` or join its own, or may not: the kubelet's API was asked to
    ASK = "ask"  # refused: a process of ``container``'s, or one that was in its mount namespace, spoke to the agent's socket
    START = "start"  # an agent begins here; ``pid`` is its own
    STOP = "stop"  # an agent was told to stop; a start without one before it follows a kill
    GAP = "gap"  # an outlet was too slow: the ``count`` records from ``first`` to ``last`` are missing there


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One verdict, or the repeats of one. There is no field that could take a value."""

    seq: int = 0  # 1 for the first record of a chain, then one more for each
    time: datetime  # UTC; of a folded record: the last repeat's
    kind: str = Kind.OPEN.value
    verdict: str = ""  # "allowed" or "denied"; "" for events of the trail
    reason: str  # policy.Reason in words
    namespace: str = ""  # the pod whose volume it is, as are the next two
    pod: str = ""
    pod_uid: str = ""
    volume: str = ""
    path: str = ""  # as users know it: "tls/tls.key"
    version: str = ""  # "..2026_01_02_15_04_05.4130968751"
    container: str = ""  # who asked, when it is one of ours: "namespace/pod/container"
    container_id: str = ""
    tid: int = 0  # on the host, as are pid and uid; of a folded record: the last repeat's
    pid: int = 0
    uid: int = 0
    exe: str = ""
    user: str = (
        ""  # of the API, for what was asked over the network; the command itself is not kept: words of it may be values
    )
    count: int = 1
    merged: bool = False  # several processes, or names looked up: tid, pid, uid, exe (and path) are those of the first
    outlet: str = ""  # of a gap: "file" or "journal"
    first: int = 0  # of a gap: the seq of the first record that is missing
    last: int = 0
    previous: str = ""  # the ``chain`` of the record before; zeros for the first one
    chain: str = ""  # hexadecimal SHA-256 of this very line with an empty chain. Stays the last field

    @property
    def allowed(self) -> bool:
        return self.verdict == "allowed"

    @property
    def is_denied(self) -> bool:
        return self.verdict == "denied"


class Head(NamedTuple):
    """Where a chain ends."""

    seq: int = 0
    chain: str = CHAIN_START


class Entry(NamedTuple):
    """A chained record."""

    record: AuditRecord
    line: bytes  # its JSON, without a newline

    @property
    def head(self) -> Head:
        return Head(self.record.seq, self.record.chain)


class NotARecord(ValueError):
    """A line that is no record, or was changed."""


def chain_record(record: AuditRecord, head: Head) -> Entry:
    """Make *record* the successor of *head*."""
    linked = msgspec.structs.replace(record, seq=head.seq + 1, previous=head.chain, chain="")
    unsigned = msgspec.json.encode(linked)
    chain = hashlib.sha256(unsigned).hexdigest()
    line = unsigned[: -len(_END)] + chain.encode() + _END
    return Entry(msgspec.structs.replace(linked, chain=chain), line)


def read_line(line: bytes) -> Entry:
    """The record that a line holds.

    Args:
        line: without its newline.

    Raises:
        NotARecord: it is none, was cut off, or does not fit its own hash. The text does not quote it.
    """
    try:
        record = msgspec.json.decode(line, type=AuditRecord)
    except msgspec.MsgspecError:
        raise NotARecord("not an audit record") from None
    unsigned = line[: -len(_END) - _HASH_CHARACTERS] + _END
    if hashlib.sha256(unsigned).hexdigest() != record.chain or not line.endswith(record.chain.encode() + _END):
        raise NotARecord("changed: its hash is not that of its content")
    return Entry(record, line)


def last_entry(lines: Iterable[bytes]) -> Entry | None:
    """The last of *lines* that is a record."""
    found = None
    for line in lines:
        try:
            found = read_line(line)
        except NotARecord:
            continue
    return found

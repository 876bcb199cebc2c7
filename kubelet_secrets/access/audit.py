"""The audit trail: every verdict, kept in memory, handed to whoever follows, never with a value.

Three stations: :class:`Folding` (pure: time is an argument) makes one record of many alike; :class:`AuditLog` chains the
records by hash, keeps the most recent, and passes them on to subscribers. A subscriber that is too slow misses records, and is
told how many; the filesystem never waits for one.

The hash chain lets a reader who keeps records prove later that none was changed, left out or put in between. It starts anew
with each agent.

Called by ``guard`` for every open; read through the control socket.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
import trio

logger = logging.getLogger(__name__)

CHAIN_START = "0" * 64

Clock = Callable[[], datetime]
"""Gives the time now, UTC."""


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict, or the repeats of one. A msgspec struct, because its JSON form is what the chain hashes."""

    time: datetime  # UTC; of a folded record: the last repeat's
    allowed: bool
    reason: str  # policy.Reason in words
    kind: str = "open"  # or "opendir"; only when refused also "read", "readdir" and "lookup"
    pod_uid: str = ""  # whose volume it is
    namespace: str = ""
    pod: str = ""
    volume: str = ""
    path: str = ""  # as users know it: "tls/tls.key"
    version: str = ""  # "..2026_01_02_15_04_05.4130968751"
    container: str = ""  # who asked, when it is one of ours: "namespace/pod/container"
    container_id: str = ""
    tid: int = 0  # on the host, as are pid and uid; of a folded record: the last repeat's
    pid: int = 0
    uid: int = 0
    exe: str = ""
    count: int = 1
    chain: str = ""  # hexadecimal SHA-256 over the previous record's chain and this record without its own

    @property
    def verdict(self) -> str:
        return "allowed" if self.allowed else "denied"


def chain_hash(previous: str, record: AuditRecord) -> str:
    """The ``chain`` of *record* when it follows one with chain *previous*."""
    body = msgspec.json.encode(msgspec.structs.replace(record, chain=""))
    return hashlib.sha256(previous.encode("ascii") + body).hexdigest()


def is_chain_intact(records: Iterable[AuditRecord], previous: str = CHAIN_START) -> bool:
    """Whether *records* follow each other, and the first follows *previous*, with nothing changed or missing."""
    for record in records:
        if record.chain != chain_hash(previous, record):
            return False
        previous = record.chain
    return True


_Key = tuple[str, str, str, str, str, bool, str, str, int, int, str]


def _key(record: AuditRecord) -> _Key:
    return (
        record.pod_uid,
        record.volume,
        record.path,
        record.version,
        record.kind,
        record.allowed,
        record.reason,
        record.container_id,
        record.pid,
        record.uid,
        record.exe,
    )


class Window:
    """A verdict that was recorded, and for a while the count of those alike."""

    __slots__ = ("_count", "_ends", "_is_closed", "_opened", "_record", "_tid", "_time")

    def __init__(self, record: AuditRecord, length: timedelta) -> None:
        self._record = record
        self._opened = record.time
        self._ends = record.time + length
        self._is_closed = False
        self._count = 0  # repeats, of which the last one's
        self._time = record.time
        self._tid = record.tid

    @property
    def ends(self) -> datetime:
        return self._ends

    def is_over(self, now: datetime) -> bool:
        """Also when it was opened in what is the future since the clock was set back."""
        return self._is_closed or not self._opened <= now < self._ends

    def repeat(self, now: datetime, tid: int) -> bool:
        """Count one more alike, if the window is not over."""
        if self._is_closed or not self._opened <= now < self._ends:
            return False
        self._count += 1
        self._time = now
        self._tid = tid
        return True

    def close(self) -> list[AuditRecord]:
        """Count no more; returns a record of the repeats, if there were any."""
        self._is_closed = True
        if not self._count:
            return []
        return [msgspec.structs.replace(self._record, time=self._time, tid=self._tid, count=self._count)]


class Folding:
    """Passes the first of several alike, counts the others, and reports their number when the window is over. Pure.

    Alike: all but time and thread. A window opens with the first one and is not prolonged by repeats.

    Args:
        window: how long repeats are held back.
        capacity: how many windows may be open; the oldest is closed early for a new one.
    """

    def __init__(self, *, window: timedelta = timedelta(seconds=1), capacity: int = 1024) -> None:
        self._window = window
        self._capacity = capacity
        self._open: OrderedDict[_Key, Window] = OrderedDict()  # in order of opening, which is also the order of ending

    def add(self, record: AuditRecord) -> tuple[list[AuditRecord], Window]:
        """Take one verdict.

        Returns:
            What is to be recorded now, in order; and the window that the verdict is in, where repeats may be counted
            without a record each.
        """
        recorded = self.expire(record.time)
        key = _key(record)
        window = self._open.get(key)
        if window is not None:
            window.repeat(record.time, record.tid)
            return recorded, window
        if len(self._open) >= self._capacity:
            recorded += self._close_oldest()
        window = self._open[key] = Window(record, self._window)
        return [*recorded, record], window

    def expire(self, now: datetime) -> list[AuditRecord]:
        """Close the windows that are over by *now*; returns a record for each that saw repeats."""
        recorded: list[AuditRecord] = []
        while self._open and next(iter(self._open.values())).is_over(now):
            recorded += self._close_oldest()
        return recorded

    def next_expiry(self) -> datetime | None:
        """When the oldest window ends; None when none is open."""
        return next(iter(self._open.values())).ends if self._open else None

    def _close_oldest(self) -> list[AuditRecord]:
        _, window = self._open.popitem(last=False)
        return window.close()


class AuditEvent(NamedTuple):
    """What a subscriber receives."""

    record: AuditRecord
    dropped: int  # records that this subscriber missed immediately before this one


class Subscription:
    """One follower's end: iterate it."""

    def __init__(self, capacity: int) -> None:
        self._send, self._receive = trio.open_memory_channel[AuditEvent](capacity)
        self._dropped = 0

    def offer(self, record: AuditRecord) -> None:
        """Pass a record on, or count it as dropped when the follower is too slow."""
        try:
            self._send.send_nowait(AuditEvent(record, self._dropped))
            self._dropped = 0
        except trio.WouldBlock:
            self._dropped += 1

    def close(self) -> None:
        self._send.close()
        self._receive.close()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> AuditEvent:
        return await self._receive.__anext__()


class AuditLog:
    """The most recent records, and those who follow.

    Args:
        capacity: how many records are kept; older ones are forgotten.
        folding: what counts as alike.
    """

    def __init__(self, *, capacity: int = 10_000, folding: Folding | None = None) -> None:
        self._records: deque[AuditRecord] = deque(maxlen=capacity)
        self._folding = folding if folding is not None else Folding()
        self._chain = CHAIN_START
        self._subscriptions: set[Subscription] = set()
        self._appended = trio.Event()

    def append(self, record: AuditRecord) -> Window:
        """Take one verdict. Does not wait.

        Returns:
            Where repeats of it may be counted while the window lasts, instead of appending each.
        """
        recorded, window = self._folding.add(record)
        self._record(recorded)
        self._appended.set()
        return window

    def expire(self, now: datetime) -> None:
        """Record the repeats of windows that are over."""
        self._record(self._folding.expire(now))

    def records(self, *, denied_only: bool = False) -> list[AuditRecord]:
        """The records that are kept, oldest first."""
        return [record for record in self._records if not (denied_only and record.allowed)]

    @contextmanager
    def subscribe(self, *, capacity: int = 1000) -> Iterator[Subscription]:
        """Follow the records from now on.

        Args:
            capacity: how many records may wait for the follower. Further ones are dropped and counted: every state is
                seen, or its absence is.
        """
        subscription = Subscription(capacity)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            subscription.close()

    async def run(self, now: Clock) -> None:
        """Record repeats soon after their windows end, for ever.

        Args:
            now: the clock that the records' times come from.
        """
        while True:
            expiry = self._folding.next_expiry()
            if expiry is None:
                self._appended = trio.Event()
                await self._appended.wait()
                continue
            await trio.sleep(max((expiry - now()).total_seconds(), 0))
            self.expire(now())

    def _record(self, records: Iterable[AuditRecord]) -> None:
        for record in records:
            self._chain = chain_hash(self._chain, record)
            chained = msgspec.structs.replace(record, chain=self._chain)
            self._records.append(chained)
            for subscription in self._subscriptions:
                subscription.offer(chained)
            logger.debug(
                "%s %s of %s/%s by %s pid %d: %s",
                record.verdict,
                record.kind,
                record.volume,
                record.path,
                record.container or "the host",
                record.pid,
                record.reason,
            )

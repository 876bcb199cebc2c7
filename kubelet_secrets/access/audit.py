"""The audit trail: every verdict, kept in memory, handed to whoever follows, never with a value.

``folding`` makes one record of many alike; :class:`AuditLog` chains the records (``record``), keeps the most recent, has them
noted where the next agent finds them (``trail``), and lets readers follow. A reader is a position in the chain: one that is
too slow finds that records it had not seen are no longer kept, and how many; the filesystem never waits for one.

Called by ``guard`` for every open; read through the control socket and by the outlets (``outlets``).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import trio

from kubelet_secrets.access.folding import Folding, Window
from kubelet_secrets.access.record import AuditRecord, Entry, Head, Kind, chain_record

logger = logging.getLogger(__name__)

_BATCH = 256

Clock = Callable[[], datetime]
"""Gives the time now, UTC."""


class Notebook(Protocol):
    """Where records outlive the agent. Implemented by ``trail``."""

    def append(self, entry: Entry) -> None:
        """Must not wait and must not raise."""


class AuditEvent(NamedTuple):
    """What a follower receives."""

    entry: Entry
    dropped: int  # records that this follower missed immediately before this one


class AuditLog:
    """The most recent records, and those who follow.

    Args:
        capacity: how many records are kept; older ones are forgotten.
        folding: what counts as alike.
        notebook: told of every record.
        earlier: what earlier agents recorded, in order; the chain goes on behind it.
        head: where the chain goes on when that is not the last of *earlier*.

    Attributes:
        verdicts: how many were taken, repeats included, as far as they have been recorded.
        denied: how many of them were refusals.
        dropped: how many records some reader missed because it was too slow, counted per reader.
    """

    def __init__(
        self,
        *,
        capacity: int = 10_000,
        folding: Folding | None = None,
        notebook: Notebook | None = None,
        earlier: Sequence[Entry] = (),
        head: Head | None = None,
    ) -> None:
        # A ring: the record with the number s is at s % capacity.
        self._ring: list[Entry | None] = [None] * capacity
        self._capacity = capacity
        self._folding = folding if folding is not None else Folding()
        self._notebook = notebook
        self._head = Head()
        self._oldest = 1  # the smallest number that is kept, if any is
        self._appended = trio.Event()
        self._windows = trio.Event()
        self.verdicts = self.denied = self.dropped = 0
        for entry in earlier[-capacity:]:
            self._keep(entry)
        if earlier:
            self._oldest = earlier[-capacity:][0].record.seq
        if head is not None and head != self._head:
            self._head, self._oldest = head, head.seq + 1

    @property
    def head(self) -> Head:
        return self._head

    @property
    def oldest(self) -> int:
        """Number of the oldest record that is kept; one more than the head's when none is."""
        return self._oldest

    def append(self, record: AuditRecord) -> Window:
        """Take one verdict. Does not wait.

        Returns:
            Where repeats of it may be counted while the window lasts, instead of appending each.
        """
        recorded, window = self._folding.add(record)
        self._record(recorded)
        self._windows.set()
        return window

    def note(self, record: AuditRecord) -> None:
        """Record an event of the trail itself, unfolded, behind what is being folded."""
        self._record(self._folding.close() if record.kind == Kind.STOP else ())
        self._record([record])

    def expire(self, now: datetime) -> None:
        """Record the repeats of windows that are over."""
        self._record(self._folding.expire(now))

    def entries(self) -> list[Entry]:
        """The records that are kept, oldest first."""
        return [self._at(seq) for seq in range(self._oldest, self._head.seq + 1)]

    def records(self, *, denied_only: bool = False) -> list[AuditRecord]:
        """The same without their lines."""
        return [entry.record for entry in self.entries() if entry.record.is_denied or not denied_only]

    def entries_after(self, seq: int, limit: int = _BATCH) -> list[Entry]:
        """Up to *limit* records with numbers greater than *seq*; the first is a later one when those in between are gone."""
        first = max(seq + 1, self._oldest)
        return [self._at(each) for each in range(first, min(first + limit, self._head.seq + 1))]

    async def wait_after(self, seq: int) -> None:
        """Wait until there is a record with a number greater than *seq*."""
        while self._head.seq <= seq:
            await self._appended.wait()

    async def follow(self, after: int) -> AsyncIterator[AuditEvent]:
        """The records behind the number *after*, for ever. Every one is seen, or its absence is."""
        while True:
            await self.wait_after(after)
            for entry in self.entries_after(after):
                missed = entry.record.seq - after - 1
                self.dropped += missed
                after = entry.record.seq
                yield AuditEvent(entry, missed)

    async def run(self, now: Clock) -> None:
        """Record repeats soon after their windows end, for ever.

        Args:
            now: the clock that the records' times come from.
        """
        while True:
            expiry = self._folding.next_expiry()
            if expiry is None:
                self._windows = trio.Event()
                await self._windows.wait()
                continue
            await trio.sleep(max((expiry - now()).total_seconds(), 0))
            self.expire(now())

    def _at(self, seq: int) -> Entry:
        entry = self._ring[seq % self._capacity]
        assert entry is not None
        assert entry.record.seq == seq
        return entry

    def _keep(self, entry: Entry) -> None:
        self._head = entry.head
        self._ring[entry.record.seq % self._capacity] = entry
        self._oldest = max(self._oldest, entry.record.seq - self._capacity + 1)

    def _record(self, records: Iterable[AuditRecord]) -> None:
        for record in records:
            entry = chain_record(record, self._head)
            self._keep(entry)
            if self._notebook is not None:
                self._notebook.append(entry)
            if record.verdict:
                self.verdicts += record.count
                self.denied += record.count if record.is_denied else 0
            logger.debug(
                "%s %s of %s/%s by %s pid %d: %s",
                record.verdict or "-",
                record.kind,
                record.volume,
                record.path,
                record.container or "the host",
                record.pid,
                record.reason,
            )
            self._appended.set()
            self._appended = trio.Event()

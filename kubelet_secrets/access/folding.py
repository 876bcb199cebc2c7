"""Many verdicts that are alike become one record and a number. Pure: time is an argument.

Two ways of being alike. The narrow one is all but time and thread. The wide one leaves out the process as well, and is for
whoever starts a process for each open: it begins when a group has so many narrow windows open that a record each would push
everything else out of the trail.

Used by ``audit``.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from datetime import datetime, timedelta

import msgspec

from kubelet_secrets.access.record import AuditRecord, Kind

_Key = tuple[object, ...]


def _group_of(record: AuditRecord) -> _Key:
    # Names that are looked up need not exist: a caller has as many of them as it likes.
    file = (record.path, record.version) if record.kind != Kind.LOOKUP else ()
    return (
        record.pod_uid,
        record.volume,
        file,
        record.kind,
        record.verdict,
        record.reason,
        record.container_id,
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
        if not self._record.merged:
            self._tid = tid
        return True

    def close(self) -> list[AuditRecord]:
        """Count no more; returns a record of the repeats, if there were any."""
        self._is_closed = True
        if not self._count:
            return []
        return [msgspec.structs.replace(self._record, time=self._time, tid=self._tid, count=self._count)]


class Folding:
    """Passes the first of several alike, counts the others, and reports their number when the window is over.

    A window opens with the first one and is not prolonged by repeats.

    Args:
        window: how long repeats are held back.
        capacity: how many windows may be open; the oldest is closed early for a new one.
        burst: how many of a group get a window of their own at a time; further ones share one.
    """

    def __init__(self, *, window: timedelta = timedelta(seconds=1), capacity: int = 1024, burst: int = 50) -> None:
        self._window = window
        self._capacity = capacity
        self._burst = burst
        # In order of opening, which is also the order of ending.
        self._open: OrderedDict[_Key, tuple[_Key, Window]] = OrderedDict()  # key → group, window
        self._group_sizes: Counter[_Key] = Counter()

    def add(self, record: AuditRecord) -> tuple[list[AuditRecord], Window]:
        """Take one verdict.

        Returns:
            What is to be recorded now, in order; and the window that the verdict is in, where repeats may be counted
            without a record each.
        """
        recorded = self.expire(record.time)
        group = _group_of(record)
        key = (*group, record.path, record.version, record.pid, record.uid, record.exe)
        if key not in self._open and self._group_sizes[group] >= self._burst:
            key, record = group, msgspec.structs.replace(record, merged=True)
        found = self._open.get(key)
        if found is not None:
            found[1].repeat(record.time, record.tid)
            return recorded, found[1]
        if len(self._open) >= self._capacity:
            recorded += self._close_oldest()
        window = Window(record, self._window)
        self._open[key] = group, window
        self._group_sizes[group] += 1
        return [*recorded, record], window

    def expire(self, now: datetime) -> list[AuditRecord]:
        """Close the windows that are over by *now*; returns a record for each that saw repeats."""
        recorded: list[AuditRecord] = []
        while self._open and next(iter(self._open.values()))[1].is_over(now):
            recorded += self._close_oldest()
        return recorded

    def close(self) -> list[AuditRecord]:
        """Close all windows."""
        recorded: list[AuditRecord] = []
        while self._open:
            recorded += self._close_oldest()
        return recorded

    def next_expiry(self) -> datetime | None:
        """When the oldest window ends; None when none is open."""
        return next(iter(self._open.values()))[1].ends if self._open else None

    def _close_oldest(self) -> list[AuditRecord]:
        _, (group, window) = self._open.popitem(last=False)
        self._group_sizes[group] -= 1
        if not self._group_sizes[group]:
            del self._group_sizes[group]
        return window.close()

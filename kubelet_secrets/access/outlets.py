"""Copies of the audit trail that somebody asked for: carries records from the log to a file or to journald.

An outlet may be behind by a number of records; it is never in the way. One that fails is tried again. One that has fallen so
far behind that records it needs are gone goes on with those that are there, and the loss becomes a record itself: ``gap``,
chained like all others, so that a check can tell lines that were never written from lines that were taken out.

Started by the agent; takes an outlet's blocking calls to a worker thread.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from kubelet_secrets.access.audit import AuditLog, Clock
from kubelet_secrets.access.record import AuditRecord, Entry, Kind
from kubelet_secrets.access.trail import Trail

logger = logging.getLogger(__name__)

_RETRY_S = 1.0


class Outlet(Protocol):
    """Somewhere to put records. Blocking."""

    @property
    def name(self) -> str: ...  # "file" or "journal"
    @property
    def path(self) -> Path: ...

    def write(self, entries: Sequence[Entry]) -> int:
        """Take some of *entries*, from the first on; returns how many. Raises OSError when it takes none."""

    def close(self) -> None: ...


class Delivery:
    """One outlet and how far it has come.

    Args:
        after: number of the last record that the outlet has already.

    Attributes:
        delivered: number of the last record that the outlet has.
        dropped: how many records it will never have.
        problem: why it does not take any at the moment; "" while it does.
    """

    def __init__(self, log: AuditLog, outlet: Outlet, trail: Trail, *, after: int, now: Clock) -> None:
        self.outlet = outlet
        self.delivered = after
        self.dropped = 0
        self.problem = ""
        self._log = log
        self._trail = trail
        self._now = now
        self._moved = trio.Event()

    async def run(self) -> None:
        """Deliver for ever.

        Cancellation: records not delivered by then are the next agent's to deliver. A blocked call is left behind.
        """
        while True:
            await self._log.wait_after(self.delivered)
            self._skip_what_is_gone()
            entries = self._log.entries_after(self.delivered)
            try:
                taken = await trio.to_thread.run_sync(partial(self.outlet.write, entries), abandon_on_cancel=True)
            except OSError as error:
                self._note_problem(error.strerror or str(error))
                await trio.sleep(_RETRY_S)
                continue
            if self.problem:
                logger.warning("the audit trail goes to the %s again", self.outlet.name)
            self.problem = ""
            self.delivered = entries[taken - 1].record.seq
            self._trail.note_delivered(self.outlet.name, self.delivered)
            self._moved.set()
            self._moved = trio.Event()

    async def drain(self) -> None:
        """Wait until the outlet has all that is recorded by now. Needs :meth:`run`; bound the wait."""
        wanted = self._log.head.seq
        while self.delivered < wanted:
            await self._moved.wait()

    def _skip_what_is_gone(self) -> None:
        if self._log.oldest <= self.delivered + 1:
            return
        # The oldest one that is left is given up too: the record about the loss takes its place.
        first, last = self.delivered + 1, self._log.oldest
        missed = last - first + 1
        self.delivered = last
        self.dropped += missed
        self._log.dropped += missed
        logger.warning("%d audit records were not delivered to the %s in time", missed, self.outlet.name)
        self._log.note(
            AuditRecord(
                time=self._now(),
                kind=Kind.GAP,
                reason=f"records {first} to {last} did not reach the {self.outlet.name} in time",
                count=missed,
                outlet=self.outlet.name,
                first=first,
                last=last,
            )
        )

    def _note_problem(self, text: str) -> None:
        if text != self.problem:
            logger.warning("the audit trail does not get to the %s: %s; trying again", self.outlet.name, text)
        self.problem = text

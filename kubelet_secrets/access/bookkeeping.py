"""The audit trail of one agent from start to stop: what it goes on from, where it is copied to, and how it ends.

Puts the parts of this room together for the composition root: ``trail`` (what earlier agents noted), ``audit`` (the log),
``auditfile`` and ``journal`` behind ``outlets``. A start and a stop are records of the chain like any other; a start without a
stop before it says that an agent was killed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import trio

from kubelet_secrets.access.audit import AuditLog, Clock
from kubelet_secrets.access.auditfile import AuditFile
from kubelet_secrets.access.journal import Journal
from kubelet_secrets.access.outlets import Delivery
from kubelet_secrets.access.record import AuditRecord, Entry, Kind
from kubelet_secrets.access.trail import Trail
from kubelet_secrets.errors import HostError

logger = logging.getLogger(__name__)

_DRAIN_S = 5.0
_KILLED = "the one before ended without a word; repeats that it had counted and not yet recorded are lost"


class Bookkeeping:
    """The log and its copies.

    Args:
        directory: for the notes that the next agent reads; its parent is the node's run tmpfs.
        file: where to keep a durable copy; None: nowhere.
        journal: journald's socket; None: not there.
        resumed: this agent follows one that was killed, on the same mounts.
        now: the clock of the records.

    Raises:
        HostError: *file* cannot be used. Not when *resumed*: a node at work does not stop for that, it tries again and says
            so in its status.
    """

    def __init__(self, directory: Path, *, file: Path | None, journal: Path | None, resumed: bool, now: Clock) -> None:
        self._now = now
        with ExitStack() as undo:
            trail = Trail(directory)
            undo.callback(trail.close)
            earlier = trail.load()
            outlets: list[tuple[AuditFile | Journal, int]] = []
            in_file: Entry | None = None
            if file is not None:
                audit_file = AuditFile(file)
                undo.callback(audit_file.close)
                in_file = _open_file(audit_file, resumed=resumed)
                outlets.append((audit_file, _file_position(in_file, earlier, trail.delivered(audit_file.name))))
            last = earlier[-1] if earlier else None
            if in_file is not None and (last is None or in_file.record.seq > last.record.seq):
                last, earlier = in_file, []
            self.log = AuditLog(notebook=trail, earlier=earlier, head=last.head if last is not None else None)
            if journal is not None:
                told = trail.delivered(Journal.name) if resumed else self.log.head.seq
                outlets.append((Journal(journal), min(told, self.log.head.seq)))
            self.log.note(
                AuditRecord(time=now(), kind=Kind.START, reason=_start_reason(last, resumed=resumed), pid=os.getpid())
            )
            self.deliveries = tuple(
                Delivery(self.log, outlet, trail, after=after, now=now) for outlet, after in outlets
            )
            self._undo = undo.pop_all()

    async def run(self) -> None:
        """Fold and deliver for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.log.run, self._now)
            for delivery in self.deliveries:
                nursery.start_soon(delivery.run)

    async def end(self) -> None:
        """Record that the agent stops, and give the copies a bounded time to get it. :meth:`run` has to run meanwhile."""
        self.log.note(AuditRecord(time=self._now(), kind=Kind.STOP, reason="agent stopped", pid=os.getpid()))
        with trio.move_on_after(_DRAIN_S, shield=True) as patience:
            for delivery in self.deliveries:
                await delivery.drain()
        if patience.cancelled_caught:
            behind = [each.outlet.name for each in self.deliveries if each.delivered < self.log.head.seq]
            logger.warning("the end of the audit trail did not get to the %s", " and the ".join(behind))

    def close(self) -> None:
        """Give back the files. For the chain this is what a kill is, unless :meth:`end` came before."""
        self._undo.close()


def _open_file(file: AuditFile, *, resumed: bool) -> Entry | None:
    try:
        return file.open()
    except HostError as error:
        if not resumed:
            raise
        logger.warning("%s; trying again", error)
        return None


def _file_position(in_file: Entry | None, earlier: Sequence[Entry], told: int) -> int:
    """Number of the last record that the file has.

    Args:
        in_file: the last record found in it.
        earlier: what the trail has.
        told: what the agent before had noted.
    """
    if in_file is None:
        return told
    ours = next((entry for entry in earlier if entry.record.seq == in_file.record.seq), None)
    if ours is not None and ours.record.chain != in_file.record.chain:
        logger.warning("the audit file holds another chain than this node's; going on behind it")
        return earlier[-1].record.seq
    return in_file.record.seq


def _start_reason(last: Entry | None, *, resumed: bool) -> str:
    if last is None:
        return "agent started"
    if last.record.kind == Kind.STOP:
        return "agent started"
    return f"agent {'took over' if resumed else 'started'}: {_KILLED}"

"""The store: an append-only sequence of revisions over keys, as etcd shows it to kube-apiserver.

A revision is one change of one key and, as a decimal, the object's ``resourceVersion``. The live state and the retained
history are in memory in their *stored* form (after the transformer); with a journal every change is durable before it is
visible. Values go in and come out as plain bytes; what is in them is ``registry.py``'s business.

Not here: object semantics, fan-out to watchers (``watch.py`` listens), the file (``journal.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from kubelet_secrets.apiserver.encryption import Opened, TransformerFor, TransformError, plain
from kubelet_secrets.apiserver.storagepaths import former_key, plural_of
from kubelet_secrets.errors import KubeletSecretsError

log = logging.getLogger(__name__)

ABSENT = 0
"""As *expected* of a write: the key must not exist."""


@dataclass(frozen=True, slots=True)
class Record:
    """One version of one key, as stored."""

    key: str
    revision: int
    create_revision: int
    stored: bytes | None  # None: this revision deleted the key


@dataclass(frozen=True, slots=True)
class Change:
    """One committed revision, in plain bytes, as listeners get it."""

    key: str
    revision: int
    value: bytes | None  # None: deleted
    previous: bytes | None  # None: created
    previous_revision: int


class RevisionMismatch(KubeletSecretsError):
    """Somebody else wrote the key first, or it is (not) there: read again."""


class Compacted(KubeletSecretsError):
    """The history asked for is no longer kept."""


class StorageFailed(KubeletSecretsError):
    """The journal could not be written; nothing changed."""


class Journal(Protocol):
    """Durable home of the records. Called from a worker thread, one call at a time."""

    def append(self, records: Sequence[Record]) -> None:
        """Write all of *records* or none; durable on return. Raises: OSError."""
        ...

    def compact(self, revision: int) -> None:
        """Forget what only versions at or before *revision* need. Raises: OSError."""
        ...


@dataclass(slots=True)
class _Write:
    """A write waiting for the journal."""

    key: str
    stored: bytes | None
    value: bytes | None
    expected: int
    previous: bytes | None
    done: trio.Event = field(default_factory=trio.Event)
    record: Record | None = None
    error: KubeletSecretsError | None = None


class Storage:
    """See the module's text.

    Args:
        journal: where changes are made durable; None keeps them in memory only.
        transformer_for: how each resource is stored.
        first_revision: revision before the first write. A server without a journal starts high (see ``process.py``), so
            that resourceVersions of its predecessor are recognised as too old.
        history_limit: revisions kept for watches that catch up; when exceeded, the older half is compacted.
        history_limit_bytes: the same for their stored bytes.

    Concurrency: everything but :meth:`write`, :meth:`open` and :meth:`run` is synchronous, so a reader sees one revision.
    """

    def __init__(
        self,
        *,
        journal: Journal | None = None,
        transformer_for: TransformerFor = plain,
        first_revision: int = 0,
        history_limit: int = 10_000,
        history_limit_bytes: int = 64 * 2**20,
    ) -> None:
        self.revision = first_revision
        self.compacted = first_revision
        self._journal = journal
        self._transformer_for = transformer_for
        self._history_limit = history_limit
        self._history_limit_bytes = history_limit_bytes
        self._live: dict[str, dict[str, Record]] = {}  # plural → key → record
        self._history: list[tuple[Record, Record | None]] = []  # contiguous, ends at self.revision
        self._history_bytes = 0
        self._listeners: list[Callable[[Change], None]] = []
        self._queue: list[_Write] = []
        self._wake = trio.Event()
        self._compacted_in_journal = first_revision

    def __repr__(self) -> str:
        kept = sum(map(len, self._live.values()))
        return f"<Storage revision={self.revision} compacted={self.compacted} keys={kept}>"

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Record | None:
        return self._live.get(plural_of(key), {}).get(key)

    def records(self, prefix: str, revision: int | None = None) -> list[Record]:
        """Records of the keys under *prefix* (``/registry/secrets/`` or ``/registry/secrets/default/``), by key.

        Args:
            revision: as of then; None or the current one is the live state.

        Raises:
            Compacted: *revision* is older than the history.
        """
        chosen = self._live.get(plural_of(prefix), {})
        if revision is not None and revision != self.revision:
            chosen = self._rewound(chosen, revision)
        return [chosen[key] for key in sorted(chosen) if key.startswith(prefix)]

    def _rewound(self, live: dict[str, Record], revision: int) -> dict[str, Record]:
        state = dict(live)
        for record, previous in reversed(self.history_since(revision)):
            if previous is not None and previous.stored is not None:
                state[record.key] = previous
            else:
                state.pop(record.key, None)
        return state

    def history_since(self, revision: int) -> list[tuple[Record, Record | None]]:
        """Every (record, the one it replaced) after *revision*, oldest first.

        Raises:
            Compacted: *revision* is older than the history.
        """
        if revision < self.compacted:
            raise Compacted(f"required revision has been compacted: {revision} ({self.compacted})")
        return self._history[max(0, revision - self.compacted) :]

    async def open(self, record: Record) -> Opened:
        """The plain value of *record*, which must not be a deletion.

        Raises:
            TransformError: it cannot be decrypted.
        """
        assert record.stored is not None
        transformer = self._transformer_for(plural_of(record.key))
        try:
            return await transformer.from_storage(record.stored, context=record.key.encode())
        except TransformError:
            key = former_key(record.key)
            if key is None:
                raise
            try:
                opened = await transformer.from_storage(record.stored, context=key.encode())
            except TransformError:
                pass  # what the first attempt says is about the key that the object has
            else:
                return Opened(opened.value, is_stale=True)
            raise

    # --- writing -----------------------------------------------------------------------------------------------------

    async def write(self, key: str, value: bytes | None, *, expected: int, previous: bytes | None = None) -> Record:
        """Set *key* to *value*, or delete it with None, if it still is at revision *expected*.

        Args:
            expected: the record's revision as read, or ``ABSENT``.
            previous: the plain value at *expected*, for listeners.

        Raises:
            RevisionMismatch: the key has moved on; nothing changed.
            StorageFailed: the journal failed; nothing changed.

        Cancellation: the write has happened or not, wholly; with a journal it may still happen afterwards.
        """
        stored = None
        if value is not None:
            stored = await self._transformer_for(plural_of(key)).to_storage(value, context=key.encode())
        write = _Write(key, stored, value, expected, previous)
        if self._journal is None:
            # No await between the check and the commit: this is what makes it atomic.
            record = self._next_record(write, self.get(key), self.revision + 1)
            self._commit(write, record)
            return record
        self._queue.append(write)
        self._wake.set()
        await write.done.wait()
        if write.error is not None:
            raise write.error
        assert write.record is not None
        return write.record

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take queued writes to the journal, a batch per transaction. Needed with a journal only; ends when cancelled.

        Cancellation: a batch in the journal's thread is finished and applied first.
        """
        task_status.started()
        if self._journal is None:
            return
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            batch, self._queue = self._queue, []
            with trio.CancelScope(shield=True):
                await self._commit_batch(self._journal, batch)
                await self._compact_journal(self._journal)

    async def _compact_journal(self, journal: Journal) -> None:
        revision = self.compacted
        if revision <= self._compacted_in_journal:
            return
        try:
            await trio.to_thread.run_sync(journal.compact, revision)
        except OSError as error:
            # The file is only larger than it need be; the next compaction tries again.
            log.warning("compaction failed: %s", error)
            return
        self._compacted_in_journal = revision

    async def _commit_batch(self, journal: Journal, batch: list[_Write]) -> None:
        accepted: list[_Write] = []
        overlay: dict[str, Record] = {}
        for write in batch:
            try:
                current = overlay.get(write.key) or self.get(write.key)
                write.record = self._next_record(write, current, self.revision + 1 + len(accepted))
            except RevisionMismatch as error:
                write.error = error
                write.done.set()
            else:
                overlay[write.key] = write.record
                accepted.append(write)
        if not accepted:
            return
        records = [write.record for write in accepted if write.record is not None]
        try:
            await trio.to_thread.run_sync(journal.append, records)
        except OSError:
            for write in accepted:
                write.error = StorageFailed("the data directory could not be written")
                write.done.set()
            return
        for write, record in zip(accepted, records, strict=True):
            self._commit(write, record)
            write.done.set()

    def _next_record(self, write: _Write, current: Record | None, revision: int) -> Record:
        present = current is not None and current.stored is not None
        if (current.revision if current is not None and present else ABSENT) != write.expected:
            raise RevisionMismatch(write.key)
        created = current.create_revision if current is not None and present else revision
        return Record(write.key, revision, created, write.stored)

    def _commit(self, write: _Write, record: Record) -> None:
        previous = self._apply(record)
        before = previous.revision if previous is not None else ABSENT
        change = Change(record.key, record.revision, write.value, write.previous, before)
        for listener in self._listeners:
            listener(change)

    def _apply(self, record: Record) -> Record | None:
        live = self._live.setdefault(plural_of(record.key), {})
        previous = live.pop(record.key, None)
        if record.stored is not None:
            live[record.key] = record
        self.revision = record.revision
        self._history.append((record, previous))
        self._history_bytes += len(record.stored or b"")
        if len(self._history) > self._history_limit or self._history_bytes > self._history_limit_bytes:
            self.compact(self._history[(len(self._history) - 1) // 2][0].revision)
        return previous

    def load(self, records: Sequence[Record], *, compacted: int) -> None:
        """Start from a journal's *records*, in order; those at or before *compacted* are state without history."""
        self.revision = self.compacted = self._compacted_in_journal = compacted
        for record in records:
            if record.revision <= compacted:
                self._live.setdefault(plural_of(record.key), {})[record.key] = record
            else:
                self._apply(record)

    def compact(self, revision: int) -> None:
        """Forget the history up to and including *revision*; the state as of then can still be listed."""
        count = min(revision, self.revision) - self.compacted
        if count <= 0:
            return
        self._history_bytes -= sum(len(record.stored or b"") for record, _ in self._history[:count])
        del self._history[:count]
        self.compacted += count
        self._wake.set()  # the journal follows

    def add_listener(self, listener: Callable[[Change], None]) -> None:
        """Call *listener* with every commit, in order of revision, before the writer hears of it. It must not raise."""
        self._listeners.append(listener)

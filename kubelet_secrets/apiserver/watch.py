"""Fan-out of committed changes: subscriptions, and the stream of events one watch request sees.

The hub hears every commit synchronously and puts it into the bounded buffers of the subscriptions it concerns; a watcher's own
task turns changes into events (a selector makes ADDED and DELETED out of modifications). A subscription whose buffer is
full is ended and its buffer dropped: the client comes back with the last resourceVersion it saw and catches up from the
store's history, so nothing is lost, and nobody waits for a slow reader.

Not here: how events become bytes on a connection (``routes.py``).

Source: k8s.io/apiserver pkg/storage/cacher (cache_watcher.go, Cacher.Watch), KEP 956 (bookmarks), KEP 3157 (watch list).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import trio

from kubelet_secrets.apiserver import codec
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.encryption import TransformError
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.apiserver.storage import Change, Compacted, Record, Storage
from kubelet_secrets.apiserver.storagepaths import split_key
from kubelet_secrets.apiserver.stored import open_object

ADDED, MODIFIED, DELETED, BOOKMARK = "ADDED", "MODIFIED", "DELETED", "BOOKMARK"
INITIAL_EVENTS_END = "k8s.io/initial-events-end"
BUFFER_LIMIT = 1024
BOOKMARK_INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a watch: the object as the client gets it, in JSON."""

    type: str
    value: bytes
    revision: int

    @property
    def object(self) -> Object:
        return codec.decode(self.value, self.revision)


class _SharedChange:
    """A change with what its watchers compute from it, computed once for all of them."""

    __slots__ = ("_after", "_before", "change", "name", "namespace", "plural")

    def __init__(self, change: Change) -> None:
        self.change = change
        self.plural, self.namespace, self.name = split_key(change.key)
        self._after: Object | None = None
        self._before: Object | None = None

    @property
    def after(self) -> Object | None:
        if self._after is None and self.change.value is not None:
            self._after = codec.decode(self.change.value, self.change.revision)
        return self._after

    @property
    def before(self) -> Object | None:
        if self._before is None and self.change.previous is not None:
            self._before = codec.decode(self.change.previous, self.change.previous_revision)
        return self._before


class Subscription:
    """The buffer between the hub and one watcher. Every change is seen, until the buffer overflows: then none is any more."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.is_ended = False
        self._buffer: deque[_SharedChange] = deque()
        self._wake = trio.Event()

    def put(self, change: _SharedChange) -> None:
        if self.is_ended:
            return
        if len(self._buffer) >= BUFFER_LIMIT:
            self.end()
            self._buffer.clear()
            return
        self._buffer.append(change)
        self._wake.set()

    def end(self) -> None:
        """What is in the buffer is still handed out, then :meth:`wait` returns nothing."""
        self.is_ended = True
        self._wake.set()

    @property
    def has_changes(self) -> bool:
        return bool(self._buffer)

    async def wait(self) -> list[_SharedChange]:
        """Wait for changes; every one there is. Empty when the subscription has ended."""
        if not self._buffer and not self.is_ended:
            await self._wake.wait()
        self._wake = trio.Event()
        changes = list(self._buffer)
        self._buffer.clear()
        return changes


class WatchHub:
    """Who watches what. One per server; listens to *storage* from construction on."""

    def __init__(self, storage: Storage) -> None:
        self._subscriptions: dict[tuple[str, str, str], set[Subscription]] = {}
        self._is_closed = False
        storage.add_listener(self._publish)

    def __repr__(self) -> str:
        return f"<WatchHub subscriptions={sum(map(len, self._subscriptions.values()))}>"

    def _publish(self, change: Change) -> None:
        shared = _SharedChange(change)
        plural, namespace, name = shared.plural, shared.namespace, shared.name
        # A watch on one object costs nothing to the writers of others: that is what a node has hundreds of.
        for wanted in {(namespace, name), (namespace, ""), ("", name), ("", "")}:
            for subscription in self._subscriptions.get((plural, *wanted), ()):
                subscription.put(shared)

    @contextmanager
    def subscribe(self, selection: Selection) -> Iterator[Subscription]:
        """Get every change to a key of *selection* committed from now on."""
        subscription = Subscription(selection)
        place = (selection.row.plural, selection.namespace, selection.name)
        self._subscriptions.setdefault(place, set()).add(subscription)
        if self._is_closed:
            subscription.end()
        try:
            yield subscription
        finally:
            subscription.is_ended = True
            remaining = self._subscriptions[place]
            remaining.discard(subscription)
            if not remaining:
                del self._subscriptions[place]

    def close(self) -> None:
        """End every watch, now and to come, after what is already in its buffer: the server is going down."""
        self._is_closed = True
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.end()


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """What a watch request asks for beside its selection."""

    since: int | None = None  # revision; None: from the state as it is now
    sends_initial_events: bool = True  # the state first, as ADDED (when *since* is None or *marks_initial_end*)
    marks_initial_end: bool = False  # a bookmark annotated k8s.io/initial-events-end after it
    sends_bookmarks: bool = False


class Watcher:
    """One watch: batches of events until it ends.

    Use as a context manager; the subscription begins on entry, and from then on no change is missed.

    Raises:
        Compacted: on entry, when ``options.since`` is older than the history or newer than the store (a client of an earlier,
            forgotten store): it has to list again.
    """

    def __init__(self, storage: Storage, hub: WatchHub, selection: Selection, options: WatchOptions) -> None:
        self._storage = storage
        self._hub = hub
        self._selection = selection
        self._options = options
        self._backlog: list[Record | tuple[Record, Record | None]] = []
        self._has_begun = False
        self._begin_revision = 0

    def __enter__(self) -> Watcher:
        # No await until the backlog is taken: it ends where the subscription begins.
        since = self._options.since
        if since is not None and since > self._storage.revision:
            raise Compacted(f"too old resource version: {since} ({self._storage.revision})")
        if since is not None and not self._options.marks_initial_end:
            self._backlog = list(self._storage.history_since(since))
        elif self._options.sends_initial_events:
            self._backlog = list(self._present())
        self._begin_revision = self._storage.revision
        self._manager = self._hub.subscribe(self._selection)
        self._subscription = self._manager.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.__exit__(kind, error, trace)

    def _present(self) -> list[Record]:
        key = self._selection.key
        if key is None:
            return self._storage.records(self._selection.prefix)
        record = self._storage.get(key)
        return [] if record is None else [record]

    async def wait_events(self) -> list[Event]:
        """The next events, at least one; none when the watch has ended.

        Raises:
            TransformError: an object of the backlog cannot be decrypted; it is named.
        """
        if not self._has_begun:
            self._has_begun = True
            if events := await self._first_events():
                return events
        while True:
            with trio.move_on_after(BOOKMARK_INTERVAL_S if self._options.sends_bookmarks else float("inf")):
                changes = await self._subscription.wait()
                if not changes:
                    return []
                if events := list(self._events(changes)):
                    return events
                continue
            if not self._subscription.has_changes:
                # Commits reach the buffer synchronously: with none in it, everything up to now has been sent.
                return [self.bookmark(self._storage.revision)]

    async def _first_events(self) -> list[Event]:
        events: list[Event] = []
        for entry in self._backlog:
            if isinstance(entry, Record):
                events += await self._initial_event(entry)
            else:
                events += await self._replayed_event(*entry)
        self._backlog = []
        if self._options.marks_initial_end and self._options.sends_bookmarks:
            events.append(self.bookmark(self._begin_revision, {INITIAL_EVENTS_END: "true"}))
        return events

    async def _initial_event(self, record: Record) -> list[Event]:
        _, namespace, name = split_key(record.key)
        if not self._selection.matches_key(namespace, name):
            return []
        value = await self._open(record)
        if not self._selection.is_by_key_only and not self._selection.matches(codec.decode(value, record.revision)):
            return []
        return [Event(ADDED, codec.stamp(value, record.revision), record.revision)]

    async def _open(self, record: Record) -> bytes:
        try:
            return (await open_object(self._storage, record)).value
        except TransformError as error:
            raise TransformError(f'unable to transform key "{record.key}": {error}') from None

    async def _replayed_event(self, record: Record, previous: Record | None) -> list[Event]:
        if not record.key.startswith(self._selection.prefix):
            return []
        shared = _SharedChange(
            Change(
                record.key,
                record.revision,
                await self._open(record) if record.stored is not None else None,
                await self._open(previous) if previous is not None else None,
                previous.revision if previous is not None else 0,
            )
        )
        return list(self._events([shared]))

    def _events(self, changes: Sequence[_SharedChange]) -> Iterator[Event]:
        for shared in changes:
            change = shared.change
            if not self._selection.matches_key(shared.namespace, shared.name):
                continue
            by_key = self._selection.is_by_key_only
            is_in = change.value is not None and (by_key or self._matches(shared.after))
            was_in = change.previous is not None and (by_key or self._matches(shared.before))
            if is_in and change.value is not None:
                yield Event(MODIFIED if was_in else ADDED, codec.stamp(change.value, change.revision), change.revision)
            elif was_in and change.previous is not None:
                # The last state the watcher knew, with the revision at which it left: as upstream's watch cache does.
                yield Event(DELETED, codec.stamp(change.previous, change.revision), change.revision)

    def _matches(self, obj: Object | None) -> bool:
        return obj is not None and self._selection.matches(obj)

    def bookmark(self, revision: int, annotations: dict[str, str] | None = None) -> Event:
        """An event that says only that everything up to *revision* has been sent."""
        row = self._selection.row
        metadata: Object = {"resourceVersion": str(revision), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        obj = {"kind": row.kind, "apiVersion": row.resource.api_version, "metadata": metadata}
        return Event(BOOKMARK, codec.to_json(obj), revision)

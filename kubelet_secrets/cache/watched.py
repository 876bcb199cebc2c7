"""The Watch strategy: one reflector per referenced object, shared by its pods.

A store for ``manager.py``, which counts the pods. Values are pushed here; :meth:`WatchedObjects.get` only looks, and waits
for the first answer: a second, as the kubelet, and on as long as first answers for other objects come in. When a hundred pods
arrive at once the last of their objects is not late but in line, and a FailedMount for it would be no news to anybody.

Source: pkg/kubelet/util/manager/watch_based_manager.go, objectCache. Differs: the kubelet stops the reflector of an object
that nobody has read for five minutes; here it goes on, for the environment of a running container is compared with the
object's present state (``env --watch``).
"""

from __future__ import annotations

import logging
import random as random_module
from collections.abc import Callable, Sequence
from typing import Generic

import trio

from kubelet_secrets.api.meta import PodUID
from kubelet_secrets.cache.changes import ChangeQueue, ObjectRef
from kubelet_secrets.cache.kinds import NodeObject, ObjectKind
from kubelet_secrets.cache.reflector import ListWatcher, Reflector, Target
from kubelet_secrets.errors import ApiUnavailable, CacheNotSynced, MissingObject

logger = logging.getLogger(__name__)

SYNC_TIMEOUT_S = 1.0
_PATIENCE_S = 10.0  # at most, while a server that was asked for much keeps answering
_NUDGE_PERIOD_S = 1.0  # after an outage a thousand reflectors come back one by one; each need not wake all the others


class _Entry(Generic[NodeObject]):
    """One object, and the sink of its reflector."""

    def __init__(self, ref: ObjectRef, objects: WatchedObjects[NodeObject]) -> None:
        self.ref = ref
        self.users: set[PodUID] = set()
        self.value: NodeObject | None = None
        self.is_synced = False
        self.error: Exception | None = None  # why the server cannot be asked now
        self.settled = trio.Event()  # synced, or removed
        self.scope = trio.CancelScope()
        self.reflector = objects.make_reflector(ref, self)
        self._objects = objects

    def replace(self, objects: Sequence[NodeObject]) -> None:
        self._set(objects[0] if objects else None)

    def upsert(self, obj: NodeObject) -> None:
        self._set(obj)

    def remove(self, obj: NodeObject) -> None:
        self._set(None)

    def report(self, error: Exception | None) -> None:
        self.error = error
        self._objects.note_health(self.ref, error)

    def _set(self, value: NodeObject | None) -> None:
        has_changed = not self.is_synced or _identity(value) != _identity(self.value)
        if not self.is_synced:
            self._objects.note_first_answer()
        self.value = value
        self.is_synced = True
        self.settled.set()
        if has_changed:
            self._objects.note_change(self.ref, value)


class WatchedObjects(Generic[NodeObject]):
    """See the module. Values are kept while the API server is away, and an immutable one until its last pod goes."""

    def __init__(
        self,
        client: ListWatcher,
        kind: ObjectKind[NodeObject],
        changes: ChangeQueue,
        *,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._client = client
        self._kind = kind
        self._changes = changes
        self._random = random
        self._entries: dict[ObjectRef, _Entry[NodeObject]] = {}
        self._answers = 0  # objects that became known, ever
        self._failing: dict[ObjectRef, _Entry[NodeObject]] = {}
        self._unreachable: set[ObjectRef] = set()
        self._nudged_at = float("-inf")
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<WatchedObjects {self._kind.word}, {len(self._entries)} entries>"

    def add(self, ref: ObjectRef, user: PodUID) -> None:
        """Count *user*; the first one starts the reflector. Does not wait."""
        entry = self._entries.get(ref)
        if entry is None:
            entry = self._entries[ref] = _Entry(ref, self)
            if self._nursery is not None:
                self._nursery.start_soon(self._reflect, entry)
        if user not in entry.users:
            entry.users.add(user)
            # A new pod may be what the node authorizer was missing.
            entry.reflector.nudge()

    def remove(self, ref: ObjectRef, user: PodUID) -> None:
        """Stop counting *user*; after the last one the object is forgotten."""
        entry = self._entries.get(ref)
        if entry is None:
            return
        entry.users.discard(user)
        if not entry.users:
            del self._entries[ref]
            self._failing.pop(ref, None)
            self._unreachable.discard(ref)
            self._changes.discard(ref)
            entry.scope.cancel()
            entry.settled.set()

    def users(self, ref: ObjectRef) -> frozenset[PodUID]:
        entry = self._entries.get(ref)
        return frozenset() if entry is None else frozenset(entry.users)

    async def get(self, ref: ObjectRef) -> NodeObject:
        """The object as last seen; waits for the first answer.

        Raises:
            MissingObject: the server says it does not exist.
            CacheNotSynced: forbidden or out of reach for ``SYNC_TIMEOUT_S``; or no answer for so long, to anybody.
            KeyError: nobody uses it (any more).
        """
        entry = self._entries[ref]
        if not entry.is_synced:
            entry.reflector.nudge()
            await self._wait_settled(entry)
        if self._entries.get(ref) is not entry:
            raise KeyError(ref)
        if not entry.is_synced:
            raise CacheNotSynced(self._kind.word) from entry.error
        if entry.value is None:
            raise MissingObject(self._kind.word, ref.name)
        return entry.value

    async def _wait_settled(self, entry: _Entry[NodeObject]) -> None:
        limit = trio.current_time() + _PATIENCE_S
        is_in_line = True
        while is_in_line and not entry.settled.is_set():
            answers_before = self._answers
            with trio.move_on_at(min(limit, trio.current_time() + SYNC_TIMEOUT_S)):
                await entry.settled.wait()
            is_in_line = entry.error is None and self._answers != answers_before and trio.current_time() < limit

    def peek(self, ref: ObjectRef) -> NodeObject | None:
        entry = self._entries.get(ref)
        return None if entry is None else entry.value

    def nudge(self, *, after_outage: bool = False) -> None:
        """Let every reflector that pauses after a failure try again now; see ``Reflector.nudge``."""
        for entry in self._failing.values():
            entry.reflector.nudge(after_outage=after_outage)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the reflectors of everything registered, before or after now, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for entry in self._entries.values():
                    nursery.start_soon(self._reflect, entry)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def _reflect(self, entry: _Entry[NodeObject]) -> None:
        with entry.scope:
            await entry.reflector.run()

    # --- For entries ---

    def make_reflector(self, ref: ObjectRef, sink: _Entry[NodeObject]) -> Reflector[NodeObject]:
        target = Target(
            resource=self._kind.resource,
            kind=self._kind.kind,
            namespace=ref.namespace,
            # The selector is what the Node authorizer reads the name from.
            field_selector=f"metadata.name={ref.name}",
        )
        return Reflector(self._client, target, sink, is_final=lambda obj: bool(obj.immutable), random=self._random)

    def note_first_answer(self) -> None:
        self._answers += 1

    def note_change(self, ref: ObjectRef, value: NodeObject | None) -> None:
        if value is None:
            logger.info("%s %s: not there", self._kind.word, ref)
        else:
            logger.info("received %s %s: %s", self._kind.word, ref, self._kind.describe(value))
        self._changes.put(ref)

    def note_health(self, ref: ObjectRef, error: Exception | None) -> None:
        """One line per outage, not per object; and the first that gets through wakes those still pausing."""
        if error is None:
            self._failing.pop(ref, None)
        elif ref in self._entries:
            self._failing[ref] = self._entries[ref]
        if isinstance(error, ApiUnavailable):
            if not self._unreachable:
                logger.warning("every %s keeps its last known state: %s", self._kind.word, error)
            self._unreachable.add(ref)
        elif error is not None:
            logger.warning("%s %s: %s", self._kind.word, ref, error)
        elif ref in self._unreachable:
            self._unreachable.discard(ref)
            if not self._unreachable:
                logger.info("every %s is being watched again", self._kind.word)
            elif trio.current_time() >= self._nudged_at + _NUDGE_PERIOD_S:
                self._nudged_at = trio.current_time()
                self.nudge()


def _identity(value: NodeObject | None) -> tuple[str, str] | None:
    return None if value is None else (value.metadata.uid, value.metadata.resource_version)

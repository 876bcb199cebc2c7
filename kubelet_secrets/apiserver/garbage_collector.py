"""``GarbageCollector``: what belongs to an object goes with it, as ``metadata.ownerReferences`` say.

- *Background* (what DELETE means by itself): the owner goes at once, then every object all of whose owners are gone.
- *Foreground*: the owner stays, marked, until those that block its deletion (``blockOwnerDeletion``) have gone.
- *Orphan*: what belonged to it is told that it has no owner any more, and stays.

The last two hold the owner by a finalizer that DELETE sets (``strategy.begin_deletion``) and this takes away. An owner of a
kind that is not served here is nobody's business; a namespaced owner is looked for in the dependent's own namespace.

Who belongs to whom is taken from the store itself, with every commit; what is to be done about it follows from watches, one per
kind. Watches alone would not do: the owner's is ahead of the dependents', and who has been let go would still count as owned.

Source: kube-controller-manager, pkg/controller/garbagecollector; kubernetes docs "Garbage Collection". Differs: upstream learns
of dependents from watches, too.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import NamedTuple

import trio

from kubelet_secrets.apiserver import codec
from kubelet_secrets.apiserver.attributes import DeleteOptions, Propagation
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.encryption import TransformError
from kubelet_secrets.apiserver.loops import follow
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.resources import BY_KIND, SERVED, ServedResource
from kubelet_secrets.apiserver.storage import Change
from kubelet_secrets.apiserver.storagepaths import prefix_of, split_key
from kubelet_secrets.apiserver.stored import open_object
from kubelet_secrets.apiserver.strategy import FOREGROUND_FINALIZER, ORPHAN_FINALIZER
from kubelet_secrets.apiserver.watch import DELETED
from kubelet_secrets.errors import Conflict, NotFound

_OWNED = b'"ownerReferences"'
_KINDS = {row.plural: (row.resource.api_version, row.kind) for row in SERVED if not row.is_review}


class Place(NamedTuple):
    """Where an object is. A dictionary's key, which a row of the table cannot be."""

    kind: tuple[str, str]  # apiVersion, kind
    namespace: str
    name: str

    @property
    def row(self) -> ServedResource:
        return BY_KIND[self.kind]


class GarbageCollector:
    """The collector of one server."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._dependents: defaultdict[str, dict[Place, Object]] = defaultdict(dict)  # by the owner's uid
        self._owners: dict[Place, tuple[str, ...]] = {}  # uids, of objects that have any
        self._changed: set[Place] | None = set()  # since the listener was added, as long as the state is being read
        self._pending: dict[str, Place] = {}  # owners that wait for us, by uid

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Collect until cancelled; started once it watches everything."""
        await self._read_owners()
        async with trio.open_nursery() as nursery:
            for row in SERVED:
                if not row.is_review:
                    await nursery.start(follow, self._registry, row, partial(self._handle, row))
            task_status.started()

    async def _read_owners(self) -> None:
        """Know whom everything belongs to, from now on at every instant."""
        self._registry.storage.add_listener(self._observe)
        for row in SERVED:
            if row.is_review:
                continue
            for record in self._registry.storage.records(prefix_of(row.plural)):
                try:
                    value = (await open_object(self._registry.storage, record)).value
                except TransformError:
                    continue  # its next change tells; until then nobody can read it, and its watch says so
                place = _place_of(record.key)
                if self._changed is not None and place is not None and place not in self._changed and _OWNED in value:
                    self._note_owners(place, codec.decode(value, record.revision))
        self._changed = None

    def _observe(self, change: Change) -> None:
        """Take in one commit of anything."""
        place = _place_of(change.key)
        if place is None:
            return
        if self._changed is not None:
            self._changed.add(place)
        if change.value is not None and _OWNED in change.value:
            self._note_owners(place, codec.decode(change.value, change.revision))
        elif place in self._owners:
            self._note_owners(place, None)

    async def _handle(self, row: ServedResource, kind: str, obj: Object) -> None:
        metadata = obj["metadata"]
        place = Place((row.resource.api_version, row.kind), metadata.get("namespace", ""), metadata["name"])
        if kind == DELETED:
            await self._follow_end(obj)
            return
        if metadata.get("ownerReferences"):
            await self._check_dependent(place, obj)
        if "deletionTimestamp" in metadata and _waits_for_us(obj):
            self._pending[metadata["uid"]] = place
            await self._continue_owner(metadata["uid"])

    def _note_owners(self, place: Place, obj: Object | None) -> None:
        references = obj["metadata"].get("ownerReferences") if obj is not None else None
        owners = tuple(each["uid"] for each in references or ())
        for uid in set(self._owners.get(place, ())) - set(owners):
            self._dependents[uid].pop(place, None)
            if not self._dependents[uid]:
                del self._dependents[uid]
        for uid in owners:
            assert obj is not None
            self._dependents[uid][place] = obj
        if owners:
            self._owners[place] = owners
        else:
            self._owners.pop(place, None)

    async def _follow_end(self, gone: Object) -> None:
        """An object is gone: its owners may be waiting for it, its dependents may have to follow."""
        metadata = gone["metadata"]
        self._pending.pop(metadata["uid"], None)
        for dependent, obj in list(self._dependents.get(metadata["uid"], {}).items()):
            await self._check_dependent(dependent, obj)
        for reference in metadata.get("ownerReferences") or ():
            if reference["uid"] in self._pending:
                await self._continue_owner(reference["uid"])

    async def _check_dependent(self, place: Place, obj: Object) -> None:
        """Delete an object that no owner holds; forget the owners that are gone when another one does."""
        _, namespace, name = place
        references = obj["metadata"].get("ownerReferences") or ()
        gone = [each["uid"] for each in references if await self._is_gone(each, namespace)]
        if not gone or "deletionTimestamp" in obj["metadata"]:
            return
        try:
            if len(gone) == len(references):
                # Exactly this object: one of the same name may have come since.
                await self._registry.delete(place.row, namespace, name, DeleteOptions(uid=obj["metadata"]["uid"]))
            else:
                await self._drop_references(place, obj["metadata"]["uid"], set(gone))
        except (NotFound, Conflict):
            pass

    async def _is_gone(self, reference: Object, namespace: str) -> bool:
        row = BY_KIND.get((reference.get("apiVersion", ""), reference.get("kind", "")))
        if row is None:
            return False  # not served here: who knows
        found = await self._registry.find(row, namespace if row.namespaced else "", reference["name"])
        return found is None or found.object["metadata"]["uid"] != reference["uid"]

    async def _continue_owner(self, uid: str) -> None:
        """Bring an owner's deletion on as far as it gets."""
        place = self._pending[uid]
        found = await self._registry.find(place.row, place.namespace, place.name)
        if found is None or found.object["metadata"]["uid"] != uid:
            self._pending.pop(uid, None)
            return
        finalizers = found.object["metadata"].get("finalizers") or ()
        dependents = list(self._dependents.get(uid, {}).items())
        if ORPHAN_FINALIZER in finalizers:
            for dependent, obj in dependents:
                try:
                    await self._drop_references(dependent, obj["metadata"]["uid"], {uid})
                except (NotFound, Conflict):
                    pass
            await self._drop_finalizer(place, uid, ORPHAN_FINALIZER)
        elif FOREGROUND_FINALIZER in finalizers:
            blocking = False
            for dependent, obj in dependents:
                reference = next(each for each in obj["metadata"]["ownerReferences"] if each["uid"] == uid)
                options = DeleteOptions(uid=obj["metadata"]["uid"], propagation=Propagation.FOREGROUND)
                try:
                    _, is_gone = await self._registry.delete(
                        dependent.row, dependent.namespace, dependent.name, options
                    )
                except (NotFound, Conflict):
                    is_gone = True
                blocking = blocking or (not is_gone and bool(reference.get("blockOwnerDeletion")))
            if not blocking:
                await self._drop_finalizer(place, uid, FOREGROUND_FINALIZER)

    async def _drop_references(self, place: Place, uid: str, owners: set[str]) -> None:
        def change(obj: Object) -> Object:
            metadata = obj["metadata"]
            if metadata["uid"] == uid:
                kept = [each for each in metadata.get("ownerReferences") or () if each["uid"] not in owners]
                metadata["ownerReferences"] = kept
                if not kept:
                    del metadata["ownerReferences"]
            return obj

        await self._registry.update(place.row, place.namespace, place.name, change)

    async def _drop_finalizer(self, place: Place, uid: str, finalizer: str) -> None:
        def change(obj: Object) -> Object:
            metadata = obj["metadata"]
            if metadata["uid"] == uid:
                metadata["finalizers"] = [each for each in metadata.get("finalizers") or () if each != finalizer]
            return obj

        self._pending.pop(uid, None)
        try:
            await self._registry.update(place.row, place.namespace, place.name, change)
        except (NotFound, Conflict):
            pass


def _place_of(key: str) -> Place | None:
    plural, namespace, name = split_key(key)
    kind = _KINDS.get(plural)
    return Place(kind, namespace, name) if kind is not None else None


def _waits_for_us(obj: Object) -> bool:
    finalizers = obj["metadata"].get("finalizers") or ()
    return FOREGROUND_FINALIZER in finalizers or ORPHAN_FINALIZER in finalizers

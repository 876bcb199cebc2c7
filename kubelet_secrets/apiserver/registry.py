"""Objects over the store: create, get, list, update, delete, with upstream's rules and error texts.

Every write is a loop of read, change, compare-and-swap. Objects are plain dictionaries (fields unknown to this project
survive); reads hand out the stored JSON without parsing it. Called by ``routes.py`` and, in process, by ``controllers.py``.
Who may do it has been decided before (``authz.py``); what a kind's strategy and admission do to an object is theirs
(``strategy.py``, ``admission.py``).

Source: k8s.io/apiserver pkg/registry/generic/registry/store.go, pkg/storage/etcd3/store.go.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from kubelet_secrets.api.defaults import apply_defaults
from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.apiserver import codec, listing, statuses, strategy
from kubelet_secrets.apiserver.attributes import Admission, Attributes, DeleteOptions, User, Write
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.encryption import TransformError
from kubelet_secrets.apiserver.listing import Page, Stored, object_key, open_record
from kubelet_secrets.apiserver.names import generate_name
from kubelet_secrets.apiserver.patch import track_update
from kubelet_secrets.apiserver.resources import ServedResource
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.apiserver.storage import ABSENT, Record, RevisionMismatch, Storage, StorageFailed
from kubelet_secrets.apiserver.strategy import Deletion
from kubelet_secrets.apiserver.watch import Watcher, WatchHub, WatchOptions
from kubelet_secrets.errors import AlreadyExists

_GENERATED_NAME_ATTEMPTS = 8
IN_PROCESS = Write(user=User("system:apiserver", ("system:masters", "system:authenticated")))
Change = Callable[[Object], Awaitable[Object] | Object]


class Registry:
    """See the module's text.

    Args:
        now: the clock, for creation and deletion timestamps.
    """

    def __init__(
        self,
        storage: Storage,
        hub: WatchHub,
        admission: Admission,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.storage = storage
        self._hub = hub
        self._admission = admission
        self._now = now

    # --- reading -----------------------------------------------------------------------------------------------------

    async def get(self, row: ServedResource, namespace: str, name: str) -> Stored:
        """Raises: NotFound; ApiError 500 when it cannot be decrypted."""
        record = self.storage.get(object_key(row, namespace, name))
        if record is None:
            raise statuses.not_found(row, name)
        return await open_record(self.storage, record)

    async def find(self, row: ServedResource, namespace: str, name: str) -> Stored | None:
        """Like :meth:`get`; None when it is absent."""
        record = self.storage.get(object_key(row, namespace, name))
        return await open_record(self.storage, record) if record is not None else None

    async def list_objects(
        self,
        selection: Selection,
        *,
        limit: int = 0,
        continue_token: str = "",
        revision: int | None = None,
        is_exact: bool = False,
    ) -> Page:
        """The objects of *selection*; see :func:`listing.list_objects`."""
        return await listing.list_objects(
            self.storage, selection, limit=limit, continue_token=continue_token, revision=revision, is_exact=is_exact
        )

    def watch(self, selection: Selection, options: WatchOptions) -> Watcher:
        """A watch, to be entered; see :class:`Watcher`."""
        return Watcher(self.storage, self._hub, selection, options)

    async def admit(self, attributes: Attributes) -> None:
        """Put a write that is not to a stored object - a TokenRequest - through admission. Raises: ApiError."""
        await self._admission.mutate(attributes)
        await self._admission.validate(attributes)

    # --- create ------------------------------------------------------------------------------------------------------

    async def create(self, row: ServedResource, namespace: str, obj: Object, write: Write = IN_PROCESS) -> Object:
        """Store a new object; *obj* is taken over and changed.

        Returns:
            The object as stored, with its resourceVersion (none after a dry run).

        Raises:
            AlreadyExists; Invalid; Forbidden, by admission; NotFound, the namespace.
        """
        metadata = _metadata(obj)
        obj["kind"], obj["apiVersion"] = row.kind, row.resource.api_version
        if metadata.get("resourceVersion"):
            raise statuses.bad_request("resourceVersion should not be set on objects to be created")
        if row.namespaced:
            metadata["namespace"] = namespace
        is_generated = not metadata.get("name") and bool(metadata.get("generateName"))
        for attempt in range(_GENERATED_NAME_ATTEMPTS):
            if is_generated:
                metadata["name"] = generate_name(metadata["generateName"])
            try:
                return await self._create_once(row, namespace, obj, write)
            except AlreadyExists:
                if not is_generated or attempt == _GENERATED_NAME_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable: the last attempt raises")

    async def _create_once(self, row: ServedResource, namespace: str, obj: Object, write: Write) -> Object:
        metadata = obj["metadata"]
        strategy.prepare_for_create(row, obj, uid=str(uuid.uuid4()), now=self._now(), user=write.user)
        attributes = Attributes(
            verb="create",
            row=row,
            namespace=namespace,
            name=str(metadata.get("name", "")),
            subresource=write.subresource,
            user=write.user,
            obj=obj,
            old=None,
            is_dry_run=write.is_dry_run,
        )
        apply_defaults(obj)
        self._track(row, None, obj, write)  # before admission: what that adds is nobody's
        await self._admission.mutate(attributes)
        apply_defaults(obj)
        await self._admission.validate(attributes)
        name = str(metadata["name"])
        key = object_key(row, namespace, name)
        if write.is_dry_run:
            if self.storage.get(key) is not None:
                raise statuses.already_exists(row, name)
            return obj
        try:
            record = await self.storage.write(key, codec.encode(obj), expected=ABSENT)
        except RevisionMismatch:
            raise statuses.already_exists(row, name) from None
        except (StorageFailed, TransformError) as error:
            raise statuses.internal(str(error)) from None
        metadata["resourceVersion"] = str(record.revision)
        return obj

    # --- update ------------------------------------------------------------------------------------------------------

    async def update(
        self, row: ServedResource, namespace: str, name: str, change: Change, write: Write = IN_PROCESS
    ) -> Object:
        """Replace an object by what *change* makes of it.

        Args:
            change: gets a copy of the live object (with resourceVersion) and returns the new one, which it may have changed in
                place. Called again when somebody else wrote meanwhile - unless the new object carries a resourceVersion or a
                uid that does not fit the live one: that is the caller's conflict.

        Returns:
            The object as stored; unchanged objects are not written and keep their resourceVersion.

        Raises:
            NotFound; Conflict; Invalid; Forbidden, by admission.
        """
        key = object_key(row, namespace, name)
        while True:
            record = self.storage.get(key)
            if record is None:
                raise statuses.not_found(row, name)
            stored = await open_record(self.storage, record)
            old = stored.object
            new = change(stored.object)
            if not isinstance(new, dict):
                new = await new
            await self._prepare_update(row, namespace, name, new, old, write)
            if strategy.is_deletion_complete(row, new) and not write.is_dry_run:
                # It took the last finalizer of an object being deleted: that goes, and what was written is its last state.
                try:
                    written = await self._write(record, None, codec.encode(new))
                except RevisionMismatch:
                    if self.storage.get(key) is not None:
                        continue
                    return new  # the deletion itself came first: nobody can tell
                new["metadata"]["resourceVersion"] = str(written.revision)
                return new
            new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
            if codec.is_same(new, old) and not stored.is_stale:
                return old
            if write.is_dry_run:
                return new
            try:
                written = await self._write(record, codec.encode(new), stored.plain)
            except RevisionMismatch:
                continue
            new["metadata"]["resourceVersion"] = str(written.revision)
            return new

    async def _prepare_update(
        self, row: ServedResource, namespace: str, name: str, new: Object, old: Object, write: Write
    ) -> None:
        metadata, old_metadata = _metadata(new), old["metadata"]
        new["kind"], new["apiVersion"] = row.kind, row.resource.api_version
        wanted_version, wanted_uid = metadata.get("resourceVersion"), metadata.get("uid")
        if wanted_uid and wanted_uid != old_metadata["uid"]:
            cause = f"Precondition failed: UID in precondition: {wanted_uid}, UID in object meta: {old_metadata['uid']}"
            raise statuses.conflict(row, name, cause)
        if wanted_version and wanted_version != old_metadata["resourceVersion"]:
            raise statuses.conflict(row, name)
        if not wanted_version and not row.unconditional_update:
            detail = "Invalid value: 0x0: must be specified for an update"
            message = f'{row.group_resource} "{name}" is invalid: metadata.resourceVersion: {detail}'
            found = {"reason": "FieldValueInvalid", "message": detail, "field": "metadata.resourceVersion"}
            raise statuses.invalid(row, name, message, [found])
        metadata["name"] = name
        if row.namespaced:
            metadata["namespace"] = namespace
        strategy.prepare_for_update(row, new, old, write.subresource, self._now())
        attributes = Attributes(
            verb="update",
            row=row,
            namespace=namespace,
            name=name,
            subresource=write.subresource,
            user=write.user,
            obj=new,
            old=old,
            is_dry_run=write.is_dry_run,
        )
        apply_defaults(new)
        self._track(row, old, new, write)
        await self._admission.mutate(attributes)
        strategy.count_generation(row, new, old, write.subresource)
        await self._admission.validate(attributes)

    def _track(self, row: ServedResource, old: Object | None, new: Object, write: Write) -> None:
        """Write down in *new* that the fields it adds or changes are the writer's; ``kubectl apply`` builds on it."""
        if not write.field_manager:
            return
        tracked = track_update(
            old,
            new,
            write.field_manager,
            api_version=row.resource.api_version,
            kind=row.kind,
            now=rfc3339(self._now()),
            subresource=write.subresource,
        )
        new["metadata"].pop("managedFields", None)
        new["metadata"].update(tracked["metadata"])

    async def _write(self, record: Record, value: bytes | None, previous: bytes) -> Record:
        try:
            return await self.storage.write(record.key, value, expected=record.revision, previous=previous)
        except (StorageFailed, TransformError) as error:
            raise statuses.internal(str(error)) from None

    # --- delete ------------------------------------------------------------------------------------------------------

    async def delete(
        self,
        row: ServedResource,
        namespace: str,
        name: str,
        options: DeleteOptions | None = None,
        write: Write = IN_PROCESS,
    ) -> tuple[Object, bool]:
        """Delete an object, or begin to.

        Returns:
            Its last state, and whether it is gone. It stays, marked, while a grace period or a finalizer holds it.

        Raises:
            NotFound; Conflict, a precondition of *options* fails; Forbidden, by admission.
        """
        options = options or DeleteOptions()
        key = object_key(row, namespace, name)
        marked_last: Object | None = None
        while True:
            record = self.storage.get(key)
            if record is None:
                # Our mark with a grace period of 0 is what a node waits for: its own DELETE may come before our second write.
                if marked_last is not None:
                    return marked_last, True
                raise statuses.not_found(row, name)
            stored = await open_record(self.storage, record)
            obj = stored.object
            if marked_last is None:
                check_preconditions(row, obj, options)
            elif obj["metadata"]["uid"] != marked_last["metadata"]["uid"]:
                return marked_last, True  # and the name is another object's by now
            await self._admission.validate(
                Attributes(
                    verb="delete",
                    row=row,
                    namespace=namespace,
                    name=name,
                    subresource=write.subresource,
                    user=write.user,
                    obj=None,
                    old=obj,
                    is_dry_run=write.is_dry_run,
                )
            )
            deletion = strategy.begin_deletion(row, obj, options, now=self._now())
            if deletion is Deletion.PENDING or write.is_dry_run:
                return obj, False
            try:
                last = stored.plain
                if deletion is Deletion.MARK:
                    marked = codec.encode(obj)
                    record = await self._write(record, marked, last)
                    obj["metadata"]["resourceVersion"] = str(record.revision)
                    if not strategy.is_deletion_complete(row, obj):
                        return obj, False
                    marked_last, last = obj, marked
                record = await self._write(record, None, last)
            except RevisionMismatch:
                continue
            obj["metadata"]["resourceVersion"] = str(record.revision)
            return obj, True


# --- helpers ---------------------------------------------------------------------------------------------------------


def _metadata(obj: Object) -> Object:
    metadata = obj.get("metadata")
    if metadata is None:
        metadata = obj["metadata"] = {}
    if not isinstance(metadata, dict):
        raise statuses.bad_request("metadata: must be an object")
    return metadata


def check_preconditions(row: ServedResource, obj: Object, options: DeleteOptions) -> None:
    """Raises: Conflict: *obj* has another uid or resourceVersion than *options* say."""
    metadata = obj["metadata"]
    if options.uid and options.uid != metadata["uid"]:
        raise statuses.conflict(
            row,
            metadata["name"],
            f"the UID in the precondition ({options.uid}) does not match the UID in record ({metadata['uid']}). "
            "The object might have been deleted and then recreated",
        )
    if options.resource_version and options.resource_version != metadata["resourceVersion"]:
        raise statuses.conflict(
            row,
            metadata["name"],
            f"the ResourceVersion in the precondition ({options.resource_version}) does not match the ResourceVersion "
            f"in record ({metadata['resourceVersion']}). The object might have been modified",
        )

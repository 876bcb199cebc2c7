"""Objects over the store: create, get, list, update, delete, with upstream's rules and error texts.

Every write is a loop of read, change, compare-and-swap. Objects are plain dictionaries (fields unknown to this project
survive); reads hand out the stored JSON without parsing it. Called by ``routes.py`` and, in process, by ``controllers.py``.
Who may do it has been decided before (``authz.py``); what a kind's strategy and admission do to an object is theirs
(``strategy.py``, ``admission.py``).

Source: k8s.io/apiserver pkg/registry/generic/registry/store.go, pkg/storage/etcd3/store.go.
"""

from __future__ import annotations

import base64
import binascii
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from kubelet_secrets.api.defaults import apply_defaults
from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.apiserver import codec, statuses, strategy
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.encryption import Opened, TransformError
from kubelet_secrets.apiserver.patch import track_update
from kubelet_secrets.apiserver.resources import ServedResource
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.apiserver.storage import (
    ABSENT,
    ROOT,
    Compacted,
    Record,
    RevisionMismatch,
    Storage,
    StorageFailed,
)
from kubelet_secrets.apiserver.strategy import Deletion
from kubelet_secrets.apiserver.watch import Watcher, WatchHub, WatchOptions, split_key
from kubelet_secrets.errors import AlreadyExists

_NAME_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: no words; k8s.io/apimachinery util/rand
_GENERATED_NAME_ATTEMPTS = 8
_MAX_GENERATED_BASE = 63 - 5
CONTINUE_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted "
    "between the time the first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True, slots=True)
class User:
    """Who asks. ``extra`` as in UserInfo."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


SYSTEM_USER = User("system:apiserver", ("system:masters", "system:authenticated"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What admission is told about a write."""

    verb: str  # "create", "update", "delete"; a patch is an update
    row: ServedResource
    namespace: str
    name: str
    subresource: str
    user: User
    obj: Object | None  # admission may change it; None on delete
    old: Object | None  # None on create
    is_dry_run: bool


class Admission(Protocol):
    async def mutate(self, attributes: Attributes) -> None:
        """Change ``attributes.obj`` in place. Raises: ApiError."""
        ...

    async def validate(self, attributes: Attributes) -> None:
        """Raises: ApiError."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """One object as read."""

    plain: bytes  # JSON as stored, without resourceVersion
    revision: int
    is_stale: bool = False  # has to be written again even when nothing changes: see ``encryption.py``

    @property
    def value(self) -> bytes:
        """The JSON a client gets."""
        return codec.stamp(self.plain, self.revision)

    @property
    def object(self) -> Object:
        """A new dictionary at every call."""
        return codec.decode(self.plain, self.revision)


@dataclass(frozen=True, slots=True)
class Page:
    """What a list answers."""

    items: tuple[Stored, ...]
    revision: int
    next_token: str = ""  # metadata.continue
    remaining: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """How a write is to be done."""

    user: User = SYSTEM_USER
    subresource: str = ""
    is_dry_run: bool = False
    field_manager: str = ""  # who gets the changed fields, where fields are managed; empty: the change says so itself


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteOptions:
    """``meta/v1`` DeleteOptions, as far as they act here."""

    grace_s: int | None = None
    uid: str | None = None
    resource_version: str | None = None


IN_PROCESS = Write()
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
        record = self.storage.get(_key(row, namespace, name))
        if record is None:
            raise statuses.not_found(row, name)
        return await self._open(record)

    async def find(self, row: ServedResource, namespace: str, name: str) -> Stored | None:
        """Like :meth:`get`; None when it is absent."""
        record = self.storage.get(_key(row, namespace, name))
        return await self._open(record) if record is not None else None

    async def list_objects(
        self,
        selection: Selection,
        *,
        limit: int = 0,
        continue_token: str = "",
        revision: int | None = None,
        is_exact: bool = False,
    ) -> Page:
        """The objects of *selection*, ordered by namespace and name.

        Args:
            limit: most objects of a page; 0 for all.
            continue_token: of the page before: the rest, as of that page's revision.
            revision: with *is_exact* the state as of then, else the state at least as new.

        Raises:
            Expired: the token or the exact revision is older than the history.
            ApiError: 504, *revision* lies in the future; 400, a malformed token; 500, an object cannot be decrypted.
        """
        start, at = "", revision if is_exact else None
        if continue_token:
            at, start = _parse_token(continue_token)
        wanted = at or revision or 0
        if wanted > self.storage.revision:
            raise statuses.too_large_resource_version(wanted, self.storage.revision)
        shown_revision = self.storage.revision if at is None else at
        try:
            records = self._records(selection, at)
        except Compacted:
            if not continue_token:
                raise statuses.expired(f"The resourceVersion for the provided list is too old: {at}") from None
            error = statuses.expired(CONTINUE_EXPIRED)
            error.details["continue"] = _make_token(None, start)  # an inconsistent continuation, as upstream offers
            raise error from None
        items: list[Stored] = []
        for index, record in enumerate(records):
            if record.key <= start:
                continue
            stored = await self._open(record)
            if not selection.is_by_key_only and not selection.matches(stored.object):
                continue
            if limit and len(items) == limit:
                # Upstream counts what is left only without selectors: it would have to read it all.
                remaining = len(records) - index if selection.is_by_key_only else None
                last = records[index - 1].key
                return Page(tuple(items), shown_revision, _make_token(shown_revision, last), remaining)
            items.append(stored)
        return Page(tuple(items), shown_revision)

    def _records(self, selection: Selection, at: int | None) -> list[Record]:
        if at is None and selection.name and (selection.namespace or not selection.row.namespaced):
            record = self.storage.get(_key(selection.row, selection.namespace, selection.name))
            return [record] if record is not None else []
        records = self.storage.records(selection.prefix, at)
        if selection.name:
            records = [record for record in records if split_key(record.key)[2] == selection.name]
        return records

    def watch(self, selection: Selection, options: WatchOptions) -> Watcher:
        """A watch, to be entered; see :class:`Watcher`."""
        return Watcher(self.storage, self._hub, selection, options)

    async def _open(self, record: Record) -> Stored:
        try:
            opened: Opened = await self.storage.open(record)
        except TransformError as error:
            raise statuses.internal(str(error)) from None
        return Stored(opened.value, record.revision, opened.is_stale)

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
                metadata["name"] = _generated_name(metadata["generateName"])
            try:
                return await self._create_once(row, namespace, obj, write)
            except AlreadyExists:
                if not is_generated or attempt == _GENERATED_NAME_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable: the last attempt raises")

    async def _create_once(self, row: ServedResource, namespace: str, obj: Object, write: Write) -> Object:
        metadata = obj["metadata"]
        strategy.prepare_for_create(row, obj, uid=str(uuid.uuid4()), now=self._now())
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
        await self._admission.mutate(attributes)
        apply_defaults(obj)
        await self._admission.validate(attributes)
        name = str(metadata["name"])
        key = _key(row, namespace, name)
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
        key = _key(row, namespace, name)
        while True:
            record = self.storage.get(key)
            if record is None:
                raise statuses.not_found(row, name)
            stored = await self._open(record)
            old = stored.object
            new = change(stored.object)
            if not isinstance(new, dict):
                new = await new
            await self._prepare_update(row, namespace, name, new, old, write)
            if strategy.is_deletion_complete(row, new) and not write.is_dry_run:
                return await self._finish_update_by_deletion(row, record, stored, new)
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
        strategy.prepare_for_update(row, new, old, write.subresource)
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
        await self._admission.mutate(attributes)
        await self._admission.validate(attributes)
        # Ownership of fields is kept up only once somebody has applied: upstream tracks it always, at the price of
        # objects twice as large; a later first apply treats what is there as owned before it, as upstream does.
        if write.field_manager and old_metadata.get("managedFields"):
            tracked = track_update(
                old,
                new,
                write.field_manager,
                api_version=row.resource.api_version,
                kind=row.kind,
                now=rfc3339(self._now()),
                subresource=write.subresource,
            )
            metadata.update(tracked["metadata"])

    async def _finish_update_by_deletion(
        self, row: ServedResource, record: Record, stored: Stored, new: Object
    ) -> Object:
        """The update took the last finalizer of an object being deleted: it goes, and what was written is its last state."""
        try:
            written = await self._write(record, None, codec.encode(new))
        except RevisionMismatch:
            raise statuses.conflict(row, new["metadata"]["name"]) from None
        new["metadata"]["resourceVersion"] = str(written.revision)
        return new

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
        key = _key(row, namespace, name)
        while True:
            record = self.storage.get(key)
            if record is None:
                raise statuses.not_found(row, name)
            stored = await self._open(record)
            obj = stored.object
            _check_preconditions(row, obj, options)
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
            deletion = strategy.begin_deletion(row, obj, grace_s=options.grace_s, now=self._now())
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
                    last = marked
                record = await self._write(record, None, last)
            except RevisionMismatch:
                continue
            obj["metadata"]["resourceVersion"] = str(record.revision)
            return obj, True


# --- helpers ---------------------------------------------------------------------------------------------------------


def _key(row: ServedResource, namespace: str, name: str) -> str:
    return f"{ROOT}{row.plural}/{namespace}/{name}" if row.namespaced else f"{ROOT}{row.plural}/{name}"


def _metadata(obj: Object) -> Object:
    metadata = obj.get("metadata")
    if metadata is None:
        metadata = obj["metadata"] = {}
    if not isinstance(metadata, dict):
        raise statuses.bad_request("metadata: must be an object")
    return metadata


def _generated_name(base: str) -> str:
    """Source: k8s.io/apiserver pkg/storage/names. Uniqueness is checked by the write; the suffix is no secret."""
    suffix = "".join(random.choices(_NAME_SUFFIX_ALPHABET, k=5))
    return base[:_MAX_GENERATED_BASE] + suffix


def _check_preconditions(row: ServedResource, obj: Object, options: DeleteOptions) -> None:
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


def _make_token(revision: int | None, last_key: str) -> str:
    token: dict[str, Any] = {"v": "meta.k8s.io/v1", "rv": -1 if revision is None else revision, "start": last_key}
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).rstrip(b"=").decode("ascii")


def _parse_token(text: str) -> tuple[int | None, str]:
    """(revision or None for "whatever is now", last key of the page before)."""
    try:
        token = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        revision, start = token["rv"], token["start"]
    except (binascii.Error, ValueError, msgspec.DecodeError, KeyError, TypeError):
        raise statuses.bad_request("continue key is not valid") from None
    if not isinstance(revision, int) or not isinstance(start, str):
        raise statuses.bad_request("continue key is not valid")
    return (None if revision < 0 else revision), start

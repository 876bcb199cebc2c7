"""Reading objects out of the store: one of them, or pages of a list that all show the same revision.

A continue token names that revision and the last key seen; while the history reaches back so far, the next page is of exactly
that state. Called by the registry.

Source: k8s.io/apiserver pkg/storage/etcd3/store.go (GetList), pkg/storage/continue.go.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import msgspec

from kubelet_secrets.apiserver import codec, statuses
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.encryption import TransformError
from kubelet_secrets.apiserver.resources import ServedResource
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.apiserver.storage import Compacted, Record, Storage
from kubelet_secrets.apiserver.storagepaths import prefix_of, split_key
from kubelet_secrets.apiserver.stored import open_object

CONTINUE_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted "
    "between the time the first chunk was returned and now may show up in the list."
)


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


def object_key(row: ServedResource, namespace: str, name: str) -> str:
    return prefix_of(row.plural, namespace if row.namespaced else "") + name


async def open_record(storage: Storage, record: Record) -> Stored:
    """Raises: ApiError: 500, it cannot be decrypted."""
    try:
        return await _open(storage, record)
    except TransformError as error:
        raise statuses.internal(str(error)) from None


async def _open(storage: Storage, record: Record) -> Stored:
    opened = await open_object(storage, record)
    return Stored(opened.value, record.revision, opened.is_stale)


async def list_objects(
    storage: Storage,
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
    if wanted > storage.revision:
        raise statuses.too_large_resource_version(wanted, storage.revision)
    shown_revision = storage.revision if at is None else at
    try:
        records = _records(storage, selection, at)
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
        try:
            stored = await _open(storage, record)
        except TransformError as error:
            # One object that cannot be read fails the whole list: nobody may take it for complete.
            raise statuses.internal(f'unable to transform key "{record.key}": {error}') from None
        if not selection.is_by_key_only and not selection.matches(stored.object):
            continue
        if limit and len(items) == limit:
            # Upstream counts what is left only without selectors: it would have to read it all.
            remaining = len(records) - index if selection.is_by_key_only else None
            last = records[index - 1].key
            return Page(tuple(items), shown_revision, _make_token(shown_revision, last), remaining)
        items.append(stored)
    return Page(tuple(items), shown_revision)


def _records(storage: Storage, selection: Selection, at: int | None) -> list[Record]:
    if at is None and selection.key is not None:
        record = storage.get(selection.key)
        return [record] if record is not None else []
    records = storage.records(selection.prefix, at)
    if selection.name:
        records = [record for record in records if split_key(record.key)[2] == selection.name]
    return records


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

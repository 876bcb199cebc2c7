"""The Cache and Get strategies: nothing is watched, objects are read when somebody asks.

Stores for ``manager.py``. For clusters that set ``configMapAndSecretChangeDetectionStrategy``; changes are noticed at the next
read, so nothing is ever put on the manager's ``changes``.

Source: pkg/kubelet/util/manager/cache_based_manager.go, objectStore; pkg/kubelet/secret/secret_manager.go, simpleSecretManager.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, Protocol

import trio

from kubelet_secrets.api.meta import PodUID, Resource
from kubelet_secrets.cache.changes import ObjectRef
from kubelet_secrets.cache.kinds import NodeObject, ObjectKind
from kubelet_secrets.errors import ApiError, ApiUnavailable, MissingObject, NotFound, SetUpError

TTL_ANNOTATION = "node.alpha.kubernetes.io/ttl"
DEFAULT_TTL_S = 60.0


def ttl_from_annotations(annotations: Mapping[str, str]) -> float | None:
    """The Node's wish for how long objects are cached, in seconds; None when it says nothing usable.

    Source: pkg/kubelet/util/manager/cache_based_manager.go, GetObjectTTLFromNodeFunc (strconv.Atoi).
    """
    text = annotations.get(TTL_ANNOTATION, "")
    digits = text[1:] if text[:1] in ("+", "-") else text
    return float(int(text)) if digits.isascii() and digits.isdigit() else None


class Getter(Protocol):
    """What these stores need of ``ApiClient``."""

    async def get(
        self, resource: Resource, namespace: str, name: str, kind: type[NodeObject], *, resource_version: str
    ) -> NodeObject: ...


class FetchedObjects(Generic[NodeObject]):
    """The Get strategy: every read asks the API server."""

    def __init__(self, client: Getter, kind: ObjectKind[NodeObject]) -> None:
        self._client = client
        self._kind = kind

    async def get(self, ref: ObjectRef) -> NodeObject:
        """Read the object.

        Raises:
            MissingObject: the server says it does not exist.
            SetUpError: it says something else, or nothing; the text is its own.
        """
        try:
            return await fetch(self._client, self._kind, ref)
        except NotFound:
            raise _missing(self._kind, ref) from None
        except (ApiError, ApiUnavailable) as error:
            raise SetUpError(str(error)) from error


class _Item(Generic[NodeObject]):
    """What the Cache strategy knows of one object: nothing yet, an object, or that there is none."""

    def __init__(self) -> None:
        self.users: set[PodUID] = set()
        self.lock = trio.Lock()  # one request, however many pods ask at once
        self.generation = 0  # grows with each invalidation
        self.forget()

    def forget(self) -> None:
        self.generation += 1
        self.value: NodeObject | None = None
        self.is_missing = False
        self.fetched_at = float("-inf")


class CachedObjects(Generic[NodeObject]):
    """The Cache strategy: an object is read again when it is older than the TTL, or a pod that uses it came or changed.

    Args:
        ttl_s: asked at each read; None means the default of 60 s.
    """

    def __init__(self, client: Getter, kind: ObjectKind[NodeObject], ttl_s: Callable[[], float | None]) -> None:
        self._client = client
        self._kind = kind
        self._ttl_s = ttl_s
        self._items: dict[ObjectRef, _Item[NodeObject]] = {}

    def add(self, ref: ObjectRef, user: PodUID) -> None:
        """Count *user*, and read the object again at the next :meth:`get`."""
        item = self._items.setdefault(ref, _Item())
        item.users.add(user)
        item.forget()

    def remove(self, ref: ObjectRef, user: PodUID) -> None:
        item = self._items.get(ref)
        if item is not None:
            item.users.discard(user)
            if not item.users:
                del self._items[ref]

    def users(self, ref: ObjectRef) -> frozenset[PodUID]:
        item = self._items.get(ref)
        return frozenset() if item is None else frozenset(item.users)

    def peek(self, ref: ObjectRef) -> NodeObject | None:
        item = self._items.get(ref)
        return None if item is None else item.value

    async def get(self, ref: ObjectRef) -> NodeObject:
        """The cached object, read (again) when it is not fresh.

        Raises:
            MissingObject: the server says it does not exist.
            SetUpError: there is nothing cached and the server cannot be asked.
            KeyError: nobody uses it.
        """
        item = self._items[ref]
        async with item.lock:
            if not self._is_fresh(item):
                await self._refresh(ref, item)
        if item.value is None:
            raise _missing(self._kind, ref)
        return item.value

    def _is_fresh(self, item: _Item[NodeObject]) -> bool:
        ttl_s = self._ttl_s()
        age_s = trio.current_time() - item.fetched_at
        return item.value is not None and age_s < (DEFAULT_TTL_S if ttl_s is None else ttl_s)

    async def _refresh(self, ref: ObjectRef, item: _Item[NodeObject]) -> None:
        # A periodic refresh may be answered from the server's cache; after an invalidation only the latest will do.
        version = "0" if item.value is not None else ""
        generation = item.generation
        try:
            fetched = await fetch(self._client, self._kind, ref, resource_version=version)
        except NotFound:
            item.value, item.is_missing, item.fetched_at = None, True, trio.current_time()
        except (ApiError, ApiUnavailable) as error:
            if item.value is None and not item.is_missing:
                raise SetUpError(str(error)) from error
            # Else the last known state is better than none.
        else:
            if item.value is None or not _is_older(fetched, item.value):
                item.value, item.is_missing = fetched, False
                # Invalidated while we asked: good for this caller, read again for the next.
                item.fetched_at = trio.current_time() if generation == item.generation else float("-inf")


async def fetch(
    client: Getter, kind: ObjectKind[NodeObject], ref: ObjectRef, *, resource_version: str = ""
) -> NodeObject:
    return await client.get(kind.resource, ref.namespace, ref.name, kind.kind, resource_version=resource_version)


def _missing(kind: ObjectKind[NodeObject], ref: ObjectRef) -> MissingObject:
    """With the API server's words, which these strategies pass on: ``secrets "db" not found``."""
    return MissingObject(kind.resource.plural, ref.name)


def _is_older(fetched: NodeObject, cached: NodeObject) -> bool:
    """Whether a server that lags has sent an older state. The one place that orders versions, as upstream's isObjectOlder;
    versions that are not numbers are taken as they come."""
    try:
        return int(fetched.metadata.resource_version) < int(cached.metadata.resource_version)
    except ValueError:
        return False

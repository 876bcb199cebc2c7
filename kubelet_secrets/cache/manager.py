"""``ObjectManager``: the Secrets (or ConfigMaps) that the node's pods refer to, and nothing else.

Counts pods; where values come from is a strategy's business (``watched.py``, ``polled.py``). One instance for Secrets and one
for ConfigMaps, made by ``agent.py``; asked by the pod workers and the volume manager.

Source: pkg/kubelet/util/manager (cacheBasedManager.RegisterPod, UnregisterPod, GetObject), pkg/kubelet/secret.
"""

from __future__ import annotations

import enum
import random as random_module
from collections.abc import Callable
from typing import Generic, Protocol

import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PodUID
from kubelet_secrets.cache.changes import ChangeQueue, ObjectRef
from kubelet_secrets.cache.kinds import NodeObject, ObjectKind
from kubelet_secrets.cache.polled import CachedObjects, FetchedObjects, Getter
from kubelet_secrets.cache.reflector import ListWatcher
from kubelet_secrets.cache.watched import WatchedObjects
from kubelet_secrets.errors import SetUpError


class Strategy(enum.Enum):
    """Kubelet configuration ``configMapAndSecretChangeDetectionStrategy``."""

    WATCH = "Watch"
    CACHE = "Cache"
    GET = "Get"


class _Client(ListWatcher, Getter, Protocol):
    """What a manager needs of ``ApiClient``."""


class ObjectManager(Generic[NodeObject]):
    """See the module.

    Args:
        client: an ``ApiClient``; not owned.
        kind: ``SECRET_KIND`` or ``CONFIG_MAP_KIND``.
        ttl_s: for ``Strategy.CACHE``: how long an object is fresh, None for the default; see ``ttl_from_annotations``.
        random: uniform in [0, 1); spreads retries.

    Attributes:
        changes: names of objects whose state has become known or has changed; see ``ChangeQueue``. One consumer.
    """

    def __init__(
        self,
        client: _Client,
        kind: ObjectKind[NodeObject],
        *,
        strategy: Strategy = Strategy.WATCH,
        ttl_s: Callable[[], float | None] = lambda: None,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self.changes = ChangeQueue()
        self._kind = kind
        self._pods: dict[PodUID, frozenset[ObjectRef]] = {}
        self._watched: WatchedObjects[NodeObject] | None = None
        self._counted: WatchedObjects[NodeObject] | CachedObjects[NodeObject] | None = None
        self._fetched = FetchedObjects(client, kind)
        if strategy is Strategy.WATCH:
            self._counted = self._watched = WatchedObjects(client, kind, self.changes, random=random)
        elif strategy is Strategy.CACHE:
            self._counted = CachedObjects(client, kind, ttl_s)

    def __repr__(self) -> str:
        return f"<ObjectManager {self._kind.word}, {len(self._pods)} pods>"

    def register_pod(self, pod: Pod) -> None:
        """Count what *pod* refers to now; called at every sync of the pod, so references come and go with its spec.

        Does not wait. In the Cache strategy each call makes the pod's objects be read again, as upstream.
        """
        if self._counted is None:
            return
        uid = PodUID(pod.metadata.uid)
        refs = {ObjectRef(pod.metadata.namespace, name): None for name in self._kind.names_of(pod)}
        # New ones first: an object that one pod still wants must not be forgotten in between.
        for ref in refs:
            self._counted.add(ref, uid)
        for ref in self._pods.get(uid, frozenset()) - refs.keys():
            self._counted.remove(ref, uid)
        self._pods[uid] = frozenset(refs)

    def unregister_pod(self, uid: PodUID) -> None:
        """Forget the pod; objects nobody else refers to are forgotten with it. Unknown pods are none."""
        for ref in self._pods.pop(uid, frozenset()):
            assert self._counted is not None
            self._counted.remove(ref, uid)

    def users(self, namespace: str, name: str) -> frozenset[PodUID]:
        """The registered pods that refer to the object."""
        return frozenset() if self._counted is None else self._counted.users(ObjectRef(namespace, name))

    async def get(self, namespace: str, name: str) -> NodeObject:
        """The object, as the strategy knows it.

        Raises:
            MissingObject: it does not exist.
            CacheNotSynced: Watch strategy, and no answer within a second.
            SetUpError: no registered pod refers to it, or (Cache, Get) the server cannot be asked.

        Cancellation: nothing has changed.
        """
        ref = ObjectRef(namespace, name)
        if self._counted is None:
            return await self._fetched.get(ref)
        try:
            return await self._counted.get(ref)
        except KeyError:
            raise SetUpError(f'object "{namespace}"/"{name}" not registered') from None

    def peek(self, namespace: str, name: str) -> NodeObject | None:
        """The object as last seen; None when it is missing, not known yet, or not registered."""
        return None if self._counted is None else self._counted.peek(ObjectRef(namespace, name))

    def nudge(self, *, after_outage: bool = False) -> None:
        """Retry now whatever pauses after a failure: something else has just reached the API server."""
        if self._watched is not None:
            self._watched.nudge(after_outage=after_outage)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep watching what is registered, until cancelled. Pods may be registered before.

        Cancellation: watches are closed; values stay readable, growing old.
        """
        if self._watched is not None:
            await self._watched.run(task_status=task_status)
        else:
            task_status.started()
            await trio.sleep_forever()

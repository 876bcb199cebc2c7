"""The node's heartbeat: a Lease in ``kube-node-lease``, renewed every ten seconds.

Started by the composition root as one service, on a connection of its own (design decision 9). Source:
k8s.io/component-helpers apimachinery/lease/controller.go; semantics §10.4.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

import msgspec
import trio

from kubelet_secrets.api.core import Lease, LeaseSpec
from kubelet_secrets.api.meta import LEASES, ObjectMeta, OwnerReference
from kubelet_secrets.api.times import rfc3339_micro
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.errors import AlreadyExists, ApiError, ApiUnavailable, Conflict, NotFound

logger = logging.getLogger(__name__)

NAMESPACE = "kube-node-lease"
DURATION_S = 40
RENEW_S = 10.0  # a quarter of the duration
FIRST_PAUSE_S = 0.1
LAST_PAUSE_S = 7.0
UPDATE_TRIES = 5


def renewed(lease: Lease, *, node_name: str, owner: OwnerReference | None, now: datetime) -> Lease:
    """*lease* with a fresh heartbeat. Pure.

    Args:
        owner: the Node, so that the lease goes with it; None while its uid is not known.
    """
    metadata = lease.metadata
    if owner is not None and not metadata.owner_references:
        metadata = msgspec.structs.replace(metadata, owner_references=(owner,))
    spec = LeaseSpec(
        holder_identity=node_name,
        lease_duration_seconds=DURATION_S,
        acquire_time=lease.spec.acquire_time,
        renew_time=rfc3339_micro(now),
    )
    return msgspec.structs.replace(lease, metadata=metadata, spec=spec)


class LeaseKeeper:
    """The lease of one node.

    Args:
        node_uid: asked each time: the Node's uid, empty while unknown.
    """

    def __init__(
        self, client: ApiClient, node_name: str, *, clock: Callable[[], datetime], node_uid: Callable[[], str]
    ) -> None:
        self._client = client
        self._name = node_name
        self._clock = clock
        self._node_uid = node_uid
        self._latest: Lease | None = None

    async def run(self) -> None:
        """Create the lease or take it over, and renew it every :data:`RENEW_S` until cancelled.

        An API server that is away is waited for: 0.1 s, doubling to 7 s.
        """
        while True:
            started = trio.current_time()
            await self.renew()
            await trio.sleep_until(started + RENEW_S)

    async def renew(self) -> None:
        """One heartbeat."""
        if self._latest is not None and await self._update(self._latest):
            return
        await self._update(await self._ensure())

    async def _update(self, lease: Lease) -> bool:
        for attempt in range(1, UPDATE_TRIES + 1):
            try:
                self._latest = await self._client.replace(LEASES, NAMESPACE, self._renewed(lease))
                return True
            except (Conflict, NotFound):
                lease, self._latest = await self._ensure(), None
            except (ApiError, ApiUnavailable) as error:
                logger.info("failed to update node lease, try %d of %d: %s", attempt, UPDATE_TRIES, error)
        return False

    async def _ensure(self) -> Lease:
        """The lease as it is, created if need be."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await self._get_or_create()
            except (ApiError, ApiUnavailable) as error:
                logger.info("failed to ensure the node lease exists, next try in %.1f s: %s", pause_s, error)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    async def _get_or_create(self) -> Lease:
        try:
            return await self._client.get(LEASES, NAMESPACE, self._name, Lease)
        except NotFound:
            pass
        empty = Lease(metadata=ObjectMeta(name=self._name, namespace=NAMESPACE))
        try:
            return await self._client.create(LEASES, NAMESPACE, self._renewed(empty))
        except AlreadyExists:
            return await self._client.get(LEASES, NAMESPACE, self._name, Lease)

    def _renewed(self, lease: Lease) -> Lease:
        uid = self._node_uid()
        owner = OwnerReference(api_version="v1", kind="Node", name=self._name, uid=uid) if uid else None
        return renewed(lease, node_name=self._name, owner=owner, now=self._clock())

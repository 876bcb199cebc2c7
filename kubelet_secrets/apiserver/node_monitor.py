"""Nodes that have fallen silent: their conditions become Unknown, and their pods are no longer Ready.

A node is alive as long as its Lease changes; by whose clock the lease was written does not matter. Only nodes with a lease are
watched over: a Node object made by hand, as tests do, stays as it was made. Not here: taints, and the eviction of pods, which
upstream would begin five minutes later.

Source: kube-controller-manager pkg/controller/nodelifecycle (monitorNodeHealth, MarkPodsNotReady); semantics §10.4.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime

import trio

from kubelet_secrets.api import meta
from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.loops import contained
from kubelet_secrets.apiserver.node_authorizer import NODE_LEASES
from kubelet_secrets.apiserver.registry import IN_PROCESS, Registry
from kubelet_secrets.apiserver.resources import served
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.errors import NotFound

log = logging.getLogger(__name__)

GRACE_PERIOD_S = 50.0  # --node-monitor-grace-period
PERIOD_S = 5.0  # --node-monitor-period
CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
_REASON, _MESSAGE = "NodeStatusUnknown", "Kubelet stopped posting node status."

_NODES, _PODS, _LEASES = served(meta.NODES), served(meta.PODS), served(meta.LEASES)
_STATUS = replace(IN_PROCESS, subresource="status")


class NodeMonitor:
    """See the module's text."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._seen: dict[str, tuple[int, float]] = {}  # node → revision of its lease, and when it was first seen

    async def run(self) -> None:
        """Look at every node each five seconds, until cancelled."""
        while True:
            await trio.sleep(PERIOD_S)
            with contained("node monitor"):  # the next round tries again
                await self._check_nodes()

    async def _check_nodes(self) -> None:
        now = trio.current_time()
        for item in (await self._registry.list_objects(Selection(_NODES))).items:
            node = item.object
            name = node["metadata"]["name"]
            lease = await self._registry.find(_LEASES, NODE_LEASES, name)
            if lease is None:
                self._seen.pop(name, None)
                continue
            revision, since = self._seen.get(name, (0, now))
            if revision != lease.revision:
                self._seen[name] = (lease.revision, now)
            elif now - since > GRACE_PERIOD_S and _is_posting(node):
                log.warning("node %s has not renewed its lease for %d s", name, now - since)
                await self._mark_lost(name)

    async def _mark_lost(self, name: str) -> None:
        await self._registry.update(_NODES, "", name, _mark_unknown, _STATUS)
        for item in (await self._registry.list_objects(Selection(_PODS))).items:
            pod = item.object
            if pod["spec"].get("nodeName") != name or not _is_ready(pod):
                continue
            metadata = pod["metadata"]
            try:
                await self._registry.update(_PODS, metadata["namespace"], metadata["name"], _mark_not_ready, _STATUS)
            except NotFound:
                continue


def _is_posting(node: Object) -> bool:
    """Whether its Ready condition is still what the node itself said."""
    ready = _condition(node, "Ready")
    return ready is not None and ready.get("status") != "Unknown"


def _is_ready(pod: Object) -> bool:
    ready = _condition(pod, "Ready")
    return ready is not None and ready.get("status") == "True"


def _condition(obj: Object, wanted: str) -> Object | None:
    conditions: list[Object] = (obj.get("status") or {}).get("conditions") or []
    return next((entry for entry in conditions if entry.get("type") == wanted), None)


def _mark_unknown(node: Object) -> Object:
    now = rfc3339(datetime.now(UTC))
    status = node.setdefault("status", {})
    conditions = status.setdefault("conditions", [])
    for wanted in CONDITIONS:
        entry = _condition(node, wanted)
        if entry is None:
            entry = {"type": wanted}
            conditions.append(entry)
        if entry.get("status") != "Unknown":
            entry.update(status="Unknown", reason=_REASON, message=_MESSAGE, lastTransitionTime=now)
    return node


def _mark_not_ready(pod: Object) -> Object:
    entry = _condition(pod, "Ready")
    if entry is not None:
        entry.update(status="False", lastTransitionTime=rfc3339(datetime.now(UTC)))
    return pod

"""The controllers a node depends on, in process: namespaces are filled and emptied, pods get a node, old events go.

Each is a loop over a watch of the registry: list first, then changes, so that it heals whatever happened before it ran. They
are far simpler than upstream's and do nothing beyond what one node and its tests observe.

Source: kube-controller-manager (serviceaccount, rootcacertpublisher, namespace), kube-scheduler, event TTL of kube-apiserver.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime

import trio

from kubelet_secrets.api import meta
from kubelet_secrets.api.times import parse_rfc3339
from kubelet_secrets.apiserver.attributes import DeleteOptions
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.loops import Handle, follow, sweep_every
from kubelet_secrets.apiserver.registry import IN_PROCESS, Registry
from kubelet_secrets.apiserver.resources import CLUSTER_ROLES, SERVED, ServedResource, served
from kubelet_secrets.apiserver.role_controller import aggregate
from kubelet_secrets.apiserver.scheduler import Scheduler
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.apiserver.watch import DELETED
from kubelet_secrets.errors import AlreadyExists, Conflict, NotFound

SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
ROOT_CA = "kube-root-ca.crt"
_ROOT_CA_NOTE = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
    "clusters."
)
EVENT_TTL_S = 3600.0
_EVENT_SWEEP_S = 60.0
_NAMESPACE_SWEEP_S = 2.0  # for what holds a namespace and is no pod: an object with a finalizer

_NAMESPACES = served(meta.NAMESPACES)
_ACCOUNTS = served(meta.SERVICE_ACCOUNTS)
_CONFIG_MAPS = served(meta.CONFIG_MAPS)
_PODS = served(meta.PODS)
_NODES = served(meta.NODES)
_EVENTS = served(meta.EVENTS)
_SERVICES = served(meta.SERVICES)
_CLUSTER_ROLES = served(CLUSTER_ROLES)


class Controllers:
    """All of them.

    Args:
        ca_pem: published to every namespace as ``kube-root-ca.crt``.
        own_service: the Service by which containers know this server.
        runs_scheduler: whether pods without a node are given one: ``scheduler.py``.
    """

    def __init__(self, registry: Registry, ca_pem: bytes, own_service: Object, runs_scheduler: bool = True) -> None:
        self._registry = registry
        self._ca_pem = ca_pem
        self._own_service = own_service
        self._runs_scheduler = runs_scheduler

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started once the system's namespaces and what belongs into them exist."""
        for name in SYSTEM_NAMESPACES:
            await self._ensure(_NAMESPACES, "", {"metadata": {"name": name}})
            await self._fill_namespace(name)
        await self._publish_own_service()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_loop, _NAMESPACES, self._sync_namespace)
            nursery.start_soon(self._run_loop, _ACCOUNTS, self._restore_deleted)
            nursery.start_soon(self._run_loop, _CONFIG_MAPS, self._restore_deleted)
            nursery.start_soon(self._run_loop, _CONFIG_MAPS, self._restore_root_ca)
            nursery.start_soon(self._run_loop, _PODS, self._continue_namespace)
            nursery.start_soon(self._run_loop, _CLUSTER_ROLES, self._aggregate_roles)
            nursery.start_soon(sweep_every, _NAMESPACE_SWEEP_S, self._sweep_namespaces)
            nursery.start_soon(sweep_every, _EVENT_SWEEP_S, self._sweep_events)
            if self._runs_scheduler:
                scheduler = Scheduler(self._registry)
                nursery.start_soon(self._run_loop, _PODS, scheduler.pod_changed)
                nursery.start_soon(self._run_loop, _NODES, scheduler.node_changed)
            task_status.started()

    async def _run_loop(self, row: ServedResource, handle: Handle) -> None:
        await follow(self._registry, row, handle)

    async def _ensure(self, row: ServedResource, namespace: str, obj: Object) -> None:
        try:
            await self._registry.create(row, namespace, obj)
        except AlreadyExists:
            pass

    async def _publish_own_service(self) -> None:
        """Source: pkg/controlplane/controller/kubernetesservice. A server that has moved since gets a new one."""
        wanted = self._own_service
        namespace, name = wanted["metadata"]["namespace"], wanted["metadata"]["name"]
        found = await self._registry.find(_SERVICES, namespace, name)
        if found is not None:
            spec = found.object["spec"]
            if all(spec.get(field) == wanted["spec"][field] for field in ("clusterIP", "ports")):
                return
            await self._registry.delete(_SERVICES, namespace, name)
        await self._ensure(_SERVICES, namespace, copy.deepcopy(wanted))

    # --- namespaces --------------------------------------------------------------------------------------------------

    async def _sync_namespace(self, kind: str, namespace: Object) -> None:
        name = namespace["metadata"]["name"]
        if kind == DELETED:
            return
        if "deletionTimestamp" in namespace["metadata"]:
            await self._empty_namespace(namespace)
        else:
            await self._fill_namespace(name)

    async def _fill_namespace(self, name: str) -> None:
        await self._ensure(_ACCOUNTS, name, {"metadata": {"name": "default"}})
        await self._ensure(
            _CONFIG_MAPS,
            name,
            {
                "metadata": {"name": ROOT_CA, "annotations": {"kubernetes.io/description": _ROOT_CA_NOTE}},
                "data": self._root_ca,
            },
        )

    @property
    def _root_ca(self) -> dict[str, str]:
        return {"ca.crt": self._ca_pem.decode("ascii")}

    async def _restore_deleted(self, kind: str, obj: Object) -> None:
        metadata = obj["metadata"]
        belongs = metadata["name"] == (ROOT_CA if obj["kind"] == "ConfigMap" else "default")
        if kind == DELETED and belongs:
            found = await self._registry.find(_NAMESPACES, "", metadata["namespace"])
            if found is not None and "deletionTimestamp" not in found.object["metadata"]:
                await self._fill_namespace(metadata["namespace"])

    async def _restore_root_ca(self, kind: str, config_map: Object) -> None:
        """What somebody has made of it is undone. Source: pkg/controller/certificates/rootcacertpublisher, syncNamespace."""
        metadata = config_map["metadata"]
        if kind == DELETED or metadata["name"] != ROOT_CA or config_map.get("data") == self._root_ca:
            return
        try:
            await self._registry.update(
                _CONFIG_MAPS, metadata["namespace"], ROOT_CA, lambda found: {**found, "data": self._root_ca}, IN_PROCESS
            )
        except (NotFound, Conflict):
            pass  # gone: another loop's matter; or changed again, which comes here again

    async def _empty_namespace(self, namespace: Object) -> None:
        """Delete what is in a namespace, then let it go. Pods on a node hold it until the node has let them go.

        Several loops may be at it: when one of them has let it go, another namespace may have its name at once.
        """
        name, uid = namespace["metadata"]["name"], namespace["metadata"]["uid"]
        remaining = 0
        for row in SERVED:
            if not row.namespaced or row.is_review:
                continue
            items = (await self._registry.list_objects(Selection(row, name))).items
            # While it is there nothing gets into it, so all that was listed is its own.
            if not await self._is_there(name, uid):
                return
            for item in items:
                metadata = item.object["metadata"]
                try:
                    _, is_gone = await self._registry.delete(
                        row, name, metadata["name"], DeleteOptions(uid=metadata["uid"])
                    )
                except (NotFound, Conflict):
                    continue
                remaining += not is_gone
        if remaining:
            return

        def finalize(live: Object) -> Object:
            if live["metadata"]["uid"] == uid:
                live["spec"] = {**live.get("spec", {}), "finalizers": []}
            return live

        try:
            await self._registry.update(_NAMESPACES, "", name, finalize, replace(IN_PROCESS, subresource="finalize"))
        except NotFound:
            pass

    async def _is_there(self, name: str, uid: str) -> bool:
        found = await self._registry.find(_NAMESPACES, "", name)
        return found is not None and found.object["metadata"]["uid"] == uid

    async def _continue_namespace(self, kind: str, pod: Object) -> None:
        """A pod is gone: a namespace being deleted may now be empty."""
        if kind == DELETED:
            name = pod["metadata"]["namespace"]
            found = await self._registry.find(_NAMESPACES, "", name)
            if found is not None and "deletionTimestamp" in found.object["metadata"]:
                await self._empty_namespace(found.object)

    async def _sweep_namespaces(self) -> None:
        for item in (await self._registry.list_objects(Selection(_NAMESPACES))).items:
            if "deletionTimestamp" in item.object["metadata"]:
                await self._empty_namespace(item.object)

    async def _aggregate_roles(self, _kind: str, _role: Object) -> None:
        """Any ClusterRole may be one that others gather."""
        await aggregate(self._registry)

    # --- events ------------------------------------------------------------------------------------------------------

    async def _sweep_events(self) -> None:
        now = datetime.now(UTC)
        for item in (await self._registry.list_objects(Selection(_EVENTS))).items:
            event = item.object
            metadata = event["metadata"]
            seen = parse_rfc3339(event.get("lastTimestamp") or event.get("eventTime") or metadata["creationTimestamp"])
            if seen is not None and (now - seen).total_seconds() > EVENT_TTL_S:
                try:
                    await self._registry.delete(_EVENTS, metadata["namespace"], metadata["name"])
                except NotFound:
                    pass

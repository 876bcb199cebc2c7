"""``PodManager``: one worker per pod, news brought to those it concerns, and a view of them all.

Told of pods by ``pod/source.py`` (it is a ``PodSink``), of objects by the two object managers. Run by the composition root;
read by the control socket and the kubelet's HTTP API through :meth:`PodManager.views`, never older than the last await.
Source: pkg/kubelet/kubelet.go syncLoop, HandlePodCleanups.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

import trio

from kubelet_secrets.api.core import ConfigMap, Pod, Secret
from kubelet_secrets.api.meta import PodUID
from kubelet_secrets.api.staticpod import is_mirror_pod
from kubelet_secrets.cache.manager import ObjectManager
from kubelet_secrets.pod.events import WARNING, pod_reference
from kubelet_secrets.pod.eviction import Places
from kubelet_secrets.pod.instances import make_known
from kubelet_secrets.pod.mirrors import MirrorPods
from kubelet_secrets.pod.parts import NodeParts
from kubelet_secrets.pod.state import format_pod
from kubelet_secrets.pod.staticpods import Changes, StaticPod, StaticPods
from kubelet_secrets.pod.views import PodView
from kubelet_secrets.pod.worker import PodWorker
from kubelet_secrets.runtime.oci import ContainerHandle

logger = logging.getLogger(__name__)

ORPHAN_RETRY_S = 2.0  # the kubelet's housekeeping period
WORKER_RETRY_S = 1.0
WORKER_RETRY_CAP_S = 60.0


class PodManager:
    """The pods of one node.

    Attributes:
        ended: how many pods have ended here so far.
    """

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self.ended = 0
        self._workers: dict[PodUID, PodWorker] = {}
        self._finished: set[PodUID] = set()  # done here, still listed by the API
        self._adopted: defaultdict[PodUID, list[ContainerHandle]] = defaultdict(list)
        self._orphan_candidates: set[PodUID] = set()
        self._nursery: trio.Nursery | None = None
        self._news = trio.Event()
        self._static = StaticPods()
        self._mirrors = MirrorPods(parts.client, node=parts.node, node_uid=parts.node_uid, mirrored=self._mirrored)

    def __repr__(self) -> str:
        return f"<PodManager {len(self._workers)} pods>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled. Started once everything an earlier agent left has been found; tell it of pods only then.

        Cancellation: pods go on without us, for the next agent to adopt.
        """
        await self._find_leftovers()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._dispatch_secrets, self._parts.secrets)
            nursery.start_soon(self._dispatch_config_maps, self._parts.config_maps)
            nursery.start_soon(self._mirrors.run)
            task_status.started()

    # --- what the node is asked ---------------------------------------------------------------------------------------

    def views(self) -> list[PodView]:
        """Every pod that has a worker, the newest first (of two of one name, one being deleted, the new one)."""
        found = [worker.view() for worker in self._workers.values()]
        return sorted(found, key=lambda view: view.pod.metadata.creation_timestamp or "", reverse=True)

    def find(self, namespace: str, name: str) -> PodView | None:
        """The pod of that name."""
        for view in self.views():
            if (view.pod.metadata.namespace, view.pod.metadata.name) == (namespace, name):
                return view
        return None

    def evict(self, uid: str, message: str) -> bool:
        """Fail a pod for what the node is short of; returns whether there is such a pod, and it has not ended yet."""
        worker = self._workers.get(PodUID(uid))
        return worker is not None and worker.evict(message)

    def places(self, uid: str) -> Places | None:
        """Where a pod writes; None: there is no such pod."""
        worker = self._workers.get(PodUID(uid))
        return worker.places if worker is not None else None

    async def wait_changed(self) -> None:
        """Wait until some pod's view has changed. Waiters see the latest state, not every state."""
        await self._news.wait()

    # --- what the sources tell (PodSink) --------------------------------------------------------------------------------

    def pod_changed(self, pod: Pod) -> None:
        if is_mirror_pod(pod):
            self._mirrors.mirror_changed(pod)  # what runs is decided by the node's own manifest
        else:
            self._run_pod(pod)

    def _run_pod(self, pod: Pod) -> None:
        uid = PodUID(pod.metadata.uid)
        self._orphan_candidates.discard(uid)
        worker = self._workers.get(uid)
        if worker is not None:
            worker.update(pod)
        elif uid not in self._finished:
            worker = PodWorker(self._parts, pod, adopted=self._adopted.pop(uid, []), changed=self._tell)
            self._workers[uid] = worker
            assert self._nursery is not None, "run() is started before pods are told"
            self._nursery.start_soon(self._run_worker, uid, worker)
        # The API server's graph of what this node may read follows the pods: what was forbidden may now be allowed.
        self._parts.secrets.nudge()
        self._parts.config_maps.nudge()

    def pod_removed(self, uid: PodUID) -> None:
        self._mirrors.mirror_removed(uid)
        self._finished.discard(uid)
        if uid in self._workers:
            self._workers[uid].removed()

    def pods_synced(self) -> None:
        self._mirrors.synced()
        orphans, self._orphan_candidates = self._orphan_candidates, set()
        for uid in orphans:
            assert self._nursery is not None, "run() is started before pods are told"
            self._nursery.start_soon(self._remove_orphan, uid)

    def static_pods_read(self, found: Sequence[StaticPod]) -> None:
        """For ``ManifestDirectory``: the pods that the node's own manifests ask for, all of them."""
        self._apply(self._static.replace(found))

    def api_reached(self) -> None:
        self._mirrors.synced()
        for worker in self._workers.values():
            worker.api_reached()
        self._parts.secrets.nudge(after_outage=True)
        self._parts.config_maps.nudge(after_outage=True)

    def services_changed(self) -> None:
        """For ``ServiceCache``: every container finds the services in its environment."""
        for worker in self._workers.values():
            worker.services_changed()

    def trust_bundles_changed(self) -> None:
        """For ``TrustBundleCache``: projected volumes may show them."""
        for worker in self._workers.values():
            worker.trust_bundles_changed()

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _run_worker(self, uid: PodUID, worker: PodWorker) -> None:
        """Run a pod's worker to its end. After a failure that nobody foresaw another one goes on, as the next agent would."""
        failures = 0
        while True:
            try:
                await worker.run()
                break
            except Exception as error:
                # The border of a pod: what goes wrong with one must not take the node away from the others.
                failures += 1
                logger.exception("the worker of pod %s failed; it goes on in a moment", format_pod(worker.pod))
                message = f"internal error: {type(_first_leaf(error)).__name__}: see the log of the node's agent"
                self._parts.events.record(pod_reference(worker.pod), WARNING, "FailedSync", message)
            await trio.sleep(min(WORKER_RETRY_S * 2.0 ** (failures - 1), WORKER_RETRY_CAP_S))
            worker = await self._replace_worker(uid, worker)
        del self._workers[uid]
        self.ended += 1
        if not worker.is_removed:
            self._finished.add(uid)
        self._apply(self._static.ended(uid))
        self._tell()

    def _apply(self, changes: Changes) -> None:
        for uid in changes.stop:
            self.pod_removed(uid)
        for static in changes.start:
            self._run_pod(static.pod)
        self._mirrors.replace(self._static.running())

    def _mirrored(self, uid: PodUID, mirror: Pod | None) -> None:
        if uid in self._workers:
            self._workers[uid].mirrored(mirror)

    async def _replace_worker(self, uid: PodUID, failed: PodWorker) -> PodWorker:
        handles = await self._parts.runtime.adopt(uid)
        # No await from here on: news of the pod goes to the worker that is in the table.
        alive = {handle.id for handle in handles}
        for identity in self._parts.registry.containers(uid):
            if identity.container_id not in alive:
                self._parts.registry.unregister(identity.container_id)
        worker = PodWorker(self._parts, failed.pod, adopted=handles, changed=self._tell)
        if failed.is_removed:
            worker.removed()
        self._workers[uid] = worker
        return worker

    async def _dispatch_secrets(self, objects: ObjectManager[Secret]) -> None:
        async for ref in objects.changes:
            for uid in objects.users(ref.namespace, ref.name):
                if uid in self._workers:
                    self._workers[uid].object_changed(secret=ref.name)

    async def _dispatch_config_maps(self, objects: ObjectManager[ConfigMap]) -> None:
        async for ref in objects.changes:
            for uid in objects.users(ref.namespace, ref.name):
                if uid in self._workers:
                    self._workers[uid].object_changed(config_map=ref.name)

    async def _find_leftovers(self) -> None:
        """Containers, sandboxes and volumes of an earlier agent: for their pods' workers, or orphans."""
        parts = self._parts
        await parts.sandboxes.sweep()
        for handle in await parts.runtime.adopt():
            self._adopted[PodUID(handle.record.pod_uid)].append(handle)
        alive = {handle.id: handle for handles in self._adopted.values() for handle in handles}
        for identity in parts.registry.containers():
            if identity.container_id not in alive:
                parts.registry.unregister(identity.container_id)  # it ended while no agent was there
        for handle in alive.values():
            make_known(parts.registry, handle)  # at once: it need not wait for the API server to go on reading
        volumes = await parts.volumes.adopt()
        self._orphan_candidates = {
            *self._adopted,
            *(PodUID(each.pod_uid) for each in volumes),
            *(PodUID(each.pod_uid) for each in parts.sandboxes.list()),
        }

    async def _remove_orphan(self, uid: PodUID) -> None:
        """Remove what is left of a pod that the API does not know (any more). Source: cleanupOrphanedPodDirs."""
        parts = self._parts
        logger.info("removing what is left of pod %s, which does not exist", uid)
        for handle in self._adopted.pop(uid, []):
            parts.registry.unregister(handle.id)
            await parts.runtime.delete(handle.id)
        while True:
            try:
                await parts.volumes.tear_down_pod(uid)
                break
            except OSError as error:
                logger.warning("orphaned pod %s found, but its volumes stay: %s", uid, error)
            await trio.sleep(ORPHAN_RETRY_S)
        await parts.sandboxes.remove(uid)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


def _first_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

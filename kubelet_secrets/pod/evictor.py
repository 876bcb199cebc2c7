"""``Evictor``: ends a pod when the node runs short of memory, disk or process ids. Only where thresholds were set.

Every ten seconds: is a threshold met? For disk, unused images go first, and that may do. Else the first pod of the ranking is
failed, reason Evicted, one at a time: the next look comes when it is gone. Run by the composition root.

Source: pkg/kubelet/eviction/eviction_manager.go, synchronize, reclaimNodeLevelResources, evictPod. Differs: there are hard
thresholds only, and none by default: a kubelet's are always on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import trio

from kubelet_secrets.api.evictionsignals import DISK, Observation, Threshold, met
from kubelet_secrets.pod.events import WARNING, node_reference
from kubelet_secrets.pod.eviction import CHECK_S, used_bytes
from kubelet_secrets.pod.manager import PodManager
from kubelet_secrets.pod.parts import NodeParts
from kubelet_secrets.pod.pressureeviction import Candidate, is_critical, pressure_message, rank
from kubelet_secrets.pod.views import ContainerView, PodView
from kubelet_secrets.runtime.usage import read_usage

logger = logging.getLogger(__name__)

CLEANUP_S = 30.0  # podCleanupTimeout


class Evictor:
    """See the module's text.

    Args:
        observe: what there is left; called in a thread.
        reclaim: removes unused images; called in a thread.

    Attributes:
        evictions: by signal, how many pods have gone.
    """

    def __init__(
        self,
        parts: NodeParts,
        pods: PodManager,
        thresholds: Sequence[Threshold],
        *,
        observe: Callable[[], Mapping[str, Observation]],
        reclaim: Callable[[], object],
    ) -> None:
        self._parts = parts
        self._pods = pods
        self._thresholds = thresholds
        self._observe = observe
        self._reclaim = reclaim
        self.evictions: Counter[str] = Counter()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(CHECK_S)
            try:
                await self.look()
            except OSError as error:
                # What cannot be seen is no reason to end a pod, and none to end the node.
                logger.warning("the node's resources cannot be observed: %s", error.strerror)

    async def look(self) -> str:
        """Look once, and evict at most one pod; returns its uid, or ""."""
        found = await self._met()
        if found is None:
            return ""
        threshold, seen = found
        name = self._parts.node().name
        text = f"Attempting to reclaim {threshold.resource}"
        self._parts.events.record(node_reference(name), WARNING, "EvictionThresholdMet", text)
        logger.warning("%s: %s is %d of %d", text, threshold.signal, seen.available, seen.capacity)
        if threshold.condition == DISK:
            await trio.to_thread.run_sync(self._reclaim)
            found = await self._met()
            if found is None:
                return ""
            threshold, seen = found
        candidates = [await self._candidate(view, threshold.resource) for view in self._pods.views() if _runs(view)]
        for candidate in rank(threshold.resource, candidates):
            meta = candidate.pod.metadata
            if is_critical(candidate.pod):
                continue
            if self._pods.evict(meta.uid, pressure_message(candidate, threshold, seen)):
                logger.warning("pod %s/%s is evicted for %s", meta.namespace, meta.name, threshold.resource)
                self.evictions[threshold.signal] += 1
                await self._wait_stopped(meta.uid)
                return meta.uid
        logger.error("unable to evict any pods from the node")
        return ""

    async def _met(self) -> tuple[Threshold, Observation] | None:
        observed = await trio.to_thread.run_sync(self._observe)
        found = met(self._thresholds, observed)
        return (found[0], observed[found[0].signal]) if found else None

    async def _candidate(self, view: PodView, resource: str) -> Candidate:
        uid, cgroups = view.pod.metadata.uid, self._parts.cgroups
        running = [each for each in view.containers if each.instance is not None and each.instance.is_running]
        containers: dict[str, int] = {}
        for each in running:
            if each.instance is None:
                continue
            path = cgroups.container_path(uid, each.instance.container_id)
            if resource == "memory":
                usage = read_usage(cgroups.layout, path)
                containers[each.name] = usage.working_set_bytes if usage is not None else 0
            elif resource == "pids":
                containers[each.name] = len(cgroups.processes(path))
        if resource == "ephemeral-storage":
            return await self._disk_candidate(view, running)
        await trio.lowlevel.checkpoint()
        return Candidate(pod=view.pod, usage=sum(containers.values()), containers=containers)

    async def _disk_candidate(self, view: PodView, running: Sequence[ContainerView]) -> Candidate:
        places = self._pods.places(view.pod.metadata.uid)
        if places is None:
            return Candidate(pod=view.pod, usage=0, containers={})
        volumes = [places.volume(each.name) for each in view.pod.spec.volumes if each.empty_dir is not None]
        written = {each.name: places.container(each.name) for each in running}
        paths = [
            *(path for path in volumes if path is not None),
            *(path for group in written.values() for path in group),
        ]
        found = await used_bytes(paths)
        containers = {name: sum(found.get(path, 0) for path in group) for name, group in written.items()}
        return Candidate(pod=view.pod, usage=sum(found.values()), containers=containers)

    async def _wait_stopped(self, uid: str) -> None:
        """Until nothing of the pod runs any more, or it takes too long: then the next may have to go as well."""
        with trio.move_on_after(CLEANUP_S):
            while any(_runs(view) for view in self._pods.views() if view.pod.metadata.uid == uid):
                await self._pods.wait_changed()


def _runs(view: PodView) -> bool:
    return any(each.instance is not None and each.instance.is_running for each in view.containers)

"""Where pods come from: a list-watch of the pods bound to this node, told to one sink.

Beside it :class:`ServiceCache`, the same for the services that containers find in their environment. Both are run by the
composition root. The Node authorizer allows exactly these two lists (semantics §10.2). Source: pkg/kubelet/config/apiserver.go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from msgspec.structs import replace as changed

from kubelet_secrets.api.core import Pod, Service
from kubelet_secrets.api.meta import PODS, SERVICES, PodUID
from kubelet_secrets.api.staticpod import CONFIG_SEEN, CONFIG_SOURCE
from kubelet_secrets.api.times import rfc3339_nano
from kubelet_secrets.cache.reflector import ListWatcher, Reflector, Target

logger = logging.getLogger(__name__)


class PodSink(Protocol):
    """Who is told of pods. Nothing here may wait; every call carries the latest state."""

    def pod_changed(self, pod: Pod) -> None:
        """*pod* is new, or is now like this. May repeat what is known already."""

    def pod_removed(self, uid: PodUID) -> None:
        """The API has no such pod any more."""

    def pods_synced(self) -> None:
        """Every pod that there is has been told at least once; what is not known by now does not exist."""

    def api_reached(self) -> None:
        """The API server answers (again): whatever pauses after a failure may try at once."""


class PodSource:
    """The pods of one node, from the API.

    The sink gets them with two annotations that the API does not have, and that containers can read by the downward API: where
    the pod comes from, whatever it says of itself, and since when this agent knows it. Source: pkg/kubelet/config/config.go.

    Args:
        now: the clock, local.
    """

    def __init__(
        self,
        client: ListWatcher,
        node_name: str,
        sink: PodSink,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC).astimezone(),
    ) -> None:
        target = Target(resource=PODS, kind=Pod, field_selector=f"spec.nodeName={node_name}")
        self._reflector = Reflector(client, target, self)
        self._sink = sink
        self._now = now
        self._known: dict[PodUID, str] = {}  # since when
        self._is_failing = False

    async def run(self) -> None:
        """Tell the sink until cancelled. An API server that is away is waited for; the pods stay what they were."""
        await self._reflector.run()

    def nudge(self) -> None:
        """The API server is back after an outage: look now."""
        self._reflector.nudge(after_outage=True)

    # What the reflector calls.

    def replace(self, objects: Sequence[Pod]) -> None:
        for uid in self._known.keys() - {PodUID(pod.metadata.uid) for pod in objects}:
            del self._known[uid]
            self._sink.pod_removed(uid)
        for pod in objects:
            self.upsert(pod)
        self._sink.pods_synced()

    def upsert(self, obj: Pod) -> None:
        meta = obj.metadata
        seen = self._known.setdefault(PodUID(meta.uid), rfc3339_nano(self._now()))
        annotations = {**meta.annotations, CONFIG_SOURCE: "api", CONFIG_SEEN: seen}
        self._sink.pod_changed(changed(obj, metadata=changed(meta, annotations=annotations)))

    def remove(self, obj: Pod) -> None:
        uid = PodUID(obj.metadata.uid)
        self._known.pop(uid, None)
        self._sink.pod_removed(uid)

    def report(self, error: Exception | None) -> None:
        if error is not None and not self._is_failing:
            logger.warning("cannot watch this node's pods: %s", error)
        if error is None and self._is_failing:
            logger.info("watching this node's pods again")
            self._sink.api_reached()
        self._is_failing = error is not None


class ServiceCache:
    """All services of the cluster, for the ``{NAME}_SERVICE_HOST`` variables.

    Args:
        changed: called after each change; must not wait.
    """

    def __init__(self, client: ListWatcher, *, changed: Callable[[], None]) -> None:
        self._reflector = Reflector(client, Target(resource=SERVICES, kind=Service), self)
        self._changed = changed
        self._services: dict[tuple[str, str], Service] | None = None

    @property
    def services(self) -> Sequence[Service] | None:
        """None until they have been read once."""
        return None if self._services is None else tuple(self._services.values())

    async def run(self) -> None:
        """Keep up with the API server until cancelled."""
        await self._reflector.run()

    def nudge(self) -> None:
        """The API server is back after an outage: look now."""
        self._reflector.nudge(after_outage=True)

    def replace(self, objects: Sequence[Service]) -> None:
        self._services = {_name(each): each for each in objects}
        self._changed()

    def upsert(self, obj: Service) -> None:
        assert self._services is not None, "the list comes first"
        self._services[_name(obj)] = obj
        self._changed()

    def remove(self, obj: Service) -> None:
        assert self._services is not None, "the list comes first"
        self._services.pop(_name(obj), None)
        self._changed()

    def report(self, error: Exception | None) -> None:
        if error is not None:
            logger.warning("cannot watch services: %s", error)


def _name(service: Service) -> tuple[str, str]:
    return service.metadata.namespace, service.metadata.name

"""``Allocation``: what the node has given the containers of one pod, where the pod may ask for something else by now.

Asked by ``pod/worker.py`` at each sync: :meth:`Allocation.consider` gives the pod what it asks for when there is room, and says
why not otherwise. What is allocated is not written down: after a restart of the agent it is what the running containers have.

Source: pkg/kubelet/allocation/allocation_manager.go, handlePodResourcesResize; KEP-1287.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from kubelet_secrets.api.core import Pod, ResourceRequirements
from kubelet_secrets.api.staticpod import is_static_pod
from kubelet_secrets.pod.admitting import Admission
from kubelet_secrets.pod.events import NORMAL, WARNING
from kubelet_secrets.pod.resize import (
    DEFERRED,
    INFEASIBLE,
    Refusal,
    differing,
    resizable,
    resize_message,
    with_resources,
)
from kubelet_secrets.pod.state import Instance

Report = Callable[[str, str, str], None]
"""(type, reason, message) of an event about the pod."""

RETRY_S = 10.0  # the kubelet asks again when a pod has gone, and every three minutes

_NOT_STATIC = Refusal(reason=INFEASIBLE, message="In-place resize of Static Pods is not supported", cause=INFEASIBLE)


class Allocation:
    """Of one pod.

    Attributes:
        pending: why it has not got what it asks for; None: it has.
    """

    def __init__(self, admission: Admission, pod: Pod, *, report: Report) -> None:
        self.pending: Refusal | None = None
        self._admission = admission
        self._report = report
        self._given: dict[str, ResourceRequirements] = {each.name: each.resources for each in resizable(pod)}
        self._is_resizing = False

    def adopt(self, instances: Iterable[Instance]) -> None:
        """An earlier agent has started these."""
        for each in instances:
            if each.is_running and each.resources is not None and each.name in self._given:
                self._given[each.name] = each.resources

    def applied(self, pod: Pod) -> Pod:
        """*pod* with what it is allocated."""
        return with_resources(pod, self._given)

    def consider(self, pod: Pod) -> Pod:
        """Give *pod* what it asks for, if there is room.

        Returns:
            The pod with what it is allocated then.
        """
        changed = any(differing(each.resources, self._given.get(each.name, each.resources)) for each in resizable(pod))
        if not changed:
            # What is not of cpu and memory cannot differ; amounts are taken as they are spelled now.
            self._given = {each.name: each.resources for each in resizable(pod)}
            self.pending = None
            return pod
        refusal = _NOT_STATIC if is_static_pod(pod) else self._admission.resize(pod)
        if refusal is None:
            self._given = {each.name: each.resources for each in resizable(pod)}
            self.pending = None
            self._is_resizing = True
            self._report(NORMAL, "ResizeStarted", resize_message("started", pod))
            return pod
        if refusal != self.pending:
            reason = "ResizeDeferred" if refusal.reason == DEFERRED else "ResizeInfeasible"
            self._report(WARNING, reason, resize_message(refusal.cause, pod, refusal.message))
        self.pending = refusal
        return self.applied(pod)

    def retry_at(self, now: datetime) -> datetime | None:
        """When to ask again for what there is no room for; None: nothing is asked for, or it can never be."""
        if self.pending is None or self.pending.reason != DEFERRED:
            return None
        return now + timedelta(seconds=RETRY_S * random.uniform(1.0, 1.5))

    def settled(self, pod: Pod) -> None:
        """Every running container has what it is allocated. Args: *pod*, with that."""
        if self._is_resizing:
            self._is_resizing = False
            self._report(NORMAL, "ResizeCompleted", resize_message("completed", pod))

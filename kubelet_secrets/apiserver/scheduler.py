"""Pods get a node: the first that is Ready, may have them, and has room for what they request.

A loop over pods and one over nodes, run by ``controllers.py``. A pod that fits nowhere waits, and says why in its PodScheduled
condition and an event. No priorities, no preemption, no spreading: there is one node, or very few.

Source: kube-scheduler (framework/plugins nodeaffinity, tainttoleration, noderesources, nodeunschedulable), its texts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import trio

from kubelet_secrets.api import meta
from kubelet_secrets.api.core import Node, Pod
from kubelet_secrets.api.decode import convert
from kubelet_secrets.api.nodeaffinity import matches_node, untolerated_taint
from kubelet_secrets.api.requests import placed_amounts, request_amounts, shortages
from kubelet_secrets.api.times import rfc3339, rfc3339_micro
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.registry import IN_PROCESS, Registry
from kubelet_secrets.apiserver.resources import served
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.apiserver.subresources import bind_pod
from kubelet_secrets.apiserver.watch import DELETED
from kubelet_secrets.errors import AlreadyExists, Conflict, NotFound

NAME = "default-scheduler"

_PODS = served(meta.PODS)
_NODES = served(meta.NODES)
_EVENTS = served(meta.EVENTS)
_TERMINAL = ("Succeeded", "Failed")


class Scheduler:
    """Binds the pods of one server's registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._placed: dict[str, tuple[str, dict[str, int]]] = {}  # pod uid → its node, and what it requests there
        self._waiting: set[tuple[str, str]] = set()  # (namespace, name)
        self._one_at_a_time = trio.Lock()

    async def pod_changed(self, kind: str, pod: Object) -> None:
        metadata, spec = pod["metadata"], pod["spec"]
        key = metadata["namespace"], metadata["name"]
        has_ended = kind == DELETED or (pod.get("status") or {}).get("phase") in _TERMINAL
        if spec.get("nodeName") or has_ended:
            self._waiting.discard(key)
            if not has_ended:
                if self._place(pod):
                    await self._schedule_waiting()
            elif self._placed.pop(metadata["uid"], None) is not None:
                await self._schedule_waiting()
        elif "deletionTimestamp" not in metadata and spec.get("schedulerName", NAME) == NAME:
            await self._schedule(pod)

    async def node_changed(self, kind: str, _node: Object) -> None:
        if kind != DELETED:
            await self._schedule_waiting()

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _schedule_waiting(self) -> None:
        if not self._waiting:
            return
        for item in (await self._registry.list_objects(Selection(_PODS))).items:
            metadata = item.object["metadata"]
            if (metadata["namespace"], metadata["name"]) in self._waiting and not item.object["spec"].get("nodeName"):
                await self._schedule(item.object)

    async def _schedule(self, pod: Object) -> None:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        self._waiting.add((namespace, name))
        if pod["spec"].get("schedulingGates"):
            return
        # A pod that is being bound takes its room: the loop over nodes must not give it to another meanwhile.
        async with self._one_at_a_time:
            node, why = await self._find_node(convert(pod, Pod))
            if node:
                try:
                    bound = await bind_pod(self._registry, _PODS, namespace, name, node, IN_PROCESS)
                except (NotFound, Conflict):
                    return  # gone, or somebody else was faster
                self._waiting.discard((namespace, name))
                self._place(bound)
        if not node:
            await self._tell_unschedulable(pod, why)
            return
        await self._record(pod, "Normal", "Scheduled", f"Successfully assigned {namespace}/{name} to {node}", "Binding")

    def _place(self, pod: Object) -> bool:
        """Note what *pod* takes of its node; returns whether that is less than before: it was resized."""
        typed = convert(pod, Pod)
        _, before = self._placed.get(typed.metadata.uid, ("", {}))
        now = placed_amounts(typed)
        self._placed[typed.metadata.uid] = (typed.spec.node_name, now)
        return any(now.get(name, 0) < amount for name, amount in before.items())

    async def _find_node(self, pod: Pod) -> tuple[str, str]:
        """A node's name, or an empty one and why there is none."""
        nodes = [convert(item.object, Node) for item in (await self._registry.list_objects(Selection(_NODES))).items]
        if not nodes:
            return "", "no nodes available to schedule pods"
        obstacles: Counter[str] = Counter()
        for node in nodes:
            found = self._obstacles(pod, node)
            if not found:
                return node.metadata.name, ""
            obstacles.update(found)
        causes = sorted(f"{count} {text}" for text, count in obstacles.items())
        return "", f"0/{len(nodes)} nodes are available: {', '.join(causes)}."

    def _obstacles(self, pod: Pod, node: Node) -> list[str]:
        """Why *node* is none for *pod*: the first filter's answer, as upstream."""
        if node.spec.unschedulable:
            return ["node(s) were unschedulable"]
        if not any(each.type == "Ready" and each.status == "True" for each in node.status.conditions):
            return ["node(s) had untolerated taint {node.kubernetes.io/not-ready: }"]
        for effect in ("NoSchedule", "NoExecute"):
            taint = untolerated_taint(node.spec.taints, pod.spec.tolerations, effect)
            if taint is not None:
                return [f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"]
        if not matches_node(pod, name=node.metadata.name, labels=node.metadata.labels):
            return ["node(s) didn't match Pod's node affinity/selector"]
        if not node.status.allocatable:
            return []  # it has not told yet what it has
        others = [amounts for name, amounts in self._placed.values() if name == node.metadata.name]
        lacking = shortages(request_amounts(pod), node.status.allocatable, others)
        return ["Too many pods" if each.name == "pods" else f"Insufficient {each.name}" for each in lacking]

    async def _tell_unschedulable(self, pod: Object, why: str) -> None:
        metadata, now = pod["metadata"], datetime.now(UTC)
        is_new = False

        def note(live: Object) -> Object:
            nonlocal is_new
            status = live.setdefault("status", {})
            conditions = list(status.get("conditions") or ())
            old: Object = next((each for each in conditions if each.get("type") == "PodScheduled"), {})
            is_new = (old.get("status"), old.get("message")) != ("False", why)
            if is_new and not live["spec"].get("nodeName"):
                condition = {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": why,
                    "lastProbeTime": None,
                    "lastTransitionTime": old.get("lastTransitionTime") or rfc3339(now),
                }
                status["conditions"] = [*(each for each in conditions if each is not old), condition]
            return live

        try:
            write = replace(IN_PROCESS, subresource="status")
            await self._registry.update(_PODS, metadata["namespace"], metadata["name"], note, write)
        except NotFound:
            return
        if is_new:
            await self._record(pod, "Warning", "FailedScheduling", why, "Scheduling")

    async def _record(self, pod: Object, event_type: str, reason: str, message: str, action: str) -> None:
        metadata, now = pod["metadata"], datetime.now(UTC)
        name, namespace = metadata["name"], metadata["namespace"]
        event: Object = {
            "metadata": {"name": f"{name}.{time_suffix(now)}", "namespace": namespace},
            "involvedObject": {
                "kind": "Pod",
                "namespace": namespace,
                "name": name,
                "uid": metadata["uid"],
                "apiVersion": "v1",
                "resourceVersion": metadata["resourceVersion"],
            },
            "reason": reason,
            "message": message,
            "source": {},
            "eventTime": rfc3339_micro(now),
            "type": event_type,
            "action": action,
            "reportingComponent": NAME,
            "reportingInstance": NAME,
        }
        try:
            await self._registry.create(_EVENTS, namespace, event)
        except AlreadyExists:
            pass


def time_suffix(moment: datetime) -> str:
    """The hexadecimal nanoseconds that make an event's name unique."""
    return f"{int(moment.timestamp() * 1e9):x}"

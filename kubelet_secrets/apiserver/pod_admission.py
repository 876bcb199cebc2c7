"""What admission adds to every pod: a priority, and how long it stays on a node that is not ready.

Neither acts on this server's one node; they are here because a pod read back has them on every cluster, and because a client
may look. The rules of a pod's service account are in ``admission.py``.

Source: plugin/pkg/admission/{priority,defaulttolerationseconds}/admission.go. Differs: there are no PriorityClass objects, so a
pod that names one other than the two built in keeps what it says of its priority, instead of being refused.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.admission import Finder, Plugin
from kubelet_secrets.apiserver.attributes import Attributes
from kubelet_secrets.apiserver.codec import Object

_PREEMPTION = "PreemptLowerPriority"
_CLASSES = MappingProxyType({"": 0, "system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000})
_KEPT = ("priority", "preemptionPolicy")
_EVICTING_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_TOLERATED_S = 300


class Priority(Plugin):
    """``spec.priority`` and ``spec.preemptionPolicy``, from the class that the pod names."""

    async def mutate(self, attributes: Attributes, finder: Finder) -> None:
        spec = _spec_of_pod(attributes)
        if spec is None:
            return
        if attributes.old is not None:  # a manifest that was applied once more does not say them
            old = attributes.old.get("spec") or {}
            spec.update({name: old[name] for name in _KEPT if spec.get(name) is None and old.get(name) is not None})
            return
        priority = _CLASSES.get(spec.get("priorityClassName") or "")
        if priority is None:
            return
        for name, what, wanted in (
            ("priority", "the integer value of priority", priority),
            ("preemptionPolicy", "the string value of PreemptionPolicy", _PREEMPTION),
        ):
            given = spec.get(name)
            if given is not None and given != wanted:
                raise statuses.forbidden(
                    attributes.row,
                    attributes.name,
                    f"{what} ({given}) must not be provided in pod spec; priority admission controller computed {wanted} "
                    "from the given PriorityClass name",
                )
            spec[name] = wanted


class DefaultTolerationSeconds(Plugin):
    """Five minutes on a node that is not ready or not reachable, for pods that say nothing of it."""

    async def mutate(self, attributes: Attributes, finder: Finder) -> None:
        spec = _spec_of_pod(attributes)
        if spec is None:
            return
        tolerations = list(spec.get("tolerations") or ())
        for key in _EVICTING_TAINTS:
            if not any(_names(toleration, key) for toleration in tolerations):
                toleration = {"key": key, "operator": "Exists", "effect": "NoExecute"}
                tolerations.append({**toleration, "tolerationSeconds": _TOLERATED_S})
        spec["tolerations"] = tolerations


def _spec_of_pod(attributes: Attributes) -> Object | None:
    obj = attributes.obj
    if attributes.row.kind != "Pod" or attributes.subresource or obj is None:
        return None
    spec: Object = obj.setdefault("spec", {})
    return spec


def _names(toleration: dict[str, Any], key: str) -> bool:
    return (toleration.get("key") or key) == key and (toleration.get("effect") or "NoExecute") == "NoExecute"

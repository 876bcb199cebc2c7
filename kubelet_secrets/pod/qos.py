"""``status.qosClass``. Pure. Source: pkg/apis/core/v1/helper/qos/qos.go, ComputePodQOS."""

from __future__ import annotations

from kubelet_secrets.api.core import Pod, ResourceRequirements
from kubelet_secrets.api.quantity import parse

_COUNTED = ("cpu", "memory")


def qos_class(pod: Pod) -> str:
    """``Guaranteed``, ``Burstable`` or ``BestEffort``: how firmly the pod's cpu and memory are reserved.

    Pod-level resources, where set, decide alone.
    """
    if pod.spec.resources is not None and (pod.spec.resources.limits or pod.spec.resources.requests):
        groups: list[ResourceRequirements] = [pod.spec.resources]
    else:
        groups = [each.resources for each in (*pod.spec.init_containers, *pod.spec.containers)]
    if not any(_counted(each.requests) or _counted(each.limits) for each in groups):
        return "BestEffort"
    return "Guaranteed" if all(_is_guaranteed(each) for each in groups) else "Burstable"


def _counted(amounts: dict[str, str | int | float]) -> dict[str, str | int | float]:
    return {name: amount for name, amount in amounts.items() if name in _COUNTED and parse(amount) > 0}


def _is_guaranteed(resources: ResourceRequirements) -> bool:
    limits, requests = _counted(resources.limits), _counted(resources.requests)
    if set(limits) != set(_COUNTED):
        return False
    # A request left out is the limit: the API server has defaulted it; a manifest read offline may not have been.
    return all(parse(requests.get(name, limit)) == parse(limit) for name, limit in limits.items())

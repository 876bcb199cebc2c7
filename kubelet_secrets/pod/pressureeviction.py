"""Which pod goes first when the node runs short, and what it is told. Pure; ``pod/evictor.py`` does it.

Source: pkg/kubelet/eviction/helpers.go (rankMemoryPressure, rankDiskPressureFunc, rankPIDPressure, evictionMessage).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubelet_secrets.api import quantity
from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.evictionsignals import Observation, Threshold
from kubelet_secrets.api.requests import request_amounts
from kubelet_secrets.api.staticpod import is_static_pod

SYSTEM_CRITICAL = 2_000_000_000
NODE_CONDITION = "The node had condition: {}. "
_COMPARED = ("memory", "ephemeral-storage")  # what pods request, so that more than that can be used


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A pod that runs.

    Attributes:
        usage: of what the node is short of, in bytes or pieces.
        containers: the same by container, as far as it is known.
    """

    pod: Pod
    usage: int
    containers: Mapping[str, int]


def is_critical(pod: Pod) -> bool:
    """Whether a pod is never evicted. Source: IsCriticalPod."""
    return is_static_pod(pod) or (pod.spec.priority or 0) >= SYSTEM_CRITICAL


def rank(resource: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The first is the first to go: who uses more than was requested, then the least important, then who uses most."""

    def order(candidate: Candidate) -> tuple[bool, int, int]:
        asked = request_amounts(candidate.pod).get(resource, 0) if resource in _COMPARED else 0
        exceeds = resource in _COMPARED and candidate.usage > asked
        over = candidate.usage - (asked if resource == "memory" else 0)
        return not exceeds, candidate.pod.spec.priority or 0, -over

    return sorted(candidates, key=order)


def pressure_message(candidate: Candidate, threshold: Threshold, seen: Observation) -> str:
    """The kubelet's text, with the blank at its end."""
    resource = threshold.resource
    least, available = _text(threshold.value(seen.capacity)), _text(seen.available)
    message = f"The node was low on resource: {resource}. Threshold quantity: {least}, available: {available}. "
    for container in candidate.pod.spec.containers:
        used = candidate.containers.get(container.name)
        request = container.resources.requests.get(resource, "0")
        if resource in _COMPARED and used is not None and used > quantity.value(request):
            message += (
                f"Container {container.name} was using {_text(used)}, request is {quantity.canonical(request)}, "
                f"has larger consumption of {resource}. "
            )
    return message


def _text(amount: int) -> str:
    """As Go prints a binary quantity."""
    return quantity.canonical(f"{amount // 1024}Ki") if amount and amount % 1024 == 0 else str(amount)

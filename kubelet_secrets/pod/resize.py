"""Resizing a running pod in place: which of its containers have other resources than they shall have, and in whose words. Pure.

Three states of a container's resources: what the spec asks for; what the node has *allocated*, which is that unless there is
no room; and what its cgroup *has*, the ``resources`` of its instance. Whether there is room is ``pod/admission.py``'s, how a
cgroup is changed ``pod/resizer.py``'s.

Source: pkg/kubelet/allocation (allocation_manager.go, events.go); KEP-1287.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from kubelet_secrets.api import quantity
from kubelet_secrets.api.core import Container, Pod, ResourceRequirements
from kubelet_secrets.api.decode import to_builtins
from kubelet_secrets.pod.state import Instance, RuntimeState, is_sidecar

RESIZABLE = ("cpu", "memory")
INFEASIBLE, DEFERRED, ERROR = "Infeasible", "Deferred", "Error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a pod is not given what it asks for, for now or for ever.

    Attributes:
        reason: of the condition PodResizePending.
        cause: one word more, for the event: ``OutOfcpu``.
    """

    reason: str
    message: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeState:
    """What the conditions tell."""

    pending: Refusal | None = None
    error: str = ""  # why a cgroup could not be changed


def resizable(pod: Pod) -> tuple[Container, ...]:
    """Regular containers and sidecars."""
    return (*(each for each in pod.spec.init_containers if is_sidecar(each)), *pod.spec.containers)


def differing(new: ResourceRequirements, old: ResourceRequirements) -> frozenset[str]:
    """``cpu`` and ``memory``, as far as request or limit are others."""
    if new == old:  # nearly always, and asked at each sync
        return frozenset()
    return frozenset(
        name
        for name in RESIZABLE
        if any(
            quantity.parse(after.get(name, 0)) != quantity.parse(before.get(name, 0))
            for after, before in ((new.requests, old.requests), (new.limits, old.limits))
        )
    )


def pending_resizes(container: Container, latest: Instance | None) -> frozenset[str]:
    """What of *container*, allocated as it is, its running instance has not got yet."""
    if latest is None or not latest.is_running or latest.resources is None:
        return frozenset()
    return differing(container.resources, latest.resources)


def is_in_progress(pod: Pod, state: RuntimeState) -> bool:
    """Args: *pod*, with what it is allocated."""
    return any(pending_resizes(each, state.latest(each.name)) for each in resizable(pod))


def needs_restart(container: Container, names: Iterable[str]) -> bool:
    """Whether the container's ``resizePolicy`` wants a restart for one of these resources."""
    policies = {each.resource_name: each.restart_policy for each in container.resize_policy}
    return any(policies.get(name) == "RestartContainer" for name in names)


def with_resources(pod: Pod, allocated: Mapping[str, ResourceRequirements]) -> Pod:
    """*pod* with what its containers are allocated, by name, in the place of what they ask for."""
    if all(each.resources == allocated.get(each.name, each.resources) for each in resizable(pod)):
        return pod

    def give(container: Container) -> Container:
        return msgspec.structs.replace(container, resources=allocated.get(container.name, container.resources))

    spec = msgspec.structs.replace(
        pod.spec,
        containers=tuple(map(give, pod.spec.containers)),
        init_containers=tuple(give(each) if is_sidecar(each) else each for each in pod.spec.init_containers),
    )
    return msgspec.structs.replace(pod, spec=spec)


def resize_message(what: str, pod: Pod, error: str = "") -> str:
    """The text of an event: ``Pod resize started: {"containers":[…],"generation":2}``."""
    told: dict[str, object] = {}
    for field, members in (
        ("initContainers", [each for each in pod.spec.init_containers if is_sidecar(each)]),
        ("containers", pod.spec.containers),
    ):
        if members:
            told[field] = [{"name": each.name, "resources": _told(each.resources)} for each in members]
    told["generation"] = pod.metadata.generation
    if error:
        told["error"] = error
    return f"Pod resize {what}: {json.dumps(told, separators=(',', ':'))}"


def _told(resources: ResourceRequirements) -> dict[str, object]:
    plain = to_builtins(resources)
    return {kind: dict(sorted(plain[kind].items())) for kind in ("limits", "requests") if plain.get(kind)}

"""The Node object and its status, from facts. Pure: no I/O, no clock.

Called by ``node/registration.py``; the allocatable amounts also feed ``resourceFieldRef``. Source:
pkg/kubelet/kubelet_node_status.go initialNode, pkg/kubelet/nodestatus/setters.go; semantics §10.4.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from kubelet_secrets.api.core import (
    ContainerImage,
    DaemonEndpoint,
    Node,
    NodeAddress,
    NodeCondition,
    NodeDaemonEndpoints,
    NodeFeatures,
    NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures,
    NodeSpec,
    NodeStatus,
    NodeSwapStatus,
    NodeSystemInfo,
    Quantity,
    Taint,
)
from kubelet_secrets.api.meta import ObjectMeta
from kubelet_secrets.api.quantity import canonical
from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.node.facts import NodeFacts
from kubelet_secrets.node.pressure import DISK, MEMORY, PID

# evictionHard's defaults: what the kubelet keeps from pods.
_RESERVED_MEMORY_BYTES = 100 << 20
_RESERVED_STORAGE_FRACTION = 0.10

# Condition → (reason, message) without and with it. Source: setters.go, MemoryPressureCondition and its siblings.
_PRESSURES = {
    MEMORY: (
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    ),
    DISK: (
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    ),
    PID: (
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    ),
}
ANNOTATIONS = {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
MAX_IMAGES = 50  # nodeStatusMaxImages
_MAX_NAMES = 5  # maxNamesPerImageInNodeStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """What changes on a machine.

    Attributes:
        problems: reasons why pods cannot run here at the moment; empty means ready.
        pressures: conditions of :mod:`~kubelet_secrets.node.pressure` that hold.
        images: as :func:`describe_images` makes them.
    """

    problems: Sequence[str] = ()
    pressures: Collection[str] = ()
    images: tuple[ContainerImage, ...] = ()


def make_node(
    facts: NodeFacts,
    *,
    now: datetime,
    labels: Mapping[str, str] = {},
    taints: Sequence[Taint] = (),
    seen: Observations = Observations(),
) -> Node:
    """The object to register.

    Args:
        labels: what the user wants beside the node's own; they win. Checked by ``node/flags.py``.
    """
    return Node(
        metadata=ObjectMeta(name=facts.name, labels={**default_labels(facts), **labels}, annotations=dict(ANNOTATIONS)),
        spec=NodeSpec(taints=tuple(taints)),
        status=make_node_status(facts, previous=NodeStatus(), seen=seen, now=now),
    )


def default_labels(facts: NodeFacts) -> dict[str, str]:
    """Labels that the node keeps on its own object; NodeRestriction allows no others of the kubernetes.io domains."""
    return {
        "beta.kubernetes.io/arch": facts.architecture,
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": facts.architecture,
        "kubernetes.io/hostname": facts.hostname,
        "kubernetes.io/os": "linux",
    }


def describe_images(images: Iterable[tuple[Sequence[str], int]]) -> tuple[ContainerImage, ...]:
    """The largest images, for the scheduler.

    Args:
        images: (names, size in bytes); those without a name are nothing that a pod could ask for.

    Source: setters.go, Images.
    """
    named = sorted((each for each in images if each[0]), key=lambda each: (-each[1], each[0]))
    return tuple(ContainerImage(names=tuple(names[:_MAX_NAMES]), size_bytes=size) for names, size in named[:MAX_IMAGES])


def make_node_status(facts: NodeFacts, *, previous: NodeStatus, seen: Observations, now: datetime) -> NodeStatus:
    """The node's status at *now*.

    Args:
        previous: what was published last: transition times stay while a condition does.
    """
    old = {each.type: each for each in previous.conditions}
    conditions = []
    for name, (good, bad) in _PRESSURES.items():
        reason, message = bad if name in seen.pressures else good
        status = "True" if name in seen.pressures else "False"
        condition = NodeCondition(type=name, status=status, reason=reason, message=message)
        conditions.append(_dated(condition, old.get(name), now))
    return NodeStatus(
        capacity=make_capacity(facts),
        allocatable=make_allocatable(facts),
        conditions=(*conditions, _dated(_ready(seen.problems), old.get("Ready"), now)),
        addresses=(
            *(NodeAddress(type="InternalIP", address=ip) for ip in facts.ips),
            NodeAddress(type="Hostname", address=facts.hostname),
        ),
        daemon_endpoints=NodeDaemonEndpoints(kubelet_endpoint=DaemonEndpoint(port=facts.kubelet_port)),
        node_info=NodeSystemInfo(
            machine_id=facts.machine_id,
            system_uuid=facts.system_uuid,
            boot_id=facts.boot_id,
            kernel_version=facts.kernel_version,
            os_image=facts.os_image,
            container_runtime_version=facts.runtime_version,
            kubelet_version=facts.kubelet_version,
            architecture=facts.architecture,
            swap=NodeSwapStatus(capacity=facts.swap_bytes) if facts.swap_bytes else msgspec.UNSET,
        ),
        images=seen.images,
        features=NodeFeatures(supplemental_groups_policy=True),
        runtime_handlers=(
            NodeRuntimeHandler(
                features=NodeRuntimeHandlerFeatures(
                    recursive_read_only_mounts=facts.has_recursive_read_only, user_namespaces=False
                )
            ),
        ),
    )


def make_capacity(facts: NodeFacts) -> dict[str, Quantity]:
    return {
        "cpu": str(facts.cpus),
        "ephemeral-storage": f"{facts.storage_bytes // 1024}Ki",
        **_hugepages(facts),
        "memory": f"{facts.memory_bytes // 1024}Ki",
        "pods": str(facts.max_pods),
    }


def make_allocatable(facts: NodeFacts) -> dict[str, Quantity]:
    """What pods may have of the capacity: without the kubelet's default eviction reserves. Huge pages are no other memory."""
    huge_bytes = sum(size * count for size, count in facts.hugepages.items())
    return {
        "cpu": str(facts.cpus),
        "ephemeral-storage": str(facts.storage_bytes - math.ceil(facts.storage_bytes * _RESERVED_STORAGE_FRACTION)),
        **_hugepages(facts),
        "memory": f"{max(0, facts.memory_bytes - huge_bytes - _RESERVED_MEMORY_BYTES) // 1024}Ki",
        "pods": str(facts.max_pods),
    }


def _hugepages(facts: NodeFacts) -> dict[str, Quantity]:
    return {f"hugepages-{_binary(size)}": _binary(size * count) for size, count in facts.hugepages.items()}


def _binary(size_bytes: int) -> str:
    """``2Mi``: in the largest unit that leaves a whole number. Source: resource.Quantity, BinarySI."""
    for unit in ("", "Ki", "Mi", "Gi", "Ti"):
        if size_bytes % 1024 or not size_bytes:
            return f"{size_bytes}{unit}"
        size_bytes //= 1024
    return f"{size_bytes}Pi"


def is_changed(old: NodeStatus, new: NodeStatus) -> bool:
    """Whether *new* tells more than that time has passed.

    Args:
        old: as the API server has it: with conditions and resources that are others'.
        new: of :func:`make_node_status`.

    Source: nodeStatusHasChanged.
    """
    return _comparable(old, new) != _comparable(new, new)


def _comparable(status: NodeStatus, own: NodeStatus) -> NodeStatus:
    """*status* without heartbeats, and of it no more than what *own* speaks of."""
    types = [each.type for each in own.conditions]
    conditions = sorted(
        (msgspec.structs.replace(each, last_heartbeat_time=None) for each in status.conditions if each.type in types),
        key=lambda each: types.index(each.type),
    )
    return msgspec.structs.replace(
        status,
        conditions=tuple(conditions),
        # The API server writes amounts in a form of its own: 4096Mi is 4Gi.
        capacity={name: canonical(amount) for name, amount in status.capacity.items() if name in own.capacity},
        allocatable={name: canonical(amount) for name, amount in status.allocatable.items() if name in own.allocatable},
    )


_EVENTS = {
    (MEMORY, "True"): "NodeHasInsufficientMemory",
    (MEMORY, "False"): "NodeHasSufficientMemory",
    (DISK, "True"): "NodeHasDiskPressure",
    (DISK, "False"): "NodeHasNoDiskPressure",
    (PID, "True"): "NodeHasInsufficientPID",
    (PID, "False"): "NodeHasSufficientPID",
    ("Ready", "True"): "NodeReady",
    ("Ready", "False"): "NodeNotReady",
}


def transitions(old: NodeStatus, new: NodeStatus) -> list[str]:
    """The reasons of the events that tell what has become of the conditions. Source: setters.go, recordNodeStatusEvent."""
    before = {each.type: each.status for each in old.conditions}
    return [_EVENTS[each.type, each.status] for each in new.conditions if before.get(each.type) != each.status]


def _ready(problems: Sequence[str]) -> NodeCondition:
    if problems:
        joined = problems[0] if len(problems) == 1 else "[" + ", ".join(problems) + "]"
        return NodeCondition(type="Ready", status="False", reason="KubeletNotReady", message=joined)
    return NodeCondition(type="Ready", status="True", reason="KubeletReady", message="kubelet is posting ready status")


def _dated(condition: NodeCondition, old: NodeCondition | None, now: datetime) -> NodeCondition:
    is_same = old is not None and old.status == condition.status and old.last_transition_time is not None
    return msgspec.structs.replace(
        condition,
        last_heartbeat_time=rfc3339(now),
        last_transition_time=old.last_transition_time if is_same and old is not None else rfc3339(now),
    )

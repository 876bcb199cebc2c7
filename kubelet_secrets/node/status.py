"""The Node object and its status, from facts. Pure: no I/O, no clock.

Called by ``node/registration.py``; the allocatable amounts also feed ``resourceFieldRef``. Source:
pkg/kubelet/kubelet_node_status.go initialNode, pkg/kubelet/nodestatus/setters.go; semantics §10.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

import msgspec

from kubelet_secrets.api.core import (
    DaemonEndpoint,
    Node,
    NodeAddress,
    NodeCondition,
    NodeDaemonEndpoints,
    NodeStatus,
    NodeSystemInfo,
    Quantity,
)
from kubelet_secrets.api.meta import ObjectMeta
from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.node.facts import NodeFacts

# evictionHard's defaults: what the kubelet keeps from pods.
_RESERVED_MEMORY_BYTES = 100 << 20
_RESERVED_STORAGE_FRACTION = 0.10

_GOOD_CONDITIONS = (
    ("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
)


def make_node(facts: NodeFacts, *, now: datetime) -> Node:
    """The object to register."""
    return Node(
        metadata=ObjectMeta(
            name=facts.name,
            labels=default_labels(facts),
            annotations={"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        ),
        status=make_node_status(facts, previous=NodeStatus(), problems=(), now=now),
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


def make_node_status(facts: NodeFacts, *, previous: NodeStatus, problems: Sequence[str], now: datetime) -> NodeStatus:
    """The node's status at *now*.

    Args:
        previous: what was published last: transition times stay while a condition does.
        problems: reasons why pods cannot run here at the moment; empty means ready.
    """
    old = {each.type: each for each in previous.conditions}
    conditions = [
        _dated(NodeCondition(type=name, status="False", reason=reason, message=message), old.get(name), now)
        for name, reason, message in _GOOD_CONDITIONS
    ]
    return NodeStatus(
        capacity=make_capacity(facts),
        allocatable=make_allocatable(facts),
        conditions=(*conditions, _dated(_ready(problems), old.get("Ready"), now)),
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
        ),
    )


def make_capacity(facts: NodeFacts) -> dict[str, Quantity]:
    return {
        "cpu": str(facts.cpus),
        "ephemeral-storage": f"{facts.storage_bytes // 1024}Ki",
        "memory": f"{facts.memory_bytes // 1024}Ki",
        "pods": str(facts.max_pods),
    }


def make_allocatable(facts: NodeFacts) -> dict[str, Quantity]:
    """What pods may have of the capacity: without the kubelet's default eviction reserves."""
    return {
        "cpu": str(facts.cpus),
        "ephemeral-storage": str(facts.storage_bytes - math.ceil(facts.storage_bytes * _RESERVED_STORAGE_FRACTION)),
        "memory": f"{max(0, facts.memory_bytes - _RESERVED_MEMORY_BYTES) // 1024}Ki",
        "pods": str(facts.max_pods),
    }


def is_changed(old: NodeStatus, new: NodeStatus) -> bool:
    """Whether *new* tells more than that time has passed. Source: nodeStatusHasChanged."""
    return _without_heartbeats(old) != _without_heartbeats(new)


def _without_heartbeats(status: NodeStatus) -> NodeStatus:
    conditions = tuple(msgspec.structs.replace(each, last_heartbeat_time=None) for each in status.conditions)
    return msgspec.structs.replace(status, conditions=conditions)


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

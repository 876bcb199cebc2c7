"""Whether this node takes a pod that was bound to it. Pure: the pod, the node and the other pods in, a verdict out.

The scheduler has asked most of this before; a pod with ``nodeName`` in its manifest was never asked. A pod that is refused is
Failed for good. Called by ``pod/admitting.py``.

Source: pkg/kubelet/lifecycle/predicate.go, handlers.go; pkg/kubelet/sysctl/allowlist.go; pkg/scheduler AdmissionCheck. Differs:
critical pods do not push others out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kubelet_secrets.api.core import Pod, Quantity, Taint
from kubelet_secrets.api.evictionsignals import MEMORY
from kubelet_secrets.api.nodeaffinity import matches_node, untolerated_taint
from kubelet_secrets.api.references import all_containers
from kubelet_secrets.api.requests import amount_of, request_amounts, shortages
from kubelet_secrets.api.staticpod import is_static_pod
from kubelet_secrets.pod.pressureeviction import NODE_CONDITION, is_critical
from kubelet_secrets.pod.qos import qos_class
from kubelet_secrets.pod.resize import DEFERRED, INFEASIBLE, Refusal

SAFE_SYSCTLS = (
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
)  # fmt: skip

_ANY = "0.0.0.0"
_IPC_SYSCTLS = ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a pod is not taken; both texts are the kubelet's.

    Attributes:
        depends_on_labels: a fresher look at the node's labels or taints may say otherwise.
    """

    reason: str  # "OutOfcpu": status.reason and the event's
    message: str  # the event's; status.message says "Pod was rejected: " before it
    depends_on_labels: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTerms:
    """The node, as far as pods have to fit it."""

    name: str
    labels: Mapping[str, str]
    taints: Sequence[Taint]
    allocatable: Mapping[str, Quantity]
    allowed_sysctls: Collection[str] = ()  # unsafe ones; a name, or a prefix with "*" at its end
    pressures: Collection[str] = ()  # conditions that pods are evicted for now


@dataclass(frozen=True, slots=True)
class Share:
    """What one pod takes of the node.

    Attributes:
        amounts: by resource name; cpu in thousandths.
        ports: (address, protocol, number) on the host.
    """

    amounts: Mapping[str, int]
    ports: tuple[tuple[str, str, int], ...] = ()


def share_of(pod: Pod) -> Share:
    """Raises: InvalidQuantity; only a manifest of the node's own can hold such."""
    return Share(request_amounts(pod), tuple(_host_ports(pod)))


def judge(pod: Pod, node: NodeTerms, others: Collection[Share], *, was_started: bool) -> Rejection | None:
    """Whether *pod* fits *node* beside *others*, the pods it has taken and that have not ended.

    Args:
        was_started: an earlier agent took it: where it belongs is not asked again.

    Raises:
        InvalidQuantity: see :func:`share_of`.
    """
    return next(_rejections(pod, node, others, was_started), None)


def judge_resize(pod: Pod, allocatable: Mapping[str, Quantity], others: Collection[Share]) -> Refusal | None:
    """Whether *pod*, which is here already, may have what it asks for now. Source: allocation_manager.go, canResizePod."""
    share = share_of(pod)
    for name in ("memory", "cpu"):
        asked = share.amounts.get(name, 0)
        capacity = amount_of(name, allocatable.get(name, 0))
        if asked > capacity:
            text = f"Node didn't have enough capacity: {name}, requested: {asked}, capacity: {capacity}"
            return Refusal(reason=INFEASIBLE, message=text, cause=INFEASIBLE)
    rejection = next(_resource_rejections(share, allocatable, others), None)
    if rejection is not None:
        return Refusal(reason=DEFERRED, message=rejection.message, cause=rejection.reason)
    return None


def _rejections(pod: Pod, node: NodeTerms, others: Collection[Share], was_started: bool) -> Iterator[Rejection]:
    yield from _pressure_rejections(pod, node.pressures)
    yield from _sysctl_rejections(pod, node.allowed_sysctls)
    if _wants_app_armor(pod):
        yield Rejection("AppArmor", "Cannot enforce AppArmor: AppArmor is not supported by this node")
    if pod.metadata.labels.get("kubernetes.io/os", "linux") != node.labels.get("kubernetes.io/os", "linux"):
        text = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"
        yield Rejection("PodOSSelectorNodeLabelDoesNotMatch", text)
    if pod.spec.os is not None and pod.spec.os.get("name") != "linux":
        yield Rejection("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
    share = share_of(pod)
    yield from _resource_rejections(share, node.allocatable, others)
    if not was_started and not matches_node(pod, name=node.name, labels=node.labels):
        yield _predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector", depends_on_labels=True)
    if _ports_taken(share, others):
        yield _predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports")
    if not was_started and not is_static_pod(pod) and untolerated_taint(node.taints, pod.spec.tolerations, "NoExecute"):
        text = "node(s) had taints that the pod didn't tolerate"
        yield _predicate("TaintToleration", text, depends_on_labels=True)


def _pressure_rejections(pod: Pod, pressures: Collection[str]) -> Iterator[Rejection]:
    """Source: pkg/kubelet/eviction/eviction_manager.go, Admit."""
    if not pressures or is_critical(pod):
        return
    if set(pressures) == {MEMORY}:
        taint = Taint(key="node.kubernetes.io/memory-pressure", effect="NoSchedule")
        is_tolerated = untolerated_taint((taint,), pod.spec.tolerations, "NoSchedule") is None
        if qos_class(pod) != "BestEffort" or is_tolerated:
            return
    yield Rejection("Evicted", NODE_CONDITION.format(f"[{' '.join(sorted(pressures))}]"))


def _predicate(name: str, text: str, *, depends_on_labels: bool = False) -> Rejection:
    return Rejection(name, f"Predicate {name} failed: {text}", depends_on_labels)


def _resource_rejections(
    share: Share, allocatable: Mapping[str, Quantity], others: Collection[Share]
) -> Iterator[Rejection]:
    for each in shortages(share.amounts, allocatable, [other.amounts for other in others]):
        what = f"{each.name}, requested: {each.requested}, used: {each.used}, capacity: {each.capacity}"
        yield Rejection(f"OutOf{each.name}", f"Node didn't have enough resource: {what}")


def _ports_taken(share: Share, others: Iterable[Share]) -> bool:
    """Source: the scheduler's HostPortInfo: an address conflicts with itself and with all addresses."""
    return any(
        (protocol, number) == (theirs, their_number) and (address == their_address or _ANY in (address, their_address))
        for address, protocol, number in share.ports
        for other in others
        for their_address, theirs, their_number in other.ports
    )


def _host_ports(pod: Pod) -> Iterator[tuple[str, str, int]]:
    sidecars = [each for each in pod.spec.init_containers if each.restart_policy == "Always"]
    for container in (*pod.spec.containers, *sidecars):
        for port in container.ports:
            if port.host_port > 0:
                yield port.host_ip or _ANY, port.protocol or "TCP", port.host_port


def _sysctl_rejections(pod: Pod, allowed: Collection[str]) -> Iterator[Rejection]:
    for each in pod.spec.security_context.sysctls:
        name = each.name.replace("/", ".")
        if not any(_is_covered(name, known) for known in (*SAFE_SYSCTLS, *allowed)):
            yield Rejection("SysctlForbidden", f'forbidden sysctl: "{name}" not allowlisted')
        elif name.startswith("net.") and pod.spec.host_network:
            yield Rejection("SysctlForbidden", f'forbidden sysctl: "{name}" not allowed with host net enabled')
        elif name.startswith(_IPC_SYSCTLS) and pod.spec.host_ipc:
            yield Rejection("SysctlForbidden", f'forbidden sysctl: "{name}" not allowed with host ipc enabled')


def _is_covered(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _wants_app_armor(pod: Pod) -> bool:
    """Not enforced here, so not promised. Source: pkg/security/apparmor, isRequired."""
    outer = pod.spec.security_context.app_armor_profile
    for container in all_containers(pod):
        security = container.security_context
        profile = (security.app_armor_profile if security is not None else None) or outer
        if profile is not None and profile.type not in ("", "Unconfined"):
            return True
    return False

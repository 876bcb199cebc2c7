"""The pod conditions that the node sets, in the kubelet's order. Pure; called by ``pod/status.py`` only.

Source: pkg/kubelet/status/generate.go; semantics §8.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from kubelet_secrets.api.core import ContainerStatus, Pod, PodCondition
from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.pod.resize import ERROR, ResizeState
from kubelet_secrets.pod.state import is_sidecar

NO_RESIZE = ResizeState()
DISRUPTION_TARGET, TERMINATION_BY_KUBELET = "DisruptionTarget", "TerminationByKubelet"

OWN_CONDITIONS = (
    "PodResizePending", "PodResizeInProgress",
    "PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled",
)  # fmt: skip


def make_conditions(
    pod: Pod,
    *,
    phase: str,
    init_statuses: Sequence[ContainerStatus],
    statuses: Sequence[ContainerStatus],
    sandbox_ready: bool,
    resize: ResizeState = NO_RESIZE,
    is_resizing: bool = False,
    disruption: str = "",
    previous: Sequence[PodCondition],
    now: datetime,
) -> tuple[PodCondition, ...]:
    """The conditions of *pod*: others' first, as they were, then the node's own.

    Args:
        resize: what stands in the way of a resize.
        disruption: why the node ends the pod; once told it stays.
        is_resizing: a running container has other resources than it is allocated.
        previous: the conditions as published last; the time of a transition stays while the status does.
    """
    foreign = [each for each in previous if not is_own(each)]
    all_statuses = {each.name: each for each in (*init_statuses, *statuses)}
    containers_ready = _containers_ready(pod, all_statuses, phase)
    own = [
        *_resizing(resize, is_resizing),
        PodCondition(type="PodReadyToStartContainers", status=_truth(sandbox_ready)),
        _initialized(pod, all_statuses, phase),
        _ready(pod, containers_ready, foreign),
        containers_ready,
        PodCondition(type="PodScheduled", status="True"),
    ]
    old = {each.type: each for each in previous}
    own += _disrupted(disruption, old.get(DISRUPTION_TARGET))
    return (*foreign, *(_dated(each, old.get(each.type), pod.metadata.generation, now) for each in own))


def _dated(condition: PodCondition, old: PodCondition | None, generation: int, now: datetime) -> PodCondition:
    is_transition = old is None or old.status != condition.status or not old.last_transition_time
    since = rfc3339(now) if is_transition or old is None else old.last_transition_time
    return msgspec.structs.replace(condition, last_transition_time=since, observed_generation=generation)


def is_own(condition: PodCondition) -> bool:
    """Whether it is the node's to set. DisruptionTarget is several writers': the reason tells whose it is."""
    return condition.type in OWN_CONDITIONS or (
        condition.type == DISRUPTION_TARGET and condition.reason == TERMINATION_BY_KUBELET
    )


def _disrupted(message: str, old: PodCondition | None) -> list[PodCondition]:
    if message:
        return [PodCondition(type=DISRUPTION_TARGET, status="True", reason=TERMINATION_BY_KUBELET, message=message)]
    return [old] if old is not None and is_own(old) else []


def _resizing(resize: ResizeState, is_resizing: bool) -> list[PodCondition]:
    """Source: status_manager.go, GetPodResizeConditions."""
    found = []
    if resize.pending is not None:
        reason, message = resize.pending.reason, resize.pending.message
        found.append(PodCondition(type="PodResizePending", status="True", reason=reason, message=message))
    if is_resizing:
        reason = ERROR if resize.error else ""
        found.append(PodCondition(type="PodResizeInProgress", status="True", reason=reason, message=resize.error))
    return found


def _initialized(pod: Pod, statuses: dict[str, ContainerStatus], phase: str) -> PodCondition:
    if not statuses and pod.spec.init_containers:
        return _false("Initialized", "UnknownContainerStatuses")
    unknown, incomplete = [], []
    for container in pod.spec.init_containers:
        status = statuses.get(container.name)
        if status is None:
            unknown.append(container.name)
        elif not (status.started if is_sidecar(container) else status.ready):
            incomplete.append(container.name)
    if phase == "Succeeded" and not unknown:
        return PodCondition(type="Initialized", status="True", reason="PodCompleted")
    if has_regular_container_started(pod, tuple(statuses.values())):
        return PodCondition(type="Initialized", status="True")
    message = _listing(unknown, "unknown", incomplete, "incomplete")
    if message:
        return _false("Initialized", "ContainersNotInitialized", message)
    return PodCondition(type="Initialized", status="True")


def _containers_ready(pod: Pod, statuses: dict[str, ContainerStatus], phase: str) -> PodCondition:
    if not statuses:
        return _false("ContainersReady", "UnknownContainerStatuses")
    lasting = [each for each in pod.spec.init_containers if is_sidecar(each)] + list(pod.spec.containers)
    unknown = [each.name for each in lasting if each.name not in statuses]
    unready = [each.name for each in lasting if each.name in statuses and not statuses[each.name].ready]
    if phase == "Succeeded" and not unknown:
        return _false("ContainersReady", "PodCompleted")
    if phase == "Failed":
        return _false("ContainersReady", "PodFailed")
    message = _listing(unknown, "unknown", unready, "unready")
    if message:
        return _false("ContainersReady", "ContainersNotReady", message)
    return PodCondition(type="ContainersReady", status="True")


def _ready(pod: Pod, containers_ready: PodCondition, foreign: Sequence[PodCondition]) -> PodCondition:
    if containers_ready.status != "True":
        return msgspec.structs.replace(containers_ready, type="Ready")
    messages = []
    for gate in pod.spec.readiness_gates:
        found = next((each for each in foreign if each.type == gate.condition_type), None)
        name = f'"{gate.condition_type}"'
        if found is None:
            messages.append(f"corresponding condition of pod readiness gate {name} does not exist.")
        elif found.status != "True":
            messages.append(f'the status of pod readiness gate {name} is not "True", but {found.status}')
    if messages:
        return _false("Ready", "ReadinessGatesNotReady", ", ".join(messages))
    return PodCondition(type="Ready", status="True")


def has_regular_container_started(pod: Pod, statuses: Sequence[ContainerStatus]) -> bool:
    """Whether any regular container runs or has ended. Source: HasAnyRegularContainerStarted."""
    names = {each.name for each in pod.spec.containers}
    return any(
        each.name in names and (each.state.running is not None or each.state.terminated is not None)
        for each in statuses
    )


def _listing(unknown: list[str], unknown_word: str, other: list[str], other_word: str) -> str:
    parts = [
        f"containers with {word} status: [{' '.join(names)}]"
        for names, word in ((unknown, unknown_word), (other, other_word))
        if names
    ]
    return ", ".join(parts)


def _false(condition_type: str, reason: str, message: str = "") -> PodCondition:
    return PodCondition(type=condition_type, status="False", reason=reason, message=message)


def _truth(value: bool) -> str:
    return "True" if value else "False"

"""The status that the node publishes for one pod. Pure: everything seen goes in, one ``PodStatus`` comes out.

Called by ``pod/publisher.py`` through the worker after every step. Source: pkg/kubelet/kubelet_pods.go generateAPIPodStatus,
getPhase; pkg/kubelet/status/status_manager.go TerminatePod, mergePodStatus; semantics §8.4-8.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from kubelet_secrets.api.core import Container, ContainerState, ContainerStatus, Pod, PodIP, PodStatus
from kubelet_secrets.api.decode import to_builtins
from kubelet_secrets.api.staticpod import is_static_pod
from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.pod.conditions import (
    NO_RESIZE,
    has_regular_container_started,
    is_own,
    make_conditions,
)
from kubelet_secrets.pod.container_status import lost_container, make_container_statuses
from kubelet_secrets.pod.plan import is_restarted_after
from kubelet_secrets.pod.qos import qos_class
from kubelet_secrets.pod.resize import ResizeState, is_in_progress
from kubelet_secrets.pod.state import ContainerKind, RuntimeState, StartFailure, is_sidecar

TERMINAL_PHASES = ("Succeeded", "Failed")


def make_status(
    pod: Pod,
    state: RuntimeState,
    *,
    previous: PodStatus,
    failures: Mapping[str, StartFailure],
    host_ips: Sequence[str],
    now: datetime,
    is_terminal: bool = False,
    verdict: tuple[str, str] | None = None,
    resize: ResizeState = NO_RESIZE,
    disruption: str = "",
) -> PodStatus:
    """Describe *pod* as it is.

    Args:
        pod: with the resources that the node has allocated.
        previous: the status published last (at first the one in the API): source of what does not change.
        failures: by container name, the last start that failed.
        host_ips: the node's addresses, the primary one first.
        is_terminal: no container of this pod will run again (it was deleted, and all are stopped): the phase
            becomes terminal whatever the restart policy says.
        resize: what stands in the way of other resources.
        disruption: why the node ends the pod, where that is not the pod's doing.
        verdict: (reason, message) when the node itself has failed the pod, for example ``DeadlineExceeded``.
    """
    init_statuses, statuses, ephemeral_statuses = (
        make_container_statuses(pod, kind, state, previous=old, failures=failures)
        for kind, old in (
            (ContainerKind.INIT, previous.init_container_statuses),
            (ContainerKind.REGULAR, previous.container_statuses),
            (ContainerKind.EPHEMERAL, previous.ephemeral_container_statuses),
        )
    )
    ends_for_good = is_terminal and not is_static_pod(pod)  # a static pod is stopped, never finished, by others
    phase = make_phase(pod, init_statuses, statuses, is_terminal=ends_for_good)
    if previous.phase in TERMINAL_PHASES:
        phase = previous.phase  # it never leaves these
    elif verdict is not None or (ends_for_good and phase not in TERMINAL_PHASES):
        phase = "Failed"
    reason, message = verdict or (previous.reason, previous.message)
    if phase in TERMINAL_PHASES and phase != previous.phase and any(each.is_running for each in state.instances):
        # Whoever waits for the end relies on it: nothing of the pod runs any more. Source: mergePodStatus.
        phase, reason, message = previous.phase or "Pending", previous.reason, previous.message
    if is_terminal:
        init_statuses, statuses = _end_lost_containers(pod, init_statuses, statuses)
    host_ip = host_ips[0] if host_ips else ""
    pod_ips = tuple(host_ips) if pod.spec.host_network else state.pod_ips
    kept_ips = tuple(PodIP(ip=each) for each in pod_ips) or previous.pod_ips
    return PodStatus(
        observed_generation=pod.metadata.generation,
        phase=phase,
        conditions=make_conditions(
            pod,
            phase=phase,
            init_statuses=init_statuses,
            statuses=statuses,
            sandbox_ready=state.sandbox_ready,
            resize=resize,
            disruption=disruption,
            is_resizing=is_in_progress(pod, state),
            previous=previous.conditions,
            now=now,
        ),
        reason=reason,
        message=message,
        host_ip=host_ip,
        host_ips=tuple(PodIP(ip=each) for each in host_ips),
        pod_ip=kept_ips[0].ip if kept_ips else "",
        pod_ips=kept_ips,
        start_time=previous.start_time or rfc3339(now),
        qos_class=previous.qos_class or qos_class(pod),
        init_container_statuses=init_statuses,
        container_statuses=statuses,
        ephemeral_container_statuses=ephemeral_statuses,
    )


def make_rejected_status(pod: Pod, *, reason: str, message: str, now: datetime) -> PodStatus:
    """Of a pod that the node does not take: nothing was made of it, so nothing else is told. Source: rejectPod."""
    old = pod.status
    return PodStatus(
        observed_generation=pod.metadata.generation,
        phase="Failed",
        reason=reason,
        message=f"Pod was rejected: {message}",
        conditions=old.conditions,
        start_time=old.start_time or rfc3339(now),
        qos_class=old.qos_class or qos_class(pod),
    )


def make_phase(
    pod: Pod,
    init_statuses: Sequence[ContainerStatus],
    statuses: Sequence[ContainerStatus],
    *,
    is_terminal: bool,
) -> str:
    """Sum the containers up in one word. Source: getPhase; semantics §8.6.

    Args:
        is_terminal: the pod's containers are stopped and will not be started again.
    """
    by_name = {each.name: each for each in (*init_statuses, *statuses)}
    pending, failed_for_good = _count_init(pod, by_name)
    sidecars_pending, running, waiting, unknown = _count_sidecars(pod, by_name)
    stopped = succeeded = 0
    for container in pod.spec.containers:
        status = by_name.get(container.name)
        if status is None:
            unknown += 1
        elif status.state.running is not None:
            running += 1
        elif status.state.terminated is not None:
            stopped += 1
            succeeded += status.state.terminated.exit_code == 0
        elif status.state.waiting is None:
            unknown += 1
        elif status.last_state.terminated is not None:
            stopped += 1
        else:
            waiting += 1

    if failed_for_good:
        return "Failed"
    is_initialized = has_regular_container_started(pod, statuses)
    if pending or (sidecars_pending and not is_initialized) or waiting:
        return "Pending"
    if running and not unknown:
        return "Running"
    if not running and stopped and not unknown:
        if is_terminal:
            return "Succeeded" if stopped == succeeded else "Failed"
        if any(_comes_back(pod, each, by_name.get(each.name)) for each in pod.spec.containers):
            return "Running"
        return "Succeeded" if stopped == succeeded else "Failed"
    return "Pending"


def _comes_back(pod: Pod, container: Container, status: ContainerStatus | None) -> bool:
    ended = (status.state.terminated or status.last_state.terminated) if status is not None else None
    return ended is not None and is_restarted_after(pod, container, ended.exit_code)


def _count_init(pod: Pod, by_name: Mapping[str, ContainerStatus]) -> tuple[int, int]:
    """(init containers not done, init containers failed and not to be restarted); sidecars are counted elsewhere."""
    pending = failed_for_good = 0
    for container in pod.spec.init_containers:
        if is_sidecar(container):
            continue
        status = by_name.get(container.name)
        if status is None or status.state.running is not None:
            pending += 1
        elif status.state.terminated is not None:
            code = status.state.terminated.exit_code
            if code != 0 and not is_restarted_after(pod, container, code):
                failed_for_good += 1
        elif status.last_state.terminated is None:
            pending += 1
    return pending, failed_for_good


def _count_sidecars(pod: Pod, by_name: Mapping[str, ContainerStatus]) -> tuple[int, int, int, int]:
    """(pending, running, waiting, unknown) among the sidecars; ended ones do not count."""
    pending = running = waiting = unknown = 0
    for container in pod.spec.init_containers:
        if not is_sidecar(container):
            continue
        status = by_name.get(container.name)
        if status is None:
            unknown += 1
        elif status.state.running is not None:
            pending += not status.started
            running += 1
        elif status.state.terminated is not None:
            continue
        elif status.last_state.terminated is None:
            pending += 1
            waiting += 1
    return pending, running, waiting, unknown


def _end_lost_containers(
    pod: Pod, init_statuses: Sequence[ContainerStatus], statuses: Sequence[ContainerStatus]
) -> tuple[tuple[ContainerStatus, ...], tuple[ContainerStatus, ...]]:
    """Give an end to containers that ran and left none. Source: TerminatePod.

    Once a pod has been initialized, a regular container without an end counts as failed; of the init containers, those
    up to the last one with a trace do. A pod that never got that far keeps its waiting containers.
    """
    was_initialized = has_regular_container_started(pod, statuses) or any(
        each.last_state.terminated is not None for each in statuses
    )
    if was_initialized:
        statuses = [_ended(each) for each in statuses]
    traced = [index for index, each in enumerate(init_statuses) if was_initialized or _has_trace(each)]
    reach = traced[-1] + 1 if traced else 0
    init_statuses = [_ended(each) if index < reach else each for index, each in enumerate(init_statuses)]
    return tuple(init_statuses), tuple(statuses)


def _has_trace(status: ContainerStatus) -> bool:
    return status.state.waiting is None or status.last_state.terminated is not None


def _ended(status: ContainerStatus) -> ContainerStatus:
    if status.state.terminated is not None:
        return status
    state = ContainerState(terminated=lost_container())
    return msgspec.structs.replace(status, state=state, ready=False, started=False)


def make_status_patch(pod: Pod, published: PodStatus, wanted: PodStatus) -> dict[str, Any] | None:
    """The strategic merge patch for ``pods/status`` that turns *published* into *wanted*; None when they are equal.

    The pod's uid goes with it: a pod that was deleted and made again under the same name answers 409 instead of taking
    its predecessor's status. Fields that fell away are sent as null; conditions merge by type, so others' survive.
    """
    old, new = to_builtins(_own(published)), to_builtins(_own(wanted))
    changed: dict[str, Any] = {key: new.get(key) for key in {**old, **new} if old.get(key) != new.get(key)}
    if "conditions" in changed:
        before = {each["type"]: each for each in old.get("conditions", ())}
        present = [each["type"] for each in new.get("conditions", ())]
        changed["conditions"] = [
            *(_condition_patch(before.get(each["type"], {}), each) for each in new.get("conditions", ())),
            *({"$patch": "delete", "type": condition} for condition in before if condition not in present),
        ]
    for key in ("podIPs", "hostIPs"):  # lists that merge by ip: what is gone has to be named
        if key in changed:
            present = [each["ip"] for each in new.get(key, ())]
            gone = [each["ip"] for each in old.get(key, ()) if each["ip"] not in present]
            changed[key] = [*new.get(key, ()), *({"$patch": "delete", "ip": ip} for ip in gone)]
    return {"metadata": {"uid": pod.metadata.uid}, "status": changed} if changed else None


def _condition_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Conditions merge field by field: a reason that fell away would stay."""
    return {**dict.fromkeys(old.keys() - new.keys()), **new}


def _own(status: PodStatus) -> PodStatus:
    """*status* without others' conditions: what is not sent cannot overwrite what they have written meanwhile."""
    own = tuple(each for each in status.conditions if is_own(each))
    return msgspec.structs.replace(status, conditions=own)


def with_foreign_conditions(status: PodStatus, seen: PodStatus) -> PodStatus:
    """*status* with the node's own conditions, and all others as in *seen*, the latest from the API."""
    foreign = tuple(each for each in seen.conditions if not is_own(each))
    return msgspec.structs.replace(status, conditions=(*foreign, *_own(status).conditions))

"""``status.containerStatuses`` and its two siblings: one entry per container of the spec. Pure.

Called by ``pod/status.py`` only. Source: pkg/kubelet/kubelet_pods.go convertToAPIContainerStatuses and
pkg/kubelet/prober/prober_manager.go UpdatePodStatus; semantics §6.6, §8.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from kubelet_secrets.api.core import (
    Container,
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    ContainerUser,
    LinuxContainerUser,
    Pod,
    VolumeMountStatus,
)
from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.pod.plan import should_restart
from kubelet_secrets.pod.state import (
    ContainerKind,
    Instance,
    InstanceState,
    RuntimeState,
    StartFailure,
    containers_of,
    is_sidecar,
)

RUNTIME_NAME = "runc"
LOST_EXIT_CODE = 137
LOST_REASON = "ContainerStatusUnknown"
MAX_MESSAGES_BYTES = 12 * 1024  # of all termination messages of a pod together


def make_container_statuses(
    pod: Pod,
    kind: ContainerKind,
    state: RuntimeState,
    *,
    previous: Sequence[ContainerStatus],
    failures: Mapping[str, StartFailure],
) -> tuple[ContainerStatus, ...]:
    """The statuses of *pod*'s containers of one *kind*.

    Args:
        previous: the same list as published last (or as the API has it); termination states and restart counts of
            containers that the runtime forgot are taken from it.
        failures: by container name, the last start that failed: becomes the waiting reason.

    Returns:
        One entry per container; init containers in the order of the spec, others by name.
    """
    containers = _containers(pod, kind)
    old = {each.name: each for each in previous}
    has_init_containers = bool(pod.spec.init_containers) and kind is not ContainerKind.EPHEMERAL
    message_bytes = MAX_MESSAGES_BYTES // max(1, sum(1 for _ in containers_of(pod)))
    statuses = []
    for container in containers:
        status = _status(pod, container, state, old.get(container.name), has_init_containers, message_bytes)
        status = _with_failure(pod, kind, container, state, status, failures.get(container.name))
        statuses.append(_with_probes(kind, container, state, status))
    return tuple(statuses if kind is ContainerKind.INIT else sorted(statuses, key=lambda each: each.name))


def _containers(pod: Pod, kind: ContainerKind) -> tuple[Container, ...]:
    if kind is ContainerKind.INIT:
        return pod.spec.init_containers
    return pod.spec.containers if kind is ContainerKind.REGULAR else pod.spec.ephemeral_containers


def _status(
    pod: Pod,
    container: Container,
    state: RuntimeState,
    old: ContainerStatus | None,
    has_init_containers: bool,
    message_bytes: int,
) -> ContainerStatus:
    runs = state.instances_of(container.name)
    if not runs:
        return _status_without_runs(pod, container, old, has_init_containers)
    newest = runs[0]
    resources = newest.resources or container.resources  # what it has, whatever it is allocated by now
    return ContainerStatus(
        name=container.name,
        state=_container_state(newest, old, message_bytes),
        last_state=_container_state(runs[1], None, message_bytes) if len(runs) > 1 else _kept_last_state(newest, old),
        restart_count=newest.attempt,
        image=newest.image or container.image,
        image_id=newest.image_id,
        container_id=container_reference(newest.container_id),
        allocated_resources=dict(container.resources.requests) or msgspec.UNSET,
        resources=resources,
        volume_mounts=_volume_mounts(container),
        user=_user(newest),
    )


def _user(instance: Instance) -> ContainerUser | msgspec.UnsetType:
    if instance.user is None:
        return msgspec.UNSET
    user = instance.user
    linux = LinuxContainerUser(uid=user.uid, gid=user.gid, supplemental_groups=user.additional_gids)
    return ContainerUser(linux=linux)


def _kept_last_state(newest: Instance, old: ContainerStatus | None) -> ContainerState:
    """The last state of a container whose earlier runs the runtime has forgotten."""
    if old is None or newest.attempt == 0:
        return ContainerState()
    is_same_run = old.container_id == container_reference(newest.container_id)
    ended = old.last_state if is_same_run else old.state
    if ended.terminated is None:
        ended = old.last_state
    return ContainerState(terminated=ended.terminated)


def _status_without_runs(
    pod: Pod, container: Container, old: ContainerStatus | None, has_init_containers: bool
) -> ContainerStatus:
    waiting = ContainerStateWaiting(reason="PodInitializing" if has_init_containers else "ContainerCreating")
    fresh = ContainerStatus(
        name=container.name,
        image=container.image,
        state=ContainerState(waiting=waiting),
        volume_mounts=_volume_mounts(container),
    )
    if old is None:
        return fresh
    if old.state.terminated is not None:
        return old
    restart_count, last_state = old.restart_count, old.last_state
    if old.state.running is not None and last_state.terminated is None:
        # It ran, and no trace of its end is left: without this the pod would fall back to Pending.
        last_state = ContainerState(
            terminated=ContainerStateTerminated(
                exit_code=LOST_EXIT_CODE,
                reason=LOST_REASON,
                message="The container could not be located when the pod was deleted.  The container used to be Running",
            )
        )
        if pod.metadata.deletion_timestamp is None:
            restart_count += 1
    return msgspec.structs.replace(fresh, restart_count=restart_count, last_state=last_state)


def _container_state(instance: Instance, old: ContainerStatus | None, message_bytes: int) -> ContainerState:
    if instance.state is InstanceState.RUNNING:
        started_at = rfc3339(instance.started_at) if instance.started_at else None
        return ContainerState(running=ContainerStateRunning(started_at=started_at))
    if instance.state is InstanceState.EXITED:
        return ContainerState(terminated=_terminated(instance, message_bytes))
    if instance.state is InstanceState.UNKNOWN and old is not None and old.state.running is not None:
        return ContainerState(terminated=lost_container())
    return ContainerState(waiting=ContainerStateWaiting())


def _terminated(instance: Instance, message_bytes: int) -> ContainerStateTerminated:
    message = instance.message.encode()[:message_bytes].decode(errors="ignore")
    return ContainerStateTerminated(
        exit_code=instance.exit_code,
        reason=instance.reason or ("Completed" if instance.exit_code == 0 else "Error"),
        message=message or msgspec.UNSET,
        started_at=rfc3339(instance.started_at) if instance.started_at else None,
        finished_at=rfc3339(instance.finished_at) if instance.finished_at else None,
        container_id=container_reference(instance.container_id),
    )


def lost_container() -> ContainerStateTerminated:
    """The end of a container of which nothing is left."""
    return ContainerStateTerminated(
        exit_code=LOST_EXIT_CODE,
        reason=LOST_REASON,
        message="The container could not be located when the pod was terminated",
    )


def container_reference(container_id: str) -> str:
    """``runc://<id>``, as the API names a container."""
    return f"{RUNTIME_NAME}://{container_id}"


def _with_failure(
    pod: Pod,
    kind: ContainerKind,
    container: Container,
    state: RuntimeState,
    status: ContainerStatus,
    failure: StartFailure | None,
) -> ContainerStatus:
    """Show a container that is to be started, and could not be, as waiting with the reason of the failure."""
    if failure is None:
        return status
    latest = state.latest(container.name)
    if kind is ContainerKind.INIT and latest is not None and latest.has_succeeded:
        return status
    if not should_restart(pod, container, latest):
        return status
    waiting = ContainerState(waiting=ContainerStateWaiting(reason=failure.reason, message=failure.message))
    last_state = status.state if status.state.terminated is not None else status.last_state
    return msgspec.structs.replace(status, state=waiting, last_state=last_state)


def _with_probes(
    kind: ContainerKind, container: Container, state: RuntimeState, status: ContainerStatus
) -> ContainerStatus:
    probe = state.probe(container.name)
    is_running = status.state.running is not None
    is_started = is_running and probe.is_started
    if kind is ContainerKind.INIT and not is_sidecar(container):
        ended = status.state.terminated
        is_ready = ended is not None and ended.exit_code == 0
    else:
        is_ready = is_started and probe.is_ready and kind is not ContainerKind.EPHEMERAL
    return msgspec.structs.replace(status, started=is_started, ready=is_ready)


def _volume_mounts(container: Container) -> tuple[VolumeMountStatus, ...]:
    """The mounts as asked for: readOnly is the spec's word, not what the volume enforces (semantics §8.5)."""
    return tuple(
        VolumeMountStatus(
            name=mount.name,
            mount_path=mount.mount_path,
            read_only=mount.read_only,
            recursive_read_only=_recursive_read_only(mount.recursive_read_only) if mount.read_only else None,
        )
        for mount in container.volume_mounts
    )


def _recursive_read_only(asked: str | None) -> str:
    return "Enabled" if asked in ("Enabled", "IfPossible") else "Disabled"

"""What to do next for one pod: desired pod + what was seen + back-off + now → ordered actions. Pure.

The worker carries the actions out in order, looks again and asks again, until nothing is left but waiting. Order within one
plan is the kubelet's: kill, sandbox, ephemeral containers, the next init container(s), regular containers.

Not decided here: volumes (a pod without its volumes is not planned at all, semantics §8.0 step 8), deletion
(``pod/termination.py``), texts of failures (``pod/containers.py``).

Source: pkg/kubelet/kuberuntime/kuberuntime_manager.go computePodActions, kuberuntime_container.go computeInitContainerActions,
doBackOff; pkg/kubelet/container/helpers.go ShouldContainerBeRestarted. Differs: containers whose start failed are held until
the failure's ``retry_at`` instead of until the next sync of the whole pod.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from kubelet_secrets.api.core import Container, Pod, Probe
from kubelet_secrets.pod.backoff import BackOff
from kubelet_secrets.pod.resize import needs_restart, pending_resizes
from kubelet_secrets.pod.state import (
    ContainerKind,
    Instance,
    InstanceState,
    RuntimeState,
    StartFailure,
    is_sidecar,
)


@dataclass(frozen=True, slots=True)
class KillPod:
    """Stop every container that runs and take the sandbox down: the pod is done, or its sandbox is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KillContainer:
    instance: Instance
    message: str  # of the Killing event
    probe_grace_s: int | None = None  # terminationGracePeriodSeconds of the probe that asks for it


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSandbox:
    attempt: int  # 0 for the pod's first


@dataclass(frozen=True, slots=True, kw_only=True)
class StartContainer:
    kind: ContainerKind
    container: Container
    attempt: int  # becomes restartCount
    finished_at: datetime | None = None  # of the run before: the back-off's next step counts from here


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOffRestart:
    """A container waits out its restart back-off: Warning BackOff, reason CrashLoopBackOff."""

    kind: ContainerKind
    container: Container
    delay_s: float
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldStart:
    """A container whose last start failed waits for its next try."""

    kind: ContainerKind
    container: Container
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeContainer:
    """A running container is to have the resources of its spec, without a restart."""

    instance: Instance
    container: Container


Action = KillPod | KillContainer | CreateSandbox | ResizeContainer | StartContainer | BackOffRestart | HoldStart


def make_plan(
    pod: Pod,
    state: RuntimeState,
    *,
    back_off: BackOff,
    failures: Mapping[str, StartFailure],
    now: datetime,
) -> list[Action]:
    """Choose the next actions for *pod*.

    Args:
        pod: the desired pod, with the resources that the node has allocated; its volumes are mounted.
        back_off: restart delays by :func:`restart_key`; only read.
        failures: by container name, the start that failed last, for containers that have not started since.

    Returns:
        Actions in the order in which to carry them out; empty when the pod is as it should be. :class:`BackOffRestart`
        and :class:`HoldStart` are waits: a plan of nothing else means "ask again at :func:`next_wake`".
    """
    return _Planner(pod, state, back_off, failures, now).plan()


def next_wake(actions: Iterable[Action]) -> datetime | None:
    """When the earliest wait in *actions* ends."""
    return min((each.until for each in actions if isinstance(each, BackOffRestart | HoldStart)), default=None)


def restart_key(pod: Pod, container: Container) -> str:
    """The key of *container*'s restart back-off. Source: GetBackoffKey; semantics §8.7."""
    return f"{pod.metadata.uid}_{container.name}_{spec_hash(container)}"


def spec_hash(container: Container) -> str:
    """A short fingerprint of what of *container* may change in place: its image (all else is immutable in the API).

    Source: pkg/kubelet/container/helpers.go, HashContainer.
    """
    identity = msgspec.json.encode((container.name, container.image))
    return hashlib.sha256(identity).hexdigest()[:16]


def effective_restart_policy(pod: Pod, container: Container) -> str:
    """``Always``, ``OnFailure`` or ``Never``: the container's own policy, else the pod's."""
    return container.restart_policy or pod.spec.restart_policy or "Always"


def should_restart(pod: Pod, container: Container, latest: Instance | None) -> bool:
    """Whether *container*, whose last run is *latest*, ought to be started (again).

    Source: ShouldContainerBeRestarted. A pod that is being deleted starts nothing.
    """
    if pod.metadata.deletion_timestamp is not None:
        return False
    if latest is None:
        return True
    if latest.is_running:
        return False
    if latest.state in (InstanceState.UNKNOWN, InstanceState.CREATED):
        return True
    return is_restarted_after(pod, container, latest.exit_code)


def is_restarted_after(pod: Pod, container: Container, exit_code: int) -> bool:
    """Whether *container* is to run again after it ended so: by the first of its rules that matches, else by policy.

    Source: pkg/api/v1/pod/util.go, ContainerShouldRestart. Differs: the action RestartAllContainers is not known; its gate is
    off by default.
    """
    if container.restart_policy is not None:
        for rule in container.restart_policy_rules:
            codes = rule.exit_codes
            if codes is not None and (exit_code in codes.values) is (codes.operator == "In"):
                if rule.action == "Restart":
                    return True
                break
    policy = effective_restart_policy(pod, container)
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


class _Planner:
    """One evaluation; the fields are the arguments of :func:`make_plan`."""

    def __init__(
        self,
        pod: Pod,
        state: RuntimeState,
        back_off: BackOff,
        failures: Mapping[str, StartFailure],
        now: datetime,
    ) -> None:
        self.pod = pod
        self.state = state
        self.back_off = back_off
        self.failures = failures
        self.now = now
        self.kills: list[Action] = []
        self.resizes: list[Action] = []
        self.starts: list[Action] = []

    def plan(self) -> list[Action]:
        if not self.state.sandbox_ready:
            return self._plan_without_sandbox()
        for container in self.pod.spec.ephemeral_containers:
            if self.state.latest(container.name) is None:  # they run once
                self._start(ContainerKind.EPHEMERAL, container)
        ephemeral, self.starts = self.starts, []
        is_initialized = self._plan_init_containers()
        if is_initialized is None:
            return [KillPod()]
        if is_initialized:
            keeps = self._plan_regular_containers()
            if not keeps:
                # Every regular container is done. Sidecars must not keep the pod alive.
                return [KillPod()]
        return [*self.kills, *self.resizes, *ephemeral, *self.starts]

    def _plan_without_sandbox(self) -> list[Action]:
        spec = self.pod.spec
        attempt = self.state.sandbox_attempts
        was_created = any(self.state.latest(each.name) is not None for each in spec.containers)
        if spec.restart_policy == "Never" and attempt != 0 and self.state.instances:
            return self._kill_leftovers()
        wanted = [
            each
            for each in spec.containers
            if not (spec.restart_policy == "OnFailure" and _has_succeeded(self.state.latest(each.name)))
        ]
        if not wanted and was_created:
            return self._kill_leftovers()
        return [*self._kill_leftovers(), CreateSandbox(attempt=attempt)]

    def _kill_leftovers(self) -> list[Action]:
        return [KillPod()] if any(each.is_running for each in self.state.instances) else []

    def _plan_init_containers(self) -> bool | None:
        """Plan the init containers.

        Returns:
            True when the regular containers may run, False when not yet, None when initialization failed for good.

        The last init container with a trace decides what comes next; those before it are done, except that sidecars
        among them must be kept running.
        """
        init_containers = self.pod.spec.init_containers
        if not init_containers:
            return True
        was_initialized = any(self.state.latest(each.name) is not None for each in self.pod.spec.containers)
        is_initialized = was_initialized
        starts: list[int] = []
        for index in reversed(range(len(init_containers))):
            container = init_containers[index]
            latest = self.state.latest(container.name)
            if latest is None:
                if was_initialized and is_sidecar(container):
                    starts.append(index)
                continue
            if was_initialized and not is_sidecar(container):
                continue
            is_last = index == len(init_containers) - 1
            if latest.is_running:
                if is_sidecar(container) and self._sidecar_has_started(container, latest, starts, index):
                    if is_last:
                        is_initialized = True
                    elif not was_initialized:
                        starts.append(index + 1)
            elif is_sidecar(container):
                starts.append(index)
            elif _has_succeeded(latest):
                if is_last:
                    is_initialized = True
                else:
                    starts.append(index + 1)
            elif latest.state is InstanceState.EXITED and not is_restarted_after(self.pod, container, latest.exit_code):
                return None
            else:
                starts.append(index)
            was_initialized = True
        if not was_initialized:
            starts.append(0)
        for index in sorted(starts):
            self._start(ContainerKind.INIT, init_containers[index])
        return is_initialized

    def _sidecar_has_started(self, container: Container, latest: Instance, starts: list[int], index: int) -> bool:
        probe = self.state.probe(container.name)
        if not probe.is_alive or self._is_changed(container, latest):
            self._kill(ContainerKind.INIT, container, latest, will_restart=False)  # it will, but that is not said
            starts.append(index)
        elif self._resize(container, latest):
            starts.append(index)
        return probe.is_started

    def _plan_regular_containers(self) -> bool:
        """Plan the regular containers; returns False when none runs and none will."""
        keeps = False
        for container in self.pod.spec.containers:
            latest = self.state.latest(container.name)
            if latest is None or not latest.is_running:
                if should_restart(self.pod, container, latest):
                    self._start(ContainerKind.REGULAR, container)
                    keeps = True
                continue
            probe = self.state.probe(container.name)
            is_changed = self._is_changed(container, latest)
            if probe.is_alive and not is_changed:
                self._resize(container, latest)
                keeps = True
                continue
            will_restart = is_changed or effective_restart_policy(self.pod, container) != "Never"
            self._kill(ContainerKind.REGULAR, container, latest, will_restart=will_restart)
            keeps = True  # the kill comes first; what follows it is the next plan's matter
        return keeps

    def _is_changed(self, container: Container, latest: Instance) -> bool:
        return bool(latest.spec_hash) and latest.spec_hash != spec_hash(container)

    def _resize(self, container: Container, latest: Instance) -> bool:
        """Plan that a running container gets what it is allocated; returns whether it is restarted for it."""
        names = pending_resizes(container, latest)
        if not names:
            return False
        if needs_restart(container, names):
            message = f"Container {container.name} resize requires restart"
            self.kills.append(KillContainer(instance=latest, message=message))
            return True
        self.resizes.append(ResizeContainer(instance=latest, container=container))
        return False

    def _kill(self, kind: ContainerKind, container: Container, latest: Instance, *, will_restart: bool) -> None:
        state = self.state.probe(container.name)
        probe: Probe | None = None
        if state.is_alive:
            why = "definition changed"
        elif not state.is_started:
            why, probe = "failed startup probe", container.startup_probe
        else:
            why, probe = "failed liveness probe", container.liveness_probe
        noun = "Init container" if kind is ContainerKind.INIT else "Container"
        message = f"{noun} {container.name} {why}{', will be restarted' if will_restart else ''}"
        grace_s = probe.termination_grace_period_seconds if probe is not None else None
        self.kills.append(KillContainer(instance=latest, message=message, probe_grace_s=grace_s))

    def _start(self, kind: ContainerKind, container: Container) -> None:
        latest = self.state.latest(container.name)
        if latest is not None and latest.is_running:
            return  # it is about to be killed: the next plan starts it
        if latest is not None and latest.state is InstanceState.EXITED and latest.finished_at is not None:
            key = restart_key(self.pod, container)
            until = self.back_off.retry_at(key, latest.finished_at, self.now)
            if until is not None:
                delay_s = self.back_off.delay_s(key)
                self.starts.append(BackOffRestart(kind=kind, container=container, delay_s=delay_s, until=until))
                return
        failure = self.failures.get(container.name)
        if failure is not None and failure.retry_at is not None and self.now < failure.retry_at:
            self.starts.append(HoldStart(kind=kind, container=container, until=failure.retry_at))
            return
        attempt = 0 if latest is None else latest.attempt + (latest.state is not InstanceState.CREATED)
        finished_at = latest.finished_at if latest is not None and latest.state is InstanceState.EXITED else None
        self.starts.append(StartContainer(kind=kind, container=container, attempt=attempt, finished_at=finished_at))


def _has_succeeded(latest: Instance | None) -> bool:
    return latest is not None and latest.has_succeeded

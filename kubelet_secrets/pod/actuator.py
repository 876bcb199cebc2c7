"""``PodActuator``: the pod's containers and sandbox as they are on this node, and the hands that carry a plan out.

What ``plan.make_plan`` decides is done here, one action after the other; what comes of it (running instances, failed starts,
a sandbox) is what :meth:`PodActuator.observe` shows the next time. Made by ``pod/worker.py``, which knows when; this is how.
Source: pkg/kubelet/kuberuntime/kuberuntime_manager.go SyncPod, killPodWithSyncResult; semantics §8.7, §8.8.
"""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from kubelet_secrets.api.core import Container, Pod, PodStatus, Secret
from kubelet_secrets.api.references import all_containers
from kubelet_secrets.api.times import go_duration
from kubelet_secrets.pod.containers import ContainerStarter
from kubelet_secrets.pod.environ import ContainerEnvs
from kubelet_secrets.pod.events import WARNING
from kubelet_secrets.pod.handlers import Target
from kubelet_secrets.pod.imagepull import ImagePuller
from kubelet_secrets.pod.instances import Instances
from kubelet_secrets.pod.parts import NodeParts
from kubelet_secrets.pod.plan import (
    Action,
    BackOffRestart,
    CreateSandbox,
    HoldStart,
    KillContainer,
    KillPod,
    ResizeContainer,
    StartContainer,
    restart_key,
)
from kubelet_secrets.pod.podsandbox import PodSandbox
from kubelet_secrets.pod.probes import Probes
from kubelet_secrets.pod.resizer import Resizer
from kubelet_secrets.pod.state import (
    ContainerKind,
    Instance,
    ProbeState,
    RuntimeState,
    StartFailure,
    containers_of,
    format_pod,
)
from kubelet_secrets.pod.termination import Terminator, grace_period_s
from kubelet_secrets.pod.volumes import PodVolumes
from kubelet_secrets.runtime.oci import ContainerHandle

logger = logging.getLogger(__name__)

BACK_OFF_PERIOD_S = 10.0  # up to half more at random: pod_workers.go, backOffPeriod


class Report(Protocol):
    """Tells of an event about the pod, or about one of its containers."""

    def __call__(
        self,
        container: tuple[ContainerKind, Container] | None,
        event_type: str,
        reason: str,
        message: str,
        quotes_container: bool = False,
        /,
    ) -> None: ...


_ENVIRONMENT_ERRORS = ("CreateContainerConfigError", "CreateContainerError")
"""The second one: the environment was made, but cannot be given to a process (a value that is no text)."""

_PULL_ERRORS = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull")
"""Those that other credentials may get over: an image that is here may be one that the pod must not use (KEP-2535)."""


class PodActuator:
    """One pod's containers.

    Args:
        pod: as first seen, with what it is allocated; :attr:`pod` is replaced when that, or the API's word, changes.
        nursery: where watches for containers' ends run.
        changed: called when a container has ended or a probe's verdict has changed; must not wait.

    Attributes:
        pod: the desired pod.
        failures: by container name, the last start that failed.
        instances: the runs of the pod's containers.
        resizer: changes the resources of those that run.
    """

    def __init__(
        self,
        parts: NodeParts,
        pod: Pod,
        nursery: trio.Nursery,
        *,
        volumes: PodVolumes,
        envs: ContainerEnvs,
        report: Report,
        changed: Callable[[], None],
    ) -> None:
        self.pod = pod
        self.failures: dict[str, StartFailure] = {}
        self._parts = parts
        self._report = report
        self._changed = changed
        self._envs = envs
        self._sandbox = PodSandbox(parts, pod, report=partial(report, None))
        # Container → the attempt whose back-off has been reported, and when it is to be reported again.
        self._told_back_off: dict[str, tuple[int, datetime]] = {}
        self._told_missing: list[str] = []  # pull secrets reported as missing
        self.instances = Instances(
            parts.runtime, parts.registry, nursery, find_container=self.find_container, changed=self._containers_ended
        )
        self._terminator = Terminator(parts.runtime, self.instances, parts.events)
        self._probes = Probes(
            parts.runtime,
            nursery,
            find_container=self.find_container,
            target=self._target,
            report=lambda container, *event: report((self._kind(container), container), *event),
            changed=changed,
            clock=parts.clock,
        )
        self.resizer = Resizer(parts, self.instances, self._sandbox, report=partial(report, None))
        self._puller = ImagePuller(
            parts.images,
            parts.secrets,
            back_off=parts.image_back_off,
            rate=parts.image_pull_rate,
            clock=parts.clock,
        )
        self._starter = ContainerStarter(
            runtime=parts.runtime,
            registry=parts.registry,
            cgroups=parts.cgroups,
            images=self._puller,
            volumes=volumes,
            envs=envs,
            volume_manager=parts.volumes,
            pod_uid=pod.metadata.uid,
            logs_dir=parts.logs_dir,
            seccomp_dir=parts.seccomp_dir,
            turns=parts.turns,
            node_memory_bytes=parts.memory_bytes,
            supports_recursive_read_only=parts.supports_recursive_read_only,
            clock=parts.clock,
        )

    def observe(self) -> RuntimeState:
        """What there is of the pod now."""
        return RuntimeState(
            sandbox_ready=self._sandbox.current is not None,
            sandbox_attempts=self._sandbox.attempts,
            pod_ips=self._sandbox.ips,
            instances=self.instances.all,
            probes=self._probes.states,
        )

    async def adopt(self, handles: Sequence[ContainerHandle]) -> None:
        """Go on with containers that an earlier agent started, ready ones as ready."""
        await self.instances.adopt(self.pod, handles)
        status = self.pod.status
        self._probes.seed(
            {
                each.name: ProbeState(is_started=True, is_ready=each.ready)
                for each in (*status.init_container_statuses, *status.container_statuses)
                if each.started and each.state.running is not None
            }
        )
        self._probes.sync(self.instances.running)
        for handle in handles:
            if handle.pid is not None:
                try:
                    variables = Path(f"/proc/{handle.pid}/environ").read_bytes()
                except OSError:
                    continue  # it is ending just now
                self._envs.adopt(handle.record.container_name, variables, pod_ips=self._sandbox.ips)

    def _containers_ended(self) -> None:
        self._probes.sync(self.instances.running)
        self._changed()

    def find_container(self, name: str) -> Container | None:
        return next((each for each in all_containers(self.pod) if each.name == name), None)

    def retry_now(self, names: Sequence[str]) -> bool:
        """Do not hold these containers back any longer for an error that their environment may have caused.

        Returns:
            Whether one was.
        """
        return self._free(names, _ENVIRONMENT_ERRORS)

    def retry_pulls(self) -> bool:
        """A pull secret of the pod is another one now: do not hold containers back for what the old one could not get.

        Returns:
            Whether one was.
        """
        self._parts.image_back_off.forget(f"{self.pod.metadata.uid}_")
        return self._free(list(self.failures), _PULL_ERRORS)

    def _free(self, names: Sequence[str], reasons: Collection[str]) -> bool:
        freed = False
        for name in names:
            failure = self.failures.get(name)
            if failure is not None and failure.reason in reasons:
                self.failures[name] = dataclasses.replace(failure, retry_at=None)
                freed = True
        return freed

    def note_back_offs(self, actions: Sequence[Action]) -> datetime | None:
        """Let containers that wait for their restart say so: reason CrashLoopBackOff, and a BackOff event as often as the
        kubelet syncs such a pod.

        Returns:
            When the next of these events is due.
        """
        now, due = self._parts.clock(), []
        for action in actions:
            if not isinstance(action, BackOffRestart):
                continue
            name, pod = action.container.name, format_pod(self.pod)
            message = f"back-off {go_duration(action.delay_s)} restarting failed container={name} pod={pod}"
            self.failures[name] = StartFailure(reason="CrashLoopBackOff", message=message)
            latest = self.observe().latest(name)
            attempt = latest.attempt if latest is not None else 0
            told_attempt, again_at = self._told_back_off.get(name, (-1, now))
            if told_attempt != attempt or now >= again_at:
                again_at = now + timedelta(seconds=BACK_OFF_PERIOD_S * random.uniform(1.0, 1.5))
                self._told_back_off[name] = (attempt, again_at)
                text = f"Back-off restarting failed container {name} in pod {pod}"
                self._report((action.kind, action.container), WARNING, "BackOff", text)
            due.append(again_at)
        return min(due, default=None)

    async def carry_out(self, actions: Sequence[Action], published: PodStatus) -> datetime | None:
        """Do everything in *actions* that is not a wait, in order.

        Args:
            published: counts restarts that the runtime has no memory of (the machine was rebooted).

        Returns:
            When to plan again, if something has to wait for a reason that the plan does not know; else None.

        Cancellation: between two steps of one action at worst; plan again from what :meth:`observe` shows.
        """
        resizes = [each for each in actions if isinstance(each, ResizeContainer)]
        retry_at = await self.resizer.resize(self.pod, resizes) if resizes else None
        if retry_at is not None and all(
            isinstance(each, ResizeContainer | BackOffRestart | HoldStart) for each in actions
        ):
            return retry_at  # else what is done now comes first, and the next plan tries again
        secrets: list[Secret] = []
        if any(isinstance(each, StartContainer) for each in actions):
            secrets = await self._pull_secrets()
        for action in actions:
            match action:
                case KillPod():
                    await self.stop(grace_s=grace_period_s(self.pod))
                    await self._sandbox.remove(self.pod)
                case KillContainer(instance=instance, message=message, probe_grace_s=probe_grace_s):
                    await self._terminator.stop_container(
                        self.pod,
                        instance,
                        message=message,
                        pod_ip=self._sandbox.ip,
                        network=self._sandbox.network,
                        probe_grace_s=probe_grace_s,
                    )
                case CreateSandbox():
                    if not await self._sandbox.create(self.pod):
                        return self._sandbox.retry_at
                case StartContainer():
                    await self._start(action, secrets, published)
                case BackOffRestart() | HoldStart() | ResizeContainer():
                    pass
        return None

    async def stop(self, *, grace_s: float) -> None:
        """Stop every running container; see ``Terminator.stop_pod``."""
        self._probes.relax()
        await self._terminator.stop_pod(
            self.pod, grace_s=grace_s, pod_ip=self._sandbox.ip, network=self._sandbox.network
        )
        self._probes.stop()

    def shorten(self, grace_s: float) -> None:
        """A stop under way has *grace_s* left at most."""
        self._terminator.shorten(grace_s)

    async def remove(self) -> None:
        """Delete the stopped containers, with all they wrote and the environment they had. :meth:`observe` still shows them."""
        await self.instances.delete_all()

    async def remove_sandbox(self) -> None:
        """The last step, after the volumes: nothing of the pod runs or is mounted any more."""
        await self._sandbox.remove(self.pod)
        prefix = f"{self.pod.metadata.uid}_"
        self._parts.restart_back_off.forget(prefix)
        self._parts.image_back_off.forget(prefix)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _start(self, action: StartContainer, secrets: Sequence[Secret], published: PodStatus) -> None:
        container, name = action.container, action.container.name
        sandbox = self._sandbox.current
        assert sandbox is not None, "the plan makes a sandbox before it starts anything"
        now = self._parts.clock()
        if action.finished_at is not None:
            self._parts.restart_back_off.advance(restart_key(self.pod, container), action.finished_at, now)
        await self.instances.prune(name, keep=1)
        await self._sandbox.follow_resources(self.pod)
        action = dataclasses.replace(action, attempt=max(action.attempt, _restart_count(published, name)))
        report = partial(self._report, (action.kind, container))
        outcome = await self._starter.start(self.pod, action, sandbox, secrets, report)
        if isinstance(outcome, StartFailure):
            self.failures[name] = outcome
            return
        self.instances.add(outcome.instance)
        self.failures.pop(name, None)
        failure = outcome.failure
        if outcome.instance.is_running:
            failure = await self._starter.post_start(self.pod, container, outcome.instance, sandbox, report)
        if failure is None:
            self._probes.sync(self.instances.running)
            return
        self.failures[name] = failure
        if outcome.instance.is_running:
            await self._terminator.stop_container(
                self.pod,
                outcome.instance,
                message="FailedPostStartHook",
                pod_ip=self._sandbox.ip,
                network=self._sandbox.network,
            )

    async def _pull_secrets(self) -> list[Secret]:
        secrets, missing = await self._puller.pull_secrets(self.pod)
        if missing and missing != self._told_missing:
            message = (
                f"Unable to retrieve some image pull secrets ({', '.join(missing)}); "
                "attempting to pull the image may not succeed."
            )
            self._report(None, WARNING, "FailedToRetrieveImagePullSecret", message)
        self._told_missing = missing
        return secrets

    def _target(self, container: Container, instance: Instance) -> Target:
        return Target(
            container=container,
            container_id=instance.container_id,
            pod=format_pod(self.pod),
            pod_ip=self._sandbox.ip,
            network=self._sandbox.network,
        )

    def _kind(self, container: Container) -> ContainerKind:
        return next(kind for kind, each in containers_of(self.pod) if each.name == container.name)


def _restart_count(status: PodStatus, name: str) -> int:
    statuses = (*status.init_container_statuses, *status.container_statuses, *status.ephemeral_container_statuses)
    return next((each.restart_count for each in statuses if each.name == name), 0)

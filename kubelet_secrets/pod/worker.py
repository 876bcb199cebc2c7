"""``PodWorker``: the life of one pod on this node, from its first volume to its last DELETE.

::

    run ─┬─ publisher.run            status to the API server, the latest one
         ├─ instances' watches       one per running container
         ├─ volumes.run              one task per volume  ┐ cancelled when the pod
         ├─ envs.run                                      │ is to end
         ├─ limits.watch_scratch     what it may write      ┘
         └─ _live, then _end         this module

``_live`` looks, asks ``plan.make_plan``, has the actuator do what it says, publishes, and sleeps until the bell rings: an
update from the API, an object's change, a container's end, a volume's progress. ``_end`` is semantics §8.8: stop the
containers, publish the terminal status, take the volumes away, forget the references, and, if the pod was deleted, DELETE with
grace 0.

Made and run by ``pod/manager.py``. Source: pkg/kubelet/kubelet.go SyncPod, SyncTerminatingPod, SyncTerminatedPod;
pkg/kubelet/pod_workers.go; semantics §8.0.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import trio

from kubelet_secrets.api.core import Container, Pod
from kubelet_secrets.api.meta import PodUID
from kubelet_secrets.api.references import all_containers
from kubelet_secrets.api.staticpod import is_static_pod
from kubelet_secrets.pod.actuator import PodActuator
from kubelet_secrets.pod.admission import Rejection
from kubelet_secrets.pod.allocation import Allocation
from kubelet_secrets.pod.environ import ContainerEnvs, EnvState
from kubelet_secrets.pod.events import WARNING, pod_reference
from kubelet_secrets.pod.eviction import Places
from kubelet_secrets.pod.limits import PodLimits, Verdict
from kubelet_secrets.pod.parts import NodeParts
from kubelet_secrets.pod.plan import BackOffRestart, HoldStart, make_plan, next_wake
from kubelet_secrets.pod.publisher import StatusPublisher
from kubelet_secrets.pod.resize import ResizeState, is_in_progress
from kubelet_secrets.pod.state import ContainerKind, RuntimeState, containers_of, format_pod
from kubelet_secrets.pod.status import TERMINAL_PHASES, make_rejected_status, make_status, with_foreign_conditions
from kubelet_secrets.pod.termination import grace_period_s
from kubelet_secrets.pod.views import ContainerView, PodView
from kubelet_secrets.pod.volumes import PodVolumes
from kubelet_secrets.pod.wake import Wake
from kubelet_secrets.runtime.oci import ContainerHandle

logger = logging.getLogger(__name__)

CLEANUP_RETRY_S = 1.0
NETWORK_RETRY_S = 1.0
FORCED_GRACE_S = 1  # of a pod whose object is gone already


class PodWorker:
    """One pod.

    Args:
        adopted: containers of this pod that an earlier agent started.
        changed: called after each change of :meth:`view`; must not wait.

    Attributes:
        is_removed: the API has no such pod any more.
    """

    def __init__(
        self, parts: NodeParts, pod: Pod, *, adopted: Sequence[ContainerHandle], changed: Callable[[], None]
    ) -> None:
        self._parts = parts
        self._pod = pod
        self._adopted = adopted
        self._changed = changed
        self._wake = Wake()
        self.is_removed = False
        self._is_ending = False
        self._limits = PodLimits(self._failed)
        self._allocation = Allocation(parts.admission, pod, report=lambda *event: self._report(None, *event))
        self._sync_scope = trio.CancelScope()
        self._actuator: PodActuator | None = None  # from run() on
        self._is_static = is_static_pod(pod)
        self._publisher = StatusPublisher(
            parts.client, pod, has_mirror=self._is_static, turns=parts.turns, lane=parts.status_lane
        )
        self._volumes = PodVolumes(
            pod,
            backend=parts.volumes,
            secrets=parts.secrets,
            config_maps=parts.config_maps,
            tokens=parts.tokens,
            node=parts.node,
            trust_bundles=parts.trust_bundles,
            policy=parts.sync_policy,
            turns=parts.turns,
            on_sync=self._synced,
            report=lambda message: self._report(None, WARNING, "FailedMount", message),
            changed=self._look_again,
        )
        self._envs = ContainerEnvs(
            pod,
            secrets=parts.secrets,
            config_maps=parts.config_maps,
            services=parts.services,
            node=parts.node,
            host_ips=parts.host_ips,
            host_path=self._volumes.host_path,
            clock=parts.clock,
            changed=changed,
        )

    def __repr__(self) -> str:
        return f"<PodWorker {format_pod(self._pod)}>"

    @property
    def pod(self) -> Pod:
        """As the API has it, as far as is known."""
        return self._pod

    # --- news, from the manager; nothing here waits -------------------------------------------------------------------

    def update(self, pod: Pod) -> None:
        """The pod is now like this in the API."""
        is_changed = _differ(self._pod, pod)
        self._pod = pod
        if self._actuator is not None:
            self._actuator.pod = self._allocation.applied(pod)
        self._publisher.seen(pod)
        self._volumes.update(pod)
        self._envs.update(pod)
        if self._is_ending:
            if self._must_stop and self._actuator is not None:
                self._actuator.shorten(grace_period_s(pod))
        elif self._must_stop:
            self._sync_scope.cancel()
        else:
            self._register()
            if is_changed:
                # The kubelet syncs such a pod at once: the label or annotation that a variable was missing may be there now.
                self._retry_now([each.name for each in all_containers(pod)])
        self._wake.ring()

    def removed(self) -> None:
        """The API has no such pod any more, and not by our DELETE: it was deleted by force. Or: its manifest is gone."""
        self.is_removed = self._publisher.is_gone = True
        self._publisher.nudge()
        if self._is_ending and self._actuator is not None:
            self._actuator.shorten(self._grace_s)
        else:
            self._sync_scope.cancel()
        self._wake.ring()

    def mirrored(self, mirror: Pod | None) -> None:
        """For a static pod: the API server knows it as *mirror* now; None: not (any more)."""
        self._publisher.address(mirror)
        if mirror is not None:
            self._publisher.seen(mirror)

    def object_changed(self, *, secret: str = "", config_map: str = "") -> None:
        """A Secret or ConfigMap that the pod refers to has become known, changed, or gone."""
        self._volumes.refresh(secret=secret, config_map=config_map)
        if any(secret and each.name == secret for each in self._pod.spec.image_pull_secrets):
            self._retry_pulls()
        concerned = [
            each.name
            for each in all_containers(self._pod)
            if self._envs.concerns(each, secret=secret, config_map=config_map)
        ]
        if concerned:
            self._envs.refresh()
            if self._parts.sync_policy.is_immediate:
                self._retry_now(concerned)

    def trust_bundles_changed(self) -> None:
        """ClusterTrustBundles have been read, or changed."""
        self._volumes.refresh_trust_bundles()

    def services_changed(self) -> None:
        """Services have been read, or changed."""
        self._envs.refresh()
        if self._parts.sync_policy.is_immediate:
            self._retry_now([each.name for each in all_containers(self._pod)])

    def evict(self, message: str) -> bool:
        """The node is short of something, and this pod is to go; returns whether it goes for that."""
        return not self._must_stop and not self._is_ending and self._limits.evict(message)

    @property
    def places(self) -> Places:
        """Where the pod writes."""
        return Places(volume=self._volumes.host_path, container=self._written)

    def api_reached(self) -> None:
        """The API server answers again."""
        self._publisher.nudge()

    def view(self) -> PodView:
        """The pod as it is now."""
        state, envs = self._observe(), self._envs.states
        failures = self._actuator.failures if self._actuator is not None else {}
        return PodView(
            pod=self._pod,
            status=self._publisher.wanted,
            containers=tuple(
                ContainerView(
                    name=container.name,
                    kind=kind,
                    instance=state.latest(container.name),
                    failure=failures.get(container.name),
                    env=envs.get(container.name, EnvState(container=container.name)),
                )
                for kind, container in containers_of(self._pod)
            ),
            volumes=self._volumes.states,
        )

    # --- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live the pod's life. Returns when nothing of it is left on this node, and the API server knows.

        Cancellation: containers and volumes stay as they are, for the next agent to adopt.
        """
        async with trio.open_nursery() as nursery:
            self._actuator = actuator = PodActuator(
                self._parts,
                self._pod,
                nursery,
                volumes=self._volumes,
                envs=self._envs,
                report=self._report,
                changed=self._look_again,
            )
            nursery.start_soon(self._publisher.run)
            await actuator.adopt(self._adopted)
            self._allocation.adopt(actuator.instances.running)
            rejection = await self._admit()
            if rejection is not None:
                await self._reject(rejection)
                nursery.cancel_scope.cancel()
                return
            if self._pod.status.phase not in TERMINAL_PHASES:
                await self._wait_network()
                self._register()
                async with trio.open_nursery() as keeping:
                    keeping.start_soon(self._volumes.run)
                    keeping.start_soon(self._envs.run)
                    keeping.start_soon(self._limits.watch_scratch, self._pod, self.places)
                    await self._live(actuator)
                    keeping.cancel_scope.cancel()
            await self._end(actuator)
            nursery.cancel_scope.cancel()

    async def _wait_network(self) -> None:
        """Hold a pod that needs a network back until the node has one. Source: SyncPod, its network check; semantics §7.5."""
        if self._pod.spec.host_network or self._adopted:
            return
        while not self._must_stop and (problem := self._parts.network_problem()):
            self._wake.clear()
            self._publish()
            self._report(None, WARNING, "NetworkNotReady", f"network is not ready: {problem}")
            await self._wake.wait(timeout_s=NETWORK_RETRY_S * random.uniform(1.0, 1.5))

    async def _admit(self) -> Rejection | None:
        """Ask whether the node takes the pod, unless it has done so, or has nothing to run."""
        if self._must_stop or self._pod.status.phase in TERMINAL_PHASES:
            return None
        if self._adopted:
            self._parts.admission.note(self._allocation.applied(self._pod))
            return None
        return await self._parts.admission.admit(self._pod)

    async def _reject(self, rejection: Rejection) -> None:
        """The pod has failed before it began; its object stays until somebody deletes it. Source: kubelet.go, rejectPod."""
        self._report(None, WARNING, rejection.reason, rejection.message)
        status = make_rejected_status(
            self._pod, reason=rejection.reason, message=rejection.message, now=self._parts.clock()
        )
        self._publisher.publish(status)
        self._changed()
        await self._wait_deleted()

    async def _live(self, actuator: PodActuator) -> None:
        while not self._must_stop:
            self._wake.clear()
            wake_at: datetime | None = None
            with trio.CancelScope() as self._sync_scope:
                wake_at = await self._sync(actuator)
            if self._must_stop or self._limits.verdict is not None or self._publisher.wanted.phase in TERMINAL_PHASES:
                return
            deadline = self._limits.deadline(self._pod, self._publisher.wanted.start_time)
            times = [each for each in (wake_at, deadline) if each is not None]
            pause_s = (min(times) - self._parts.clock()).total_seconds() if times else None
            await self._wake.wait(timeout_s=pause_s)

    async def _sync(self, actuator: PodActuator) -> datetime | None:
        """Bring the pod as far as it gets now.

        Returns:
            When to look again though nothing has happened.

        Cancellation: at any point; the next call looks anew.
        """
        self._limits.check_deadline(self._pod, self._publisher.wanted.start_time, self._parts.clock())
        if not self._volumes.are_ready or self._limits.verdict is not None:
            self._publish()
            return None
        while True:
            actuator.pod = pod = self._allocation.consider(self._pod)
            observed = actuator.observe()
            if not is_in_progress(pod, observed):
                self._allocation.settled(pod)
                actuator.resizer.settled()
            self._volumes.note_containers(frozenset((each.container_id, each.state) for each in observed.instances))
            actions = make_plan(
                pod,
                observed,
                back_off=self._parts.restart_back_off,
                failures=actuator.failures,
                now=self._parts.clock(),
            )
            told_again_at = actuator.note_back_offs(actions)
            self._publish()
            if all(isinstance(each, BackOffRestart | HoldStart) for each in actions):
                times = (next_wake(actions), told_again_at, self._allocation.retry_at(self._parts.clock()))
                return min((each for each in times if each is not None), default=None)
            await trio.lowlevel.checkpoint()  # an action may find that there is nothing left to do
            retry_at = await actuator.carry_out(actions, self._publisher.wanted)
            if retry_at is not None:
                return retry_at

    def _failed(self, verdict: Verdict) -> None:
        self._report(None, verdict.event_type, verdict.reason, verdict.message)
        self._sync_scope.cancel()
        self._wake.ring()

    async def _end(self, actuator: PodActuator) -> None:
        """The order is semantics §8.8: containers, terminal status, volumes, references, DELETE."""
        self._is_ending = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._publish_changes)  # readiness, to the last moment
            await actuator.stop(grace_s=self._grace_s)
            nursery.cancel_scope.cancel()
        self._publish(is_terminal=True)
        await self._tear_down_volumes()
        self._parts.secrets.unregister_pod(PodUID(self._pod.metadata.uid))
        self._parts.config_maps.unregister_pod(PodUID(self._pod.metadata.uid))
        # How the containers ended is known from their bundles only: those stay until the API server has the status.
        await self._publisher.wait_published()
        await actuator.remove()
        await actuator.remove_sandbox()
        self._parts.admission.forget(PodUID(self._pod.metadata.uid))  # a static pod has no end that is published
        self._publish(is_terminal=True)
        await self._wait_deleted()
        meta = self._pod.metadata
        logs = self._parts.logs_dir / f"{meta.namespace}_{meta.name}_{meta.uid}"
        await trio.to_thread.run_sync(lambda: shutil.rmtree(logs, ignore_errors=True))

    async def _wait_deleted(self) -> None:
        """It has ended: its object and its logs stay until somebody deletes it."""
        while not self._must_stop:
            self._wake.clear()
            await self._wake.wait()
        await self._publisher.wait_published()
        await self._publisher.delete()

    async def _publish_changes(self) -> None:
        while True:
            self._wake.clear()
            self._publish()
            await self._wake.wait()

    async def _tear_down_volumes(self) -> None:
        while True:
            try:
                await self._volumes.tear_down()
                return
            except OSError as error:
                logger.warning("volumes of pod %s: %s", format_pod(self._pod), error)
            await trio.sleep(CLEANUP_RETRY_S)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _observe(self) -> RuntimeState:
        return self._actuator.observe() if self._actuator is not None else RuntimeState()

    def _written(self, container: str) -> list[Path]:
        """Where a container writes: the layer over its image, of the run that is there, and its log."""
        latest, meta = self._observe().latest(container), self._pod.metadata
        log = self._parts.logs_dir / f"{meta.namespace}_{meta.name}_{meta.uid}" / container
        return [log] if latest is None else [log, self._parts.runtime.writable_layer(latest.container_id)]

    def _publish(self, *, is_terminal: bool = False) -> None:
        verdict = self._limits.verdict
        problem = self._actuator.resizer.problem if self._actuator is not None else ""
        status = make_status(
            self._allocation.applied(self._pod),
            self._observe(),
            previous=with_foreign_conditions(self._publisher.wanted, self._pod.status),
            failures=self._actuator.failures if self._actuator is not None else {},
            host_ips=self._parts.host_ips,
            now=self._parts.clock(),
            is_terminal=is_terminal,
            verdict=(verdict.reason, verdict.message) if verdict is not None else None,
            disruption=verdict.message if verdict is not None and verdict.is_disruption else "",
            resize=ResizeState(pending=self._allocation.pending, error=problem),
        )
        if status.phase in TERMINAL_PHASES:
            # First: whoever sees the end may count on the room.
            self._parts.admission.forget(PodUID(self._pod.metadata.uid))
        self._publisher.publish(status)
        self._changed()

    def _register(self) -> None:
        self._parts.secrets.register_pod(self._pod)
        self._parts.config_maps.register_pod(self._pod)

    def _retry_now(self, names: Sequence[str]) -> None:
        if self._actuator is not None and self._actuator.retry_now(names):
            self._wake.ring()

    def _retry_pulls(self) -> None:
        if self._parts.sync_policy.is_immediate and self._actuator is not None and self._actuator.retry_pulls():
            self._wake.ring()

    def _synced(self) -> None:
        """The volumes are being made anew by the clock: what polled objects have become shows in the variables too."""
        if self._parts.sync_policy.polls:
            self._envs.refresh()

    def _look_again(self) -> None:
        self._wake.ring()
        self._changed()

    def _report(
        self,
        container: tuple[ContainerKind, Container] | None,
        event_type: str,
        reason: str,
        message: str,
        quotes_container: bool = False,
    ) -> None:
        kind, spec = container if container is not None else (None, None)
        about = pod_reference(self._pod, kind, spec)
        self._parts.events.record(about, event_type, reason, message, quotes_container=quotes_container)

    @property
    def _grace_s(self) -> float:
        grace_s = FORCED_GRACE_S if self.is_removed and not self._is_static else grace_period_s(self._pod)
        return min(grace_s, self._limits.verdict.max_grace_s) if self._limits.verdict is not None else grace_s

    @property
    def _must_stop(self) -> bool:
        return self.is_removed or self._pod.metadata.deletion_timestamp is not None


def _differ(old: Pod, new: Pod) -> bool:
    """Whether more than the status is another. Source: pkg/kubelet/config, podsDifferSemantically."""
    was, now = old.metadata, new.metadata
    return (old.spec, was.labels, was.annotations) != (new.spec, now.labels, now.annotations)

"""Stop containers the kubelet's way: preStop, the stop signal, the grace period, SIGKILL; sidecars are signalled last.

Called by ``pod/worker.py``. Source: pkg/kubelet/kuberuntime/kuberuntime_container.go killContainer,
kuberuntime_termination_order.go; semantics §8.8 (1).
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from kubelet_secrets.api.core import Container, Pod
from kubelet_secrets.api.meta import ObjectReference
from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.pod.events import NORMAL, WARNING, EventRecorder, pod_reference
from kubelet_secrets.pod.handlers import HookFailed, Target, run_hook
from kubelet_secrets.pod.instances import Instances
from kubelet_secrets.pod.state import ContainerKind, Instance, containers_of, format_pod, is_sidecar
from kubelet_secrets.runtime.oci import OciRuntime, signal_by_name

logger = logging.getLogger(__name__)

DEFAULT_GRACE_S = 30
MIN_GRACE_S = 2  # for the stop signal, however long preStop took


@dataclass(frozen=True, slots=True)
class _Doomed:
    kind: ContainerKind
    container: Container
    instance: Instance
    ended: trio.Event = field(default_factory=trio.Event)


def grace_period_s(pod: Pod, *, probe_s: int | None = None) -> int:
    """How long *pod*'s containers may take to stop: the deletion's word, else the spec's, else 30 s.

    Args:
        probe_s: of the probe whose failure is the reason; goes before the spec's.

    Source: kuberuntime_container.go, setTerminationGracePeriod.
    """
    if pod.metadata.deletion_timestamp is not None and pod.metadata.deletion_grace_period_seconds is not None:
        return pod.metadata.deletion_grace_period_seconds
    if probe_s is not None:
        return probe_s
    spec_s = pod.spec.termination_grace_period_seconds
    return DEFAULT_GRACE_S if spec_s is None else spec_s


class Terminator:
    """Stops the containers of one pod."""

    def __init__(self, runtime: OciRuntime, instances: Instances, events: EventRecorder) -> None:
        self._runtime = runtime
        self._instances = instances
        self._events = events
        self._deadline = float("inf")
        self._scopes: set[trio.CancelScope] = set()

    def shorten(self, grace_s: float) -> None:
        """Those that are being stopped have *grace_s* left, if they had more: somebody lost patience."""
        self._deadline = min(self._deadline, trio.current_time() + grace_s)
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, max(self._deadline, trio.current_time()))

    async def stop_pod(self, pod: Pod, *, grace_s: float, pod_ip: str, network: Path | None) -> None:
        """Stop every running container. All preStop hooks run at once; a sidecar gets its signal when the regular
        containers and the sidecars after it have ended, or when the time is up.

        Returns when all have ended and the table of instances says so. The grace period is for all of them together.

        Cancellation: some may still run; call again.

        Source: kuberuntime_termination_order.go.
        """
        self._deadline = trio.current_time() + grace_s
        doomed = self._doomed(pod)
        awaited = [each.ended for each in doomed if each.kind is ContainerKind.REGULAR]
        async with trio.open_nursery() as nursery:
            for each in reversed(doomed):
                is_last = each.kind is ContainerKind.INIT and is_sidecar(each.container)
                turn = tuple(awaited) if is_last else ()
                nursery.start_soon(self._stop, pod, each, self._deadline, pod_ip, network, "", turn)
                if is_last:
                    awaited.append(each.ended)

    async def stop_container(
        self,
        pod: Pod,
        instance: Instance,
        *,
        message: str,
        pod_ip: str,
        network: Path | None,
        probe_grace_s: int | None = None,
    ) -> None:
        """Stop one container, to be started anew or not.

        Args:
            probe_grace_s: see :func:`grace_period_s`.
        """
        doomed = next((each for each in self._doomed(pod) if each.instance.container_id == instance.container_id), None)
        if doomed is not None:
            deadline = trio.current_time() + grace_period_s(pod, probe_s=probe_grace_s)
            await self._stop(pod, doomed, deadline, pod_ip, network, message)

    def _doomed(self, pod: Pod) -> list[_Doomed]:
        running = {each.name: each for each in self._instances.running}
        return [
            _Doomed(kind, container, running[container.name])
            for kind, container in containers_of(pod)
            if container.name in running
        ]

    async def _stop(
        self,
        pod: Pod,
        doomed: _Doomed,
        deadline: float,
        pod_ip: str,
        network: Path | None,
        message: str = "",
        turn: Sequence[trio.Event] = (),
    ) -> None:
        """Args: *turn* is over when all of these are set."""
        try:
            await self._stop_in_turn(pod, doomed, deadline, pod_ip, network, message, turn)
        finally:
            doomed.ended.set()

    async def _stop_in_turn(
        self,
        pod: Pod,
        doomed: _Doomed,
        deadline: float,
        pod_ip: str,
        network: Path | None,
        message: str,
        turn: Sequence[trio.Event],
    ) -> None:
        about = pod_reference(pod, doomed.kind, doomed.container)
        self._events.record(about, NORMAL, "Killing", message or f"Stopping container {doomed.container.name}")
        container_id = doomed.instance.container_id
        target = Target(
            container=doomed.container, container_id=container_id, pod=format_pod(pod), pod_ip=pod_ip, network=network
        )
        try:
            if deadline > trio.current_time():  # without any grace no hook is run
                with self._grace(deadline):
                    await self._pre_stop(target, about)
                    for each in turn:
                        await each.wait()
            self._runtime.kill(container_id, self._stop_signal(container_id))
            with self._grace(max(deadline, trio.current_time() + MIN_GRACE_S)):
                await self._instances.wait_stopped(doomed.instance)
                return
            self._runtime.kill(container_id, signal.SIGKILL)
            await self._instances.wait_stopped(doomed.instance)
        except ContainerRunError as error:
            logger.info("container %s is gone already: %s", doomed.container.name, error)

    async def _pre_stop(self, target: Target, about: ObjectReference) -> None:
        lifecycle = target.container.lifecycle
        if lifecycle is None or lifecycle.pre_stop is None:
            return
        try:
            await run_hook(self._runtime, lifecycle.pre_stop, target)
        except HookFailed as error:
            logger.info("preStop hook of %s: %s", target.container.name, error)
            self._events.record(about, WARNING, "FailedPreStopHook", "PreStopHook failed")

    def _stop_signal(self, container_id: str) -> int:
        return signal_by_name(self._runtime.state(container_id).record.stop_signal)

    @contextmanager
    def _grace(self, deadline: float) -> Iterator[None]:
        """A stretch of time that :meth:`shorten` can cut; it ends quietly."""
        with trio.CancelScope(deadline=deadline) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

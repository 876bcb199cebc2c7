"""Startup, liveness and readiness probes of one pod's running containers.

:meth:`Probes.sync` is told which instances run; each with probes has a task, and :attr:`Probes.states` says what came out so
far. What follows from it (kill, restart, Ready) is ``plan``'s and ``status``'s. One probe is ``pod/handlers.py``. Made by
``pod/actuator.py``. Source: pkg/kubelet/prober/worker.go, prober.go, prober_manager.go.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import trio

from kubelet_secrets.api.core import Container, Probe
from kubelet_secrets.pod.events import WARNING
from kubelet_secrets.pod.handlers import ProbeErrored, ProbeFailed, ProbeWarned, Target, run_probe
from kubelet_secrets.pod.state import Instance, ProbeState
from kubelet_secrets.runtime.oci import OciRuntime

logger = logging.getLogger(__name__)

UNHEALTHY = "Unhealthy"
MAX_TRIES = 3  # of a probe that could not be carried out


class Report(Protocol):
    """Tells of an event about a container."""

    def __call__(
        self, container: Container, event_type: str, reason: str, message: str, quotes_container: bool, /
    ) -> None: ...


@dataclass(slots=True)
class _Probed:
    container: Container
    instance: Instance
    state: ProbeState
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    deadly: list[trio.CancelScope] = field(default_factory=list)  # of the probes whose failure kills


class Probes:
    """The probes of one pod.

    Args:
        nursery: where the tasks run.
        target: how to reach a container's ports now.
        changed: called after each change of :attr:`states`; must not wait.
        clock: wall time, aware.
    """

    def __init__(
        self,
        runtime: OciRuntime,
        nursery: trio.Nursery,
        *,
        find_container: Callable[[str], Container | None],
        target: Callable[[Container, Instance], Target],
        report: Report,
        changed: Callable[[], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._runtime = runtime
        self._nursery = nursery
        self._find_container = find_container
        self._target = target
        self._report = report
        self._changed = changed
        self._clock = clock
        self._probed: dict[str, _Probed] = {}  # by container id
        self._names: dict[str, str] = {}  # container name → id of the instance that is probed
        self._seeds: dict[str, ProbeState] = {}
        self._is_ending = False

    @property
    def states(self) -> Mapping[str, ProbeState]:
        """By container name; containers without probes are left out."""
        return {name: self._probed[container_id].state for name, container_id in self._names.items()}

    def seed(self, states: Mapping[str, ProbeState]) -> None:
        """Where containers that an earlier agent started stood, so that a restart of the agent is not seen as unreadiness."""
        self._seeds = dict(states)

    def sync(self, running: Iterable[Instance]) -> None:
        """Probe exactly these instances."""
        present = {each.container_id: each for each in running}
        for container_id in self._probed.keys() - present.keys():
            probed = self._probed.pop(container_id)
            probed.scope.cancel()
            if self._names.get(probed.container.name) == container_id:
                del self._names[probed.container.name]
        if self._is_ending:
            return
        for instance in present.values():
            container = self._find_container(instance.name)
            if instance.container_id in self._probed or container is None or not _has_probes(container):
                continue
            first = ProbeState(is_started=container.startup_probe is None, is_ready=container.readiness_probe is None)
            probed = _Probed(container, instance, self._seeds.pop(instance.name, first))
            self._probed[instance.container_id] = probed
            self._names[instance.name] = instance.container_id
            self._nursery.start_soon(self._probe_instance, probed)

    def relax(self) -> None:
        """The pod is ending: nothing is to be killed for a probe any more. Whether it is ready still matters to its clients."""
        self._is_ending = True
        for probed in self._probed.values():
            for scope in probed.deadly:
                scope.cancel()

    def stop(self) -> None:
        """Every container has ended; those that are started from now on are probed again."""
        self._is_ending = False
        self.sync(())

    async def _probe_instance(self, probed: _Probed) -> None:
        container = probed.container
        with probed.scope:
            if container.startup_probe is not None and not probed.state.is_started:
                await self._run(probed, container.startup_probe, "Startup", self._note_startup)
                if not probed.state.is_started:
                    return
            async with trio.open_nursery() as nursery:
                if container.liveness_probe is not None:
                    nursery.start_soon(self._run, probed, container.liveness_probe, "Liveness", self._note_liveness)
                if container.readiness_probe is not None:
                    nursery.start_soon(self._run, probed, container.readiness_probe, "Readiness", self._note_readiness)

    async def _run(self, probed: _Probed, probe: Probe, name: str, note: Callable[[_Probed, bool], bool]) -> None:
        """Probe until *note* says that this was enough.

        A result counts once it has come as often in a row as its threshold asks. The delay counts from the container's
        start, the period from one beginning to the next.
        """
        last, in_a_row = True, 0
        period_s = max(1, probe.period_seconds)
        scope = trio.CancelScope()
        if name != "Readiness":
            probed.deadly.append(scope)
        with scope:
            await trio.sleep(self._delay_s(probed.instance, probe))
            while True:
                next_at = trio.current_time() + period_s
                result = await self._probe_once(probed, probe, name)
                if result is not None:
                    in_a_row = in_a_row + 1 if result == last else 1
                    last = result
                    needed = probe.success_threshold if result else probe.failure_threshold
                    if in_a_row >= max(1, needed) and note(probed, result):
                        return
                await trio.sleep_until(max(next_at, trio.current_time()))

    def _delay_s(self, instance: Instance, probe: Probe) -> float:
        if not probe.initial_delay_seconds or instance.started_at is None:
            return 0.0
        age_s = (self._clock() - instance.started_at).total_seconds()
        return max(0.0, probe.initial_delay_seconds - age_s)

    async def _probe_once(self, probed: _Probed, probe: Probe, name: str) -> bool | None:
        """Whether the container is well; None when that cannot be told."""
        for attempt in range(1, MAX_TRIES + 1):
            try:
                await run_probe(self._runtime, probe, self._target(probed.container, probed.instance))
            except ProbeFailed as failed:
                text = f"{name} probe failed: {failed}"
                self._report(probed.container, WARNING, UNHEALTHY, text, failed.quotes_container)
                return False
            except ProbeErrored as error:
                if attempt == MAX_TRIES:
                    text = f"{name} probe errored and resulted in unknown state: {error}"
                    self._report(probed.container, WARNING, UNHEALTHY, text, False)
                    return None
            except ProbeWarned as warning:
                self._report(probed.container, WARNING, "ProbeWarning", f"{name} probe warning: {warning}", False)
                return True
            else:
                return True
        raise AssertionError("the last try has returned")

    def _note_startup(self, probed: _Probed, result: bool) -> bool:
        self._publish(probed, dataclasses.replace(probed.state, is_started=result, is_alive=result))
        return True

    def _note_liveness(self, probed: _Probed, result: bool) -> bool:
        self._publish(probed, dataclasses.replace(probed.state, is_alive=result))
        return not result  # it will be killed

    def _note_readiness(self, probed: _Probed, result: bool) -> bool:
        self._publish(probed, dataclasses.replace(probed.state, is_ready=result))
        return False

    def _publish(self, probed: _Probed, state: ProbeState) -> None:
        if state != probed.state:
            probed.state = state
            self._changed()


def _has_probes(container: Container) -> bool:
    return any((container.startup_probe, container.liveness_probe, container.readiness_probe))

"""Startup, liveness and readiness probes of one pod's running containers.

:meth:`Probes.sync` is told which instances run; each with probes has a task, and :attr:`Probes.states` says what came out so
far. What follows from it (kill, restart, Ready) is ``plan``'s and ``status``'s. One probe is ``pod/handlers.py``. Made by
``pod/actuator.py``. Source: pkg/kubelet/prober/worker.go, prober_manager.go.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import trio

from kubelet_secrets.api.core import Container, Probe
from kubelet_secrets.pod.events import WARNING
from kubelet_secrets.pod.handlers import HandlerFailed, Target, run_handler
from kubelet_secrets.pod.state import Instance, ProbeState
from kubelet_secrets.runtime.oci import OciRuntime

logger = logging.getLogger(__name__)

Report = Callable[[Container, str, str, str], None]
"""(container, type, reason, message) of an event."""


@dataclass(slots=True)
class _Probed:
    container: Container
    state: ProbeState
    scope: trio.CancelScope


class Probes:
    """The probes of one pod.

    Args:
        nursery: where the tasks run.
        target: how to reach a container's ports now.
        changed: called after each change of :attr:`states`; must not wait.
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
    ) -> None:
        self._runtime = runtime
        self._nursery = nursery
        self._find_container = find_container
        self._target = target
        self._report = report
        self._changed = changed
        self._probed: dict[str, _Probed] = {}  # by container id
        self._names: dict[str, str] = {}  # container name → id of the instance that is probed
        self._seeds: dict[str, ProbeState] = {}

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
        for instance in present.values():
            container = self._find_container(instance.name)
            if instance.container_id in self._probed or container is None or not _has_probes(container):
                continue
            first = ProbeState(is_started=container.startup_probe is None, is_ready=container.readiness_probe is None)
            probed = _Probed(container, self._seeds.pop(instance.name, first), trio.CancelScope())
            self._probed[instance.container_id] = probed
            self._names[instance.name] = instance.container_id
            self._nursery.start_soon(self._probe_instance, probed, instance)

    def stop(self) -> None:
        """The pod is ending: a container that does not answer any more is no news."""
        self.sync(())

    async def _probe_instance(self, probed: _Probed, instance: Instance) -> None:
        container = probed.container
        with probed.scope:
            if container.startup_probe is not None and not probed.state.is_started:
                await self._run(probed, instance, container.startup_probe, "Startup", self._note_startup)
                if not probed.state.is_started:
                    return
            async with trio.open_nursery() as nursery:
                for probe, name, note in (
                    (container.liveness_probe, "Liveness", self._note_liveness),
                    (container.readiness_probe, "Readiness", self._note_readiness),
                ):
                    if probe is not None:
                        nursery.start_soon(self._run, probed, instance, probe, name, note)

    async def _run(
        self,
        probed: _Probed,
        instance: Instance,
        probe: Probe,
        name: str,
        note: Callable[[_Probed, bool], bool],
    ) -> None:
        """Probe until *note* says that this was enough.

        A result counts once it has come as often in a row as its threshold asks.
        """
        last, in_a_row = True, 0
        await trio.sleep(probe.initial_delay_seconds)
        while True:
            problem = await self._probe_once(probe, self._target(probed.container, instance))
            if problem is not None:
                self._report(probed.container, WARNING, "Unhealthy", f"{name} probe failed: {problem}")
            result = problem is None
            in_a_row = in_a_row + 1 if result == last else 1
            last = result
            needed = probe.success_threshold if result else probe.failure_threshold
            if in_a_row >= max(1, needed) and note(probed, result):
                return
            await trio.sleep(max(1, probe.period_seconds))

    async def _probe_once(self, probe: Probe, target: Target) -> str | None:
        """None: it is well; else what is wrong."""
        timeout_s = max(1, probe.timeout_seconds)
        with trio.move_on_after(timeout_s):
            try:
                await run_handler(self._runtime, probe, target)
            except HandlerFailed as error:
                return str(error)
            return None
        return f"timed out after {timeout_s}s"

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

"""The one word and the few numbers that ``kubectl get pods`` shows of a pod.

Pure. Called by ``tables.py``.

Source: pkg/printers/internalversion/printers.go, printPod.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Obj = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PodSummary:
    word: str  # "Running", "Init:0/1", "CrashLoopBackOff", "Terminating"
    ready: int
    total: int
    restarts: int
    last_restart: str  # RFC 3339; empty when none is known


def summarize(pod: Obj) -> PodSummary:
    """Fold phase, conditions and container states into what one line shows."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    init_containers = {container.get("name"): container for container in spec.get("initContainers") or ()}
    sidecars = {name for name, container in init_containers.items() if container.get("restartPolicy") == "Always"}
    word = status.get("reason") or status.get("phase") or ""
    if any(entry.get("reason") == "SchedulingGated" for entry in _conditions(status, "PodScheduled")):
        word = "SchedulingGated"
    counts = _Counts()
    init_word = _init_word(status, len(init_containers), sidecars, counts)
    is_initialized = any(entry.get("status") == "True" for entry in _conditions(status, "Initialized"))
    if init_word:
        word = init_word
    if not init_word or is_initialized:
        word = _container_word(word, status, counts)
    else:
        counts.use_all_init()
    if "deletionTimestamp" in (pod.get("metadata") or {}):
        if status.get("reason") == "NodeLost":
            word = "Unknown"
        elif status.get("phase") not in ("Succeeded", "Failed"):
            word = "Terminating"
    total = len(spec.get("containers") or ()) + len(sidecars)
    return PodSummary(word, counts.ready, total, counts.restarts, counts.last_restart)


class _Counts:
    """Restarts so far: of sidecars and, once initialized, of regular containers; of all init containers before that."""

    def __init__(self) -> None:
        self.ready = 0
        self.restarts = 0
        self.last_restart = ""
        self._init_restarts = 0
        self._init_last = ""

    def add(self, container: Obj) -> None:
        self.restarts += container.get("restartCount", 0)
        self.last_restart = max(self.last_restart, _last_finished(container))

    def add_init(self, container: Obj) -> None:
        self._init_restarts += container.get("restartCount", 0)
        self._init_last = max(self._init_last, _last_finished(container))

    def use_all_init(self) -> None:
        self.restarts, self.last_restart = self._init_restarts, self._init_last


def _last_finished(container: Obj) -> str:
    terminated = (container.get("lastState") or {}).get("terminated") or {}
    return str(terminated.get("finishedAt") or "")


def _init_word(status: Obj, total: int, sidecars: set[Any], counts: _Counts) -> str:
    """The word of the first init container that is not done, or empty."""
    for index, container in enumerate(status.get("initContainerStatuses") or ()):
        counts.add_init(container)
        is_sidecar = container.get("name") in sidecars
        if is_sidecar:
            counts.add(container)
        state = container.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting") or {}
        if terminated is not None and terminated.get("exitCode", 0) == 0:
            continue
        if is_sidecar and container.get("started"):
            counts.ready += bool(container.get("ready"))
            continue
        if terminated is not None:
            return "Init:" + _end_word(terminated)
        if waiting.get("reason") and waiting["reason"] != "PodInitializing":
            return f"Init:{waiting['reason']}"
        return f"Init:{index}/{total}"
    return ""


def _container_word(word: str, status: Obj, counts: _Counts) -> str:
    has_running = False
    for container in reversed(status.get("containerStatuses") or ()):
        counts.add(container)
        state = container.get("state") or {}
        if (state.get("waiting") or {}).get("reason"):
            word = state["waiting"]["reason"]
        elif state.get("terminated") is not None:
            word = _end_word(state["terminated"])
        elif container.get("ready") and state.get("running") is not None:
            has_running = True
            counts.ready += 1
    if word == "Completed" and has_running:
        is_ready = any(entry.get("status") == "True" for entry in _conditions(status, "Ready"))
        return "Running" if is_ready else "NotReady"
    return word


def _end_word(terminated: Obj) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _conditions(status: Obj, kind: str) -> list[Obj]:
    return [entry for entry in status.get("conditions") or () if entry.get("type") == kind]

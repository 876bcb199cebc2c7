"""What was seen of a pod on this node: the vocabulary that plan, status and worker share. Data only.

An *instance* is one run of one container; a container that was restarted has several. The sandbox is the pod's set of
namespaces (net, ipc, uts) together with its cgroup.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kubelet_secrets.api.core import Container, Pod, ResourceRequirements
from kubelet_secrets.runtime.settings import UserIds


class ContainerKind(enum.Enum):
    """Which list of the pod's spec a container stands in; the value is the event's fieldPath prefix."""

    INIT = "spec.initContainers"
    REGULAR = "spec.containers"
    EPHEMERAL = "spec.ephemeralContainers"


class InstanceState(enum.Enum):
    CREATED = "created"  # the runtime knows it, it never ran: its start failed
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"  # the runtime cannot say


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One run of one container as the runtime reports it."""

    name: str
    container_id: str  # without the "runc://" in front
    attempt: int  # 0 for the first run: the API's restartCount
    state: InstanceState
    image: str = ""  # as the spec names it
    image_id: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int = 0
    reason: str = ""  # "Completed", "Error", "OOMKilled", …; empty while running
    message: str = ""  # from the termination message file
    spec_hash: str = ""  # of the container's spec at creation, see spec_hash()
    resources: ResourceRequirements | None = None  # as it was started with; None: nobody remembers
    user: UserIds | None = None  # of its first process

    @property
    def is_running(self) -> bool:
        return self.state is InstanceState.RUNNING

    @property
    def has_succeeded(self) -> bool:
        return self.state is InstanceState.EXITED and self.exit_code == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeState:
    """The verdicts of one container's probes. The default is a container without probes."""

    is_started: bool = True  # the startup probe has succeeded, or there is none
    is_ready: bool = True  # the readiness probe's last verdict, or there is none
    is_alive: bool = True  # False: a liveness or startup probe has given up


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeState:
    """Everything observed of one pod at one moment."""

    sandbox_ready: bool = False
    sandbox_attempts: int = 0  # how many sandboxes this pod has had, the present one included
    pod_ips: tuple[str, ...] = ()
    instances: tuple[Instance, ...] = ()  # any order; several per container
    probes: Mapping[str, ProbeState] = field(default_factory=dict)  # by container name

    def instances_of(self, name: str) -> list[Instance]:
        """Runs of the container *name*, newest first."""
        return sorted((each for each in self.instances if each.name == name), key=lambda each: -each.attempt)

    def latest(self, name: str) -> Instance | None:
        found = self.instances_of(name)
        return found[0] if found else None

    def probe(self, name: str) -> ProbeState:
        return self.probes.get(name, ProbeState())


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFailure:
    """Why a container's last start did not come off: the kubelet's reason cache, one entry.

    Attributes:
        reason: the waiting reason, for example ``CreateContainerConfigError``.
        message: the waiting message.
        retry_at: do not try again before; None: as soon as somebody asks.
    """

    reason: str
    message: str
    retry_at: datetime | None = None


def is_sidecar(container: Container) -> bool:
    """Whether *container*, standing among the init containers, is a restartable one (a sidecar)."""
    return container.restart_policy == "Always"


def containers_of(pod: Pod) -> Iterator[tuple[ContainerKind, Container]]:
    """Every container of *pod* with its kind: init, regular, ephemeral."""
    for container in pod.spec.init_containers:
        yield ContainerKind.INIT, container
    for container in pod.spec.containers:
        yield ContainerKind.REGULAR, container
    for container in pod.spec.ephemeral_containers:
        yield ContainerKind.EPHEMERAL, container


def format_pod(pod: Pod) -> str:
    """``name_namespace(uid)``. Source: pkg/kubelet/util/format, Pod."""
    meta = pod.metadata
    return f"{meta.name}_{meta.namespace}({meta.uid})"

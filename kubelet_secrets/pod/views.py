"""What the agent tells of its pods: frozen, for the control socket and the kubelet's HTTP API. Data only.

Values of secrets are in one place, ``EnvState``'s environments, whose ``repr`` hides them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kubelet_secrets.api.core import Pod, PodStatus
from kubelet_secrets.pod.environ import EnvState
from kubelet_secrets.pod.state import ContainerKind, Instance, StartFailure
from kubelet_secrets.pod.volumes import VolumeState


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerView:
    """One container of a pod."""

    name: str
    kind: ContainerKind
    instance: Instance | None  # the latest run; None: it never ran
    failure: StartFailure | None  # why it does not run, if a start failed
    env: EnvState

    @property
    def state(self) -> str:
        """``Running``, the waiting reason, or the terminated reason."""
        if self.instance is not None and self.instance.is_running:
            return "Running"
        if self.failure is not None:
            return self.failure.reason
        if self.instance is None:
            return "ContainerCreating"
        return self.instance.reason or "Error"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """One pod as its worker sees it."""

    pod: Pod  # the latest from the API
    status: PodStatus  # as this node sees it, published or not
    containers: tuple[ContainerView, ...]  # init, regular, ephemeral, in the order of the spec
    volumes: Mapping[str, VolumeState]  # by name; those that no container mounts are left out

    def container(self, name: str = "") -> ContainerView | None:
        """A container by name; without a name the first regular one."""
        wanted = name or (self.pod.spec.containers[0].name if self.pod.spec.containers else "")
        return next((each for each in self.containers if each.name == wanted), None)

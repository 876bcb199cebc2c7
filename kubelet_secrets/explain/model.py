"""The answer as data: pods, their containers, each container's files and variables, and the problems.

Frozen, no behaviour beyond summing up. Values are here, because showing them may be asked for, but in no ``repr``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from kubelet_secrets.api.origin import Origin
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.volume.ownership import Ownership


class Severity(StrEnum):
    BLOCKS = "blocks"  # a container (or the whole pod) does not start, or the API refuses the object
    WARNING = "warning"  # it starts, and probably not as meant
    NOTE = "note"  # as meant, but worth knowing before a rotation


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, or will be. Texts name objects, keys, paths and sizes, never values."""

    severity: Severity
    code: str  # stable, for machines: "missing-object", "env-goes-stale", …
    message: str  # where the kubelet or the API would say something, its words
    where: str  # the object, and the field in it: "Pod default/web: spec.volumes[0].secret"
    hint: str = ""  # what to do about it


@dataclass(frozen=True, slots=True, kw_only=True)
class FileView:
    """One file as the container sees it."""

    path: str  # absolute, in the container
    ownership: Ownership
    size_bytes: int | None  # None: known at run time only (tokens)
    origin: Origin
    replaced: tuple[Origin, ...] = ()  # sources of the same path that lost
    volume: str
    refreshes: bool  # False: what the container sees stays as it was at its start (subPath, immutable)
    data: SensitiveBytes | None = None  # None: known at run time only


@dataclass(frozen=True, slots=True, kw_only=True)
class MountView:
    """One volume mount of a container; volumes that are not made of API objects have no files here."""

    path: str  # absolute, in the container
    volume: str
    volume_type: str  # the field of the volume's source: "secret", "emptyDir", "persistentVolumeClaim"
    sub_path: str = ""
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableView:
    """One variable of a container."""

    name: str
    origin: Origin
    overridden: tuple[Origin, ...] = ()
    expanded_from: tuple[str, ...] = ()
    is_secret: bool
    value: str | None = field(default=None, repr=False)  # None: known at run time only


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerView:
    """What one container sees. With a blocking problem its files or variables are those that could be told."""

    name: str
    kind: str  # "init", "container" or "ephemeral"
    mounts: tuple[MountView, ...] = ()
    files: tuple[FileView, ...] = ()
    variables: tuple[VariableView, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def is_blocked(self) -> bool:
        return any(problem.severity is Severity.BLOCKS for problem in self.problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """One pod, or the template that a workload makes pods from."""

    kind: str  # "Pod", "Deployment", …
    namespace: str
    name: str  # of the pod or of the workload
    source: str  # the file it was read from
    containers: tuple[ContainerView, ...] = ()
    problems: tuple[Problem, ...] = ()  # of the pod as a whole: its volumes, mostly

    @property
    def is_blocked(self) -> bool:
        return any(problem.severity is Severity.BLOCKS for problem in self.problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    pods: tuple[PodView, ...] = ()
    problems: tuple[Problem, ...] = ()  # of Secrets and ConfigMaps

    def all_problems(self) -> Iterator[Problem]:
        """Every problem once: of objects, then pod by pod."""
        yield from self.problems
        for pod in self.pods:
            yield from pod.problems
            for container in pod.containers:
                yield from container.problems

    @property
    def is_blocked(self) -> bool:
        """Whether something would keep a container from starting."""
        return any(problem.severity is Severity.BLOCKS for problem in self.all_problems())

"""``why``: the chain from a line of a pod's spec to one value, or to the exact rule that stops it.

Pure, and the same for a running node and for manifests: what differs is who fills in the environment and the payloads. The two
chains are made in ``why_variable.py`` and ``why_file.py``; here is what they are made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kubelet_secrets.api.core import ConfigMap, Container, Pod, Secret
from kubelet_secrets.api.origin import Origin, OriginKind
from kubelet_secrets.api.sources import ObjectSource
from kubelet_secrets.errors import SetUpError
from kubelet_secrets.explain.model import Problem, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One link of a chain. Names things; never shows a value."""

    where: str  # the field of the pod's spec, or the object: "spec.volumes[0].secret.items[1]", "secret default/db"
    text: str  # what is said there
    depth: int = 0  # of what an expanded variable is made of


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """From a line of the spec to a value.

    Attributes:
        origin: where the value comes from; None when there is none, or when it is a directory.
        rule: the exact rule that stops it, in the kubelet's words where the kubelet would say something.
        effect: what does not start because of it.
        hint: what to do about it.
        frozen: the container keeps what it had when it started.
    """

    kind: str  # "variable", "file", "directory" or "nothing"
    target: str  # "DB_PASSWORD", "/etc/db/password"
    steps: tuple[Step, ...]
    origin: Origin | None = None
    rule: str = ""
    effect: str = ""
    hint: str = ""
    frozen: bool = False
    volume: str = ""  # of a file
    path: str = ""  # in its volume


WAITS_FOR_CONFIG = "container {} waits: CreateContainerConfigError"
WAITS_FOR_VOLUMES = "the pod waits with all its containers: ContainerCreating, FailedMount"


def container_base(pod: Pod, name: str) -> tuple[str, Container] | None:
    """The container *name* (the first regular one when empty) and its field: ``spec.containers[0]``."""
    lists = (
        ("spec.containers", pod.spec.containers),
        ("spec.initContainers", pod.spec.init_containers),
        ("spec.ephemeralContainers", pod.spec.ephemeral_containers),
    )
    for field, containers in lists:
        for index, container in enumerate(containers):
            if name in ("", container.name):
                return f"{field}[{index}]", container
    return None


def object_step(origin: Origin, size_bytes: int | None, depth: int = 0) -> Step | None:
    """The object and key behind *origin*; None for origins without one.

    Args:
        size_bytes: of the value; None when it is known at run time only.
    """
    size = "" if size_bytes is None else f", {size_bytes} bytes"
    match origin.kind:
        case OriginKind.SECRET | OriginKind.CONFIG_MAP:
            version = f"resourceVersion {origin.resource_version}, " if origin.resource_version else ""
            where = f"{origin.kind} {origin.namespace}/{origin.name}"
            return Step(where=where, text=f"{version}key {origin.key}{size}", depth=depth)
        case OriginKind.SERVICE:
            return Step(
                where=f"service {origin.namespace}/{origin.name}", text=f"its address and ports{size}", depth=depth
            )
        case OriginKind.TOKEN:
            audience = f" for audience {origin.key}" if origin.key else ""
            text = f"a token bound to the pod{audience}, renewed by the node{size}"
            return Step(where=f"serviceaccount {origin.name}", text=text, depth=depth)
        case OriginKind.TRUST_BUNDLE:
            return Step(where=f"clustertrustbundle {origin.name}", text=f"its certificates{size}", depth=depth)
        case OriginKind.FILE:
            return Step(where=f"file {origin.name}", text=f"written by a container of the pod{size}", depth=depth)
        case OriginKind.FIELD:
            return Step(where="the pod itself", text=f"{origin.key}{size}", depth=depth)
        case OriginKind.RESOURCE_FIELD:
            of = f" of container {origin.name}" if origin.name else ""
            return Step(where="the pod itself", text=f"resources.{origin.key}{of}{size}", depth=depth)
        case _:
            return None


def find_secret(source: ObjectSource, name: str) -> Secret | None:
    try:
        return source.get_secret(name)
    except SetUpError:
        return None


def find_config_map(source: ObjectSource, name: str) -> ConfigMap | None:
    try:
        return source.get_config_map(name)
    except SetUpError:
        return None


def problems_below(problems: Iterable[Problem], field: str, *, blocking: bool) -> list[Problem]:
    """Those about *field* or a field in it; each problem's ``where`` ends in its field."""
    found = []
    for problem in problems:
        where = problem.where.rpartition(": ")[2]
        is_below = where == field or where.startswith((f"{field}.", f"{field}["))
        if is_below and (problem.severity is Severity.BLOCKS) is blocking:
            found.append(problem)
    return found


def enumerate_names(names: Sequence[str], limit: int = 8) -> str:
    """``a, b and 3 more``."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"

"""The volumes of a pod, and what is wrong with them.

Pure. Payloads are the node's own (``volume.payload``); when one cannot be made, its parts are tried one by one to say which
part, and why. What containers see of them is told by ``files``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from kubelet_secrets.api.core import Pod, Volume
from kubelet_secrets.api.origin import OriginKind
from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.sources import NodeInfo
from kubelet_secrets.errors import MissingKey, MissingObject, SetUpError
from kubelet_secrets.explain.lookup import ManifestSource
from kubelet_secrets.explain.model import Problem, Severity
from kubelet_secrets.volume.nested import hidden_names, is_in_sight
from kubelet_secrets.volume.ownership import file_ownership, fs_group_of
from kubelet_secrets.volume.payload import Payload, has_payload, make_volume_payload

_TYPES = {
    "secret": "secret",
    "config_map": "configMap",
    "downward_api": "downwardAPI",
    "projected": "projected",
    "empty_dir": "emptyDir",
    "host_path": "hostPath",
    "csi": "csi",
    "persistent_volume_claim": "persistentVolumeClaim",
    "ephemeral": "ephemeral",
    "image": "image",
    "nfs": "nfs",
    "iscsi": "iscsi",
    "flex_volume": "flexVolume",
    "azure_file": "azureFile",
    "cephfs": "cephfs",
    "cinder": "cinder",
    "rbd": "rbd",
    "scale_io": "scaleIO",
    "storageos": "storageos",
}
_PRIVATE_KINDS = frozenset({OriginKind.TOKEN, OriginKind.TRUST_BUNDLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Volumes:
    """The volumes of one pod."""

    by_name: Mapping[str, Volume]
    payloads: Mapping[str, Payload]  # of those that are made of API objects and can be made
    problems: tuple[Problem, ...]


def volume_type(volume: Volume) -> str:
    """The API's name of the volume's source, for example ``configMap``; "other" for one that is not known here."""
    return next((name for field, name in _TYPES.items() if getattr(volume, field) is not None), "other")


def explain_volumes(pod: Pod, *, where: str, source: ManifestSource) -> Volumes:
    """Make the payload of each volume that a container of *pod* mounts.

    Args:
        where: the pod's spec, for problems: ``Pod default/web: spec``.
    """
    spec = pod.spec
    containers = (*spec.init_containers, *spec.containers, *spec.ephemeral_containers)
    used = {mount.name for container in containers for mount in container.volume_mounts}
    payloads: dict[str, Payload] = {}
    problems: list[Problem] = []
    for index, volume in enumerate(spec.volumes):
        spot = f"{where}.volumes[{index}]"
        if volume.name not in used:
            message = f"no container mounts volume {volume.name}: the node does not set it up"
            problems.append(Problem(severity=Severity.NOTE, code="volume-unused", message=message, where=spot))
            continue
        if not has_payload(volume):
            continue
        try:
            payload = _make(volume, pod, source)
        except SetUpError as error:
            found = list(_part_problems(volume, pod, spot, source, blocked=True))
            problems += found or [_set_up_problem(volume, error, spot, source)]
            problems += _part_problems(volume, pod, spot, source, blocked=False)
            continue
        payloads[volume.name] = payload
        problems += _part_problems(volume, pod, spot, source, blocked=False)
        problems += _collision_problems(payload, spot)
        problems += _mode_problems(payload, fs_group_of(pod), spot)
        problems += _sight_problems(payload, hidden_names(pod, volume.name), spot)
    return Volumes(
        by_name={volume.name: volume for volume in spec.volumes}, payloads=payloads, problems=tuple(problems)
    )


def _make(volume: Volume, pod: Pod, source: ManifestSource) -> Payload:
    node = NodeInfo(name=pod.spec.node_name)
    return make_volume_payload(volume, pod, source, node=node, tokens=source, trust_bundles=source.trust_bundles)


def _part_problems(volume: Volume, pod: Pod, where: str, source: ManifestSource, *, blocked: bool) -> Iterator[Problem]:
    """The parts of *volume* - sources, items - that are missing: all that block it, or the optional ones."""
    for field, part in _parts(volume):
        for path, probe, is_optional in _probes(field, part):
            if is_optional is blocked:
                continue
            try:
                _make(probe, pod, source)
            except SetUpError as error:
                problem = _set_up_problem(
                    msgspec.structs.replace(probe, name=volume.name), error, f"{where}.{path}", source
                )
                if is_optional:
                    problem = Problem(
                        severity=Severity.WARNING,
                        code="missing-optional",
                        message=f"{error}; it is optional, so the volume goes without",
                        where=problem.where,
                        hint=problem.hint,
                    )
                yield problem
                if isinstance(error, MissingObject):
                    break  # its items would say the same


def _parts(volume: Volume) -> Iterator[tuple[str, Any]]:
    """(field path below the volume, one source as a struct) of each source."""
    if volume.projected is None:
        for field in ("secret", "config_map", "downward_api"):
            if (single := getattr(volume, field)) is not None:
                yield _TYPES[field], single
        return
    mode = volume.projected.default_mode
    for index, projection in enumerate(volume.projected.sources):
        lone = msgspec.structs.replace(volume.projected, sources=(projection,), default_mode=mode)
        yield f"projected.sources[{index}]", lone


def _probes(field: str, part: Any) -> Iterator[tuple[str, Volume, bool]]:
    """(field path, a volume of just that part and required, whether it is optional): the object first, then its items."""
    if field.startswith("projected"):
        projection = part.sources[0]
        for inner in ("secret", "config_map", "downward_api"):
            single = getattr(projection, inner)
            if single is None:
                continue
            for path, lone, is_optional in _item_probes(single):
                replaced = msgspec.structs.replace(projection, **{inner: lone})
                volume = Volume(name="v", projected=msgspec.structs.replace(part, sources=(replaced,)))
                yield f"{field}.{_TYPES[inner]}{path}", volume, is_optional
            return
        yield field, Volume(name="v", projected=part), False
        return
    attribute = next(name for name, api_name in _TYPES.items() if api_name == field)
    for path, lone, is_optional in _item_probes(part):
        yield f"{field}{path}", Volume(name="v", **{attribute: lone}), is_optional


def _item_probes(single: Any) -> Iterator[tuple[str, Any, bool]]:
    is_optional = bool(getattr(single, "optional", False))
    required = {"optional": False} if hasattr(single, "optional") else {}
    yield "", msgspec.structs.replace(single, items=(), **required), is_optional
    for index, item in enumerate(single.items):
        yield f".items[{index}]", msgspec.structs.replace(single, items=(item,), **required), is_optional


def _set_up_problem(volume: Volume, error: SetUpError, where: str, source: ManifestSource) -> Problem:
    code, hint = "volume-fails", ""
    cause = error.causes[0] if len(getattr(error, "causes", ())) == 1 else error  # type: ignore[attr-defined]
    if isinstance(cause, MissingObject):
        code, hint = "missing-object", source.object_hint(cause.kind, cause.name)
    elif isinstance(cause, MissingKey):
        code, hint = "missing-key", _missing_key_hint(volume, source)
    message = f"MountVolume.SetUp failed for volume {go_quote(volume.name)} : {error}"
    return Problem(severity=Severity.BLOCKS, code=code, message=message, where=where, hint=hint)


def _missing_key_hint(volume: Volume, source: ManifestSource) -> str:
    holder: Any = volume.projected.sources[0] if volume.projected is not None else volume
    if holder.secret is not None:
        name = getattr(holder.secret, "secret_name", None) or holder.secret.name
        return source.key_hint("secret", name, holder.secret.items[0].key)
    return source.key_hint("configmap", holder.config_map.name, holder.config_map.items[0].key)


def _collision_problems(payload: Payload, where: str) -> Iterator[Problem]:
    for path, file in payload.items():
        if file.replaced:
            losers = ", ".join(map(str, file.replaced))
            yield Problem(
                severity=Severity.WARNING,
                code="path-collision",
                message=f"file {path} is given more than once: {file.origin} wins over {losers}",
                where=where,
            )


def _mode_problems(payload: Payload, fs_group: int | None, where: str) -> Iterator[Problem]:
    widened: dict[tuple[int, int], list[str]] = {}
    for path, file in payload.items():
        final = file_ownership(file, fs_group=fs_group).mode
        if final != file.mode and file.origin.kind not in _PRIVATE_KINDS:
            widened.setdefault((file.mode, final), []).append(path)
    for (asked, final), paths in widened.items():
        yield Problem(
            severity=Severity.WARNING,
            code="mode-widened",
            message=f"fsGroup {fs_group} widens mode {asked:04o} to {final:04o}: {', '.join(paths)}",
            where=where,
            hint="programs that insist on a private file (ssh) refuse it; mount it into a container without fsGroup",
        )


def _sight_problems(payload: Payload, hidden: Collection[str], where: str) -> Iterator[Problem]:
    for name in sorted(hidden):
        paths = [path for path in payload if not is_in_sight(path, "", (name,))]
        if paths:
            yield Problem(
                severity=Severity.WARNING,
                code="path-hidden",
                message=f"{', '.join(paths)} cannot be seen: directory {name} stands there, for a mount beneath this volume",
                where=where,
                hint="every container that mounts the volume sees that directory; mount what lies beneath elsewhere",
            )

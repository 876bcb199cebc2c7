"""The chain behind one path in a container. Pure; see ``why.py``."""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kubelet_secrets.api.core import Container, KeyToPath, Pod, Volume, VolumeMount, VolumeProjection
from kubelet_secrets.api.origin import Origin, OriginKind
from kubelet_secrets.envvars.environment import Environment
from kubelet_secrets.envvars.subpath import resolve_sub_path
from kubelet_secrets.errors import ContainerConfigError, SetUpError
from kubelet_secrets.explain.model import Problem
from kubelet_secrets.explain.volumes import volume_type
from kubelet_secrets.explain.why import (
    WAITS_FOR_CONFIG,
    WAITS_FOR_VOLUMES,
    Chain,
    Step,
    enumerate_names,
    object_step,
    problems_below,
)
from kubelet_secrets.volume.mountpoints import is_below, mount_point, topmost
from kubelet_secrets.volume.nested import hidden_names, is_in_sight
from kubelet_secrets.volume.ownership import Ownership
from kubelet_secrets.volume.paths import clean_path
from kubelet_secrets.volume.payload import has_payload


class ShownFile(Protocol):
    """One file of a volume, as ``volume.payload`` or the pod's worker tells it."""

    @property
    def mode(self) -> int: ...
    @property
    def origin(self) -> Origin: ...
    @property
    def replaced(self) -> tuple[Origin, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """A file's size and who owns it; None where only a running node knows."""

    size_bytes: int | None = None
    ownership: Ownership | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContext:
    """What is known of one container's files.

    Attributes:
        base: the container's field: ``spec.containers[0]``.
        environment: for subPathExpr.
        payloads: by volume name; those that can be made.
        facts: by volume name and path.
        problems: of the pod's volumes and of the container; fields begin with ``spec``.
    """

    pod: Pod
    container: Container
    base: str
    environment: Environment
    payloads: Mapping[str, Mapping[str, ShownFile]]
    facts: Mapping[tuple[str, str], FileFacts]
    problems: Sequence[Problem]


def why_file(context: FileContext, path: str) -> Chain:
    """Say what is at *path* in the container and where it comes from, or why it is not there."""
    target = mount_point(path)
    found = _find_mount(context.container, target)
    if found is None:
        below = [
            each.mount_path
            for each in context.container.volume_mounts
            if is_below(mount_point(each.mount_path), target)
        ]
        rule = f"no volume is mounted at {target} or above it: what is there comes from the image"
        hint = f"below it: {enumerate_names(below)}" if below else _mounts_hint(context.container)
        return Chain(kind="nothing", target=target, steps=(), rule=rule, hint=hint)
    index, mount = found
    field = f"{context.base}.volumeMounts[{index}]"
    steps = [Step(where=field, text=_mount_text(mount))]
    hidden = [
        f"{context.base}.volumeMounts[{other}]"
        for other, each in enumerate(context.container.volume_mounts)
        if other != index and is_below(target, mount_point(each.mount_path))
    ]
    steps += [Step(where=each, text="lies under it: hidden at this path") for each in hidden]
    position, volume = _find_volume(context.pod, mount.name)
    if volume is None:
        rule = f'cannot find volume "{mount.name}" to mount into container "{context.container.name}"'
        return _stopped(target, steps, rule, WAITS_FOR_CONFIG.format(context.container.name))
    spot = f"spec.volumes[{position}]"
    if not has_payload(volume):
        return _plain(target, steps, volume, spot)
    try:
        sub_path = resolve_sub_path(mount, context.environment)
    except ContainerConfigError as error:
        return _stopped(target, steps, str(error), WAITS_FOR_CONFIG.format(context.container.name))
    blocking = problems_below(context.problems, spot, blocking=True)
    payload = context.payloads.get(volume.name)
    if payload is None:
        rule = blocking[0].message if blocking else f"volume {volume.name} has not been set up yet"
        hint = blocking[0].hint if blocking else ""
        where = blocking[0].where.rpartition(": ")[2] if blocking else spot
        steps.append(Step(where=where, text=f"volume {volume.name} cannot be made"))
        return _stopped(target, steps, rule, WAITS_FOR_VOLUMES, hint)
    return _in_volume(context, target, steps, mount, volume, spot, sub_path, payload)


def _in_volume(
    context: FileContext,
    target: str,
    steps: list[Step],
    mount: VolumeMount,
    volume: Volume,
    spot: str,
    sub_path: str,
    payload: Mapping[str, ShownFile],
) -> Chain:
    inside = posixpath.join(sub_path, posixpath.relpath(target, mount_point(mount.mount_path)))
    relative = _strip_machinery(inside)
    frozen = bool(sub_path)
    hidden = hidden_names(context.pod, volume.name)
    covered = sorted(path for path in payload if not is_in_sight(path, inside, hidden))
    payload = {path: file for path, file in payload.items() if path not in covered}
    if relative in payload:
        file = payload[relative]
        facts = context.facts.get((volume.name, relative), FileFacts())
        steps += _source_steps(volume, spot, relative, file)
        if (behind := object_step(file.origin, facts.size_bytes)) is not None:
            steps.append(behind)
        if facts.ownership is not None:
            steps.append(Step(where=f"the file {relative}", text=_mode_text(context.pod, file, facts.ownership)))
        if frozen:
            steps.append(Step(where=steps[0].where, text=_fate(target == mount_point(mount.mount_path))))
        return Chain(
            kind="file",
            target=target,
            steps=tuple(steps),
            origin=file.origin,
            frozen=frozen,
            volume=volume.name,
            path=relative,
        )
    below = sorted(path for path in payload if relative == "" or path.startswith(f"{relative}/"))
    steps.append(Step(where=spot, text=_volume_text(volume)))
    if below or relative == "":
        text = f"the directory of {enumerate_names(below)}" if below else "an empty directory"
        steps.append(Step(where=f"the volume {volume.name}", text=text))
        return Chain(
            kind="directory", target=target, steps=tuple(steps), frozen=frozen, volume=volume.name, path=relative
        )
    optional = [
        each for each in problems_below(context.problems, spot, blocking=False) if each.code == "missing-optional"
    ]
    if optional:
        steps.append(Step(where=optional[0].where.rpartition(": ")[2], text=optional[0].message))
    if relative in covered:
        rule = f"volume {volume.name} has {relative}, but a directory for a mount beneath it stands in its place"
    elif frozen and posixpath.normpath(sub_path) == relative:
        rule = f"volume {volume.name} has no {relative}: the container sees an empty directory at {mount.mount_path}"
    else:
        rule = f"volume {volume.name} shows no file {relative}"
    hint = optional[0].hint if optional and not payload else _files_hint(relative, payload)
    return Chain(
        kind="nothing",
        target=target,
        steps=tuple(steps),
        rule=rule,
        hint=hint,
        frozen=frozen,
        volume=volume.name,
        path=relative,
    )


def _fate(is_file: bool) -> str:
    """What becomes of what a subPath shows when the volume changes."""
    if is_file:
        return "a subPath: it stays what it was when the container started"
    return "in a directory by subPath, of the version at the container's start: gone as soon as the volume changes"


# --- mounts ----------------------------------------------------------------------------------------------------------


def _find_mount(container: Container, target: str) -> tuple[int, VolumeMount] | None:
    """The mount that is seen at *target*."""
    index = topmost([mount_point(mount.mount_path) for mount in container.volume_mounts], target)
    return (index, container.volume_mounts[index]) if index is not None else None


def _mount_text(mount: VolumeMount) -> str:
    part = ""
    if mount.sub_path_expr:
        part = f", subPathExpr {mount.sub_path_expr}"
    elif mount.sub_path:
        part = f", subPath {mount.sub_path}"
    return f"volume {mount.name} at {mount.mount_path}{part}"


def _mounts_hint(container: Container) -> str:
    paths = [mount.mount_path for mount in container.volume_mounts]
    return f"container {container.name} mounts {enumerate_names(paths)}" if paths else "it mounts nothing"


def _find_volume(pod: Pod, name: str) -> tuple[int, Volume | None]:
    for index, volume in enumerate(pod.spec.volumes):
        if volume.name == name:
            return index, volume
    return 0, None


def _plain(target: str, steps: list[Step], volume: Volume, spot: str) -> Chain:
    kind = volume_type(volume)
    writers = {
        "emptyDir": "what is in it was written by the pod's containers",
        "hostPath": "what is in it is the host's",
    }
    text = f"{kind}: {writers.get(kind, 'not a volume that is made of API objects')}"
    return Chain(kind="directory", target=target, steps=(*steps, Step(where=f"{spot}.{kind}", text=text)))


def _stopped(target: str, steps: Sequence[Step], rule: str, effect: str, hint: str = "") -> Chain:
    return Chain(kind="nothing", target=target, steps=tuple(steps), rule=rule, effect=effect, hint=hint)


def _strip_machinery(path: str) -> str:
    """*path* in a volume without ``..data`` or a version's directory in front: both show the same files."""
    cleaned = posixpath.normpath(path)
    first, _, rest = cleaned.partition("/")
    if first.startswith("..") and first != "..":
        cleaned = rest
    return "" if cleaned in (".", "") else cleaned


def _files_hint(relative: str, payload: Mapping[str, ShownFile]) -> str:
    if alike := difflib.get_close_matches(relative, list(payload), n=1, cutoff=0.75):
        return f"did you mean {alike[0]}?"
    return f"it shows {enumerate_names(sorted(payload))}" if payload else "it is empty"


def _mode_text(pod: Pod, file: ShownFile, ownership: Ownership) -> str:
    text = f"mode {ownership.mode & 0o777:04o}, owner {ownership.uid}:{ownership.gid}"
    group = pod.spec.security_context.fs_group
    if group is not None and ownership.mode & 0o777 != file.mode:
        text += f" (mode {file.mode:04o}, widened by fsGroup {group})"
    return text


# --- volumes ---------------------------------------------------------------------------------------------------------


def _volume_text(volume: Volume) -> str:
    match volume:
        case Volume(secret=source) if source is not None:
            return f"secret/{source.secret_name}"
        case Volume(config_map=config_map) if config_map is not None:
            return f"configmap/{config_map.name}"
        case Volume(projected=projected) if projected is not None:
            return f"projected from {len(projected.sources)} sources"
        case _:
            return volume_type(volume)


def _source_steps(volume: Volume, spot: str, path: str, file: ShownFile) -> Iterator[Step]:
    """The line that gives *path*, and those that gave it before and lost."""
    for origin in file.replaced:
        where, _ = next(_matching_lines(volume, spot, path, origin), (spot, ""))
        yield Step(where=where, text=f"{origin}: the same path, overridden by a later source")
    lines = list(_matching_lines(volume, spot, path, file.origin))
    where, text = lines[-1] if lines else (spot, _volume_text(volume))
    yield Step(where=where, text=text)


def _matching_lines(volume: Volume, spot: str, path: str, origin: Origin) -> Iterator[tuple[str, str]]:
    """(field, what it says) of each line of *volume* that gives *path* from *origin*, in order."""
    if volume.projected is not None:
        for index, projection in enumerate(volume.projected.sources):
            yield from _projection_lines(projection, f"{spot}.projected.sources[{index}]", path, origin)
        return
    if volume.secret is not None:
        name = volume.secret.secret_name
        yield from _item_lines(f"secret/{name}", volume.secret.items, f"{spot}.secret", path, origin, name)
    elif volume.config_map is not None:
        name = volume.config_map.name
        yield from _item_lines(f"configmap/{name}", volume.config_map.items, f"{spot}.configMap", path, origin, name)
    elif volume.downward_api is not None:
        yield from _field_lines(volume.downward_api.items, f"{spot}.downwardAPI", path, origin)


def _projection_lines(projection: VolumeProjection, spot: str, path: str, origin: Origin) -> Iterator[tuple[str, str]]:
    if projection.secret is not None and origin.kind is OriginKind.SECRET:
        name = projection.secret.name
        yield from _item_lines(f"secret/{name}", projection.secret.items, f"{spot}.secret", path, origin, name)
    elif projection.config_map is not None and origin.kind is OriginKind.CONFIG_MAP:
        name = projection.config_map.name
        items = projection.config_map.items
        yield from _item_lines(f"configmap/{name}", items, f"{spot}.configMap", path, origin, name)
    elif projection.downward_api is not None:
        yield from _field_lines(projection.downward_api.items, f"{spot}.downwardAPI", path, origin)
    elif (token := projection.service_account_token) is not None and origin.kind is OriginKind.TOKEN:
        is_it, where = _is_same(token.path, path) and token.audience == origin.key, f"{spot}.serviceAccountToken"
        text = f"a token for {token.audience or 'the API server'}, good for {token.expiration_seconds or 3600} s"
        yield from [(where, text)] * is_it
    elif (bundle := projection.cluster_trust_bundle) is not None and origin.kind is OriginKind.TRUST_BUNDLE:
        text = f"the certificates of {bundle.name or bundle.signer_name}"
        yield from [(f"{spot}.clusterTrustBundle", text)] * _is_same(bundle.path, path)


def _item_lines(
    what: str, items: Sequence[KeyToPath], spot: str, path: str, origin: Origin, name: str
) -> Iterator[tuple[str, str]]:
    if origin.name != name:
        return
    if not items:
        if origin.key == path:
            yield spot, f"every key of {what} under its own name"
        return
    for index, item in enumerate(items):
        if item.key == origin.key and _is_same(item.path, path):
            mode = f", mode {item.mode:04o}" if item.mode is not None else ""
            yield f"{spot}.items[{index}]", f"key {item.key} of {what} as {item.path}{mode}"


def _field_lines(items: Sequence[Any], spot: str, path: str, origin: Origin) -> Iterator[tuple[str, str]]:
    if origin.kind not in (OriginKind.FIELD, OriginKind.RESOURCE_FIELD):
        return
    for index, item in enumerate(items):
        if _is_same(item.path, path):
            yield f"{spot}.items[{index}]", f"{origin} as {item.path}"


def _is_same(written: str, cleaned: str) -> bool:
    try:
        return clean_path(written) == cleaned
    except SetUpError:
        return False

"""The files of a container, and what is wrong with the mounts that show them.

Pure. Made from the payloads of the pod's volumes (``volumes``) and the mounts of one container.
"""

from __future__ import annotations

import dataclasses
import itertools
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kubelet_secrets.api.core import Container, Pod, Volume, VolumeMount
from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.envvars.environment import Environment
from kubelet_secrets.envvars.subpath import resolve_sub_path
from kubelet_secrets.errors import ContainerConfigError
from kubelet_secrets.explain.lookup import ManifestSource, is_run_time
from kubelet_secrets.explain.model import FileView, MountView, Problem, Severity
from kubelet_secrets.explain.nesting import Placed, nesting_problems
from kubelet_secrets.explain.variables import is_known
from kubelet_secrets.explain.volumes import Volumes, volume_type
from kubelet_secrets.volume.mountpoints import mount_point, topmost
from kubelet_secrets.volume.nested import hidden_names, is_in_sight
from kubelet_secrets.volume.ownership import file_ownership, fs_group_of
from kubelet_secrets.volume.paths import MAX_NAME_LENGTH
from kubelet_secrets.volume.payload import FileProjection, Payload, has_payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What one container's mounts come to."""

    mounts: tuple[MountView, ...]
    files: tuple[FileView, ...]
    problems: tuple[Problem, ...]


def explain_files(
    pod: Pod,
    container: Container,
    volumes: Volumes,
    environment: Environment,
    *,
    where: str,
    is_template: bool,
    source: ManifestSource,
    is_environment_complete: bool,
) -> Files:
    """Lay the volumes out at the mounts of *container*.

    Args:
        where: the container, for problems: ``Pod default/web: spec.containers[0]``.
        is_template: the pod gets its name when it is made.
        is_environment_complete: whether a name missing from *environment* is missing for good.
    """
    mounts: list[MountView] = []
    files: list[tuple[MountView, FileView]] = []
    problems: list[Problem] = []
    placed: list[Placed] = []
    for index, mount in enumerate(container.volume_mounts):
        spot = f"{where}.volumeMounts[{index}]"
        volume = volumes.by_name.get(mount.name)
        if volume is None:
            message = f"Not found: {go_quote(mount.name)}"
            problems.append(
                Problem(severity=Severity.BLOCKS, code="unknown-volume", message=message, where=f"{spot}.name")
            )
            continue
        path = mount_point(mount.mount_path)
        try:
            sub_path = resolve_sub_path(mount, environment)
        except ContainerConfigError as error:
            if is_environment_complete:
                problems.append(
                    Problem(severity=Severity.BLOCKS, code="sub-path-invalid", message=str(error), where=spot)
                )
            continue
        mounts.append(_mount_view(path, mount, volume, sub_path))
        payload = volumes.payloads.get(mount.name)
        if payload is None or not is_known(sub_path):
            is_empty = volume.empty_dir is not None and not _is_filled(pod, container, mount.name)
            placed.append(Placed(index=index, view=mounts[-1], files=None, stays_empty=is_empty))
            continue
        hidden = hidden_names(pod, mount.name)
        payload = {each: file for each, file in payload.items() if is_in_sight(each, sub_path, hidden)}
        if why := _obstacle(payload, sub_path):
            message = f'failed to prepare subPath for volumeMount "{mount.name}" of container "{container.name}"'
            problems.append(
                Problem(
                    severity=Severity.BLOCKS,
                    code="sub-path-unusable",
                    message=message,
                    where=f"{spot}.subPath",
                    hint=why,
                )
            )
            continue
        shown = dict(_below(payload, path, sub_path))
        placed.append(Placed(index=index, view=mounts[-1], files=shown))
        problems += _sub_path_problems(mount, shown, sub_path, spot, source)
        for file_path, file in shown.items():
            known = source.is_known(file.origin) and not is_run_time(file.origin, pod, None, is_template=is_template)
            view = _file_view(file_path, file, mount, pod, known=known)
            is_frozen = bool(sub_path) or source.is_immutable(file.origin)
            files.append((mounts[-1], dataclasses.replace(view, refreshes=not is_frozen)))
    visible, covered = _split_hidden(files, mounts)
    problems += _hidden_problems(covered, where)
    problems += nesting_problems(placed, where)
    return Files(mounts=tuple(mounts), files=tuple(visible), problems=tuple(problems))


def _is_filled(pod: Pod, container: Container, volume: str) -> bool:
    """Whether another container can have written to the volume before this one starts, be it at a later attempt."""
    before = list(itertools.takewhile(lambda each: each.name != container.name, pod.spec.init_containers))
    if len(before) == len(pod.spec.init_containers):  # it is none of them: they are over, and its equals may come first
        before += [each for each in pod.spec.containers if each.name != container.name]
    return any(mount.name == volume and not mount.read_only for each in before for mount in each.volume_mounts)


def _mount_view(path: str, mount: VolumeMount, volume: Volume, sub_path: str) -> MountView:
    return MountView(
        path=path,
        volume=mount.name,
        volume_type=volume_type(volume),
        sub_path=sub_path if is_known(sub_path) else mount.sub_path_expr,
        read_only=mount.read_only or has_payload(volume),
    )


def _below(payload: Payload, mount_path: str, sub_path: str) -> Iterator[tuple[str, FileProjection]]:
    """(path in the container, file) of what *sub_path* of the payload shows at *mount_path*."""
    wanted = posixpath.normpath(sub_path).removeprefix("..data/") if sub_path else ""
    wanted = "" if wanted in (".", "..data") else wanted
    for path, file in payload.items():
        if not wanted:
            yield posixpath.join(mount_path, path), file
        elif path == wanted:
            yield mount_path, file
        elif path.startswith(wanted + "/"):
            yield posixpath.join(mount_path, path.removeprefix(wanted + "/")), file


def _obstacle(payload: Payload, sub_path: str) -> str:
    """Why nothing can be opened at *sub_path*; empty when it can, or can be made."""
    elements = [each for each in posixpath.normpath(sub_path).split("/") if each != "..data"]
    if any("\0" in each or len(each.encode("utf-8", "surrogateescape")) > MAX_NAME_LENGTH for each in elements):
        return "no file can be called that"
    files = ("/".join(elements[:count]) for count in range(1, len(elements)))
    return next((f"{path} is a file" for path in files if path in payload), "")


def _file_view(path: str, file: FileProjection, mount: VolumeMount, pod: Pod, *, known: bool) -> FileView:
    return FileView(
        path=path,
        ownership=file_ownership(file, fs_group=fs_group_of(pod)),
        size_bytes=len(file.data) if known else None,
        origin=file.origin,
        replaced=file.replaced,
        volume=mount.name,
        refreshes=True,
        data=file.data if known else None,
    )


def _sub_path_problems(
    mount: VolumeMount, shown: Mapping[str, FileProjection], sub_path: str, where: str, source: ManifestSource
) -> Iterator[Problem]:
    if not sub_path:
        return
    if not shown:
        yield Problem(
            severity=Severity.WARNING,
            code="sub-path-missing",
            message=f"volume {mount.name} has no {sub_path}: the container sees an empty directory there",
            where=f"{where}.subPath",
        )
    elif not all(source.is_immutable(file.origin) for file in shown.values()):
        fate = "stays as it is at the container's start, whatever changes"
        if mount_point(mount.mount_path) not in shown:
            # It is a directory of one version, whose files are removed with that version.
            fate = "is a directory of the version at the container's start, and empty as soon as the volume changes"
        yield Problem(
            severity=Severity.WARNING,
            code="sub-path-frozen",
            message=f"mounted by subPath: {mount.mount_path} {fate}",
            where=f"{where}.subPath",
            hint="mount the whole volume to see updates",
        )


def _split_hidden(
    files: Sequence[tuple[MountView, FileView]], mounts: Sequence[MountView]
) -> tuple[list[FileView], list[tuple[FileView, MountView]]]:
    """What can be seen, and what lies under another mount."""
    visible: list[FileView] = []
    hidden: list[tuple[FileView, MountView]] = []
    points = [mount.path for mount in mounts]
    for own, file in files:
        seen = topmost(points, file.path)
        assert seen is not None, "its own mount covers it"
        if mounts[seen] is own:
            visible.append(file)
        else:
            hidden.append((file, mounts[seen]))
    return visible, hidden


def _hidden_problems(hidden: Sequence[tuple[FileView, MountView]], where: str) -> Iterator[Problem]:
    for file, mount in hidden:
        yield Problem(
            severity=Severity.WARNING,
            code="file-hidden",
            message=f"{file.path} of volume {file.volume} is hidden by volume {mount.volume}, mounted at {mount.path}",
            where=where,
        )

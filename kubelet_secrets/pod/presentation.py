"""A pod's variables and files in the words of the control socket: as started, as they would be now, and since when. Pure.

Called by ``inspection``. Values are in the answer only where they were asked for.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from kubelet_secrets.api.core import VolumeMount
from kubelet_secrets.control.protocol import EnvRow, EnvView, FileRow
from kubelet_secrets.envvars.environment import EnvEntry
from kubelet_secrets.envvars.passing import as_passed
from kubelet_secrets.envvars.subpath import resolve_sub_path
from kubelet_secrets.errors import ContainerConfigError
from kubelet_secrets.pod.environ import EnvState, EnvVersion
from kubelet_secrets.pod.state import containers_of
from kubelet_secrets.pod.views import ContainerView, PodView
from kubelet_secrets.pod.volumes import FileInfo, VolumeEdition, VolumeState, failed_mount
from kubelet_secrets.volume.modes import EntryKind, with_fs_group
from kubelet_secrets.volume.mountpoints import mount_point, topmost
from kubelet_secrets.volume.nested import hidden_names, is_in_sight
from kubelet_secrets.volume.ownership import fs_group_of
from kubelet_secrets.volume.store import StoredFile


def format_time(time: datetime) -> str:
    """RFC 3339 with milliseconds, UTC."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- variables -------------------------------------------------------------------------------------------------------


def make_env_view(pod: PodView, container: ContainerView, *, show_values: bool) -> EnvView:
    """What ``env`` shows of one container. Variables keep the order of the environment; ones that are new come last."""
    env = container.env
    started = env.started.environment.entries if env.started is not None else {}
    current = env.current.environment.entries if env.current is not None else {}
    metadata = pod.pod.metadata
    return EnvView(
        namespace=metadata.namespace,
        pod=metadata.name,
        container=container.name,
        started_version=env.started.number if env.started is not None else 0,
        started_since=format_time(env.started.since) if env.started is not None else "",
        current_version=env.current.number if env.current is not None else 0,
        since=format_time(env.current.since) if env.current is not None else "",
        problem=env.problem,
        rows=tuple(_env_row(name, env, show_values=show_values) for name in {**started, **current}),
    )


def _env_row(name: str, env: EnvState, *, show_values: bool) -> EnvRow:
    started, current = _entry(env.started, name), _entry(env.current, name)
    shown = started if started is not None else current
    assert shown is not None
    differs = env.started is not None and (started is None or current is None or started.value != current.value)
    return EnvRow(
        name=name,
        origin=str(shown.origin),
        size=len(as_passed(shown.value).encode()),
        value=as_passed(shown.value) if show_values else None,
        current_value=as_passed(current.value) if show_values and differs and current is not None else None,
        stale=differs and started is not None and current is not None,
        missing=started is not None and current is None,
        added=env.started is not None and started is None,
        since=_since(env.current or env.started, name),
        started_resource_version=started.origin.resource_version if started is not None else "",
        current_resource_version=current.origin.resource_version if current is not None else "",
    )


def _entry(version: EnvVersion | None, name: str) -> EnvEntry | None:
    return version.environment.entries.get(name) if version is not None else None


def _since(version: EnvVersion | None, name: str) -> str:
    return format_time(version.changed.get(name, version.since)) if version is not None else ""


# --- files -----------------------------------------------------------------------------------------------------------


def make_file_rows(
    pod: PodView,
    container: ContainerView,
    files: Mapping[str, Sequence[StoredFile]],
    bound: Mapping[str, str],
    *,
    revoked: Collection[str] = (),
) -> tuple[FileRow, ...]:
    """What ``tree`` shows of one container.

    Args:
        files: of each volume's current version, by volume name.
        bound: mount point → version, for what the container holds by subPath.
        revoked: volumes that nobody reads any more.
    """
    rows: list[FileRow] = []
    spec = next((each for _, each in containers_of(pod.pod) if each.name == container.name), None)
    mounts = spec.volume_mounts if spec is not None else ()
    points = [mount_point(mount.mount_path) for mount in mounts]
    for index, mount in enumerate(mounts):
        state = pod.volumes.get(mount.name)
        if state is None or state.version is None:
            continue
        made = container.env.started or container.env.current
        try:
            sub_path = resolve_sub_path(mount, made.environment) if made is not None else mount.sub_path
        except ContainerConfigError:
            continue  # `why` says what is wrong; there is no file to show
        found = _mount_rows(pod, container, mount, sub_path, state, files.get(mount.name, ()), bound)
        if mount.name in revoked:
            found = [msgspec.structs.replace(row, revoked=True) for row in found]
        rows += [row for row in found if topmost(points, row.path) == index]
    return tuple(rows)


def make_tree_problems(pod: PodView, container: ContainerView) -> tuple[str, ...]:
    """Why volumes that the container mounts cannot be made at the moment, in the words of their events."""
    spec = next((each for _, each in containers_of(pod.pod) if each.name == container.name), None)
    mounted = {mount.name for mount in spec.volume_mounts} if spec is not None else set()
    return tuple(
        failed_mount(volume, state.problem)
        for volume in pod.pod.spec.volumes
        if volume.name in mounted and (state := pod.volumes.get(volume.name)) is not None and state.problem
    )


def _mount_rows(
    pod: PodView,
    container: ContainerView,
    mount: VolumeMount,
    sub_path: str,
    state: VolumeState,
    stored: Sequence[StoredFile],
    bound: Mapping[str, str],
) -> list[FileRow]:
    assert state.version is not None
    hidden = hidden_names(pod.pod, mount.name)
    stored = [each for each in stored if is_in_sight(each.path, sub_path, hidden)]
    held = bound.get(mount_point(mount.mount_path), "") if sub_path else ""
    if held in ("", state.version.name):
        return [
            _row(mount, sub_path, state, shown, each, started=_version_at_start(state, container))
            for each in stored
            if (shown := _below(each.path, sub_path)) is not None
        ]
    edition = next((each for each in state.earlier if each.version.name == held), None)
    if edition is None:  # older than this agent: what was in it is forgotten
        return [
            FileRow(
                path=mount_point(mount.mount_path),
                mode="?",
                uid=0,
                gid=0,
                size=None,
                version=held,
                current=state.version.name,
                started=held,
                since="",
                origin="",
                volume=mount.name,
                updates=False,
                stale=True,
            )
        ]
    return _held_rows(pod, mount, sub_path, state, stored, edition)


def _row(
    mount: VolumeMount, sub_path: str, state: VolumeState, shown: str, stored: StoredFile, *, started: str
) -> FileRow:
    assert state.version is not None
    origins = {file.path: str(file.origin) for file in state.files}
    return FileRow(
        path=_join(mount, shown),
        mode=stat.filemode(stat.S_IFREG | stored.mode),
        uid=stored.uid,
        gid=stored.gid,
        size=stored.size_bytes,
        version=state.version.name,
        current=state.version.name,
        started=state.version.name if sub_path else started,
        since=format_time(state.version.since),
        origin=origins.get(stored.path, ""),
        volume=mount.name,
        updates=not sub_path,
    )


def _held_rows(
    pod: PodView,
    mount: VolumeMount,
    sub_path: str,
    state: VolumeState,
    stored: Sequence[StoredFile],
    edition: VolumeEdition,
) -> list[FileRow]:
    """What a subPath shows of a version that is not current any more."""
    assert state.version is not None
    now = {file.path: file for file in state.files}
    kept = {file.path: file for file in stored}
    fs_group = fs_group_of(pod.pod)
    rows = []
    for file in edition.files:
        shown = _below(file.path, sub_path)
        # The files of a directory went with their version; only a file that is bound by itself stays.
        if shown != "":
            continue
        like = kept.get(file.path)  # the same item has the same owner and mode in every version
        mode = like.mode if like is not None else _mode(file, fs_group)
        rows.append(
            FileRow(
                path=_join(mount, shown),
                mode=stat.filemode(stat.S_IFREG | mode),
                uid=like.uid if like is not None else 0,
                gid=like.gid if like is not None else fs_group or 0,
                size=file.size_bytes,
                version=edition.version.name,
                current=state.version.name,
                started=edition.version.name,
                since=format_time(edition.version.since),
                origin=str(file.origin),
                volume=mount.name,
                updates=False,
                stale=_has_changed(file, now.get(file.path)),
            )
        )
    return rows


def _mode(file: FileInfo, fs_group: int | None) -> int:
    return file.mode if fs_group is None else with_fs_group(file.mode, EntryKind.FILE)


def _has_changed(held: FileInfo, now: FileInfo | None) -> bool:
    """Whether *now* may have other content: another object, or another version of it."""
    return now is None or (held.origin, held.size_bytes) != (now.origin, now.size_bytes)


def _version_at_start(state: VolumeState, container: ContainerView) -> str:
    """The version that was current when the container started; empty when nobody remembers."""
    instance = container.instance
    if instance is None or instance.started_at is None or state.version is None:
        return ""
    versions = [*(edition.version for edition in state.earlier), state.version]
    before = [version.name for version in versions if version.since <= instance.started_at]
    return before[-1] if before else ""


def _join(mount: VolumeMount, shown: str) -> str:
    return posixpath.join(mount_point(mount.mount_path), shown) if shown else mount_point(mount.mount_path)


def _below(path: str, sub_path: str) -> str | None:
    """*path* relative to *sub_path*; "" when it is that very file, None when it lies elsewhere."""
    elements = [element for element in sub_path.split("/") if element not in ("", ".", "..data")]
    if not elements:
        return path
    wanted = "/".join(elements)
    if path == wanted:
        return ""
    return path.removeprefix(wanted + "/") if path.startswith(wanted + "/") else None

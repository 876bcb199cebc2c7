"""The node's state in the words of the control socket: what ``status``, ``env``, ``tree`` and ``audit`` are told.

Stands beside ``agent.py``, which wires it to the socket. Values leave here only where ``show_values`` is asked for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from kubelet_secrets.access.audit import AuditLog, AuditRecord
from kubelet_secrets.api.core import VolumeMount
from kubelet_secrets.control.protocol import (
    AuditView,
    ContainerSummary,
    EnvRow,
    EnvView,
    FileRow,
    LogPart,
    NodeSummary,
    PodSummary,
    TreeView,
)
from kubelet_secrets.control.server import Handler, Send
from kubelet_secrets.envvars.environment import EnvEntry
from kubelet_secrets.envvars.subpath import resolve_sub_path
from kubelet_secrets.errors import ContainerConfigError, SetUpError, UsageError
from kubelet_secrets.pod.manager import PodManager
from kubelet_secrets.pod.views import ContainerView, PodView
from kubelet_secrets.runtime.logs import LogOptions, copy_log
from kubelet_secrets.runtime.oci import OciRuntime
from kubelet_secrets.volume.store import Store


class Inspection:
    """Answers for one node."""

    def __init__(
        self,
        *,
        node_name: str,
        root_dir: str,
        resumed: bool,
        pods: PodManager,
        store: Store,
        runtime: OciRuntime,
        audit: AuditLog,
    ) -> None:
        self._node_name = node_name
        self._root_dir = root_dir
        self._resumed = resumed
        self._pods = pods
        self._store = store
        self._runtime = runtime
        self._audit = audit

    @property
    def handlers(self) -> dict[str, Handler]:
        return {"status": self.status, "env": self.env, "tree": self.tree, "audit": self.audit, "logs": self.logs}

    async def status(self, params: Mapping[str, Any], send: Send) -> None:
        await send(
            NodeSummary(
                node=self._node_name,
                agent_pid=os.getpid(),
                resumed=self._resumed,
                root_dir=self._root_dir,
                pods=tuple(self._summary(view) for view in self._pods.views()),
            )
        )

    async def env(self, params: Mapping[str, Any], send: Send) -> None:
        last: EnvView | None = None
        while True:
            pod, container = self._find(params)
            view = make_env_view(pod, container, show_values=bool(params.get("show_values")))
            if view != last:
                await send(view)
                last = view
            if not params.get("watch"):
                return
            await self._pods.wait_changed()

    async def tree(self, params: Mapping[str, Any], send: Send) -> None:
        pod, container = self._find(params)
        rows: list[FileRow] = []
        for mount in _mounts_of(pod, container):
            rows += self._files(pod, container, mount)
        metadata = pod.pod.metadata
        await send(
            TreeView(namespace=metadata.namespace, pod=metadata.name, container=container.name, rows=tuple(rows))
        )

    async def audit(self, params: Mapping[str, Any], send: Send) -> None:
        denied_only = bool(params.get("denied"))
        self._audit.expire(datetime.now(UTC))  # what is being folded counts as well
        with self._audit.subscribe() as subscription:
            for record in self._audit.records(denied_only=denied_only):
                await send(make_audit_view(record))
            if not params.get("follow"):
                return
            async for event in subscription:
                if not (denied_only and event.record.allowed):
                    await send(make_audit_view(event.record, dropped=event.dropped))

    async def logs(self, params: Mapping[str, Any], send: Send) -> None:
        _, container = self._find(params)
        if container.instance is None:
            raise UsageError(f"container {container.name} has not been started: {container.state}")
        handle = self._runtime.state(container.instance.container_id)
        tail = int(params.get("tail", -1))
        options = LogOptions(
            follow=bool(params.get("follow")),
            tail_lines=tail if tail >= 0 else None,
            timestamps=bool(params.get("timestamps")),
        )

        async def pass_on(data: bytes) -> None:
            await send(LogPart(data))

        ended = partial(self._runtime.wait_exit, handle.id)
        await copy_log(Path(handle.record.log_path), options, pass_on, ended=ended if options.follow else None)

    def _find(self, params: Mapping[str, Any]) -> tuple[PodView, ContainerView]:
        """Raises: UsageError when this node has no such pod, or the pod no such container."""
        namespace, name = str(params.get("namespace") or "default"), str(params.get("pod", ""))
        view = self._pods.find(namespace, name)
        if view is None:
            raise UsageError(f'no pod "{name}" in namespace "{namespace}" on node {self._node_name}')
        wanted = str(params.get("container", ""))
        container = view.container(wanted)
        if container is None:
            names = " ".join(each.name for each in view.containers)
            raise UsageError(f"container {wanted} is not valid for pod {name}: choose one of [{names}]")
        return view, container

    def _summary(self, view: PodView) -> PodSummary:
        metadata = view.pod.metadata
        return PodSummary(
            namespace=metadata.namespace,
            name=metadata.name,
            uid=metadata.uid,
            phase=view.status.phase,
            containers=tuple(self._container(each) for each in view.containers),
            volumes=tuple(view.volumes),
        )

    def _container(self, view: ContainerView) -> ContainerSummary:
        instance = view.instance
        if instance is None:
            return ContainerSummary(name=view.name, state=view.state)
        pid = self._runtime.state(instance.container_id).pid if instance.is_running else None
        return ContainerSummary(
            name=view.name,
            state=view.state,
            container_id=instance.container_id,
            pid=pid or 0,
            restarts=instance.attempt,
        )

    def _files(self, pod: PodView, container: ContainerView, mount: VolumeMount) -> list[FileRow]:
        state = pod.volumes.get(mount.name)
        if state is None or state.version is None:
            return []
        made = container.env.started or container.env.current
        try:
            sub_path = resolve_sub_path(mount, made.environment) if made is not None else mount.sub_path
            stored = self._store.files(pod.pod.metadata.uid, mount.name)
        except (ContainerConfigError, SetUpError):
            return []  # `why` says what is wrong; there is no file to show
        origins = {file.path: str(file.origin) for file in state.files}
        rows = []
        for file in stored:
            shown = _below(file.path, sub_path)
            if shown is None:
                continue
            rows.append(
                FileRow(
                    path="/".join(part for part in (mount.mount_path.rstrip("/"), shown) if part),
                    mode=stat.filemode(stat.S_IFREG | file.mode),
                    uid=file.uid,
                    gid=file.gid,
                    size=file.size_bytes,
                    version=state.version.name,
                    origin=origins.get(file.path, ""),
                    volume=mount.name,
                    updates=not sub_path,
                )
            )
        return rows


def make_env_view(pod: PodView, container: ContainerView, *, show_values: bool) -> EnvView:
    """What ``env`` shows of one container. Variables keep the order of the environment; ones that are new come last."""
    env = container.env
    started = env.started.environment.entries if env.started is not None else {}
    current = env.current.environment.entries if env.current is not None else {}
    rows = tuple(_env_row(name, started.get(name), current.get(name), show_values) for name in {**started, **current})
    metadata = pod.pod.metadata
    return EnvView(
        namespace=metadata.namespace,
        pod=metadata.name,
        container=container.name,
        started_version=env.started.number if env.started is not None else 0,
        current_version=env.current.number if env.current is not None else 0,
        since=format_time(env.current.since) if env.current is not None else "",
        problem=env.problem,
        rows=rows,
    )


def _env_row(name: str, started: EnvEntry | None, current: EnvEntry | None, show_values: bool) -> EnvRow:
    shown = started if started is not None else current
    assert shown is not None
    differs = started is not None and (current is None or current.value != started.value)
    return EnvRow(
        name=name,
        origin=str(shown.origin),
        size=len(shown.value.encode("utf-8", "surrogateescape")),
        value=_printable(shown.value) if show_values else None,
        current_value=_printable(current.value) if show_values and differs and current is not None else None,
        stale=differs and current is not None,
        missing=started is not None and current is None,
    )


def make_audit_view(record: AuditRecord, *, dropped: int = 0) -> AuditView:
    who = record.container or f"host pid {record.pid} ({record.exe or 'unknown'}), uid {record.uid}"
    return AuditView(
        time=format_time(record.time),
        verdict=record.verdict,
        file="/".join(part for part in (record.volume, record.path) if part) or "/",
        who=who,
        why=record.reason + (f" (x{record.count})" if record.count > 1 else ""),
        count=record.count,
        namespace=record.namespace,
        pod=record.pod,
        container=record.container,
        volume=record.volume,
        path=record.path,
        version=record.version,
        tid=record.tid,
        pid=record.pid,
        uid=record.uid,
        exe=record.exe,
        chain=record.chain,
        dropped=dropped,
    )


def format_time(time: datetime) -> str:
    """RFC 3339 with milliseconds, UTC."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _printable(value: str) -> str:
    """Bytes that are no UTF-8 travel in the environment as surrogates, which JSON has no way to carry: show them escaped."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _mounts_of(pod: PodView, container: ContainerView) -> Sequence[VolumeMount]:
    spec = pod.pod.spec
    for each in (*spec.init_containers, *spec.containers, *spec.ephemeral_containers):
        if each.name == container.name:
            return each.volume_mounts
    return ()


def _below(path: str, sub_path: str) -> str | None:
    """*path* relative to *sub_path*; "" when it is that very file, None when it lies elsewhere."""
    if not sub_path:
        return path
    if path == sub_path:
        return ""
    return path.removeprefix(sub_path + "/") if path.startswith(sub_path + "/") else None

"""The node's state in the words of the control socket: what ``status``, ``env``, ``tree``, ``why``, ``audit`` are told. And the
one order that the socket takes, ``revoke``.

Stands beside ``agent.py``, which wires it to the socket. Values leave here only where ``show_values`` is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from kubelet_secrets.access.bookkeeping import Bookkeeping
from kubelet_secrets.access.record import AuditRecord, Entry, Kind
from kubelet_secrets.access.revocations import RevocationList
from kubelet_secrets.api.references import config_map_names, secret_names
from kubelet_secrets.control.protocol import (
    AuditCopy,
    AuditSummary,
    AuditView,
    ContainerSummary,
    EnvView,
    LogPart,
    NodeSummary,
    PodSummary,
    RevokeView,
    TreeView,
)
from kubelet_secrets.control.server import Handler, Send
from kubelet_secrets.errors import ContainerRunError, SetUpError, UsageError
from kubelet_secrets.explain.answer import Question
from kubelet_secrets.explain.readers import Credentials
from kubelet_secrets.fusefs.revoker import Revoker
from kubelet_secrets.pod.answers import NodeKnowledge, answer
from kubelet_secrets.pod.bindings import bound_versions, credentials_of
from kubelet_secrets.pod.events import NORMAL, WARNING, pod_reference
from kubelet_secrets.pod.manager import PodManager
from kubelet_secrets.pod.objects import fetch_objects
from kubelet_secrets.pod.parts import NodeParts
from kubelet_secrets.pod.presentation import format_time, make_env_view, make_file_rows, make_tree_problems
from kubelet_secrets.pod.views import ContainerView, PodView
from kubelet_secrets.runtime.logs import LogOptions, copy_log
from kubelet_secrets.volume.payload import has_payload
from kubelet_secrets.volume.store import Store, StoredFile


class Inspection:
    """Answers for one node."""

    def __init__(
        self,
        *,
        node_name: str,
        root_dir: str,
        resumed: bool,
        pods: PodManager,
        parts: NodeParts,
        store: Store,
        audit: Bookkeeping,
        revocations: RevocationList,
        revoker: Revoker,
    ) -> None:
        self._node_name = node_name
        self._root_dir = root_dir
        self._resumed = resumed
        self._pods = pods
        self._parts = parts
        self._store = store
        self._runtime = parts.runtime
        self._audit = audit
        self._revocations = revocations
        self._revoker = revoker

    @property
    def handlers(self) -> dict[str, Handler]:
        return {
            "status": self.status,
            "env": self.env,
            "tree": self.tree,
            "why": self.why,
            "audit": self.audit,
            "logs": self.logs,
            "revoke": self.revoke,
        }

    async def status(self, params: Mapping[str, Any], send: Send) -> None:
        await send(
            NodeSummary(
                node=self._node_name,
                agent_pid=os.getpid(),
                resumed=self._resumed,
                root_dir=self._root_dir,
                pods=tuple(self._summary(view) for view in self._pods.views()),
                audit=make_audit_summary(self._audit),
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
        metadata = pod.pod.metadata
        bound = read_bound_versions(self._pid(container), metadata.uid)
        rows = make_file_rows(pod, container, self._stored(pod), bound, revoked=self._revoked(metadata.uid))
        await send(
            TreeView(
                namespace=metadata.namespace,
                pod=metadata.name,
                container=container.name,
                rows=rows,
                problems=make_tree_problems(pod, container),
            )
        )

    async def why(self, params: Mapping[str, Any], send: Send) -> None:
        pod, container = self._find(params)
        metadata, stored = pod.pod.metadata, self._stored(pod)
        credentials = {each.name: read_credentials(self._pid(each)) for each in pod.containers}
        objects = await fetch_objects(
            self._parts.secrets,
            self._parts.config_maps,
            metadata.namespace,
            secret_names=secret_names(pod.pod),
            config_map_names=config_map_names(pod.pod),
        )
        node = NodeKnowledge(
            objects=objects,
            services=self._parts.services() or (),
            trust_bundles=self._parts.trust_bundles,
            files=lambda volume: stored.get(volume, []),
            identities=self._parts.registry.containers(metadata.uid),
            revoked={each.volume: each.since for each in self._revocations.entries(metadata.uid)},
            credentials={name: found for name, found in credentials.items() if found is not None},
            bound=read_bound_versions(self._pid(container), metadata.uid),
            format_time=format_time,
        )
        variable, path = str(params.get("variable", "")), str(params.get("file", ""))
        if bool(variable) == bool(path):
            raise UsageError("one of variable and file is needed")
        question = Question(container=container.name, variable=variable, path=path)
        await send(answer(pod, container, question, node))

    async def audit(self, params: Mapping[str, Any], send: Send) -> None:
        log, denied_only = self._audit.log, bool(params.get("denied"))
        log.expire(datetime.now(UTC))  # what is being folded counts as well
        entries = log.entries()
        for entry in entries:
            if entry.record.is_denied or not denied_only:
                await send(make_audit_view(entry))
        if not params.get("follow"):
            return
        dropped = 0  # also those before a record that is not shown
        async for event in log.follow(entries[-1].record.seq if entries else log.head.seq):
            dropped += event.dropped
            if event.entry.record.is_denied or not denied_only:
                await send(make_audit_view(event.entry, dropped=dropped))
                dropped = 0

    async def revoke(self, params: Mapping[str, Any], send: Send) -> None:
        """End a volume's readability, or with ``undo`` give it back; answered when the kernel holds nothing of it any more."""
        pod = self._find_pod(params).pod
        metadata, name = pod.metadata, str(params.get("volume", ""))
        volume = next((each for each in pod.spec.volumes if each.name == name), None)
        if volume is None:
            names = " ".join(each.name for each in pod.spec.volumes)
            raise UsageError(f"volume {name} is not valid for pod {metadata.name}: choose one of [{names}]")
        if not has_payload(volume):
            raise UsageError(
                f"volume {name} of pod {metadata.name} is not in the guarded filesystem: nothing to revoke"
            )
        make_view = partial(
            RevokeView, namespace=metadata.namespace, pod=metadata.name, pod_uid=metadata.uid, volume=name
        )
        record = partial(self._parts.events.record, pod_reference(pod))
        if params.get("undo"):
            changed = self._revoker.restore(metadata.uid, name)
            if changed:
                record(NORMAL, "Restored", f'Access to volume "{name}" was restored on the node')
            await send(make_view(revoked=False, changed=changed))
            return
        changed = self._revocations.find(metadata.uid, name) is None
        if changed:
            record(
                WARNING, "Revoked", f'Access to volume "{name}" was revoked on the node: nobody can read it any more'
            )
        revocation, files = await self._revoker.revoke(metadata.uid, name, cause="revoked on the node")
        since = format_time(revocation.since)
        await send(make_view(revoked=True, changed=changed, since=since, files=files))

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

    def _find_pod(self, params: Mapping[str, Any]) -> PodView:
        """Raises: UsageError when this node has no such pod."""
        namespace, name = str(params.get("namespace") or "default"), str(params.get("pod", ""))
        view = self._pods.find(namespace, name)
        if view is None:
            raise UsageError(f'no pod "{name}" in namespace "{namespace}" on node {self._node_name}')
        return view

    def _find(self, params: Mapping[str, Any]) -> tuple[PodView, ContainerView]:
        """Raises: UsageError when this node has no such pod, or the pod no such container."""
        view = self._find_pod(params)
        name = view.pod.metadata.name
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
            revoked=tuple(sorted(self._revoked(metadata.uid))),
        )

    def _revoked(self, pod_uid: str) -> frozenset[str]:
        return frozenset(each.volume for each in self._revocations.entries(pod_uid))

    def _container(self, view: ContainerView) -> ContainerSummary:
        instance = view.instance
        if instance is None:
            return ContainerSummary(name=view.name, state=view.state)
        return ContainerSummary(
            name=view.name,
            state=view.state,
            container_id=instance.container_id,
            pid=self._pid(view) or 0,
            restarts=instance.attempt,
        )

    def _stored(self, pod: PodView) -> dict[str, list[StoredFile]]:
        found = {}
        for name, state in pod.volumes.items():
            if state.version is None:
                continue
            try:
                found[name] = self._store.files(pod.pod.metadata.uid, name)
            except SetUpError:
                continue  # `why` says what is wrong; there is no file to show
        return found

    def _pid(self, container: ContainerView) -> int | None:
        if container.instance is None or not container.instance.is_running:
            return None
        try:
            return self._runtime.state(container.instance.container_id).pid
        except ContainerRunError:
            return None  # gone since the view was taken


def read_bound_versions(pid: int | None, pod_uid: str) -> dict[str, str]:
    """Which versions the process holds by subPath; none when it has gone."""
    if pid is None:
        return {}
    try:
        return bound_versions(Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape"), pod_uid)
    except OSError:
        return {}


def read_credentials(pid: int | None) -> Credentials | None:
    """As whom the process reads files; None when it has gone."""
    if pid is None:
        return None
    try:
        uid, gids, overrides = credentials_of(Path(f"/proc/{pid}/status").read_text(errors="replace"))
    except (OSError, ValueError):
        return None
    return Credentials(uid=uid, gids=gids, overrides_modes=overrides)


def make_audit_view(entry: Entry, *, dropped: int = 0) -> AuditView:
    record = entry.record
    who = record.container or f"host pid {record.pid} ({record.exe or 'unknown'}), uid {record.uid}"
    if record.kind == Kind.EXEC:
        who = f"user {record.user}"
    elif not record.verdict:
        who = f"agent pid {record.pid}" if record.pid else "agent"
    if record.merged and not record.container:
        who = f"{who} and others"
    times = f" (x{record.count})" if record.count > 1 else ""
    return AuditView(
        time=format_time(record.time),
        seq=record.seq,
        kind=record.kind,
        verdict=record.verdict,
        file=_audit_file(record),
        who=who,
        why=record.reason + (times if record.verdict else ""),
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
        user=record.user,
        chain=record.chain,
        line=entry.line.decode(),
        dropped=dropped,
    )


def _audit_file(record: AuditRecord) -> str:
    """What was asked for: a file within the pod, the volume itself, to run something in a container, or the agent."""
    if record.kind == Kind.EXEC:
        return f"exec in {record.container}"
    if record.kind == Kind.ASK:
        return "the agent's socket"
    return "/".join(part for part in (record.volume, record.path) if part) or ("/" if record.verdict else "-")


def make_audit_summary(audit: Bookkeeping) -> AuditSummary:
    log = audit.log
    return AuditSummary(
        head=log.head.seq,
        oldest=log.oldest,
        chain=log.head.chain,
        verdicts=log.verdicts,
        denied=log.denied,
        dropped=log.dropped,
        copies=tuple(
            AuditCopy(
                name=each.outlet.name,
                path=str(each.outlet.path),
                delivered=each.delivered,
                dropped=each.dropped,
                problem=each.problem,
            )
            for each in audit.deliveries
        ),
    )

"""``Instances``: the runs of one pod's containers, as the runtime knows them, and the watch for their ends.

Made by ``pod/worker.py``. After a restart of the agent :meth:`Instances.adopt` takes over what runs, without touching it. The
runtime keeps the facts; this table only saves asking it, and adds the runs that never came to be.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import trio

from kubelet_secrets.access.procfs import CallerUnknown, mount_namespace
from kubelet_secrets.access.registry import ContainerIdentity, ContainerRegistry
from kubelet_secrets.api.core import Container, Pod, ResourceRequirements
from kubelet_secrets.api.decode import decode
from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.pod.settings import GRANTS_LABEL, RESOURCES_LABEL, SPEC_HASH_LABEL, USER_LABEL
from kubelet_secrets.pod.state import Instance, InstanceState
from kubelet_secrets.runtime.logs import read_tail
from kubelet_secrets.runtime.oci import ContainerHandle, ContainerState, OciRuntime
from kubelet_secrets.runtime.settings import UserIds

logger = logging.getLogger(__name__)

FALLBACK_LINES = 80
FALLBACK_BYTES = 2048

_STATES = {
    ContainerState.CREATED: InstanceState.CREATED,
    ContainerState.RUNNING: InstanceState.RUNNING,
    ContainerState.EXITED: InstanceState.EXITED,
}


class Instances:
    """The runs of the containers of one pod.

    Args:
        nursery: where the watches for ends run.
        changed: called when a container has ended; must not wait.
    """

    def __init__(
        self,
        runtime: OciRuntime,
        registry: ContainerRegistry,
        nursery: trio.Nursery,
        *,
        find_container: Callable[[str], Container | None],
        changed: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._registry = registry
        self._nursery = nursery
        self._find_container = find_container
        self._changed = changed
        self._table: dict[str, Instance] = {}  # by container id
        self._watched: set[str] = set()

    @property
    def all(self) -> tuple[Instance, ...]:
        return tuple(self._table.values())

    @property
    def running(self) -> tuple[Instance, ...]:
        return tuple(each for each in self._table.values() if each.is_running)

    async def adopt(self, pod: Pod, handles: Iterable[ContainerHandle]) -> None:
        """Take over containers that an earlier agent started. The guard knows them already: :func:`make_known`."""
        for handle in handles:
            self._table[handle.id] = await self._from_handle(handle)
            if handle.state is ContainerState.RUNNING:
                self._watch(handle.id)
                meta = pod.metadata
                logger.info(
                    "container %s of pod %s/%s goes on", handle.record.container_name, meta.namespace, meta.name
                )

    def add(self, instance: Instance) -> None:
        """A container has been started, or has failed to."""
        self._table[instance.container_id] = instance
        if instance.is_running:
            self._watch(instance.container_id)

    def resized(self, container_id: str, resources: ResourceRequirements) -> None:
        """A running container has these from now on."""
        known = self._table.get(container_id)
        if known is not None:
            self._table[container_id] = dataclasses.replace(known, resources=resources)

    async def wait_stopped(self, instance: Instance) -> None:
        """Wait until *instance* has ended and the table says so."""
        while (known := self._table.get(instance.container_id)) is not None and known.is_running:
            await self._runtime.wait_exit(instance.container_id)
            await self._note_end(instance.container_id)

    async def prune(self, name: str, *, keep: int) -> None:
        """Delete the ended runs of the container *name* but for the newest *keep*."""
        ended = sorted(
            (each for each in self._table.values() if each.name == name and not each.is_running),
            key=lambda each: -each.attempt,
        )
        for instance in ended[keep:]:
            await self._delete(instance.container_id)

    async def delete_all(self) -> None:
        """Delete every container of the pod, running or not. The table keeps how they ended."""
        for container_id in list(self._table):
            self._registry.unregister(container_id)
            await self._runtime.delete(container_id)

    async def _delete(self, container_id: str) -> None:
        self._registry.unregister(container_id)
        await self._runtime.delete(container_id)
        self._table.pop(container_id, None)

    def _watch(self, container_id: str) -> None:
        if container_id not in self._watched:
            self._watched.add(container_id)
            self._nursery.start_soon(self._watch_end, container_id)

    async def _watch_end(self, container_id: str) -> None:
        try:
            await self._runtime.wait_exit(container_id)
        except ContainerRunError:
            return  # deleted meanwhile
        await self._note_end(container_id)

    async def _note_end(self, container_id: str) -> None:
        known = self._table.get(container_id)
        if known is None or not known.is_running:
            return
        try:
            instance = await self._from_handle(self._runtime.state(container_id))
        except ContainerRunError:
            return
        self._registry.unregister(container_id)
        self._table[container_id] = dataclasses.replace(instance, spec_hash=known.spec_hash)
        self._changed()

    async def _from_handle(self, handle: ContainerHandle) -> Instance:
        record, ended = handle.record, handle.exit
        instance = Instance(
            name=record.container_name,
            container_id=record.id,
            attempt=record.attempt,
            state=_STATES[handle.state],
            image=record.image_name,
            image_id=record.image_id,
            started_at=handle.started_at or record.created_at,
            spec_hash=record.labels.get(SPEC_HASH_LABEL, ""),
            resources=read_resources(record.labels),
            user=read_user(record.labels),
        )
        if ended is None:
            return instance
        return dataclasses.replace(
            instance,
            finished_at=ended.finished_at,
            exit_code=ended.code,
            reason=ended.reason,
            message=await self._termination_message(handle),
        )

    async def _termination_message(self, handle: ContainerHandle) -> str:
        message = self._runtime.termination_message(handle.id).decode(errors="replace")
        container = self._find_container(handle.record.container_name)
        wants_logs = container is not None and container.termination_message_policy == "FallbackToLogsOnError"
        if message or not wants_logs or handle.exit is None or handle.exit.code == 0:
            return message
        log_path = Path(handle.record.log_path)
        tail = await trio.to_thread.run_sync(
            lambda: read_tail(log_path, lines=FALLBACK_LINES, max_bytes=FALLBACK_BYTES)
        )
        return tail.decode(errors="replace")


def make_known(registry: ContainerRegistry, handle: ContainerHandle) -> None:
    """Tell the guard of a container that an earlier agent started, so that it reads on; of one that has ended, that it has."""
    record = handle.record
    try:
        mnt_ns = mount_namespace(handle.pid) if handle.pid is not None else None
    except CallerUnknown:
        mnt_ns = None  # it is ending just now
    if mnt_ns is None:
        registry.unregister(record.id)  # the registry may remember it from before it ended
        return
    registry.register(
        ContainerIdentity(
            pod_uid=record.pod_uid,
            namespace=record.pod_namespace,
            pod=record.pod_name,
            container=record.container_name,
            container_id=record.id,
            cgroup_path=record.cgroup_path,
            mnt_ns=mnt_ns,
            mounts=_read_grants(record.labels.get(GRANTS_LABEL, "[]")),
        )
    )


def read_resources(labels: Mapping[str, str]) -> ResourceRequirements | None:
    """What ``settings.make_settings`` wrote of a container's resources; None: an earlier version wrote nothing."""
    text = labels.get(RESOURCES_LABEL)
    return decode(text.encode(), ResourceRequirements) if text is not None else None


def read_user(labels: Mapping[str, str]) -> UserIds | None:
    """Likewise of its user."""
    text = labels.get(USER_LABEL)
    if text is None:
        return None
    uid, gid, additional_gids = json.loads(text)
    return UserIds(uid=uid, gid=gid, additional_gids=tuple(additional_gids))


def _read_grants(text: str) -> frozenset[tuple[str, str]]:
    """The (volume, subPath) pairs that the container may read, as ``settings.make_settings`` wrote them."""
    return frozenset((str(volume), str(sub_path)) for volume, sub_path in json.loads(text))

"""Which containers there are: what the pod's worker says about each, found again by a caller's cgroups. No rules (``policy``).

Kept in memory, and in a file on the node's memory filesystem when one is named: a restarted agent is asked for verdicts with
its first request, long before it has heard from the API server which pods it runs.

A container becomes known in two steps. It is registered *before* it is created, without a mount namespace, and every open
by it is refused until the namespace is learnt from its first process, between create and start. Nothing legitimate happens in
that gap: the OCI runtime's own set-up, which runs in the container's cgroup, walks to the mount points (lookup, getattr) and
clones them, but opens no file and lists no directory of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerIdentity:
    """One container instance, and what its spec lets it read."""

    pod_uid: str
    namespace: str
    pod: str
    container: str
    container_id: str
    cgroup_path: str  # absolute below the cgroup root: "/kubelet-secrets/<instance>/pod<uid>/<id>"
    mnt_ns: int | None = None  # inode number; None: not learnt yet, nothing opens
    mounts: frozenset[tuple[str, str]] = frozenset()  # (volume, subPath); subPath "" is the whole volume

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}/{self.container}"


class ContainerRegistry:
    """The containers that exist. One event loop reads and writes it.

    Attributes:
        revision: another number after every change: what was concluded under this one still holds.

    Args:
        state_file: where it is kept for the next agent; read at once, replaced at every change. Names, no values; it belongs
            on the node's memory filesystem all the same. Containers that ended meanwhile are for the adopting worker to
            unregister.
    """

    def __init__(self, state_file: Path | None = None) -> None:
        self.revision = 0
        self._containers: dict[str, ContainerIdentity] = {}
        self._by_cgroup_name: dict[str, ContainerIdentity] = {}  # last element of the cgroup path
        self._namespaces: dict[int, str] = {}  # mount namespace → container id
        self._state_file: Path | None = None
        if state_file is not None:
            for identity in _load(state_file):
                self.register(identity)
            self._state_file = state_file

    def __len__(self) -> int:
        return len(self._containers)

    def register(self, identity: ContainerIdentity) -> None:
        """Make a container known, or replace what is known of it.

        Raises:
            ValueError: the cgroup path is not absolute, or its last element is another container's.
        """
        name = _last_element(identity.cgroup_path)
        other = self._by_cgroup_name.get(name)
        if other is not None and other.container_id != identity.container_id:
            raise ValueError(f"cgroup {name} belongs to container {other.container_id}")
        self._remove(identity.container_id)
        self.revision += 1
        self._containers[identity.container_id] = identity
        self._by_cgroup_name[name] = identity
        if identity.mnt_ns is not None:
            self._namespaces[identity.mnt_ns] = identity.container_id
        self._save()

    def learn_mount_namespace(self, container_id: str, mnt_ns: int) -> None:
        """The container's first process exists: from now on its processes may read.

        Raises:
            KeyError: no such container.
        """
        self.register(replace(self._containers[container_id], mnt_ns=mnt_ns))

    def unregister(self, container_id: str) -> None:
        """The container is gone; an unknown one is fine."""
        if self._remove(container_id):
            self._save()

    def _remove(self, container_id: str) -> bool:
        identity = self._containers.pop(container_id, None)
        if identity is None:
            return False
        self.revision += 1
        del self._by_cgroup_name[_last_element(identity.cgroup_path)]
        if identity.mnt_ns is not None and self._namespaces.get(identity.mnt_ns) == container_id:
            del self._namespaces[identity.mnt_ns]
        return True

    def find_by_cgroups(self, paths: Iterable[str]) -> tuple[ContainerIdentity, ...]:
        """Every container that one of a process's cgroups is, or lies in. More than one: do not trust it.

        A path matches where it holds the container's whole path as consecutive elements: below it, because a container may
        divide its own cgroup; behind more elements, because inside an outer container every path has a longer front.
        """
        found: dict[str, ContainerIdentity] = {}
        for path in paths:
            for element in path.split("/"):
                identity = self._by_cgroup_name.get(element)
                if identity is not None and f"{identity.cgroup_path}/" in f"{path}/":
                    found[identity.container_id] = identity
        return tuple(found.values())

    def find_by_mount_namespace(self, mnt_ns: int) -> ContainerIdentity | None:
        """The container whose mount namespace this is."""
        return self._containers.get(self._namespaces.get(mnt_ns, ""))

    def containers(self, pod_uid: str | None = None) -> list[ContainerIdentity]:
        """The registered containers of a pod, or of all, in order of registration."""
        return [identity for identity in self._containers.values() if pod_uid in (None, identity.pod_uid)]

    def _save(self) -> None:
        if self._state_file is None:
            return
        unfinished = self._state_file.with_name(f"{self._state_file.name}.new")
        try:
            fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(msgspec.json.encode(list(self._containers.values())))
            unfinished.rename(self._state_file)
        except OSError as error:
            # Only the next agent would read it, and it learns the same from the workers a moment later.
            logger.warning("cannot keep the container registry in %s: %s", self._state_file, error.strerror)


def _load(state_file: Path) -> list[ContainerIdentity]:
    try:
        return msgspec.json.decode(state_file.read_bytes(), type=list[ContainerIdentity])
    except FileNotFoundError:
        return []
    except msgspec.MsgspecError as error:
        # Refusing everybody until the workers register their containers is the safe way to go on.
        logger.warning("%s is not a container registry (%s): starting with an empty one", state_file, error)
        return []


def _last_element(cgroup_path: str) -> str:
    front, _, name = cgroup_path.rpartition("/")
    if not cgroup_path.startswith("/") or not name or not front:
        raise ValueError(f"not a container's cgroup path: {cgroup_path!r}")
    return name

"""``ContainerEnvs``: each container's environment, as it was started with and as it would be now.

The environment of a running process cannot be changed (semantics §6.1). What can be done is to say so: after every change of
an object that a container's variables come from, the environment is computed again and published as a new version beside the
one the container was started with. Made and run by ``pod/worker.py``; computed by ``envvars.environment``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import trio

from kubelet_secrets.api.core import ConfigMap, Container, Pod, Secret, Service
from kubelet_secrets.api.references import all_containers, env_config_map_names, env_secret_names
from kubelet_secrets.api.sources import NodeInfo
from kubelet_secrets.envvars.environment import Environment, make_environment, to_text
from kubelet_secrets.envvars.filekeys import EnvFile, wanted_env_files
from kubelet_secrets.envvars.passing import as_passed
from kubelet_secrets.errors import ContainerConfigError, SetUpError
from kubelet_secrets.linux import open_in_root
from kubelet_secrets.pod.objects import ObjectGetter, fetch_objects
from kubelet_secrets.pod.wake import Wake
from kubelet_secrets.sensitive import SensitiveBytes

MAX_ENV_FILE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvVersion:
    """A container's environment at one time. Its ``repr`` shows names, never values."""

    number: int  # 1 for the first; one more each time something differs
    environment: Environment
    since: datetime  # when it was first seen to be like this
    # By name: since when each value is what it is, or since when there is none.
    changed: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvState:
    """What is known of one container's environment. Replaced as a whole at each change."""

    container: str
    started: EnvVersion | None = None  # what the latest instance got; None: not started by this agent
    current: EnvVersion | None = None  # what it would get now; None: it never could be made
    problem: str = ""  # why it cannot be made at the moment

    @property
    def stale(self) -> tuple[str, ...]:
        """Names that would be set, unset or different if the container were started now."""
        if self.started is None or self.current is None or self.started.number == self.current.number:
            return ()
        old, new = self.started.environment, self.current.environment
        return tuple(name for name in {**old.entries, **new.entries} if old.lookup(name) != new.lookup(name))


class ContainerEnvs:
    """The environments of one pod's containers.

    Args:
        services: of all namespaces; None while they have not been read.
        host_path: where a volume of the pod is found on the host; None while it is not mounted.
        changed: called after each change of :attr:`states`; must not wait.
    """

    def __init__(
        self,
        pod: Pod,
        *,
        secrets: ObjectGetter[Secret],
        config_maps: ObjectGetter[ConfigMap],
        services: Callable[[], Sequence[Service] | None],
        node: Callable[[], NodeInfo],
        host_ips: Sequence[str],
        host_path: Callable[[str], Path | None],
        clock: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        self._pod = pod
        self._secrets = secrets
        self._config_maps = config_maps
        self._services = services
        self._node = node
        self._host_ips = tuple(host_ips)
        self._host_path = host_path
        self._clock = clock
        self._changed = changed
        self._pod_ips: tuple[str, ...] = ()
        self._states = {each.name: EnvState(container=each.name) for each in all_containers(pod)}
        self._wake = Wake()
        self._inherited: dict[str, dict[str, str]] = {}  # container → variables; see adopt()

    @property
    def states(self) -> Mapping[str, EnvState]:
        """By container name."""
        return self._states

    def concerns(self, container: Container, *, secret: str = "", config_map: str = "") -> bool:
        """Whether the object is one that *container*'s variables come from."""
        return bool(
            (secret and secret in env_secret_names(container))
            or (config_map and config_map in env_config_map_names(container))
        )

    def refresh(self) -> None:
        """Something that environments come from has changed."""
        self._wake.ring()

    def update(self, pod: Pod) -> None:
        """The pod changed in the API."""
        old, new = self._pod.metadata, pod.metadata
        is_changed = (old.labels, old.annotations) != (new.labels, new.annotations)
        self._pod = pod
        for each in all_containers(pod):  # ephemeral containers are added to running pods
            self._states.setdefault(each.name, EnvState(container=each.name))
        if is_changed:
            self._wake.ring()

    async def make(self, container: Container, *, pod_ips: tuple[str, ...]) -> EnvVersion:
        """The environment to start *container* with now.

        Raises:
            ContainerConfigError, SetUpError: it cannot be made; the text is the waiting message.
        """
        self._pod_ips = pod_ips
        try:
            environment = await self._compute(container)
        except (ContainerConfigError, SetUpError) as error:
            self._note_problem(container.name, error)
            raise
        return self._note(container.name, environment)

    def adopt(self, container_name: str, process_environment: bytes, *, pod_ips: tuple[str, ...]) -> None:
        """A container that an earlier agent started goes on. What it got is told as soon as its sources are known.

        Args:
            process_environment: ``/proc/<pid>/environ`` of its first process: what it was started with, the image's own
                variables among it. Where a value came from is taken from what would be set now.
        """
        self._pod_ips = pod_ips
        pairs = to_text(process_environment).split("\0")
        self._inherited[container_name] = dict(each.split("=", 1) for each in pairs if "=" in each)
        self._wake.ring()

    def mark_started(self, container_name: str, version: EnvVersion) -> None:
        """*container_name* has been started with *version*."""
        state = self._states[container_name]
        self._publish(EnvState(container=container_name, started=version, current=state.current, problem=state.problem))

    async def run(self) -> None:
        """Compute environments anew after each :meth:`refresh`, until cancelled.

        Only containers that have got one are looked at: before its start a container's environment may depend on what the
        init containers have yet to write.
        """
        while True:
            await self._wake.wait()
            self._wake.clear()
            for container in all_containers(self._pod):
                if self._states[container.name].current is not None or container.name in self._inherited:
                    await self._refresh(container)

    async def _refresh(self, container: Container) -> None:
        try:
            environment = await self._compute(container)
        except (ContainerConfigError, SetUpError) as error:
            self._note_problem(container.name, error)
            return
        inherited = self._inherited.pop(container.name, None)
        if inherited is not None:
            entries = {
                name: replace(entry, value=inherited[name]) if as_passed(entry.value) != inherited[name] else entry
                for name, entry in environment.items()
                if name in inherited
            }
            self.mark_started(container.name, self._note(container.name, Environment(entries)))
        self._note(container.name, environment)

    async def _compute(self, container: Container) -> Environment:
        objects = await fetch_objects(
            self._secrets,
            self._config_maps,
            self._pod.metadata.namespace,
            secret_names=env_secret_names(container),
            config_map_names=env_config_map_names(container),
        )
        return make_environment(
            self._pod,
            container,
            sources=objects,
            services=self._services(),
            node_info=self._node(),
            pod_ips=self._pod_ips,
            host_ips=self._host_ips,
            env_files=await self._read_env_files(container),
        )

    async def _read_env_files(self, container: Container) -> dict[tuple[str, str], EnvFile]:
        files = {}
        for volume_name, path in wanted_env_files(container):
            root = self._host_path(volume_name)
            if root is not None:
                content = await trio.to_thread.run_sync(read_confined, root, path)
                files[volume_name, path] = EnvFile(host_path=str(root / path), content=content)
        return files

    def _note_problem(self, name: str, error: Exception) -> None:
        self._publish(replace(self._states[name], problem=str(error)))

    def _note(self, name: str, environment: Environment) -> EnvVersion:
        state = self._states[name]
        before = state.current
        now = self._clock()
        if before is None:
            version = EnvVersion(number=1, environment=environment, since=now, changed=dict.fromkeys(environment, now))
        elif _values(before.environment) != _values(environment):
            old = before.environment
            changed = {name: now for name in old if name not in environment} | {
                name: before.changed.get(name, before.since) if old.lookup(name) == entry.value else now
                for name, entry in environment.items()
            }
            changed = {**{name: since for name, since in before.changed.items() if name not in changed}, **changed}
            version = EnvVersion(number=before.number + 1, environment=environment, since=now, changed=changed)
        else:  # the same values from newer objects
            version = replace(before, environment=environment)
        self._publish(EnvState(container=name, started=state.started, current=version))
        return version

    def _publish(self, state: EnvState) -> None:
        if self._states[state.container] != state:
            self._states[state.container] = state
            self._changed()


def _values(environment: Environment) -> dict[str, str]:
    return {name: entry.value for name, entry in environment.items()}


def read_confined(root: Path, path: str) -> SensitiveBytes | None:
    """Read *path* below *root*; links cannot lead out of it, not even while they are being changed.

    Returns:
        None when there is no such regular file, when it cannot be read, or when it is larger than any env file.
    """
    try:
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK)  # not to hang on a fifo
    except OSError:
        return None
    finally:
        os.close(root_fd)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        content = b""
        while chunk := os.read(fd, 1 << 20):
            content += chunk
            if len(content) > MAX_ENV_FILE_BYTES:
                return None
    except OSError:
        return None
    finally:
        os.close(fd)
    return SensitiveBytes(content)

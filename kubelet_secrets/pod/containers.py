"""Start one container, from its image to its first instruction, the kubelet's steps in the kubelet's order.

(1) image; (2) environment, then mounts, then the user; (3) make it known to the guard; (4) create; (5) start; then, when its
caller knows of it, (6) postStart.
Whatever fails becomes a :class:`StartFailure` with the kubelet's reason and text, and an event. Called by ``pod/worker.py``,
one start at a time per pod. Source: pkg/kubelet/kuberuntime/kuberuntime_container.go startContainer; semantics §6.6, §8.0.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import trio

from kubelet_secrets.access.procfs import CallerUnknown, mount_namespace
from kubelet_secrets.access.registry import ContainerIdentity, ContainerRegistry
from kubelet_secrets.api.core import Container, Pod, Secret
from kubelet_secrets.errors import ContainerConfigError, ContainerRunError, SetUpError
from kubelet_secrets.pod.environ import ContainerEnvs, EnvVersion
from kubelet_secrets.pod.events import NORMAL, WARNING
from kubelet_secrets.pod.handlers import HookFailed, Target, run_hook
from kubelet_secrets.pod.imagepull import ImagePuller, ImageRefused
from kubelet_secrets.pod.mounts import MountedPart, PlannedMount, choose_part, plan_mount
from kubelet_secrets.pod.plan import StartContainer, spec_hash
from kubelet_secrets.pod.settings import Gathered, make_settings, seccomp_profile
from kubelet_secrets.pod.state import Instance, InstanceState, StartFailure, format_pod
from kubelet_secrets.pod.turns import Turns
from kubelet_secrets.pod.volumes import PodVolumes
from kubelet_secrets.runtime.cgroups import CgroupTree
from kubelet_secrets.runtime.conmon import StartFailed
from kubelet_secrets.runtime.images import Image
from kubelet_secrets.runtime.oci import OciRuntime, new_container_id
from kubelet_secrets.runtime.sandbox import Sandbox
from kubelet_secrets.runtime.seccomp import read_profile
from kubelet_secrets.runtime.settings import ContainerSettings, Mount, SeccompMode, UserIds
from kubelet_secrets.runtime.users import read_user_database, resolve_user, verify_non_root
from kubelet_secrets.volume.manager import VolumeManager

logger = logging.getLogger(__name__)

RETRY_S = 10.0  # up to half more at random: the kubelet's next sync after an error (semantics §7.5)
START_ERROR_CODE = 128

Report = Callable[[str, str, str], None]
"""(type, reason, message) of an event about the container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A start that was carried out as far as the container's process; *failure* is set when the runtime refused that."""

    instance: Instance
    failure: StartFailure | None = None


class ContainerStarter:
    """Starts the containers of one pod."""

    def __init__(
        self,
        *,
        runtime: OciRuntime,
        registry: ContainerRegistry,
        cgroups: CgroupTree,
        images: ImagePuller,
        volumes: PodVolumes,
        envs: ContainerEnvs,
        volume_manager: VolumeManager,
        pod_uid: str,
        logs_dir: Path,
        seccomp_dir: Path,
        turns: Turns,
        node_memory_bytes: int,
        supports_recursive_read_only: bool,
        clock: Callable[[], datetime],
    ) -> None:
        self._runtime = runtime
        self._registry = registry
        self._cgroups = cgroups
        self._images = images
        self._volumes = volumes
        self._envs = envs
        self._volume_manager = volume_manager
        self._pod_uid = pod_uid
        self._logs_dir = logs_dir
        self._seccomp_dir = seccomp_dir
        self._turns = turns
        self._node_memory_bytes = node_memory_bytes
        self._supports_recursive_read_only = supports_recursive_read_only
        self._clock = clock

    async def start(
        self, pod: Pod, action: StartContainer, sandbox: Sandbox, secrets: Sequence[Secret], report: Report
    ) -> Started | StartFailure:
        """Carry *action* out.

        Args:
            secrets: the pod's pull secrets.

        Returns:
            The running instance, or why there is none.

        Cancellation: nothing of the container stays. (No await between its start and the return: the caller learns of it.)
        """
        container = action.container
        try:
            image = await self._images.ensure(pod, container, secrets, report)  # (1)
        except ImageRefused as refused:
            return refused.failure
        try:
            version, mounts = await self._gather(pod, container, sandbox)  # (2)
            _verify_non_root(pod, container, image)
            pid_namespace = self._find_pid_namespace(container)
        except (ContainerConfigError, SetUpError) as error:
            return self._refuse("CreateContainerConfigError", str(error), report)
        try:
            settings = await self._settings(pod, action, image, version, mounts, sandbox, pid_namespace)
        except ContainerRunError as error:
            return self._refuse("CreateContainerError", str(error), report)
        return await self._run(pod, action, image, settings, version, sandbox, report)

    async def _gather(
        self, pod: Pod, container: Container, sandbox: Sandbox
    ) -> tuple[EnvVersion, tuple[tuple[PlannedMount, Path], ...]]:
        version = await self._envs.make(container, pod_ips=sandbox.ips)
        found = []
        for index, mount in enumerate(container.volume_mounts):
            part = choose_part(
                container,
                mount,
                version.environment,
                find_volume=lambda name: self._volumes.volume(name) if self._volumes.host_path(name) else None,
            )
            path = await self._find_part(pod, container, part, index)
            planned = plan_mount(mount, part, index, supports_recursive_read_only=self._supports_recursive_read_only)
            found.append((planned, path))
        return version, tuple(found)

    async def _find_part(self, pod: Pod, container: Container, part: MountedPart, index: int) -> Path:
        """The host path to mount; a subPath is made where it is missing, and bound."""
        if part.sub_path:
            return await self._volume_manager.prepare_sub_path(
                pod.metadata.uid,
                part.volume,
                container=container.name,
                index=index,
                mount_name=part.volume.name,
                sub_path=part.sub_path,
            )
        whole = self._volumes.host_path(part.volume.name)
        assert whole is not None, "choose_part has just found it"
        return whole

    async def _settings(
        self,
        pod: Pod,
        action: StartContainer,
        image: Image,
        version: EnvVersion,
        mounts: tuple[tuple[PlannedMount, Path], ...],
        sandbox: Sandbox,
        pid_namespace: Path | None,
    ) -> ContainerSettings:
        container, container_id = action.container, new_container_id()
        user, seccomp = await trio.to_thread.run_sync(self._look_up, pod, container, image)
        gathered = Gathered(
            container_id=container_id,
            attempt=action.attempt,
            cgroup_path=self._cgroups.container_path(pod.metadata.uid, container_id),
            image=image,
            user=user,
            mounts=tuple(_mount(planned, path) for planned, path in mounts),
            grants=frozenset((planned.volume.name, planned.sub_path) for planned, _ in mounts),
            sandbox=sandbox,
            node_memory_bytes=self._node_memory_bytes,
            seccomp_profile=seccomp,
            pid_namespace=pid_namespace,
        )
        identity = ContainerIdentity(
            pod_uid=pod.metadata.uid,
            namespace=pod.metadata.namespace,
            pod=pod.metadata.name,
            container=container.name,
            container_id=container_id,
            cgroup_path=gathered.cgroup_path,
            mounts=gathered.grants,
        )
        self._registry.register(identity)  # (3); without a mount namespace nothing opens yet
        return make_settings(pod, container, version.environment, gathered)

    def _find_pid_namespace(self, container: Container) -> Path | None:
        """Of the container that an ephemeral one names as its target.

        Raises:
            ContainerConfigError: it does not run.

        Source: kuberuntime_container.go, startSpec.getTargetID.
        """
        target = container.target_container_name
        if not target:
            return None
        for handle in self._runtime.list():
            record = handle.record
            if (record.pod_uid, record.container_name) == (self._pod_uid, target) and handle.pid is not None:
                return Path(f"/proc/{handle.pid}/ns/pid")
        raise ContainerConfigError(f"unable to find target container {target}")

    def _look_up(self, pod: Pod, container: Container, image: Image) -> tuple[UserIds, dict[str, Any]]:
        """Blocking: reads files of the image and of the node."""
        profile = seccomp_profile(pod, container)
        if profile is None or profile.type != SeccompMode.LOCALHOST.value:
            return _find_user(pod, container, image), {}
        return _find_user(pod, container, image), read_profile(self._seccomp_dir, profile.localhost_profile)

    async def _run(
        self,
        pod: Pod,
        action: StartContainer,
        image: Image,
        settings: ContainerSettings,
        version: EnvVersion,
        sandbox: Sandbox,
        report: Report,
    ) -> Started | StartFailure:
        container, container_id = action.container, settings.container_id
        is_created = False
        try:
            async with self._turns.turn(is_begun=True):
                handle = await self._runtime.create(settings, image, log_path=self._log_path(pod, action))  # (4)
                assert handle.pid is not None, "a created container waits in its first process"
                self._registry.learn_mount_namespace(container_id, mount_namespace(handle.pid))
                report(NORMAL, "Created", "Container created")
                is_created = True
                handle = await self._runtime.start(container_id)  # (5)
        except BaseException as error:
            self._registry.unregister(container_id)
            with trio.CancelScope(shield=True):
                await self._runtime.delete(container_id)
            if isinstance(error, StartFailed):
                if (
                    not is_created
                ):  # to a CRI runtime creating is no more than taking note; what runc refuses is the start
                    report(NORMAL, "Created", "Container created")
                failure = self._refuse("RunContainerError", str(error), report, retry_at=None)
                return Started(instance=self._never_ran(action, settings, str(error)), failure=failure)
            if isinstance(error, ContainerRunError | CallerUnknown | OSError):
                return self._refuse("CreateContainerError", str(error), report)
            raise
        # No await until the return: a running container that nobody knows of could not be stopped.
        report(NORMAL, "Started", "Container started")
        self._envs.mark_started(container.name, version)
        instance = Instance(
            name=container.name,
            container_id=container_id,
            attempt=action.attempt,
            state=InstanceState.RUNNING,
            image=container.image,
            image_id=image.image_id,
            started_at=handle.started_at or self._clock(),
            spec_hash=spec_hash(container),
            resources=container.resources,
            user=settings.user,
        )
        return Started(instance=instance)

    async def post_start(
        self, pod: Pod, container: Container, instance: Instance, sandbox: Sandbox, report: Report
    ) -> StartFailure | None:
        """Run the postStart hook, if there is one. After a failure the container is to be stopped.

        Cancellation: the container runs on, its hook is not heard of again.
        """
        hook = container.lifecycle.post_start if container.lifecycle is not None else None
        if hook is None:
            return None
        target = Target(
            container=container,
            container_id=instance.container_id,
            pod=format_pod(pod),
            pod_ip=sandbox.ips[0] if sandbox.ips else "",
            network=sandbox.namespaces.net,
        )
        try:
            await run_hook(self._runtime, hook, target)  # (6)
        except HookFailed as error:
            logger.info("postStart hook of %s: %s", container.name, error)
            report(WARNING, "FailedPostStartHook", "PostStartHook failed")
            return StartFailure(reason="PostStartHookError", message=str(error))
        return None

    def _refuse(
        self, reason: str, message: str, report: Report, *, retry_at: datetime | None = datetime.max
    ) -> StartFailure:
        report(WARNING, "Failed", f"Error: {message}")
        if retry_at is not None:
            retry_at = self._clock() + timedelta(seconds=RETRY_S * random.uniform(1.0, 1.5))
        return StartFailure(reason=reason, message=message, retry_at=retry_at)

    def _never_ran(self, action: StartContainer, settings: ContainerSettings, message: str) -> Instance:
        """What containerd shows for a process that never came to be."""
        now = self._clock()
        return Instance(
            name=action.container.name,
            container_id=settings.container_id,
            attempt=action.attempt,
            state=InstanceState.EXITED,
            image=action.container.image,
            image_id=settings.image_id,
            started_at=now,
            finished_at=now,
            exit_code=START_ERROR_CODE,
            reason="StartError",
            message=message,
            spec_hash=spec_hash(action.container),
        )

    def _log_path(self, pod: Pod, action: StartContainer) -> Path:
        meta = pod.metadata
        directory = self._logs_dir / f"{meta.namespace}_{meta.name}_{meta.uid}" / action.container.name
        return directory / f"{action.attempt}.log"


def _mount(planned: PlannedMount, path: Path) -> Mount:
    return Mount(
        container_path=planned.container_path,
        host_path=path,
        read_only=planned.read_only,
        recursive_read_only=planned.recursive_read_only,
        propagation=planned.propagation,
    )


def _verify_non_root(pod: Pod, container: Container, image: Image) -> None:
    outer, inner = pod.spec.security_context, container.security_context
    non_root, user = outer.run_as_non_root, outer.run_as_user
    if inner is not None:
        non_root = non_root if inner.run_as_non_root is None else inner.run_as_non_root
        user = user if inner.run_as_user is None else inner.run_as_user
    verify_non_root(
        image.config.user, run_as_non_root=non_root, run_as_user=user, pod=format_pod(pod), container=container.name
    )


def _find_user(pod: Pod, container: Container, image: Image) -> UserIds:
    """Blocking: reads the image's passwd and group."""
    outer, inner = pod.spec.security_context, container.security_context
    user, group = outer.run_as_user, outer.run_as_group
    if inner is not None:
        user = user if inner.run_as_user is None else inner.run_as_user
        group = group if inner.run_as_group is None else inner.run_as_group
    return resolve_user(
        image.config.user,
        read_user_database(image.rootfs),
        run_as_user=user,
        run_as_group=group,
        supplemental_groups=outer.supplemental_groups,
        fs_group=outer.fs_group,
        strict_groups=outer.supplemental_groups_policy == "Strict",
    )

"""``ContainerSettings`` from a pod, its container, an image and an environment: the last pure step before the runtime.

Called by ``pod/containers.py``, which has collected everything that needed looking up. Source: pkg/kubelet/kuberuntime
generateContainerConfig, generateLinuxContainerConfig; semantics §6.1 (5).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kubelet_secrets.api.core import Container, Pod, Quantity, SeccompProfile
from kubelet_secrets.api.decode import encode
from kubelet_secrets.api.quantity import milli_value, value
from kubelet_secrets.envvars.environment import Environment, expand_command
from kubelet_secrets.pod.plan import spec_hash
from kubelet_secrets.pod.qos import qos_class
from kubelet_secrets.runtime.images import Image
from kubelet_secrets.runtime.process import process_args, process_cwd, process_env
from kubelet_secrets.runtime.resources import linux_resources, oom_score_adj
from kubelet_secrets.runtime.sandbox import Sandbox
from kubelet_secrets.runtime.settings import ContainerSettings, Mount, Resources, SeccompMode, UserIds

# In the container's record, for the agent that adopts it after a restart:
SPEC_HASH_LABEL = "spec-hash"
GRANTS_LABEL = "grants"  # JSON: [[volume, subPath], …]
RESOURCES_LABEL = "resources"  # JSON: the resources it was started with
USER_LABEL = "user"  # JSON: [uid, gid, [gid, …]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What was looked up for one container."""

    container_id: str
    attempt: int
    cgroup_path: str
    image: Image
    user: UserIds
    mounts: tuple[Mount, ...]
    grants: frozenset[tuple[str, str]]  # (volume, subPath) of each mount: what the guard lets it read
    sandbox: Sandbox
    node_memory_bytes: int
    seccomp_profile: Mapping[str, Any] = field(default_factory=dict)  # the file's, where one is asked for
    pid_namespace: Path | None = None  # another container's, which this one is to look into


def make_settings(pod: Pod, container: Container, environment: Environment, gathered: Gathered) -> ContainerSettings:
    """Put everything about one container together.

    Returns:
        Settings that hold the environment: as secret as its values.
    """
    image, sandbox, security = gathered.image, gathered.sandbox, container.security_context
    capabilities = security.capabilities if security is not None else None
    command, args = expand_command(container, environment)
    return ContainerSettings(
        container_id=gathered.container_id,
        pod_uid=pod.metadata.uid,
        pod_namespace=pod.metadata.namespace,
        pod_name=pod.metadata.name,
        container_name=container.name,
        attempt=gathered.attempt,
        image_name=container.image,
        image_id=image.image_id,
        args=process_args(image.config, command, args),
        env=process_env(
            image.config,
            {name: entry.value for name, entry in environment.items()},
            hostname=sandbox.hostname,
            tty=container.tty,
        ),
        cwd=process_cwd(image.config, container.working_dir),
        user=gathered.user,
        capabilities_add=capabilities.add if capabilities is not None else (),
        capabilities_drop=capabilities.drop if capabilities is not None else (),
        privileged=bool(security and security.privileged),
        allow_privilege_escalation=not (security and security.allow_privilege_escalation is False),
        read_only_rootfs=bool(security and security.read_only_root_filesystem),
        unmasked_proc=bool(security and security.proc_mount == "Unmasked"),
        seccomp=_seccomp_mode(pod, container),
        seccomp_profile=gathered.seccomp_profile,
        resources=container_resources(pod, container),
        oom_score_adj=oom_score_adj(
            qos_class(pod),
            memory_request_bytes=_amount(container, "memory", value) or 0,
            memory_capacity_bytes=max(1, gathered.node_memory_bytes),
            node_critical=pod.spec.priority_class_name == "system-node-critical",
        ),
        mounts=gathered.mounts,
        hosts_path=sandbox.hosts_path,
        resolv_conf_path=sandbox.resolv_conf_path,
        hostname_path=sandbox.hostname_path,
        shm_path=sandbox.shm_path,
        termination_message_path=container.termination_message_path,
        namespaces=replace(sandbox.namespaces, pid=gathered.pid_namespace or sandbox.namespaces.pid),
        cgroup_path=gathered.cgroup_path,
        tty=container.tty,
        stdin=container.stdin,
        stdin_once=container.stdin_once,
        stop_signal=_stop_signal(container, image),
        labels={
            SPEC_HASH_LABEL: spec_hash(container),
            GRANTS_LABEL: json.dumps(sorted(gathered.grants)),
            RESOURCES_LABEL: encode(container.resources).decode(),
            USER_LABEL: json.dumps([gathered.user.uid, gathered.user.gid, gathered.user.additional_gids]),
        },
    )


def _stop_signal(container: Container, image: Image) -> str:
    own = container.lifecycle.stop_signal if container.lifecycle is not None else ""
    return own or image.config.stop_signal or "SIGTERM"


def container_resources(pod: Pod, container: Container) -> Resources:
    """A container without a limit of its own has the pod's, where that has one. Source: getCPULimit, getMemoryLimit."""
    of_pod = pod.spec.resources.limits if pod.spec.resources is not None else {}
    limits = {**of_pod, **container.resources.limits}
    return linux_resources(
        cpu_request_milli=_amount(container, "cpu", milli_value),
        cpu_limit_milli=milli_value(limits["cpu"]) if "cpu" in limits else None,
        memory_limit_bytes=value(limits["memory"]) if "memory" in limits else None,
    )


def _amount(container: Container, name: str, measure: Callable[[Quantity], int]) -> int | None:
    """What the container requests of *name*; a limit without a request is the request."""
    requests, limits = container.resources.requests, container.resources.limits
    found: Quantity | None = requests.get(name, limits.get(name))
    return None if found is None else measure(found)


def seccomp_profile(pod: Pod, container: Container) -> SeccompProfile | None:
    """The container's own, else the pod's."""
    inner = container.security_context.seccomp_profile if container.security_context is not None else None
    return inner or pod.spec.security_context.seccomp_profile


def _seccomp_mode(pod: Pod, container: Container) -> SeccompMode:
    profile = seccomp_profile(pod, container)
    return SeccompMode(profile.type) if profile is not None and profile.type else SeccompMode.UNCONFINED

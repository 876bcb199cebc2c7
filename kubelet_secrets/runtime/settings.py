"""What is asked of this room: one container, in plain data.

``pod.worker`` fills these from a Pod, an image and an environment; ``spec.make_spec`` turns them into an OCI ``config.json``.
No rules here beyond types. Environment values are secrets: they never show in a ``repr``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A bind mount into the container, as the CRI knows it."""

    container_path: str  # absolute, in the container
    host_path: Path
    read_only: bool = False
    recursive_read_only: bool = False  # implies read_only; the submounts too
    propagation: str = "None"  # None, HostToContainer or Bidirectional (MountPropagationMode)


class SeccompMode(enum.Enum):
    UNCONFINED = "Unconfined"  # the kubelet's default without --seccomp-default
    RUNTIME_DEFAULT = "RuntimeDefault"
    LOCALHOST = "Localhost"  # a profile of the node's


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Limits of one container; None leaves the kernel's default. ``resources.linux_resources`` computes them."""

    memory_limit_bytes: int | None = None
    cpu_shares: int | None = None  # 2..262144
    cpu_quota_us: int | None = None
    cpu_period_us: int | None = None
    pids_limit: int | None = None
    cpuset_cpus: str = ""  # "0-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserIds:
    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespacePaths:
    """Which namespaces a container joins. A path of None means the host's; for pid see *host_pid*."""

    net: Path | None = None
    ipc: Path | None = None
    uts: Path | None = None
    pid: Path | None = None  # the shared one of a pod with shareProcessNamespace; else None
    host_pid: bool = False  # with pid None: True = the host's, False = one of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSettings:
    """Everything about one container but its image's files."""

    container_id: str  # 64 hex digits
    pod_uid: str
    pod_namespace: str
    pod_name: str
    container_name: str
    attempt: int = 0  # the restart count this instance starts with
    image_name: str = ""  # as the pod spec spells it
    image_id: str = ""
    args: tuple[str, ...]
    # Name -> value, in order; values may hold surrogate escapes for bytes that are not UTF-8. Secret.
    env: Mapping[str, str] = field(repr=False)
    cwd: str = "/"
    user: UserIds = UserIds()
    capabilities_add: tuple[str, ...] = ()  # NET_ADMIN, CAP_NET_ADMIN or ALL
    capabilities_drop: tuple[str, ...] = ()
    privileged: bool = False
    allow_privilege_escalation: bool = True
    read_only_rootfs: bool = False
    unmasked_proc: bool = False  # procMount: Unmasked
    seccomp: SeccompMode = SeccompMode.UNCONFINED
    seccomp_profile: Mapping[str, Any] = field(default_factory=dict)  # of LOCALHOST: OCI's linux.seccomp
    resources: Resources = Resources()
    oom_score_adj: int = 0
    mounts: tuple[Mount, ...] = ()
    hosts_path: Path | None = None  # host file shown as /etc/hosts; likewise the next two
    resolv_conf_path: Path | None = None
    hostname_path: Path | None = None
    shm_path: Path | None = None  # host directory shown as /dev/shm, shared by the pod's containers
    termination_message_path: str = "/dev/termination-log"  # empty: none
    namespaces: NamespacePaths = NamespacePaths()
    cgroup_path: str  # absolute below the cgroup root: /kubelet-secrets/<instance>/pod<uid>/<id>
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    stop_signal: str = "SIGTERM"
    labels: Mapping[str, str] = field(default_factory=dict)  # kept in the record for adoption; never secret


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    path: str
    kind: str  # "c" or "b"
    major: int
    minor: int
    mode: int  # permission bits
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What the spec has to know about this machine; ``hostfacts.probe_host`` finds out."""

    cgroup_v2: bool  # pure v2. False on v1 and on hybrid
    capabilities: tuple[
        str, ...
    ]  # what this process may hand on, in kernel order; a privileged container gets them all
    controllers: frozenset[str]  # cgroup controllers there are: memory, cpu, pids, cpuset, …
    limits_swap: bool  # memory+swap can be limited (v1 memsw, v2 memory.swap.max)
    seccomp: bool = True
    devices: tuple[DeviceNode, ...] = ()  # for privileged containers
    oom_score_adj: int = 0  # this process's own; without CAP_SYS_RESOURCE nothing below it can be given
    core_limit_bytes: int | None = None  # the hard RLIMIT_CORE that the node was started with; None: unlimited

"""Who may read one file of a volume, and why: the guard's verdict and the file's own bits.

Pure. The verdict is ``access.policy``'s, asked for a process of each container of the pod and for one of the host; the bits are
what the kernel looks at after that, for the user a container runs as.

Source: semantics §2.4; path_resolution(7), capabilities(7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kubelet_secrets.access.identity import Caller
from kubelet_secrets.access.policy import Verdict, decide
from kubelet_secrets.access.registry import ContainerIdentity, ContainerRegistry
from kubelet_secrets.api.core import Container, Pod
from kubelet_secrets.envvars.environment import Environment
from kubelet_secrets.envvars.subpath import resolve_sub_path
from kubelet_secrets.errors import ContainerConfigError
from kubelet_secrets.volume.ownership import Ownership

_READ = 0o4
_OVERRIDES = frozenset({"ALL", "DAC_OVERRIDE", "CAP_DAC_OVERRIDE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """As whom a container's process reads files; None where only the image knows."""

    uid: int | None
    gids: frozenset[int] = frozenset()
    overrides_modes: bool = False  # CAP_DAC_OVERRIDE in effect


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One who may want to read the file."""

    who: str  # "container app", "a process of the host"
    allowed: bool
    why: str


def spec_credentials(pod: Pod, container: Container) -> Credentials:
    """As whom *container* would run by its spec alone."""
    outer, inner = pod.spec.security_context, container.security_context
    uid, gid = outer.run_as_user, outer.run_as_group
    dropped: Sequence[str] = ()
    if inner is not None:
        uid = uid if inner.run_as_user is None else inner.run_as_user
        gid = gid if inner.run_as_group is None else inner.run_as_group
        dropped = inner.capabilities.drop if inner.capabilities is not None else ()
    groups = {*outer.supplemental_groups}
    groups |= {each for each in (gid, outer.fs_group) if each is not None}
    has_override = uid == 0 and not any(name.upper() in _OVERRIDES for name in dropped)
    return Credentials(uid=uid, gids=frozenset(groups), overrides_modes=has_override)


def judge_mode(who: Credentials, file: Ownership) -> tuple[bool, str]:
    """Whether the file's bits let *who* read it, and the bit that decides."""
    mode = file.mode & 0o777
    shown = f"mode {mode:04o} {file.uid}:{file.gid}"
    if mode & _READ:
        return True, f"{shown}: everybody may read"
    if who.uid is None:
        return True, f"{shown}: if its image runs as root, uid {file.uid} or group {file.gid}"
    if who.overrides_modes:
        return True, f"{shown}: root with CAP_DAC_OVERRIDE reads it anyway"
    if who.uid == file.uid:
        return bool(mode >> 6 & _READ), f"{shown}: the owner's bits count for uid {who.uid}"
    if file.gid in who.gids:
        return bool(mode >> 3 & _READ), f"{shown}: the group's bits count for group {file.gid}"
    return False, f"{shown}: uid {who.uid} is neither owner nor in group {file.gid}"


def planned_identities(pod: Pod, environments: dict[str, Environment]) -> list[ContainerIdentity]:
    """The containers of *pod* as the guard will know them when they run.

    Args:
        environments: by container name, for subPathExpr.
    """
    found = []
    containers = (*pod.spec.init_containers, *pod.spec.containers, *pod.spec.ephemeral_containers)
    for number, container in enumerate(containers, start=1):
        grants = set()
        for mount in container.volume_mounts:
            try:
                grants.add((mount.name, resolve_sub_path(mount, environments.get(container.name, Environment()))))
            except ContainerConfigError:
                continue  # it does not start like this
        found.append(
            ContainerIdentity(
                pod_uid=pod.metadata.uid or "planned",
                namespace=pod.metadata.namespace,
                pod=pod.metadata.name,
                container=container.name,
                container_id=f"planned-{number}",
                cgroup_path=f"/planned/planned-{number}",
                mnt_ns=number,
                mounts=frozenset(grants),
            )
        )
    return found


def judge_readers(
    identities: Sequence[ContainerIdentity],
    volume: str,
    path: str,
    *,
    file: Ownership | None,
    credentials: dict[str, Credentials],
    is_revoked: bool = False,
) -> tuple[Reader, ...]:
    """Ask the guard's policy for a process of each of *identities*, and for one of the host.

    Args:
        volume, path: the file; ``..data`` and versions left out.
        file: None when its bits are not known, or when it is a directory.
        credentials: by container name.
    """
    registry = ContainerRegistry()
    for identity in identities:
        registry.register(identity)
    found = []
    pod_uid = identities[0].pod_uid if identities else ""
    for identity in identities:
        verdict = decide(_process_of(identity), registry, pod_uid, volume, path, is_revoked=is_revoked)
        allowed, why = verdict.allowed, str(verdict.reason)
        if verdict.allowed and file is not None and identity.container in credentials:
            allowed, bits = judge_mode(credentials[identity.container], file)
            why = f"{why}; {bits}"
        found.append(Reader(who=f"container {identity.container}", allowed=allowed, why=why))
    verdict = _host_verdict(registry, pod_uid, volume, path)
    found.append(Reader(who="a process of the host", allowed=verdict.allowed, why=f"{verdict.reason}, also as root"))
    return tuple(found)


def _process_of(identity: ContainerIdentity) -> Caller:
    """A process that is what the container's own are: in its cgroup, and in its mount namespace."""
    return Caller(tid=1, pid=1, uid=0, gid=0, exe="", cgroup_paths=(identity.cgroup_path,), mnt_ns=identity.mnt_ns or 0)


def _host_verdict(registry: ContainerRegistry, pod_uid: str, volume: str, path: str) -> Verdict:
    host = Caller(tid=1, pid=1, uid=0, gid=0, exe="", cgroup_paths=("/",), mnt_ns=0)
    return decide(host, registry, pod_uid, volume, path)

"""The verdict: may this caller open this file. Pure.

A file of a volume opens only for a process that is in the cgroup of a container of that pod whose spec mounts the volume
(and, with a subPath, that part of it), *and* in that container's mount namespace. Either alone is what a host process can
take on by itself: ``nsenter -m`` gives the namespace without the cgroup, a write to ``cgroup.procs`` the cgroup without the
namespace.
A container's process that makes a mount namespace of its own is refused too: it cannot be told from the second kind.

Whatever is ambiguous, unknown or gone is refused. Called by ``guard``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from kubelet_secrets.access.identity import Caller
from kubelet_secrets.access.registry import ContainerIdentity, ContainerRegistry


class Reason(StrEnum):
    """Why, in the words of the audit trail."""

    MOUNTED = "the container mounts the volume"
    NO_VOLUME = "not part of a volume"
    OUTSIDE_PID_NAMESPACE = "caller outside the node's pid namespace"
    VANISHED = "caller vanished"
    UNREADABLE = "caller cannot be examined"
    HOST_PROCESS = "host process"
    ENTERED = "entered the container's mount namespace from outside"
    AMBIGUOUS = "cgroups name more than one container"
    NOT_STARTED = "the container's mount namespace is not known yet"
    OTHER_NAMESPACE = "in the container's cgroup, but not in its mount namespace"
    OTHER_POD = "container of another pod"
    NOT_MOUNTED = "the container does not mount the volume"
    OUTSIDE_SUB_PATH = "outside the container's subPath"
    REVOKED = "access to the volume was revoked"
    ASKED = "a container may not ask the agent"


@dataclass(frozen=True, slots=True)
class Verdict:
    allowed: bool
    reason: Reason
    container: ContainerIdentity | None = None  # the one that asks, as far as that is known


def decide(
    caller: Caller,
    registry: ContainerRegistry,
    pod_uid: str,
    volume: str,
    path: str,
    *,
    is_revoked: bool = False,
    admits_start: bool = False,
) -> Verdict:
    """Judge one open.

    Args:
        caller: who asks.
        registry: the containers there are.
        pod_uid, volume: whose file; empty for the directories above a volume, which are nobody's to open.
        path: the file's own path in the volume, through no link; ``""`` is the volume's root.
        is_revoked: nobody may read the volume any more.
        admits_start: let pass also the OCI runtime while it sets the container up: it looks at mount points, and opens nothing.
    """
    candidates = registry.find_by_cgroups(caller.cgroup_paths)
    if len(candidates) > 1:
        return Verdict(False, Reason.AMBIGUOUS)
    if not candidates:
        entered = registry.find_by_mount_namespace(caller.mnt_ns)
        return Verdict(False, Reason.ENTERED if entered is not None else Reason.HOST_PROCESS)
    container = candidates[0]
    if container.mnt_ns is None and not admits_start:
        return Verdict(False, Reason.NOT_STARTED, container)
    if container.mnt_ns not in (None, caller.mnt_ns):
        return Verdict(False, Reason.OTHER_NAMESPACE, container)
    if not pod_uid or not volume:
        return Verdict(False, Reason.NO_VOLUME, container)
    if container.pod_uid != pod_uid:
        return Verdict(False, Reason.OTHER_POD, container)
    sub_paths = [sub_path for mounted, sub_path in container.mounts if mounted == volume]
    if not sub_paths:
        return Verdict(False, Reason.NOT_MOUNTED, container)
    if not _is_within(split_version(path)[1], sub_paths):
        return Verdict(False, Reason.OUTSIDE_SUB_PATH, container)
    if is_revoked:
        return Verdict(False, Reason.REVOKED, container)
    return Verdict(True, Reason.MOUNTED, container)


def split_version(path: str) -> tuple[str, str]:
    """Take a file's own path apart into version and the path users know: ``..2026_…/tls/key`` → ``..2026_…``, ``tls/key``.

    What lies beside the versions (a nested mountpoint, ``..data`` itself) has no version.
    """
    first, _, rest = path.partition("/")
    return (first, rest) if first.startswith("..") else ("", path)


def _is_within(path: str, sub_paths: Iterable[str]) -> bool:
    for sub_path in sub_paths:
        # A subPath may spell out `..data/tls`; nothing but the machinery starts with two dots there.
        elements = [element for element in sub_path.split("/") if element not in ("", ".")]
        if elements and elements[0].startswith(".."):
            elements = elements[1:]
        wanted = "/".join(elements)
        if not wanted or path == wanted or path.startswith(f"{wanted}/"):
            return True
    return False

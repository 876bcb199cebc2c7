"""Which mounts a container gets from its volumes, in the order of its spec. Pure; the first error aborts.

Called by ``pod/containers.py`` with the container's final environment (subPathExpr). Opening a subPath safely and binding it is
``volume.subpath``'s. Source: pkg/kubelet/kubelet_pods.go, makeMounts, resolveRecursiveReadOnly; semantics §5.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kubelet_secrets.api.core import Container, Volume, VolumeMount
from kubelet_secrets.envvars.environment import Environment
from kubelet_secrets.envvars.subpath import resolve_sub_path
from kubelet_secrets.errors import ContainerConfigError
from kubelet_secrets.volume.payload import has_payload

PROPAGATIONS = ("None", "HostToContainer", "Bidirectional")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMount:
    """One mount, before its host path is known."""

    volume: Volume
    index: int  # in the container's volumeMounts
    sub_path: str  # checked; "" for the whole volume
    container_path: str  # absolute
    read_only: bool
    recursive_read_only: bool
    propagation: str


def plan_mounts(
    container: Container,
    environment: Environment,
    *,
    find_volume: Callable[[str], Volume | None],
    supports_recursive_read_only: bool,
) -> tuple[PlannedMount, ...]:
    """Plan the mounts of *container*.

    Args:
        find_volume: the mounted volume of a name, or None.

    Raises:
        ContainerConfigError: the texts are the kubelet's.
    """
    planned = []
    for index, mount in enumerate(container.volume_mounts):
        volume = find_volume(mount.name)
        if volume is None:
            raise ContainerConfigError(f'cannot find volume "{mount.name}" to mount into container "{container.name}"')
        propagation = mount.mount_propagation or "None"
        if propagation not in PROPAGATIONS:
            raise ContainerConfigError(f'invalid MountPropagation mode: "{propagation}"')
        sub_path = resolve_sub_path(mount, environment)
        try:
            recursive = resolve_recursive_read_only(mount, is_supported=supports_recursive_read_only)
        except ContainerConfigError as error:
            raise ContainerConfigError(f"failed to resolve recursive read-only mode: {error}") from error
        planned.append(
            PlannedMount(
                volume=volume,
                index=index,
                sub_path=sub_path,
                container_path=mount.mount_path if mount.mount_path.startswith("/") else f"/{mount.mount_path}",
                read_only=mount.read_only or has_payload(volume),
                recursive_read_only=recursive,
                propagation=propagation,
            )
        )
    return tuple(planned)


def resolve_recursive_read_only(mount: VolumeMount, *, is_supported: bool) -> bool:
    """Whether the submounts of *mount* are read-only too.

    Raises:
        ContainerConfigError: it was asked for and cannot be had.
    """
    mode = mount.recursive_read_only
    if mode is None or mode == "Disabled":
        return False
    if not mount.read_only:
        raise ContainerConfigError(f'volume "{mount.name}" requested recursive read-only mode, but it is not read-only')
    if mount.mount_propagation not in (None, "", "None"):
        raise ContainerConfigError(
            f'volume "{mount.name}" requested recursive read-only mode, but it is not compatible with propagation '
            f'"{mount.mount_propagation}"'
        )
    if mode == "IfPossible":
        return is_supported
    if mode == "Enabled":
        if not is_supported:
            raise ContainerConfigError(
                f'volume "{mount.name}" requested recursive read-only mode, but it is not supported by the runtime'
            )
        return True
    raise ContainerConfigError(f'unknown recursive read-only mode "{mode}"')

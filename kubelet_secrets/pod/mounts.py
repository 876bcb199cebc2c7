"""Which mounts a container gets from its volumes. Pure.

Called by ``pod/containers.py``, mount by mount in the order of the spec, with the container's final environment (subPathExpr);
the first error aborts. Between :func:`choose_part` and :func:`plan_mount` it has the part made, opened safely and bound, which
is ``volume.subpath``'s: so a mount's errors come in the kubelet's order, and none of a later mount before them.

Source: pkg/kubelet/kubelet_pods.go, makeMounts, resolveRecursiveReadOnly; semantics §5.1, whose steps are numbered here.
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
    """One mount, but for its path on the host."""

    volume: Volume
    index: int  # in the container's volumeMounts
    sub_path: str  # checked; "" for the whole volume
    container_path: str  # absolute
    read_only: bool
    recursive_read_only: bool
    propagation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedPart:
    """What one mount shows, before it is made and found on the host."""

    volume: Volume
    sub_path: str  # checked; "" for the whole volume


def choose_part(
    container: Container,
    mount: VolumeMount,
    environment: Environment,
    *,
    find_volume: Callable[[str], Volume | None],
) -> MountedPart:
    """Steps (1) to (4) for one mount: the volume, and which part of it.

    Args:
        find_volume: the mounted volume of a name, or None.

    Raises:
        ContainerConfigError: the texts are the kubelet's.
    """
    volume = find_volume(mount.name)
    if volume is None:
        raise ContainerConfigError(f'cannot find volume "{mount.name}" to mount into container "{container.name}"')
    return MountedPart(volume=volume, sub_path=resolve_sub_path(mount, environment))


def plan_mount(
    mount: VolumeMount, part: MountedPart, index: int, *, supports_recursive_read_only: bool
) -> PlannedMount:
    """Steps (7) to (10) for one mount, whose part has been found on the host: where and how it is mounted.

    Raises:
        ContainerConfigError: the texts are the kubelet's.
    """
    propagation = mount.mount_propagation or "None"
    if propagation not in PROPAGATIONS:
        raise ContainerConfigError(f'invalid MountPropagation mode: "{propagation}"')
    try:
        recursive = resolve_recursive_read_only(mount, is_supported=supports_recursive_read_only)
    except ContainerConfigError as error:
        raise ContainerConfigError(f"failed to resolve recursive read-only mode: {error}") from error
    return PlannedMount(
        volume=part.volume,
        index=index,
        sub_path=part.sub_path,
        container_path=mount.mount_path if mount.mount_path.startswith("/") else f"/{mount.mount_path}",
        read_only=mount.read_only or has_payload(part.volume),
        recursive_read_only=recursive,
        propagation=propagation,
    )


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

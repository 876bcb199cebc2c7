"""Which Secrets and ConfigMaps a pod refers to: what the node may ask the API server for, and nothing else.

Source: pkg/api/v1/pod/util.go, VisitPodSecretNames and VisitPodConfigmapNames; semantics §7.1, §10.2. The Node
authorizer walks the same list, so asking for one name more is answered 403.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubelet_secrets.api.core import Container, Pod, Volume


def all_containers(pod: Pod) -> Iterator[Container]:
    """Init, regular and ephemeral containers, in the order in which upstream visits them."""
    yield from pod.spec.init_containers
    yield from pod.spec.containers
    yield from pod.spec.ephemeral_containers


def secret_names(pod: Pod) -> tuple[str, ...]:
    """Names of the Secrets *pod* refers to, in its own namespace; each once, in the order of first mention."""
    return tuple(dict.fromkeys(name for name in _visit_secret_names(pod) if name))


def config_map_names(pod: Pod) -> tuple[str, ...]:
    """Names of the ConfigMaps *pod* refers to, in its own namespace; each once, in the order of first mention."""
    return tuple(dict.fromkeys(name for name in _visit_config_map_names(pod) if name))


def volume_secret_names(pod: Pod, volume_name: str) -> tuple[str, ...]:
    """Names of the Secrets behind one volume of *pod*."""
    return tuple(
        dict.fromkeys(name for volume, name in _visit_volume_secret_names(pod) if volume == volume_name and name)
    )


def volume_config_map_names(volume: Volume) -> tuple[str, ...]:
    """Names of the ConfigMaps behind *volume*."""
    return tuple(dict.fromkeys(name for name in _visit_volume_config_map_names(volume) if name))


def env_secret_names(container: Container) -> tuple[str, ...]:
    """Names of the Secrets that *container*'s environment refers to."""
    return tuple(dict.fromkeys(name for name in _visit_env_secret_names(container) if name))


def env_config_map_names(container: Container) -> tuple[str, ...]:
    """Names of the ConfigMaps that *container*'s environment refers to."""
    return tuple(dict.fromkeys(name for name in _visit_env_config_map_names(container) if name))


def _visit_secret_names(pod: Pod) -> Iterator[str]:
    for reference in pod.spec.image_pull_secrets:
        yield reference.name
    for container in all_containers(pod):
        yield from _visit_env_secret_names(container)
    for _, name in _visit_volume_secret_names(pod):
        yield name


def _visit_env_secret_names(container: Container) -> Iterator[str]:
    for source in container.env_from:
        if source.secret_ref is not None:
            yield source.secret_ref.name
    for variable in container.env:
        if variable.value_from is not None and variable.value_from.secret_key_ref is not None:
            yield variable.value_from.secret_key_ref.name


def _visit_volume_secret_names(pod: Pod) -> Iterator[tuple[str, str]]:
    for volume in pod.spec.volumes:
        if volume.secret is not None:
            yield volume.name, volume.secret.secret_name
        if volume.projected is not None:
            for projection in volume.projected.sources:
                if projection.secret is not None:
                    yield volume.name, projection.secret.name
        for source, field in (
            (volume.csi, "nodePublishSecretRef"),
            *((each, "secretRef") for each in (volume.cephfs, volume.cinder, volume.flex_volume, volume.iscsi)),
            *((each, "secretRef") for each in (volume.rbd, volume.scale_io, volume.storageos)),
        ):
            reference = (source or {}).get(field)
            if isinstance(reference, dict):
                yield volume.name, str(reference.get("name", ""))
        if volume.azure_file is not None:  # the one that gives the bare name
            yield volume.name, str(volume.azure_file.get("secretName", ""))


def _visit_config_map_names(pod: Pod) -> Iterator[str]:
    for container in all_containers(pod):
        yield from _visit_env_config_map_names(container)
    for volume in pod.spec.volumes:
        yield from _visit_volume_config_map_names(volume)


def _visit_env_config_map_names(container: Container) -> Iterator[str]:
    for source in container.env_from:
        if source.config_map_ref is not None:
            yield source.config_map_ref.name
    for variable in container.env:
        if variable.value_from is not None and variable.value_from.config_map_key_ref is not None:
            yield variable.value_from.config_map_key_ref.name


def _visit_volume_config_map_names(volume: Volume) -> Iterator[str]:
    if volume.config_map is not None:
        yield volume.config_map.name
    if volume.projected is not None:
        for projection in volume.projected.sources:
            if projection.config_map is not None:
                yield projection.config_map.name

"""The door: what files a volume shows, for every volume type that is made of API objects.

Pure. Called by the pod's worker on the node, by ``explain`` offline and by tests - the same code, so that the answers agree.
It neither reads nor writes a file: the result goes to ``atomicwriter``.

Source: SetUpAt of pkg/volume/{secret,configmap,downwardapi,projected}; semantics §2.2, §4.1.
"""

from __future__ import annotations

from kubelet_secrets.api.core import Pod, Volume
from kubelet_secrets.api.sources import NodeInfo, ObjectSource, get_optional
from kubelet_secrets.errors import SetUpError, aggregate_message
from kubelet_secrets.volume.downward import downward_entries
from kubelet_secrets.volume.ownership import fs_group_of, fs_user_from
from kubelet_secrets.volume.projected import (
    ProjectionContext,
    TokenSource,
    TrustBundleSource,
    projected_entries,
)
from kubelet_secrets.volume.projection import (
    Entries,
    FileProjection,
    Payload,
    config_map_entries,
    make_config_map_payload,
    make_secret_payload,
    secret_entries,
    to_payload,
)

__all__ = [
    "FileProjection",
    "Payload",
    "TokenSource",
    "TrustBundleSource",
    "has_payload",
    "make_config_map_payload",
    "make_secret_payload",
    "make_volume_payload",
    "plugin_directory",
]

_NO_DEFAULT_MODE = "no defaultMode used, not even the default value for it"


def has_payload(volume: Volume) -> bool:
    """Whether *volume* is one of the types that :func:`make_volume_payload` knows."""
    sources = (volume.secret, volume.config_map, volume.downward_api, volume.projected)
    return any(source is not None for source in sources)


def plugin_directory(volume: Volume) -> str:
    """The directory under ``pods/<uid>/volumes`` for this type of volume, for example ``kubernetes.io~secret``.

    Raises:
        ValueError: a type that has no directory there.
    """
    sources = {
        "kubernetes.io~secret": volume.secret,
        "kubernetes.io~configmap": volume.config_map,
        "kubernetes.io~downward-api": volume.downward_api,
        "kubernetes.io~projected": volume.projected,
        "kubernetes.io~empty-dir": volume.empty_dir,
    }
    for directory, source in sources.items():
        if source is not None:
            return directory
    raise ValueError(f"volume {volume.name} is of a type without a directory")


def make_volume_payload(
    volume: Volume,
    pod: Pod,
    objects: ObjectSource,
    *,
    node: NodeInfo,
    tokens: TokenSource | None = None,
    trust_bundles: TrustBundleSource | None = None,
) -> Payload:
    """Choose the files that *volume* of *pod* shows.

    Args:
        volume: of a type for which :func:`has_payload` holds, with the API server's defaults applied.
        objects: the Secrets and ConfigMaps of the pod's namespace.
        node: allocatable resources, for ``resourceFieldRef``.
        tokens: None when there is no API server to ask; only ``serviceAccountToken`` sources need it.
        trust_bundles: None while that projection is switched off.

    Returns:
        Clean relative path → file, in order of the sources, with later sources overwriting earlier ones. Empty is legal.

    Raises:
        SetUpError: its text is what follows ``MountVolume.SetUp failed for volume "v" : ``.
    """
    return to_payload(_volume_entries(volume, pod, objects, node, tokens, trust_bundles))


def _volume_entries(
    volume: Volume,
    pod: Pod,
    objects: ObjectSource,
    node: NodeInfo,
    tokens: TokenSource | None,
    trust_bundles: TrustBundleSource | None,
) -> Entries:
    if (secret_source := volume.secret) is not None:
        optional = bool(secret_source.optional)
        secret = get_optional(objects.get_secret, secret_source.secret_name, optional=optional)
        mode = _default_mode(secret_source.default_mode)
        return secret_entries(secret_source.items, secret, default_mode=mode, optional=optional)
    if (config_source := volume.config_map) is not None:
        optional = bool(config_source.optional)
        config_map = get_optional(objects.get_config_map, config_source.name, optional=optional)
        mode = _default_mode(config_source.default_mode)
        return config_map_entries(config_source.items, config_map, default_mode=mode, optional=optional)
    if (downward_source := volume.downward_api) is not None:
        mode = _default_mode(downward_source.default_mode)
        entries, failures = downward_entries(downward_source.items, pod, node, default_mode=mode)
        if failures:
            raise SetUpError(aggregate_message(failures))
        return entries
    assert volume.projected is not None, "the caller asks has_payload() first"
    context = ProjectionContext(
        pod=pod,
        objects=objects,
        node=node,
        tokens=tokens,
        trust_bundles=trust_bundles,
        fs_user=fs_user_from(pod),
        fs_group=fs_group_of(pod),
    )
    mode = _default_mode(volume.projected.default_mode)
    return projected_entries(volume.projected.sources, context, default_mode=mode)


def _default_mode(mode: int | None) -> int:
    if mode is None:
        raise SetUpError(_NO_DEFAULT_MODE)
    return mode

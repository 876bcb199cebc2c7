"""The files of a projected volume: several sources in one directory.

Pure. Called by ``payload``. Tokens and trust bundles come from outside through the two protocols below, already fetched.

Source: pkg/volume/projected/projected.go, collectData; semantics §4.1, §4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from kubelet_secrets.api.core import (
    ClusterTrustBundleProjection,
    Pod,
    ServiceAccountTokenProjection,
    VolumeProjection,
)
from kubelet_secrets.api.origin import Origin, OriginKind
from kubelet_secrets.api.sources import NodeInfo, ObjectSource, get_optional
from kubelet_secrets.errors import SetUpError, aggregate_message
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.volume.downward import downward_entries
from kubelet_secrets.volume.projection import Entries, FileProjection, config_map_entries, secret_entries

PRIVATE_MODE = 0o600  # of tokens and certificates as soon as the pod says who is to read them


class TokenSource(Protocol):
    """Bound tokens of the pod's service account, fetched and refreshed by the node."""

    def get_token(self, projection: ServiceAccountTokenProjection) -> SensitiveBytes:
        """Raises: SetUpError with ``failed to fetch token: …`` or ``token … expired and refresh failed: …``."""


class TrustBundleSource(Protocol):
    """Normalized PEM of ClusterTrustBundles; ``trustbundle.TrustBundles`` is one over plain objects."""

    def by_name(self, name: str, *, optional: bool) -> bytes:
        """Raises: SetUpError."""

    def by_signer(self, signer_name: str, label_selector: dict[str, Any] | None, *, optional: bool) -> bytes:
        """Raises: SetUpError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionContext:
    """Everything that collecting a volume needs besides its spec."""

    pod: Pod
    objects: ObjectSource
    node: NodeInfo
    tokens: TokenSource | None  # None: there is no API server to ask
    trust_bundles: TrustBundleSource | None  # None: the projection is switched off, as it is by default
    fs_user: int | None
    fs_group: int | None


class ProjectedSetUpError(SetUpError):
    """One or more sources failed.

    Attributes:
        causes: the errors, in the order of the sources; ``explain`` and ``why`` show them one by one.
    """

    def __init__(self, causes: list[SetUpError]) -> None:
        super().__init__(aggregate_message([str(cause) for cause in causes]))
        self.causes = tuple(causes)


def projected_entries(
    sources: tuple[VolumeProjection, ...], context: ProjectionContext, *, default_mode: int
) -> Entries:
    """Read every source, also after one failed.

    Returns:
        Files in the order of the sources: a later one overwrites an earlier one of the same path.

    Raises:
        ProjectedSetUpError: every failure, in the order of the sources.
    """
    entries: Entries = []
    causes: list[SetUpError] = []
    for source in sources:
        try:
            entries += _source_entries(source, context, default_mode=default_mode)
        except ProjectedSetUpError as error:
            causes += error.causes
        except SetUpError as error:
            causes.append(error)
    if causes:
        raise ProjectedSetUpError(causes)
    return entries


def _source_entries(source: VolumeProjection, context: ProjectionContext, *, default_mode: int) -> Entries:
    if source.secret is not None:
        optional = bool(source.secret.optional)
        secret = get_optional(context.objects.get_secret, source.secret.name, optional=optional)
        return secret_entries(source.secret.items, secret, default_mode=default_mode, optional=optional)
    if source.config_map is not None:
        optional = bool(source.config_map.optional)
        config_map = get_optional(context.objects.get_config_map, source.config_map.name, optional=optional)
        return config_map_entries(source.config_map.items, config_map, default_mode=default_mode, optional=optional)
    if source.downward_api is not None:
        entries, failures = downward_entries(
            source.downward_api.items, context.pod, context.node, default_mode=default_mode
        )
        if failures:
            raise ProjectedSetUpError([SetUpError(text) for text in failures])
        return entries
    if source.service_account_token is not None:
        return [_token_file(source.service_account_token, context, default_mode)]
    if source.cluster_trust_bundle is not None:
        return [_trust_bundle_file(source.cluster_trust_bundle, context, default_mode)]
    if source.pod_certificate is not None:
        # Differs: with the gate off (as by default) upstream's stand-in says "unimplemented".
        raise SetUpError("PodCertificate projection is not enabled on this node")
    return []  # a source with nothing set is tolerated


def _private_mode(context: ProjectionContext, default_mode: int) -> int:
    return PRIVATE_MODE if context.fs_user is not None or context.fs_group is not None else default_mode


def _token_file(
    projection: ServiceAccountTokenProjection, context: ProjectionContext, default_mode: int
) -> tuple[str, FileProjection]:
    if context.tokens is None:
        raise SetUpError("failed to fetch token: cannot use TokenManager when kubelet is in standalone mode")
    meta = context.pod.metadata
    return projection.path, FileProjection(
        data=context.tokens.get_token(projection),
        mode=_private_mode(context, default_mode),
        fs_user=context.fs_user,
        origin=Origin(
            kind=OriginKind.TOKEN,
            namespace=meta.namespace,
            name=context.pod.spec.service_account_name,
            key=projection.audience,
        ),
    )


def _trust_bundle_file(
    projection: ClusterTrustBundleProjection, context: ProjectionContext, default_mode: int
) -> tuple[str, FileProjection]:
    optional = bool(projection.optional)
    if projection.name is None and projection.signer_name is None:
        raise SetUpError("ClusterTrustBundle projection requires either name or signerName to be set")
    if context.trust_bundles is None:
        raise SetUpError("ClusterTrustBundle projection is not supported in static kubelet mode")
    if projection.name is not None:
        anchors = context.trust_bundles.by_name(projection.name, optional=optional)
    else:
        anchors = context.trust_bundles.by_signer(
            projection.signer_name or "", projection.label_selector, optional=optional
        )
    return projection.path, FileProjection(
        data=SensitiveBytes(anchors),
        mode=_private_mode(context, default_mode),
        fs_user=context.fs_user,
        origin=Origin(kind=OriginKind.TRUST_BUNDLE, name=projection.name or projection.signer_name or ""),
    )

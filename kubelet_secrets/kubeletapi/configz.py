"""``/configz``: this node's settings under the names that a kubelet's configuration has. Pure; there is no secret in it.

Settings that a kubelet has and this program has not are left out, but for those that clients ask for and that hold here.
Source: k8s.io/kubelet config/v1beta1 (KubeletConfiguration); cmd/kubelet/app/server.go, initConfigz.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class Settings(Protocol):
    """What is told of the agent's options."""

    @property
    def kubelet_address(self) -> str: ...
    @property
    def healthz_address(self) -> str: ...
    @property
    def healthz_port(self) -> int: ...
    @property
    def pod_manifest_path(self) -> Path | None: ...
    @property
    def rotates_server_certificates(self) -> bool: ...
    @property
    def client_ca_file(self) -> Path | None: ...
    @property
    def cluster_dns(self) -> Sequence[str]: ...
    @property
    def cluster_domain(self) -> str: ...
    @property
    def resolv_conf(self) -> Path: ...
    @property
    def max_pods(self) -> int: ...
    @property
    def image_gc_high_percent(self) -> int: ...
    @property
    def image_gc_low_percent(self) -> int: ...
    @property
    def max_parallel_image_pulls(self) -> int: ...
    @property
    def registry_qps(self) -> float: ...
    @property
    def registry_burst(self) -> int: ...
    @property
    def change_detection(self) -> enum.Enum: ...
    @property
    def allowed_unsafe_sysctls(self) -> Sequence[str]: ...
    @property
    def projects_trust_bundles(self) -> bool: ...
    @property
    def image_verification(self) -> enum.Enum: ...
    @property
    def image_allow_list(self) -> Sequence[str]: ...
    @property
    def eviction_hard(self) -> str | None: ...


def configz(settings: Settings, *, port: int, rotates_certificates: bool) -> dict[str, Any]:
    """The body of the answer.

    Args:
        port: where the kubelet's API listens in fact.
        rotates_certificates: the node's client certificate is its own to replace.
    """
    told: dict[str, Any] = {
        "enableServer": True,
        "syncFrequency": "1m0s",
        "fileCheckFrequency": "20s",
        "address": settings.kubelet_address,
        "port": port,
        "rotateCertificates": rotates_certificates,
        "serverTLSBootstrap": settings.rotates_server_certificates,
        "authentication": {
            "x509": {} if settings.client_ca_file is None else {"clientCAFile": str(settings.client_ca_file)},
            "webhook": {"enabled": True, "cacheTTL": "2m0s"},
            "anonymous": {"enabled": False},
        },
        "authorization": {
            "mode": "Webhook",
            "webhook": {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"},
        },
        "registryPullQPS": settings.registry_qps,
        "registryBurst": settings.registry_burst,
        "enableDebuggingHandlers": True,
        "healthzPort": settings.healthz_port,
        "healthzBindAddress": settings.healthz_address,
        "clusterDomain": settings.cluster_domain,
        "streamingConnectionIdleTimeout": "4h0m0s",
        "nodeStatusUpdateFrequency": "10s",
        "nodeStatusReportFrequency": "5m0s",
        "nodeLeaseDurationSeconds": 40,
        "imageGCHighThresholdPercent": settings.image_gc_high_percent,
        "imageGCLowThresholdPercent": settings.image_gc_low_percent,
        "cgroupDriver": "cgroupfs",
        "maxPods": settings.max_pods,
        "resolvConf": str(settings.resolv_conf),
        "serializeImagePulls": settings.max_parallel_image_pulls == 1,
        "maxParallelImagePulls": settings.max_parallel_image_pulls,
        "evictionPressureTransitionPeriod": "5m0s",
        "configMapAndSecretChangeDetectionStrategy": settings.change_detection.value,
        "imagePullCredentialsVerificationPolicy": settings.image_verification.value,
        "featureGates": {"ClusterTrustBundleProjection": settings.projects_trust_bundles},
    }
    lists = {
        "clusterDNS": [each for each in settings.cluster_dns if each != "none"],
        "allowedUnsafeSysctls": settings.allowed_unsafe_sysctls,
        "preloadedImagesVerificationAllowlist": settings.image_allow_list,
    }
    told |= {name: list(found) for name, found in lists.items() if found}
    if settings.eviction_hard:
        statements = (each.strip().partition("<") for each in settings.eviction_hard.split(",") if each.strip())
        told["evictionHard"] = {signal: amount for signal, _, amount in statements}
    if settings.pod_manifest_path is not None:
        told["staticPodPath"] = str(settings.pod_manifest_path)
    return {"kubeletconfig": told}

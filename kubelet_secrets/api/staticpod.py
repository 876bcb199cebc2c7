"""What sets static pods apart: pods that come from a file of the node, and their mirrors in the API.

Source: pkg/kubelet/types/pod_update.go; semantics §13.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.decode import convert
from kubelet_secrets.api.references import config_map_names, secret_names

CONFIG_HASH = "kubernetes.io/config.hash"
CONFIG_SOURCE = "kubernetes.io/config.source"
CONFIG_SEEN = "kubernetes.io/config.seen"
CONFIG_MIRROR = "kubernetes.io/config.mirror"


def is_static_pod(pod: Pod) -> bool:
    """Whether *pod* comes from a file or URL of the node and not from the API."""
    return pod.metadata.annotations.get(CONFIG_SOURCE, "api") != "api"


def is_mirror_pod(pod: Pod) -> bool:
    """Whether *pod*, of the API, only shows a static pod."""
    return CONFIG_MIRROR in pod.metadata.annotations


def api_object_reference(pod: Mapping[str, Any]) -> str | None:
    """What kind of API object a defaulted *pod* refers to, the first that upstream finds; None when to nothing.

    A pod that does not come from the API (a static pod, and the mirror of one) may refer to nothing: who writes files on a node
    could otherwise grant that node any Secret.

    Args:
        pod: plain, as decoded: sources that this project does not know otherwise count too.

    Raises:
        DecodeError: it is no pod.

    Source: pkg/api/pod/util.go, HasAPIObjectReference; semantics §13.
    """
    typed = convert(pod, Pod)
    if typed.spec.service_account_name:
        return "serviceaccounts"
    spec = pod.get("spec") or {}
    if secret_names(typed):
        return "secrets"
    if config_map_names(typed):
        return "configmaps"
    if spec.get("resourceClaims"):
        return "resourceclaims"
    for volume in spec.get("volumes") or ():
        for field, reference in _VOLUME_REFERENCES:
            if volume.get(field) is not None:
                return reference
        for source in (volume.get("projected") or {}).get("sources") or ():
            for field, reference in _PROJECTION_REFERENCES:
                if source.get(field) is not None:
                    return reference
    return None


# One volume has one source, so the order among these is nobody's matter.
_VOLUME_REFERENCES = (
    ("azureFile", "secrets (via azureFile volumes)"),
    ("configMap", "configmaps (via configmap volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("secret", "secrets (via secret volumes)"),
)
_PROJECTION_REFERENCES = (
    ("clusterTrustBundle", "clustertrustbundles"),
    ("configMap", "configmaps (via projected volumes)"),
    ("podCertificate", "podcertificates"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
)

"""The token volume that the API server adds to pods: ``kube-api-access-xxxxx``.

Pure, on plain dictionaries. Called by the API server's admission, and by ``explain``, which tells what a pod will look like.

Source: plugin/pkg/admission/serviceaccount/admission.go, mountServiceAccountToken, TokenVolumeSource; semantics §4.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TOKEN_MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
VOLUME_NAME_PREFIX = "kube-api-access-"
ROOT_CA_CONFIG_MAP = "kube-root-ca.crt"
TOKEN_EXPIRATION_S = 3607  # one hour, and a sign by which such tokens are recognised


def wants_token(pod: dict[str, Any], account: dict[str, Any] | None) -> bool:
    """Whether the token is to be mounted: the pod's own word, then its service account's, then yes."""
    for holder in (pod.get("spec") or {}, account or {}):
        wanted = holder.get("automountServiceAccountToken")
        if wanted is not None:
            return bool(wanted)
    return True


def add_token_volume(pod: dict[str, Any], generate_name: Callable[[str], str]) -> None:
    """Mount the token into each init and regular container of *pod* that mounts nothing at its place, in place.

    Args:
        generate_name: makes a name from a prefix; called when the volume is not there yet.
    """
    spec = pod.get("spec") or {}
    volumes = spec.get("volumes") or []
    existing = [volume.get("name", "") for volume in volumes]
    name = next((found for found in existing if found.startswith(VOLUME_NAME_PREFIX)), None)
    is_new = name is None
    if name is None:
        name = generate_name(VOLUME_NAME_PREFIX)
    mount = {"name": name, "readOnly": True, "mountPath": TOKEN_MOUNT_PATH}
    is_needed = False
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        mounts = container.get("volumeMounts") or []
        if all(each.get("mountPath") != TOKEN_MOUNT_PATH for each in mounts):
            container["volumeMounts"] = [*mounts, dict(mount)]
            is_needed = True
    if is_new and is_needed:
        spec["volumes"] = [*volumes, {"name": name, "projected": token_volume_source()}]


def token_volume_source() -> dict[str, Any]:
    """The token, the cluster's CA and the namespace."""
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return {
        "defaultMode": 0o644,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_EXPIRATION_S}},
            {"configMap": {"name": ROOT_CA_CONFIG_MAP, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ],
    }

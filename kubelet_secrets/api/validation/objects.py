"""The door of this room: an object of any kind, checked by the rules of its kind.

Pure. Objects must be defaulted before (``api/defaults.py``) and of the right types (``apiserver/strictness.py``): the rules
read fields without asking twice. A kind without rules has no errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kubelet_secrets.api.validation import kinds, nodekinds
from kubelet_secrets.api.validation.data import validate_config_map, validate_secret
from kubelet_secrets.api.validation.fields import FieldError
from kubelet_secrets.api.validation.pods import validate_pod
from kubelet_secrets.api.validation.quotas import validate_resource_quota
from kubelet_secrets.api.validation.signingrequests import validate_signing_request

_RULES: dict[str, Callable[[dict[str, Any], dict[str, Any] | None], list[FieldError]]] = {
    "Secret": validate_secret,
    "ConfigMap": validate_config_map,
    "Namespace": kinds.validate_namespace,
    "ServiceAccount": kinds.validate_service_account,
    "Node": kinds.validate_node,
    "Lease": kinds.validate_lease,
    "Event": kinds.validate_event,
    "Service": kinds.validate_service,
    "Role": kinds.validate_role,
    "ClusterRole": kinds.validate_role,
    "RoleBinding": kinds.validate_role_binding,
    "ClusterRoleBinding": kinds.validate_role_binding,
    "ResourceQuota": validate_resource_quota,
    "ClusterTrustBundle": kinds.validate_cluster_trust_bundle,
    "RuntimeClass": nodekinds.validate_runtime_class,
    "CSINode": nodekinds.validate_csi_node,
    "CSIDriver": nodekinds.validate_csi_driver,
}


def validate_object(obj: dict[str, Any], old: dict[str, Any] | None = None, subresource: str = "") -> list[FieldError]:
    """Check *obj* by the rules of its ``kind``; with *old*, as its next version by way of *subresource*."""
    kind = obj.get("kind", "")
    if kind == "Pod":
        return validate_pod(obj, old, subresource)
    if kind == "CertificateSigningRequest":
        return validate_signing_request(obj, old, subresource)
    rules = _RULES.get(kind)
    return rules(obj, old) if rules is not None else []

"""What every API object shares: metadata, references, and the table of resources this project speaks of.

Structs are frozen msgspec structs named as in the API; JSON names are camelCase, absent fields take the Go zero value,
unknown fields are ignored (a newer server may send more than we know).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType, dataclass_transform

import msgspec

PodUID = NewType("PodUID", str)
ResourceVersion = NewType("ResourceVersion", str)
"""Opaque: compare for equality only (upstream API conventions, "Concurrency Control")."""


# Tells type checkers what msgspec does anyway: a subclass inherits frozen and kw_only.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class ApiStruct(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of the API's structs: how they look in JSON. (The one ``Base`` here: msgspec inherits configuration this way.)"""


class OwnerReference(ApiStruct):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(ApiStruct):
    """Source: k8s.io/apimachinery ObjectMeta. Times are RFC 3339 strings, as on the wire; None when unset."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()


class ListMeta(ApiStruct):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")
    remaining_item_count: int | None = None


class LocalObjectReference(ApiStruct):
    name: str = ""


class ObjectReference(ApiStruct):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    resource_version: str = ""
    field_path: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of the API: where its collection lives and what its kind is called."""

    group: str  # "" for core
    version: str  # "v1"
    plural: str  # "secrets", as in the URL
    kind: str  # "Secret"
    namespaced: bool

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path of the collection (no *name*) or of one object.

        A namespaced resource without *namespace* gives the collection across all namespaces.
        """
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


NAMESPACES = Resource("", "v1", "namespaces", "Namespace", False)
SECRETS = Resource("", "v1", "secrets", "Secret", True)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", True)
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", True)
PODS = Resource("", "v1", "pods", "Pod", True)
SERVICES = Resource("", "v1", "services", "Service", True)
NODES = Resource("", "v1", "nodes", "Node", False)
EVENTS = Resource("", "v1", "events", "Event", True)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", True)
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role", True)
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", True)
CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", False)
CLUSTER_ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", False)
CERTIFICATE_SIGNING_REQUESTS = Resource(
    "certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", False
)
CLUSTER_TRUST_BUNDLES = Resource("certificates.k8s.io", "v1beta1", "clustertrustbundles", "ClusterTrustBundle", False)

RESOURCES = (
    *(NAMESPACES, SECRETS, CONFIG_MAPS, SERVICE_ACCOUNTS, PODS, SERVICES, NODES, EVENTS, LEASES),
    *(ROLES, ROLE_BINDINGS, CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS, CERTIFICATE_SIGNING_REQUESTS),
    CLUSTER_TRUST_BUNDLES,
)


def find_resource(api_version: str, kind: str) -> Resource | None:
    """The resource a manifest's ``apiVersion`` and ``kind`` belong to, None when this project does not speak of it."""
    for resource in RESOURCES:
        if resource.api_version == api_version and resource.kind == kind:
            return resource
    return None

"""The table of resources this server serves: one row each, and every other module of the room reads it.

Not code: what a row cannot say (a pod's graceful deletion, a namespace's contents) is in ``registry.py`` and
``controllers.py``. Discovery, OpenAPI paths and tables are derived from the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kubelet_secrets.api import meta
from kubelet_secrets.api.meta import Resource

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_METADATA_FIELDS = {"metadata.name": "metadata.name", "metadata.namespace": "metadata.namespace"}


@dataclass(frozen=True, slots=True)
class Subresource:
    """One subresource, as discovery lists it."""

    name: str  # "status"
    kind: str  # "Pod", "Binding"
    verbs: tuple[str, ...]
    group_version: str = ""  # of *kind*, when it is not the parent's: "policy/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedResource:
    """One row.

    Attributes:
        selectable: field selector label → dotted path in the object; ``metadata.name`` and ``metadata.namespace`` included.
        field_defaults: what an absent selectable field compares as, when that is not the empty string.
        has_status: status is written through ``/status`` only; writes to the main resource leave it alone.
        status_on_create: a status given at creation is kept (nodes: the kubelet registers with one).
        has_generation: ``metadata.generation`` starts at 1 and counts changes of ``spec``.
        unconditional_update: a PUT without resourceVersion is accepted.
        create_on_update: a PUT of an absent object creates it.
        returns_deleted: DELETE answers with the object, not with a Status.
        is_review: a question that ``reviews.py`` answers; nothing is stored.
    """

    resource: Resource
    singular: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: tuple[Subresource, ...] = ()
    selectable: Mapping[str, str] = field(default_factory=lambda: MappingProxyType(_METADATA_FIELDS))
    field_defaults: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    has_status: bool = False
    status_on_create: bool = False
    has_generation: bool = False
    unconditional_update: bool = True
    create_on_update: bool = False
    returns_deleted: bool = False
    is_review: bool = False

    @property
    def plural(self) -> str:
        return self.resource.plural

    @property
    def kind(self) -> str:
        return self.resource.kind

    @property
    def list_kind(self) -> str:
        return f"{self.resource.kind}List"

    @property
    def namespaced(self) -> bool:
        return self.resource.namespaced

    @property
    def group_resource(self) -> str:
        """As error messages name it: ``secrets``, ``leases.coordination.k8s.io``."""
        return f"{self.plural}.{self.resource.group}" if self.resource.group else self.plural


def _fields(**more: str) -> Mapping[str, str]:
    """Selectable fields beside the two of metadata. A keyword's ``__`` stands for a dot."""
    extra = {label.replace("__", "."): path for label, path in more.items()}
    return MappingProxyType({**_METADATA_FIELDS, **extra})


def _same(*paths: str) -> Mapping[str, str]:
    return MappingProxyType({**_METADATA_FIELDS, **{path: path for path in paths}})


def _status(kind: str) -> Subresource:
    return Subresource("status", kind, ("get", "patch", "update"))


_RBAC = "rbac.authorization.k8s.io"

ROLES = Resource(_RBAC, "v1", "roles", "Role", True)
ROLE_BINDINGS = Resource(_RBAC, "v1", "rolebindings", "RoleBinding", True)
CLUSTER_ROLES = Resource(_RBAC, "v1", "clusterroles", "ClusterRole", False)
CLUSTER_ROLE_BINDINGS = Resource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", False)
RESOURCE_QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota", True)
CERTIFICATE_SIGNING_REQUESTS = Resource(
    "certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", False
)
# What a kubelet reads before it calls itself ready. The agent does not: it has neither CSI nor other handlers.
CSI_DRIVERS = Resource("storage.k8s.io", "v1", "csidrivers", "CSIDriver", False)
CSI_NODES = Resource("storage.k8s.io", "v1", "csinodes", "CSINode", False)
RUNTIME_CLASSES = Resource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", False)


def _review(group: str, kind: str, *, namespaced: bool = False) -> ServedResource:
    singular = kind.lower()
    resource = Resource(f"{group}.k8s.io", "v1", f"{singular}s", kind, namespaced)
    return ServedResource(resource=resource, singular=singular, verbs=("create",), is_review=True)


SERVED: tuple[ServedResource, ...] = (
    ServedResource(
        resource=meta.NAMESPACES,
        singular="namespace",
        short_names=("ns",),
        verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
        subresources=(Subresource("finalize", "Namespace", ("update",)), _status("Namespace")),
        selectable=_fields(name="metadata.name", status__phase="status.phase"),
        has_status=True,
        returns_deleted=True,
    ),
    ServedResource(
        resource=meta.SECRETS,
        singular="secret",
        selectable=_same("type"),
    ),
    ServedResource(
        resource=meta.CONFIG_MAPS,
        singular="configmap",
        short_names=("cm",),
    ),
    ServedResource(
        resource=meta.SERVICE_ACCOUNTS,
        singular="serviceaccount",
        short_names=("sa",),
        subresources=(Subresource("token", "TokenRequest", ("create",), "authentication.k8s.io/v1"),),
        returns_deleted=True,
    ),
    ServedResource(
        resource=meta.PODS,
        singular="pod",
        short_names=("po",),
        categories=("all",),
        subresources=(
            Subresource("attach", "PodAttachOptions", ("create", "get")),
            Subresource("binding", "Binding", ("create",)),
            Subresource("ephemeralcontainers", "Pod", ("get", "patch", "update")),
            Subresource("eviction", "Eviction", ("create",), "policy/v1"),
            Subresource("exec", "PodExecOptions", ("create", "get")),
            Subresource("log", "Pod", ("get",)),
            Subresource("portforward", "PodPortForwardOptions", ("create", "get")),
            Subresource("resize", "Pod", ("get", "patch", "update")),
            _status("Pod"),
        ),
        selectable=_same(
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ),
        field_defaults=MappingProxyType({"spec.hostNetwork": "false"}),
        has_status=True,
        has_generation=True,
        returns_deleted=True,
    ),
    ServedResource(
        resource=meta.SERVICES,
        singular="service",
        short_names=("svc",),
        categories=("all",),
        subresources=(_status("Service"),),
        selectable=_same("spec.clusterIP", "spec.type"),
        has_status=True,
        returns_deleted=True,
    ),
    ServedResource(
        resource=meta.NODES,
        singular="node",
        short_names=("no",),
        subresources=(Subresource("proxy", "NodeProxyOptions", ("get",)), _status("Node")),
        selectable=_same("spec.unschedulable"),
        field_defaults=MappingProxyType({"spec.unschedulable": "false"}),
        has_status=True,
        status_on_create=True,
    ),
    ServedResource(
        resource=meta.EVENTS,
        singular="event",
        short_names=("ev",),
        selectable=_same(
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ),
        create_on_update=True,
    ),
    ServedResource(
        resource=RESOURCE_QUOTAS,
        singular="resourcequota",
        short_names=("quota",),
        subresources=(_status("ResourceQuota"),),
        has_status=True,
        returns_deleted=True,
    ),
    ServedResource(
        resource=meta.LEASES,
        singular="lease",
        unconditional_update=False,
        create_on_update=True,
    ),
    ServedResource(resource=ROLES, singular="role", create_on_update=True, unconditional_update=True),
    ServedResource(
        resource=ROLE_BINDINGS,
        singular="rolebinding",
        create_on_update=True,
        unconditional_update=True,
    ),
    ServedResource(
        resource=CLUSTER_ROLES,
        singular="clusterrole",
        create_on_update=True,
        unconditional_update=True,
    ),
    ServedResource(
        resource=CLUSTER_ROLE_BINDINGS,
        singular="clusterrolebinding",
        create_on_update=True,
        unconditional_update=True,
    ),
    ServedResource(
        resource=CERTIFICATE_SIGNING_REQUESTS,
        singular="certificatesigningrequest",
        short_names=("csr",),
        subresources=(
            Subresource("approval", "CertificateSigningRequest", ("get", "patch", "update")),
            _status("CertificateSigningRequest"),
        ),
        selectable=_same("spec.signerName"),
        has_status=True,
    ),
    ServedResource(
        resource=meta.CLUSTER_TRUST_BUNDLES,
        singular="clustertrustbundle",
        selectable=_same("spec.signerName"),
    ),
    ServedResource(resource=CSI_DRIVERS, singular="csidriver", returns_deleted=True),
    ServedResource(resource=CSI_NODES, singular="csinode", returns_deleted=True),
    ServedResource(resource=RUNTIME_CLASSES, singular="runtimeclass"),
    _review("authentication", "SelfSubjectReview"),
    _review("authentication", "TokenReview"),
    _review("authorization", "LocalSubjectAccessReview", namespaced=True),
    _review("authorization", "SelfSubjectAccessReview"),
    _review("authorization", "SelfSubjectRulesReview"),
    _review("authorization", "SubjectAccessReview"),
)

BY_PATH: Mapping[tuple[str, str, str], ServedResource] = MappingProxyType(
    {(row.resource.group, row.resource.version, row.plural): row for row in SERVED}
)
"""(group, version, plural) → row."""

BY_KIND: Mapping[tuple[str, str], ServedResource] = MappingProxyType(
    {(row.resource.api_version, row.kind): row for row in SERVED}
)
"""(apiVersion, kind) → row."""


def served(resource: Resource) -> ServedResource:
    """The row of *resource*; every resource of ``api/meta.py`` has one."""
    return BY_PATH[resource.group, resource.version, resource.plural]


def group_versions() -> tuple[tuple[str, str], ...]:
    """Every served (group, version), core first, in the order of the table."""
    return tuple(dict.fromkeys((row.resource.group, row.resource.version) for row in SERVED))

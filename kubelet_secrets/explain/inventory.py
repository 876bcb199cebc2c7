"""Manifests → the pods they make, and the objects those refer to.

Pure. Does to the objects what an API server would do before a node sees them: defaults, the service account, its token volume.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kubelet_secrets.api.core import ClusterTrustBundle, ConfigMap, Pod, Secret, Service, ServiceAccount
from kubelet_secrets.api.decode import DecodeError, convert, strip_nulls
from kubelet_secrets.api.defaults import apply_defaults
from kubelet_secrets.api.serviceaccount import ROOT_CA_CONFIG_MAP, add_token_volume, wants_token
from kubelet_secrets.errors import UsageError
from kubelet_secrets.explain.quantities import bad_quantity
from kubelet_secrets.manifests import ManifestObject

T = TypeVar("T")

_TEMPLATES = {  # kind → where its pod template is
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "PodTemplate": ("template",),
}
_TYPES: dict[str, type[Any]] = {
    "Secret": Secret,
    "ConfigMap": ConfigMap,
    "Service": Service,
    "ServiceAccount": ServiceAccount,
    "ClusterTrustBundle": ClusterTrustBundle,
}
Key = tuple[str, str]
"""(namespace, name)"""


@dataclass(frozen=True, slots=True)
class Manifest:
    """An object as it was given, for the API's rules, and where it comes from."""

    kind: str
    namespace: str
    name: str
    obj: dict[str, Any] = field(repr=False)  # with defaults applied
    source: str

    @property
    def where(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class PodManifest:
    """A pod, or a workload's template turned into the pod it would make."""

    manifest: Manifest  # of the pod or the workload
    pod: Pod  # named after the workload when it comes from a template
    obj: dict[str, Any] = field(repr=False)  # the same as a dictionary
    path: str  # of the pod's spec within the manifest: "spec", "spec.template.spec"

    @property
    def is_template(self) -> bool:
        """Whether a controller makes the pods, or the API server their names."""
        return self.manifest.kind != "Pod" or bool(self.pod.metadata.generate_name)


@dataclass(slots=True)
class Inventory:
    """Everything that was given, by kind."""

    pods: list[PodManifest] = field(default_factory=list)
    secrets: dict[Key, Secret] = field(default_factory=dict)
    config_maps: dict[Key, ConfigMap] = field(default_factory=dict)
    services: dict[Key, Service] = field(default_factory=dict)
    service_accounts: dict[Key, dict[str, Any]] = field(default_factory=dict)
    trust_bundles: list[ClusterTrustBundle] | None = None  # None: the projection is switched off
    manifests: list[Manifest] = field(default_factory=list)  # Secrets and ConfigMaps, in order
    repeated: list[Manifest] = field(default_factory=list)  # objects that an earlier manifest defines too


def take_inventory(
    manifests: Sequence[ManifestObject], *, namespace: str = "default", projects_trust_bundles: bool = False
) -> Inventory:
    """Sort *manifests* by kind; kinds that no container's files or variables depend on are passed over.

    Args:
        namespace: of objects that name none.
        projects_trust_bundles: whether the node's gate ClusterTrustBundleProjection is on.

    Raises:
        UsageError: an object has a field of the wrong type, or no name. The message names file and field, never a value.
    """
    inventory = Inventory(trust_bundles=[] if projects_trust_bundles else None)
    workloads: list[Manifest] = []
    seen: set[tuple[str, str, str]] = set()
    for given in manifests:
        kind = given.kind
        if kind != "Pod" and kind not in _TYPES and kind not in _TEMPLATES:
            continue
        manifest = _normalize(given, namespace)
        identity = (kind, manifest.namespace, manifest.name)
        if identity in seen:
            inventory.repeated.append(manifest)
        seen.add(identity)
        if kind in _TYPES:
            _file(inventory, manifest)
        else:
            workloads.append(manifest)
    # Pods last: their service accounts may come in any order.
    inventory.pods = [_make_pod(workload, inventory) for workload in workloads]
    return inventory


def _normalize(given: ManifestObject, namespace: str) -> Manifest:
    obj = copy.deepcopy(given.obj)
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict):
        raise UsageError(f"{given.source}: {given.kind}: metadata is missing")
    name = metadata.get("name")
    if not name and isinstance(metadata.get("generateName"), str) and metadata["generateName"]:
        name = metadata["name"] = metadata["generateName"] + "xxxxx"
    if not isinstance(name, str) or not name:
        raise UsageError(f"{given.source}: {given.kind}: metadata.name is missing")
    own = metadata.get("namespace") or namespace
    if not isinstance(own, str):
        raise UsageError(f"{given.source}: {given.kind} {name}: metadata.namespace is not text")
    metadata["namespace"] = own
    return Manifest(given.kind, own, name, obj, given.source)


def _file(inventory: Inventory, manifest: Manifest) -> None:
    obj = _checked(manifest, manifest.obj, _TYPES[manifest.kind])
    key = (manifest.namespace, manifest.name)
    _default(manifest, manifest.obj)
    match obj:
        case Secret():
            inventory.secrets[key] = obj
            inventory.manifests.append(manifest)
        case ConfigMap():
            inventory.config_maps[key] = obj
            inventory.manifests.append(manifest)
        case Service():
            inventory.services[key] = obj
        case ClusterTrustBundle():
            if inventory.trust_bundles is not None:
                inventory.trust_bundles.append(obj)
        case ServiceAccount():
            inventory.service_accounts[key] = manifest.obj


def _make_pod(manifest: Manifest, inventory: Inventory) -> PodManifest:
    if manifest.kind == "Pod":
        pod, path = manifest.obj, "spec"
    else:
        steps = _TEMPLATES[manifest.kind]
        pod, path = _pod_of_template(manifest, steps), ".".join((*steps, "spec"))
    pod = strip_nulls(pod)  # null is absent, for the server and so for what follows
    typed = _checked(manifest, pod, Pod)  # so that what follows may rely on the shapes
    if (bad := bad_quantity(typed)) is not None:
        field, problem = bad
        raise UsageError(f"{manifest.source}: {manifest.where}: {path.removesuffix('spec')}{field}: {problem}")
    _default(manifest, pod)
    spec = pod["spec"]
    if manifest.kind == "StatefulSet" and (claims := list(_claim_names(manifest.obj))):
        kept = [volume for volume in spec.get("volumes") or () if volume.get("name") not in claims]
        # The controller mounts each claim as a volume of its template's name, over one of the same name.
        made = [{"name": name, "persistentVolumeClaim": {"claimName": f"{name}-{manifest.name}"}} for name in claims]
        spec["volumes"] = [*made, *kept]
    account_name = spec.get("serviceAccountName") or "default"
    spec["serviceAccountName"] = account_name
    account = inventory.service_accounts.get((manifest.namespace, account_name))
    if account is not None and account.get("imagePullSecrets") and not spec.get("imagePullSecrets"):
        spec["imagePullSecrets"] = account["imagePullSecrets"]
    if wants_token(pod, account):
        add_token_volume(pod, lambda prefix: prefix + "xxxxx")
    return PodManifest(manifest, _checked(manifest, pod, Pod), pod, path)


def _pod_of_template(manifest: Manifest, steps: tuple[str, ...]) -> dict[str, Any]:
    template: Any = manifest.obj
    for index, step in enumerate(steps):
        template = template.get(step) if isinstance(template, dict) else None
        if not isinstance(template, dict):
            problem = "is missing" if template is None else "is not an object"
            raise UsageError(f"{manifest.source}: {manifest.where}: {'.'.join(steps[: index + 1])} {problem}")
    metadata = template.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise UsageError(f"{manifest.source}: {manifest.where}: {'.'.join(steps)}.metadata is not an object")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, "namespace": manifest.namespace, "name": manifest.name},
        "spec": template.get("spec"),
    }
    return pod


def _claim_names(workload: dict[str, Any]) -> Iterator[str]:
    claims = workload["spec"].get("volumeClaimTemplates")
    for claim in claims if isinstance(claims, list) else ():
        metadata = claim.get("metadata") if isinstance(claim, dict) else None
        if isinstance(metadata, dict) and isinstance(metadata.get("name"), str):
            yield metadata["name"]


def _checked(manifest: Manifest, obj: dict[str, Any], kind: type[T]) -> T:
    try:
        return convert(obj, kind)
    except DecodeError as error:
        raise UsageError(f"{manifest.source}: {manifest.where}: {error}") from None


def _default(manifest: Manifest, obj: dict[str, Any]) -> None:
    try:
        apply_defaults(obj)
    except (TypeError, AttributeError, KeyError, ValueError):
        # The API server's schema checks all fields before; here only those that are read here are checked.
        raise UsageError(f"{manifest.source}: {manifest.where}: a field has the wrong type") from None


def is_cluster_made(name: str) -> bool:
    """Whether the ConfigMap *name* is put into every namespace by the cluster itself."""
    return name == ROOT_CA_CONFIG_MAP

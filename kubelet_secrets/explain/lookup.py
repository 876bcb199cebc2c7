"""The given objects as an ``ObjectSource``, and hints for names that are not among them.

Pure. One per namespace, shared by ``variables`` and ``files``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from kubelet_secrets.api.core import ConfigMap, Container, Pod, Secret, ServiceAccountTokenProjection
from kubelet_secrets.api.fieldpath import split_subscript
from kubelet_secrets.api.meta import ObjectMeta
from kubelet_secrets.api.origin import Origin, OriginKind
from kubelet_secrets.api.quantity import is_zero
from kubelet_secrets.api.staticpod import CONFIG_SEEN, CONFIG_SOURCE
from kubelet_secrets.errors import MissingObject
from kubelet_secrets.explain.inventory import Inventory, is_cluster_made
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.volume.payload import TrustBundleSource
from kubelet_secrets.volume.trustbundles import TrustBundles, make_trust_bundle

NOT_GIVEN = "it is not among the given manifests"


@dataclass(frozen=True, slots=True)
class ManifestSource:
    """Secrets and ConfigMaps of one namespace, from the inventory; and what a cluster puts there itself."""

    inventory: Inventory
    namespace: str

    def get_secret(self, name: str) -> Secret:
        found = self.inventory.secrets.get((self.namespace, name))
        if found is None:
            raise MissingObject("secret", name)
        return found

    def get_config_map(self, name: str) -> ConfigMap:
        found = self.inventory.config_maps.get((self.namespace, name))
        if found is None:
            if is_cluster_made(name):
                return ConfigMap(metadata=ObjectMeta(name=name, namespace=self.namespace), data={"ca.crt": ""})
            raise MissingObject("configmap", name)
        return found

    def get_token(self, projection: ServiceAccountTokenProjection) -> SensitiveBytes:
        return SensitiveBytes(b"")  # only a cluster can issue one; see is_known

    @property
    def trust_bundles(self) -> TrustBundleSource | None:
        bundles = self.inventory.trust_bundles
        return None if bundles is None else TrustBundles(make_trust_bundle(each) for each in bundles)

    def is_known(self, origin: Origin) -> bool:
        """Whether the bytes behind *origin* are known here."""
        if origin.kind is OriginKind.CONFIG_MAP:
            return (self.namespace, origin.name) in self.inventory.config_maps
        return origin.kind is not OriginKind.TOKEN

    def is_immutable(self, origin: Origin) -> bool:
        key = (self.namespace, origin.name)
        if origin.kind is OriginKind.SECRET and key in self.inventory.secrets:
            return bool(self.inventory.secrets[key].immutable)
        if origin.kind is OriginKind.CONFIG_MAP and key in self.inventory.config_maps:
            return bool(self.inventory.config_maps[key].immutable)
        return False

    def object_hint(self, kind: str, name: str) -> str:
        """What to say to someone whose ``secret`` or ``configmap`` *name* is not there."""
        known = self.inventory.secrets if kind == "secret" else self.inventory.config_maps
        elsewhere = sorted(namespace for namespace, other in known if other == name and namespace != self.namespace)
        if elsewhere:
            return (
                f"there is one in namespace {', '.join(elsewhere)}; a pod only sees its own namespace, {self.namespace}"
            )
        alike = _closest(name, (other for namespace, other in known if namespace == self.namespace))
        if alike:
            return f'did you mean "{alike}"?'
        others, other_kind = (
            (self.inventory.config_maps, "ConfigMap") if kind == "secret" else (self.inventory.secrets, "Secret")
        )
        if (self.namespace, name) in others:
            return f"there is a {other_kind} of that name"
        return NOT_GIVEN

    def key_hint(self, kind: str, name: str, key: str) -> str:
        """What to say to someone whose *key* is not in an object that is there."""
        if kind == "secret":
            keys = sorted(self.get_secret(name).data)
        else:
            config_map = self.get_config_map(name)
            keys = sorted({**config_map.data, **config_map.binary_data})
        alike = _closest(key, keys)
        if alike:
            return f'did you mean "{alike}"?'
        return f"its keys are: {', '.join(keys)}" if keys else "it has no keys"


def is_run_time(origin: Origin, pod: Pod, container: Container | None, *, is_template: bool) -> bool:
    """Whether the value of a field or resource of *pod* is known only when it runs.

    Args:
        container: whose resources are meant when the reference names no container; None in a volume.
        is_template: a controller will give the pod its name and some labels.
    """
    if origin.kind is OriginKind.FIELD:
        return _is_run_time_field(origin.key, pod, is_template=is_template)
    if origin.kind is not OriginKind.RESOURCE_FIELD:
        return False
    side, _, resource = origin.key.partition(".")
    if side != "limits" or resource.startswith("hugepages-"):
        return False
    owners = (*pod.spec.containers, *pod.spec.init_containers)
    owner = next((each for each in owners if each.name == origin.name), None) if origin.name else container
    if origin.name and container is not None and not any(owner is each for each in pod.spec.containers):
        return False  # of a container named explicitly, a variable gets the defaults only when it is a regular one
    levels = [owner.resources.limits if owner is not None else {}]
    levels += [pod.spec.resources.limits] if pod.spec.resources is not None else []
    # A limit that is not set, or zero, is the node's allocatable.
    return all(is_zero(level.get(resource, 0)) for level in levels)


def _is_run_time_field(path: str, pod: Pod, *, is_template: bool) -> bool:
    if path.startswith("status."):
        return True
    if path in ("spec.nodeName", "spec.host"):
        return not pod.spec.node_name
    if path == "metadata.uid":
        return not pod.metadata.uid
    if path == "metadata.name":
        return is_template or not pod.metadata.name
    if path == "metadata.labels":
        return is_template
    split = split_subscript(path)
    if path == "metadata.annotations" or (split is not None and split[1] in (CONFIG_SEEN, CONFIG_SOURCE)):
        return True  # the node adds where it has the pod from, and since when
    # Controllers add labels of their own: pod-template-hash, statefulset.kubernetes.io/pod-name, …
    return is_template and split is not None and split[0] == "metadata.labels" and split[1] not in pod.metadata.labels


def _closest(name: str, names: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.75)), "")

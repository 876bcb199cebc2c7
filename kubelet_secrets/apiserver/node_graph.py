"""Which objects a node may know of: those that the pods bound to it refer to.

The graph hears every committed change of a pod, synchronously, so a binding opens the way to its Secrets with the same revision
(upstream's is an informer behind: a client must still expect a 403 just after a binding). Relations vanish with the pod
object, not with its end.

Source: plugin/pkg/auth/authorizer/node/{graph.go,graph_populator.go}; semantics §10.2.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.decode import DecodeError, decode
from kubelet_secrets.api.references import config_map_names, secret_names
from kubelet_secrets.apiserver.storage import Change
from kubelet_secrets.apiserver.storagepaths import prefix_of

_PODS = prefix_of("pods")
_MIRROR_ANNOTATION = "kubernetes.io/config.mirror"

Vertex = tuple[str, str, str]
"""(plural, namespace, name)."""


@dataclass(frozen=True, slots=True)
class _Relations:
    node: str
    objects: frozenset[Vertex]


class NodeGraph:
    """See the module's text. :meth:`observe` is a listener of the store."""

    def __init__(self) -> None:
        self._pods: dict[str, _Relations] = {}  # by storage key
        self._counts: dict[str, Counter[Vertex]] = {}  # node → object → pods that refer to it

    def is_related(self, node: str, plural: str, namespace: str, name: str) -> bool:
        """Whether a pod bound to *node* refers to (or is) the object."""
        return (plural, namespace, name) in self._counts.get(node, ())

    def observe(self, change: Change) -> None:
        """Take in one committed change of anything."""
        if change.key.startswith(_PODS):
            self.set_pod(change.key, change.value)

    def set_pod(self, key: str, value: bytes | None) -> None:
        """Replace what is known of one pod; *value* is its JSON, None when it is gone."""
        relations = _relations(value) if value is not None else None
        old = self._pods.get(key)
        if relations == old:
            return
        if old is not None:
            del self._pods[key]
            counts = self._counts[old.node]
            counts.subtract(old.objects)
            for vertex in old.objects:
                if counts[vertex] <= 0:
                    del counts[vertex]
        if relations is not None:
            self._pods[key] = relations
            self._counts.setdefault(relations.node, Counter()).update(relations.objects)


def _relations(value: bytes) -> _Relations | None:
    try:
        pod = decode(value, Pod)
    except DecodeError:
        return None  # not a pod anything could run: nothing follows from it
    if not pod.spec.node_name:
        return None
    namespace = pod.metadata.namespace
    objects = {("pods", namespace, pod.metadata.name)}
    if _MIRROR_ANNOTATION not in pod.metadata.annotations:
        objects |= {("secrets", namespace, name) for name in secret_names(pod)}
        objects |= {("configmaps", namespace, name) for name in config_map_names(pod)}
        if pod.spec.service_account_name:
            objects.add(("serviceaccounts", namespace, pod.spec.service_account_name))
        for volume in pod.spec.volumes:
            claim = (volume.persistent_volume_claim or {}).get("claimName")
            if claim:
                objects.add(("persistentvolumeclaims", namespace, str(claim)))
    return _Relations(pod.spec.node_name, frozenset(objects))

"""Admission for Services: each gets an address of its own, as one cluster-wide allocator would give it.

Nothing on a node leads packets there: no service proxy is part of this project. The addresses exist because containers get
variables made of them.

Source: pkg/registry/core/service/{storage/alloc.go, strategy.go (patchAllocatedValues)}; semantics §6.3.
"""

from __future__ import annotations

import ipaddress
import random

from kubelet_secrets.api import meta
from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import SPEC, Path
from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.admission import Finder, Plugin
from kubelet_secrets.apiserver.attributes import Attributes
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.resources import served
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.errors import Invalid

_SERVICES = served(meta.SERVICES)
NETWORK = ipaddress.ip_network("10.96.0.0/16")
OWN_ADDRESS = str(NETWORK[1])  # of the API server itself
OWN_NAMES = frozenset(
    {OWN_ADDRESS, *("kubernetes" + rest for rest in ("", ".default", ".default.svc", ".default.svc.cluster.local"))}
)
"""By which containers reach it."""
HEADLESS = "None"
_WITH_ADDRESS = ("ClusterIP", "NodePort", "LoadBalancer")


class ServiceAddresses(Plugin):
    """See the module's text."""

    async def mutate(self, attributes: Attributes, finder: Finder) -> None:
        service = attributes.obj
        if attributes.row.kind != "Service" or attributes.subresource or service is None:
            return
        spec = service.get("spec")
        if not isinstance(spec, dict) or spec.get("type") not in _WITH_ADDRESS:
            return
        before = ((attributes.old or {}).get("spec") or {}).get("clusterIP")
        wanted = spec.get("clusterIP") or before
        if wanted != before or not wanted:
            taken = await self._taken(finder)
            if not wanted:
                wanted = _free_address(taken)
            elif problem := _problem(wanted, taken):
                raise _refusal(attributes, *problem)
        spec["clusterIP"] = wanted
        spec["clusterIPs"] = [wanted]
        family = "IPv6" if ":" in wanted else "IPv4"
        spec.setdefault("ipFamilies", [family])
        spec.setdefault("ipFamilyPolicy", "SingleStack")

    async def _taken(self, finder: Finder) -> set[str]:
        services = await finder.list_objects(Selection(_SERVICES))
        addresses = {(item.object.get("spec") or {}).get("clusterIP") for item in services.items}
        return {address for address in addresses if address and address != HEADLESS}


def _free_address(taken: set[str]) -> str:
    """An address that no Service has. Those at the network's beginning are left to whoever asks for one by number."""
    first, last = int(NETWORK[256]), int(NETWORK[-2])
    while True:
        address = str(ipaddress.ip_address(random.randint(first, last)))
        if address not in taken:
            return address


def _problem(wanted: str, taken: set[str]) -> tuple[Path, object, str] | None:
    """Where, what and why: *wanted* cannot be had. Containers get it as a variable, so it is an address and nothing else.

    Source: pkg/apis/core/validation (ValidateServiceClusterIPsRelatedFields), pkg/registry/core/service/ipallocator. Differs:
    an address outside our own network is taken as it is, for manifests come from clusters with others.
    """
    path = SPEC.child("clusterIPs")
    if wanted == HEADLESS:
        return None
    try:
        ipaddress.ip_address(wanted)
    except ValueError:
        return path.index(0), wanted, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    if wanted in taken:
        return path, [wanted], f"failed to allocate IP {wanted}: provided IP is already allocated"
    return None


def _refusal(attributes: Attributes, path: Path, value: object, detail: str) -> Invalid:
    found = [fields.invalid(path, value, detail)]
    message = fields.invalid_message("Service", attributes.name, found)
    return statuses.invalid(attributes.row, attributes.name, message, fields.status_causes(found))


def kubernetes_service(target_port: int) -> Object:
    """The Service ``default/kubernetes``, with the address and port that it has in clusters made by kubeadm.

    Args:
        target_port: where the server listens.

    Source: pkg/controlplane/controller/kubernetesservice.
    """
    return {
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": OWN_ADDRESS,
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": target_port}],
            "type": "ClusterIP",
        },
    }

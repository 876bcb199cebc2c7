"""Approves what kubelets ask for: client certificates by an access review of who asks, serving ones by their addresses.

Everything else waits for ``kubectl certificate approve``.

Source: pkg/controller/certificates/approver/sarapprove.go. Differs: upstream approves no serving certificate by itself, for it
cannot know whose addresses they are. Here the Node object says so, and the node may write only its own; without that, nobody
could check whom ``kubectl logs`` talks to on a single machine. Names of the API server and of other nodes are nobody's.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from cryptography import x509

from kubelet_secrets.api import meta
from kubelet_secrets.api.validation.signingrequests import parse_request
from kubelet_secrets.apiserver import csr
from kubelet_secrets.apiserver.attributes import User
from kubelet_secrets.apiserver.authz import Authorizers
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.registry import IN_PROCESS, Registry
from kubelet_secrets.apiserver.requestinfo import RequestInfo
from kubelet_secrets.apiserver.resources import CERTIFICATE_SIGNING_REQUESTS, served
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.apiserver.service_addresses import OWN_NAMES
from kubelet_secrets.apiserver.watch import DELETED
from kubelet_secrets.errors import NotFound

log = logging.getLogger(__name__)

REQUESTS = served(CERTIFICATE_SIGNING_REQUESTS)
_NODES = served(meta.NODES)
_APPROVAL = replace(IN_PROCESS, subresource="approval")
_SELF_CLIENT = "Auto approving self kubelet client certificate after SubjectAccessReview."
_CLIENT = "Auto approving kubelet client certificate after SubjectAccessReview."
_SERVING = "Auto approving kubelet serving certificate: its names are addresses of the node."


class Approver:
    """See the module's text. :meth:`handle` is given every request, now and as it changes."""

    def __init__(self, registry: Registry, authorizers: Authorizers) -> None:
        self._registry = registry
        self._authorizers = authorizers

    async def handle(self, kind: str, obj: Object) -> None:
        """Approve *obj* if it may be. Raises: ApiError."""
        if kind == DELETED or csr.certificate_of(obj) or csr.has_condition(obj, "Approved", "Denied"):
            return
        message = await self._reason(obj)
        if not message:
            return

        def approve(live: Object) -> Object:
            if csr.has_condition(live, "Approved", "Denied"):
                return live  # somebody was faster
            condition = {"type": "Approved", "status": "True", "reason": "AutoApproved", "message": message}
            live.setdefault("status", {}).setdefault("conditions", []).append(condition)
            return live

        try:
            await self._registry.update(REQUESTS, "", obj["metadata"]["name"], approve, _APPROVAL)
        except NotFound:
            pass

    async def retry(self) -> None:
        """Look again at what is pending: a role may have been bound, or a Node got its addresses, in the meantime."""
        for item in (await self._registry.list_objects(Selection(REQUESTS))).items:
            await self.handle("", item.object)

    async def _reason(self, obj: Object) -> str:
        """Why it is approved; empty when it is not."""
        spec = obj["spec"]
        request, signer = parse_request(spec["request"]), spec["signerName"]
        if signer not in (csr.KUBELET_CLIENT_SIGNER, csr.KUBELET_SERVING_SIGNER):
            return ""
        if csr.fault(request, spec["usages"], signer):
            return ""
        is_self = spec.get("username") == csr.common_name(request)
        if signer == csr.KUBELET_SERVING_SIGNER:
            has_group = csr.NODES_GROUP in (spec.get("groups") or ())
            return _SERVING if is_self and has_group and await self._has_addresses(request) else ""
        if is_self and await self._may(spec, "selfnodeclient"):
            return _SELF_CLIENT
        if await self._may(spec, "nodeclient"):
            return _CLIENT
        log.info(
            "recognized csr %s as a kubelet's client certificate but subject access review was not approved",
            obj["metadata"]["name"],
        )
        return ""

    async def _may(self, spec: Object, subresource: str) -> bool:
        extra = {str(key): tuple(values or ()) for key, values in (spec.get("extra") or {}).items()}
        user = User(spec.get("username") or "", tuple(spec.get("groups") or ()), spec.get("uid") or "", extra)
        resource = REQUESTS.resource
        request = RequestInfo(
            path="",
            verb="create",
            is_resource=True,
            group=resource.group,
            version=resource.version,
            plural=resource.plural,
            subresource=subresource,
        )
        return (await self._authorizers.authorize(user, request)).is_allowed

    async def _has_addresses(self, request: x509.CertificateSigningRequest) -> bool:
        """Whether every name asked for is an address of the Node of that name, and none is somebody else's.

        A node says itself what its addresses are. With the name of the API server, or of another node, it could pass for them.
        """
        name = csr.common_name(request).removeprefix(csr.NODE_PREFIX)
        node = await self._registry.find(_NODES, "", name)
        if node is None:
            return False
        addresses = (node.object.get("status") or {}).get("addresses") or ()
        known = {entry.get("address") for entry in addresses}
        names = csr.alternatives(request)
        wanted = {
            *names.get_values_for_type(x509.DNSName),
            *map(str, names.get_values_for_type(x509.IPAddress)),
        }
        if not wanted <= known or wanted & OWN_NAMES:
            return False
        for other in wanted - {name}:
            if await self._registry.find(_NODES, "", other) is not None:
                return False
        return True

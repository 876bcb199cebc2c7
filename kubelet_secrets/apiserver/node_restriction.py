"""Admission for nodes: what a node writes must be about itself and its own pods.

Source: plugin/pkg/admission/noderestriction/admission.go; semantics §10.3.
"""

from __future__ import annotations

import json

from kubelet_secrets.api import meta
from kubelet_secrets.api.decode import DecodeError
from kubelet_secrets.api.staticpod import CONFIG_MIRROR, api_object_reference
from kubelet_secrets.api.validation.signingrequests import parse_request
from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.admission import Finder, Plugin
from kubelet_secrets.apiserver.attributes import Attributes
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.csr import KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER, NODE_PREFIX, common_name
from kubelet_secrets.apiserver.node_authorizer import NODE_LEASES, node_name
from kubelet_secrets.apiserver.resources import served
from kubelet_secrets.errors import Forbidden

_NODES = served(meta.NODES)
_PODS = served(meta.PODS)

_ALLOWED_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
    }
)
_ALLOWED_LABEL_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
_PROTECTED_DOMAINS = ("kubernetes.io", "k8s.io")
_RESTRICTION_DOMAIN = "node-restriction.kubernetes.io"


class NodeRestriction(Plugin):
    """Applies to requests of nodes only; everybody else passes."""

    async def validate(self, attributes: Attributes, finder: Finder) -> None:
        node = node_name(attributes.user)
        if not node:
            return
        match attributes.row.kind:
            case "Pod":
                await _check_pod(node, attributes, finder)
            case "Node":
                _check_node(node, attributes)
            case "ServiceAccount" if attributes.subresource == "token":
                await _check_token(node, attributes, finder)
            case "CertificateSigningRequest" if attributes.verb == "create":
                _check_signing_request(node, attributes)
            case "Lease":
                if attributes.namespace != NODE_LEASES:
                    message = f"can only access leases in the {_go_quoted(NODE_LEASES)} system namespace"
                    raise _forbid(attributes, message)
                if attributes.name != node:
                    raise _forbid(attributes, "can only access node lease with the same name as the requesting node")
            case "CSINode" if attributes.name != node:
                raise _forbid(attributes, "can only access CSINode with the same name as the requesting node")


def _forbid(attributes: Attributes, message: str) -> Forbidden:
    return statuses.forbidden(attributes.row, attributes.name, message)


def _go_quoted(text: str) -> str:
    return json.dumps(text)


# --- pods ------------------------------------------------------------------------------------------------------------


async def _check_pod(node: str, attributes: Attributes, finder: Finder) -> None:
    quoted = _go_quoted(node)
    match attributes.verb, attributes.subresource:
        case "create", "":
            await _check_mirror_pod(node, attributes, finder)
        case "delete", "":
            if _node_of(attributes.old) != node:
                raise _forbid(attributes, f"node {quoted} can only delete pods with spec.nodeName set to itself")
        case "delete", "eviction":
            if _node_of(attributes.old) != node:
                raise _forbid(attributes, f"node {node} can only evict pods with spec.nodeName set to itself")
        case "update", "status":
            if _node_of(attributes.old) != node:
                message = f"node {quoted} can only update pod status for pods with spec.nodeName set to itself"
                raise _forbid(attributes, message)
            if _labels(attributes.obj) != _labels(attributes.old):
                raise _forbid(attributes, f"node {quoted} cannot update labels through pod status")
        case verb, subresource:
            what = f"{verb} {subresource}".strip()
            raise _forbid(attributes, f"unexpected operation {_go_quoted(what.upper())}")


async def _check_mirror_pod(node: str, attributes: Attributes, finder: Finder) -> None:
    quoted = _go_quoted(node)
    pod = attributes.obj
    assert pod is not None
    if CONFIG_MIRROR not in (pod["metadata"].get("annotations") or {}):
        annotation = _go_quoted(CONFIG_MIRROR)
        message = f"pod does not have {annotation} annotation, node {quoted} can only create mirror pods"
        raise _forbid(attributes, message)
    if _node_of(pod) != node:
        raise _forbid(attributes, f"node {quoted} can only create pods with spec.nodeName set to itself")
    owners = pod["metadata"].get("ownerReferences") or []
    if len(owners) != 1 or not _is_node(owners[0], node):
        raise _forbid(attributes, f"node {quoted} can only create pods with an owner reference set to itself")
    owner = owners[0]
    if owner.get("controller") is not True:
        message = f"node {quoted} can only create pods with a controller owner reference set to itself"
        raise _forbid(attributes, message)
    if owner.get("blockOwnerDeletion"):
        raise _forbid(attributes, f"node {quoted} must not set blockOwnerDeletion on an owner reference")
    found = await finder.find(_NODES, "", node)
    if found is None:
        raise statuses.not_found(_NODES, node)
    uid = found.object["metadata"]["uid"]
    if owner.get("uid") != uid:
        raise _forbid(attributes, f"node {node} UID mismatch: expected {owner.get('uid', '')} got {uid}")
    try:
        reference = api_object_reference(pod)
    except DecodeError:
        return  # validation says why
    if reference is not None:
        raise _forbid(attributes, f"node {quoted} can not create pods that reference {reference}")


def _is_node(owner: Object, node: str) -> bool:
    return owner.get("apiVersion") == "v1" and owner.get("kind") == "Node" and owner.get("name") == node


def _node_of(pod: Object | None) -> str:
    return str(((pod or {}).get("spec") or {}).get("nodeName", ""))


def _labels(obj: Object | None) -> Object:
    labels: Object = ((obj or {}).get("metadata") or {}).get("labels") or {}
    return labels


# --- tokens ----------------------------------------------------------------------------------------------------------


async def _check_token(node: str, attributes: Attributes, finder: Finder) -> None:
    """A node asks for tokens of its own pods only, for an audience that the pod's volumes name."""
    spec = (attributes.obj or {}).get("spec") or {}
    reference = spec.get("boundObjectRef") or {}
    name, uid = reference.get("name"), reference.get("uid")
    if (reference.get("apiVersion"), reference.get("kind")) != ("v1", "Pod") or not name:
        raise _forbid(attributes, "node requested token not bound to a pod")
    if not uid:
        raise _forbid(attributes, "node requested token with a pod binding without a uid")
    found = await finder.find(_PODS, attributes.namespace, name)
    if found is None:
        raise statuses.not_found(_PODS, name)
    pod = found.object
    if uid != pod["metadata"]["uid"]:
        message = (
            f"the UID in the bound object reference ({uid}) does not match the UID in record. "
            "The object might have been deleted and then recreated"
        )
        raise _forbid(attributes, message)
    if _node_of(pod) != node:
        raise _forbid(attributes, "node requested token bound to a pod scheduled on a different node")
    audiences = spec.get("audiences") or [""]
    if len(audiences) > 1:
        raise _forbid(attributes, "node may only request 0 or 1 audiences")
    if audiences[0] not in _audiences(pod):
        message = (
            f"audience {_go_quoted(audiences[0])} not found in pod spec volume, "
            f"{attributes.user.name} is not authorized to request tokens for this audience"
        )
        raise _forbid(attributes, message)


def _audiences(pod: Object) -> set[str]:
    """What the tokens in the volumes of *pod* are for; the empty string is the API server itself."""
    found = set()
    for volume in pod["spec"].get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources") or ():
            if (projection := source.get("serviceAccountToken")) is not None:
                found.add(projection.get("audience") or "")
    return found


# --- certificates ----------------------------------------------------------------------------------------------------


def _check_signing_request(node: str, attributes: Attributes) -> None:
    """A node asks for certificates in its own name. What else a kubelet's request has to say is the signer's business."""
    spec = (attributes.obj or {}).get("spec") or {}
    if spec.get("signerName") not in (KUBELET_SERVING_SIGNER, KUBELET_CLIENT_SIGNER):
        return
    try:
        request = parse_request(spec.get("request") or "")
    except ValueError as error:
        raise _forbid(attributes, f"unable to parse csr: {error}") from None
    if common_name(request) != f"{NODE_PREFIX}{node}":
        raise _forbid(attributes, f"can only create a node CSR with CN={NODE_PREFIX}{node}")


# --- nodes -----------------------------------------------------------------------------------------------------------


def _check_node(node: str, attributes: Attributes) -> None:
    quoted = _go_quoted(node)
    if attributes.name != node:
        raise _forbid(attributes, f"node {quoted} is not allowed to modify node {_go_quoted(attributes.name)}")
    new, old = attributes.obj, attributes.old
    if attributes.verb == "create" and new is not None:
        refused = forbidden_labels(_labels(new), {})
        if refused:
            message = f"node {quoted} is not allowed to set the following labels: {', '.join(refused)}"
            raise _forbid(attributes, message)
    elif attributes.verb == "update" and new is not None and old is not None:
        if ((new.get("spec") or {}).get("taints") or []) != ((old.get("spec") or {}).get("taints") or []):
            raise _forbid(attributes, f"node {quoted} is not allowed to modify taints")
        if (new["metadata"].get("ownerReferences") or []) != (old["metadata"].get("ownerReferences") or []):
            raise _forbid(attributes, f"node {quoted} is not allowed to modify ownerReferences")
        refused = forbidden_labels(_labels(new), _labels(old))
        if refused:
            raise _forbid(attributes, f"is not allowed to modify labels: {', '.join(refused)}")


def forbidden_labels(new: Object, old: Object) -> list[str]:
    """Labels that differ and that a node may not set on itself, sorted."""
    changed = [label for label in {*new, *old} if new.get(label) != old.get(label)]
    return sorted(label for label in changed if not _may_set(label))


def _may_set(label: str) -> bool:
    domain, _, _ = label.rpartition("/")
    if label in _ALLOWED_LABELS or _is_within(domain, _ALLOWED_LABEL_DOMAINS):
        return True
    return not _is_within(domain, (*_PROTECTED_DOMAINS, _RESTRICTION_DOMAIN))


def _is_within(domain: str, parents: tuple[str, ...]) -> bool:
    return any(domain == parent or domain.endswith("." + parent) for parent in parents)

"""What a node may do: read the objects its pods refer to, one at a time, and write what is its own.

Allows or has no opinion; whether a write is really about the node's own objects is for ``node_restriction.py``.

Source: plugin/pkg/auth/authorizer/node/node_authorizer.go; bootstrappolicy NodeRules; semantics §10.2.
"""

from __future__ import annotations

from kubelet_secrets.api.selectors import parse_field_selector
from kubelet_secrets.apiserver.attributes import User
from kubelet_secrets.apiserver.authz import ALLOW, NO_OPINION, Verdict
from kubelet_secrets.apiserver.node_graph import NodeGraph
from kubelet_secrets.apiserver.requestinfo import RequestInfo

NODE_LEASES = "kube-node-lease"
_USER_PREFIX = "system:node:"
_READ = frozenset({"get", "list", "watch"})

# (group, plural with subresource) → verbs. What upstream's node role grants and no rule of its own narrows.
_STATIC_RULES: dict[tuple[str, str], frozenset[str]] = {
    ("authentication.k8s.io", "tokenreviews"): frozenset({"create"}),
    ("authorization.k8s.io", "subjectaccessreviews"): frozenset({"create"}),
    ("authorization.k8s.io", "localsubjectaccessreviews"): frozenset({"create"}),
    ("", "services"): _READ,
    ("", "events"): frozenset({"create", "update", "patch"}),
    ("events.k8s.io", "events"): frozenset({"create", "update", "patch"}),
    ("certificates.k8s.io", "certificatesigningrequests"): _READ | {"create"},
    ("certificates.k8s.io", "clustertrustbundles"): _READ,
    ("", "endpoints"): frozenset({"get"}),
    ("storage.k8s.io", "csidrivers"): _READ,
    ("node.k8s.io", "runtimeclasses"): _READ,
}


def node_name(user: User) -> str:
    """The node *user* is, or the empty string. Source: pkg/auth/nodeidentifier."""
    if not user.name.startswith(_USER_PREFIX) or "system:nodes" not in user.groups:
        return ""
    return user.name.removeprefix(_USER_PREFIX)


def _no(reason: str) -> Verdict:
    return Verdict(False, reason)


class NodeAuthorizer:
    """See the module's text."""

    def __init__(self, graph: NodeGraph) -> None:
        self._graph = graph

    async def authorize(self, user: User, request: RequestInfo) -> Verdict:
        node = node_name(user)
        if not node or not request.is_resource:
            return NO_OPINION
        match request.group, request.plural:
            case "", "secrets" | "configmaps":
                return self._read_one(node, request)
            case "", "persistentvolumeclaims":
                return self._claim(node, request)
            case "", "serviceaccounts":
                return self._service_account(node, request)
            case "", "nodes":
                return _node(node, request)
            case "", "pods":
                return self._pod(node, request)
            case "coordination.k8s.io", "leases":
                return _lease(node, request)
            case "storage.k8s.io", "csinodes":
                return _csi_node(node, request)
        resource = f"{request.plural}/{request.subresource}" if request.subresource else request.plural
        return ALLOW if request.verb in _STATIC_RULES.get((request.group, resource), ()) else NO_OPINION

    def _related(self, node: str, request: RequestInfo) -> Verdict:
        if not request.name:
            return _no("No Object name found")
        if self._graph.is_related(node, request.plural, request.namespace, request.name):
            return ALLOW
        return _no(f"no relationship found between node '{node}' and this object")

    def _read_one(self, node: str, request: RequestInfo) -> Verdict:
        if request.verb not in _READ:
            return _no("can only read resources of this type")
        if request.subresource:
            return _no("cannot read subresource")
        if not request.namespace:
            return _no("can only read namespaced object of this type")
        return self._related(node, request)

    def _claim(self, node: str, request: RequestInfo) -> Verdict:
        if request.subresource == "status":
            if request.verb not in ("get", "update", "patch"):
                return _no("can only get/update/patch this type")
            return self._related(node, request)
        if request.verb != "get":
            return _no("can only get individual resources of this type")
        return _no("cannot get subresource") if request.subresource else self._related(node, request)

    def _service_account(self, node: str, request: RequestInfo) -> Verdict:
        if request.verb == "get" and not request.subresource:
            return self._related(node, request)
        if request.verb != "create" or not request.name:
            return _no("can only create tokens for individual service accounts")
        if request.subresource != "token":
            return _no("can only create token subresource of serviceaccount")
        return self._related(node, request)

    def _pod(self, node: str, request: RequestInfo) -> Verdict:
        match request.subresource, request.verb:
            case "", "get":
                return self._related(node, request)
            case "", "list" | "watch":
                if _selects_node(request.field_selector, node):
                    return ALLOW
                if request.name:
                    return self._related(node, request)
                return _no("can only list/watch pods with spec.nodeName field selector")
            case ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create"):
                return ALLOW  # NodeRestriction narrows it to the node's own
        return NO_OPINION


def _node(node: str, request: RequestInfo) -> Verdict:
    match request.subresource, request.verb:
        case ("", "create" | "update" | "patch") | ("status", "update" | "patch"):
            return ALLOW  # NodeRestriction narrows it to the node itself
        case "", "get" | "list" | "watch":
            if request.name == node:
                return ALLOW
            if not request.name:
                return _no(f"node '{node}' cannot read all nodes, only its own Node object")
            return _no(f"node '{node}' cannot read '{request.name}', only its own Node object")
    return NO_OPINION


def _lease(node: str, request: RequestInfo) -> Verdict:
    if request.verb not in ("get", "create", "update", "patch", "delete"):
        return _no("can only get, create, update, patch, or delete a node lease")
    if request.namespace != NODE_LEASES:
        return _no(f'can only access leases in the "{NODE_LEASES}" system namespace')
    # A create does not name its object in the URL; admission looks at the body.
    if request.verb != "create" and request.name != node:
        return _no("can only access node lease with the same name as the requesting node")
    return ALLOW


def _csi_node(node: str, request: RequestInfo) -> Verdict:
    if request.verb not in ("get", "create", "update", "patch", "delete"):
        return _no("can only get, create, update, patch, or delete a CSINode")
    if request.subresource:
        return _no("cannot authorize CSINode subresources")
    if request.verb != "create" and request.name != node:
        return _no("can only access CSINode with the same name as the requesting node")
    return ALLOW


def _selects_node(field_selector: str, node: str) -> bool:
    try:
        return parse_field_selector(field_selector).exact("spec.nodeName") == node
    except ValueError:
        return False

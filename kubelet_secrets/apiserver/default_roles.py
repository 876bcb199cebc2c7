"""The roles and bindings every cluster has, as far as something of this server answers to them; and how they are kept so.

Pure: data, and what a stored role or binding has to become. ``role_controller.py`` writes it at every start. As upstream, only
what is missing is added: what somebody added stays, and an object whose annotation says ``autoupdate: "false"`` is left alone.

Source: plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go (v1.36); pkg/registry/rbac/reconciliation.
Differs: roles of components that do not exist here (scheduler, controller manager, controllers, volumes) are left out.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from kubelet_secrets.apiserver.rbac import GROUP, parse_rules, rule_to_plain
from kubelet_secrets.apiserver.rbac_cover import compact, missing

Obj = dict[str, Any]

KUBELET_CLIENT = "kube-apiserver-kubelet-client"  # who the API server is to kubelets
AUTO_UPDATE = "rbac.authorization.kubernetes.io/autoupdate"
_LABELS = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"

_READ = ("get", "list", "watch")
_WRITE = ("create", "delete", "deletecollection", "patch", "update")
_READ_WRITE = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_CREATE = ("create",)
_UPDATE = ("patch", "update")


def _rule(verbs: Sequence[str], group: str, *resources: str, names: Sequence[str] = ()) -> Obj:
    rule: Obj = {"verbs": list(verbs), "apiGroups": [group], "resources": list(resources)}
    return {**rule, "resourceNames": list(names)} if names else rule


def _paths(*urls: str) -> Obj:
    return {"verbs": ["get"], "nonResourceURLs": list(urls)}


_HEALTH = ("/healthz", "/livez", "/readyz", "/version", "/version/")
_APPS_SETS = ("daemonsets", "deployments", "replicasets", "statefulsets")
_SCALED = ("deployments/scale", "replicasets/scale", "statefulsets/scale")
_POD_STREAMS = ("pods/attach", "pods/exec", "pods/portforward", "pods/proxy")
_BATCH = ("cronjobs", "jobs")
_NETWORKING = ("ingresses", "networkpolicies")

_ADMIN = (
    _rule(_CREATE, "authorization.k8s.io", "localsubjectaccessreviews"),
    _rule(_READ_WRITE, GROUP, "rolebindings", "roles"),
)
_EDIT = (
    # Who may write in a namespace may read its Secrets, directly and by the pods they may create.
    _rule(_READ, "", *_POD_STREAMS, "secrets", "services/proxy"),
    _rule(("impersonate",), "", "serviceaccounts"),
    _rule(_WRITE, "", "pods", *_POD_STREAMS),
    _rule(_CREATE, "", "pods/eviction"),
    _rule(_WRITE, "", "configmaps", "events", "persistentvolumeclaims", "replicationcontrollers"),
    _rule(_WRITE, "", "replicationcontrollers/scale", "secrets", "serviceaccounts", "services", "services/proxy"),
    _rule(_CREATE, "", "serviceaccounts/token"),
    _rule(_WRITE, "apps", *_APPS_SETS, "deployments/rollback", *_SCALED),
    _rule(_WRITE, "autoscaling", "horizontalpodautoscalers"),
    _rule(_WRITE, "batch", *_BATCH),
    _rule(_WRITE, "policy", "poddisruptionbudgets"),
    _rule(_WRITE, "networking.k8s.io", *_NETWORKING),
    _rule(_READ_WRITE, "coordination.k8s.io", "leases"),
)
_VIEW = (
    # Not secrets: reading them is more than looking, since a service account's token is among them.
    _rule(_READ, "", "configmaps", "endpoints", "persistentvolumeclaims", "persistentvolumeclaims/status", "pods"),
    _rule(_READ, "", "replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services"),
    _rule(_READ, "", "services/status", "bindings", "events", "limitranges", "namespaces/status", "pods/log"),
    _rule(_READ, "", "pods/status", "replicationcontrollers/status", "resourcequotas", "resourcequotas/status"),
    _rule(_READ, "", "namespaces"),
    _rule(_READ, "discovery.k8s.io", "endpointslices"),
    _rule(_READ, "apps", "controllerrevisions", *_APPS_SETS, *_SCALED, *(f"{name}/status" for name in _APPS_SETS)),
    _rule(_READ, "autoscaling", "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
    _rule(_READ, "batch", *_BATCH, *(f"{name}/status" for name in _BATCH)),
    _rule(_READ, "policy", "poddisruptionbudgets", "poddisruptionbudgets/status"),
    _rule(_READ, "networking.k8s.io", *_NETWORKING, "ingresses/status"),
)
_REQUESTS = "certificatesigningrequests"
_NODE = (
    _rule(_CREATE, "authentication.k8s.io", "tokenreviews"),
    _rule(_CREATE, "authorization.k8s.io", "localsubjectaccessreviews", "subjectaccessreviews"),
    _rule(_READ, "", "services"),
    _rule(("create", "get", "list", "watch", *_UPDATE), "", "nodes"),
    _rule(_UPDATE, "", "nodes/status", "pods/status"),
    _rule(("create", *_UPDATE), "", "events"),
    _rule(("create", "delete", *_READ), "", "pods"),
    _rule(_CREATE, "", "pods/eviction", "serviceaccounts/token"),
    _rule(_READ, "", "configmaps", "secrets"),
    _rule(("get",), "", "persistentvolumeclaims", "persistentvolumes", "endpoints"),
    _rule(("get", *_UPDATE), "", "persistentvolumeclaims/status"),
    _rule(("create", *_READ), "certificates.k8s.io", _REQUESTS),
    _rule(("create", "delete", "get", *_UPDATE), "coordination.k8s.io", "leases"),
    _rule(("get",), "storage.k8s.io", "volumeattachments"),
    _rule(_READ, "storage.k8s.io", "csidrivers"),
    _rule(("create", "delete", "get", *_UPDATE), "storage.k8s.io", "csinodes"),
    _rule(_READ, "node.k8s.io", "runtimeclasses"),
)
_KUBELET_API = (
    _rule((*_READ, "proxy"), "", "nodes"),
    _rule(("*",), "", "nodes/log", "nodes/metrics", "nodes/proxy", "nodes/stats"),
)


def _role(name: str, *rules: Obj, aggregate_to: str = "", gathers: str = "") -> Obj:
    labels = {**_LABELS, **({f"{_AGGREGATE}{aggregate_to}": "true"} if aggregate_to else {})}
    role: Obj = {
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": labels, "annotations": {AUTO_UPDATE: "true"}},
        "rules": list(rules),
    }
    if gathers:
        role["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {f"{_AGGREGATE}{gathers}": "true"}}]}
    return role


def _approver(signer: str) -> Obj:
    rule = _rule(("approve",), "certificates.k8s.io", "signers", names=(f"kubernetes.io/{signer}",))
    return _role(f"system:certificates.k8s.io:{signer}-approver", rule)


def _requester(kind: str) -> Obj:
    rule = _rule(_CREATE, "certificates.k8s.io", f"{_REQUESTS}/{kind}")
    return _role(f"system:certificates.k8s.io:{_REQUESTS}:{kind}", rule)


CLUSTER_ROLES: tuple[Obj, ...] = (
    _role("cluster-admin", _rule(("*",), "*", "*"), {"verbs": ["*"], "nonResourceURLs": ["*"]}),
    _role("admin", gathers="admin"),
    _role("edit", gathers="edit", aggregate_to="admin"),
    _role("view", gathers="view", aggregate_to="edit"),
    _role("system:aggregate-to-admin", *_ADMIN, aggregate_to="admin"),
    _role("system:aggregate-to-edit", *_EDIT, aggregate_to="edit"),
    _role("system:aggregate-to-view", *_VIEW, aggregate_to="view"),
    _role(
        "system:basic-user",
        _rule(_CREATE, "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
        _rule(_CREATE, "authentication.k8s.io", "selfsubjectreviews"),
    ),
    _role(
        "system:discovery",
        _paths("/api", "/api/*", "/apis", "/apis/*", *_HEALTH, "/openapi", "/openapi/*"),
    ),
    _role("system:public-info-viewer", _paths(*_HEALTH)),
    _role("system:service-account-issuer-discovery", _paths("/.well-known/openid-configuration", "/openid/v1/jwks")),
    _role(
        "system:auth-delegator",
        _rule(_CREATE, "authentication.k8s.io", "tokenreviews"),
        _rule(_CREATE, "authorization.k8s.io", "subjectaccessreviews"),
    ),
    _role("system:node", *_NODE),
    _role("system:node-bootstrapper", _rule(("create", *_READ), "certificates.k8s.io", _REQUESTS)),
    _role("system:kubelet-api-admin", *_KUBELET_API),
    _requester("nodeclient"),
    _requester("selfnodeclient"),
    *map(_approver, ("kube-apiserver-client", "kube-apiserver-client-kubelet", "kubelet-serving", "legacy-unknown")),
)


def _binding(name: str, *groups: str) -> Obj:
    subjects = [{"apiGroup": GROUP, "kind": "Group", "name": group} for group in groups]
    return {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name, "labels": dict(_LABELS), "annotations": {AUTO_UPDATE: "true"}},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name},
        **({"subjects": subjects} if subjects else {}),
    }


# Upstream leaves this one to whoever sets up the cluster: kubeadm makes the client an admin, which is more than it needs.
_KUBELET_CLIENT: Obj = {
    **_binding("system:kubelet-api-admin"),
    "subjects": [{"apiGroup": GROUP, "kind": "User", "name": KUBELET_CLIENT}],
}
CLUSTER_ROLE_BINDINGS: tuple[Obj, ...] = (
    _binding("cluster-admin", "system:masters"),
    _binding("system:basic-user", "system:authenticated"),
    _binding("system:discovery", "system:authenticated"),
    _binding("system:public-info-viewer", "system:authenticated", "system:unauthenticated"),
    _binding("system:service-account-issuer-discovery", "system:serviceaccounts"),
    _KUBELET_CLIENT,
    _binding("system:node"),  # to nobody: the Node authorizer gives each node less
)


def reconcile_role(live: Obj, wanted: Obj) -> Obj | None:
    """*live* with what it lacks of *wanted*; None when it lacks nothing, or is not to be touched."""
    if not _is_auto_updated(live):
        return None
    new = _with_metadata(live, wanted)
    if wanted.get("aggregationRule") is not None:
        known = (live.get("aggregationRule") or {}).get("clusterRoleSelectors") or []
        lacking = [entry for entry in wanted["aggregationRule"]["clusterRoleSelectors"] if entry not in known]
        if lacking:
            new["aggregationRule"] = {"clusterRoleSelectors": [*known, *copy.deepcopy(lacking)]}
    else:
        lacking_rules = compact(missing(parse_rules(live.get("rules")), parse_rules(wanted["rules"])))
        if lacking_rules:
            new["rules"] = [*(live.get("rules") or ()), *map(rule_to_plain, lacking_rules)]
    return new if new != live else None


def reconcile_binding(live: Obj, wanted: Obj) -> Obj | None:
    """*live* with the subjects it lacks; None as above. A binding to another role has to be made anew."""
    if not _is_auto_updated(live):
        return None
    new = _with_metadata(live, wanted)
    known = live.get("subjects") or []
    lacking = [subject for subject in wanted.get("subjects", ()) if subject not in known]
    if lacking:
        new["subjects"] = [*known, *copy.deepcopy(lacking)]
    return new if new != live else None


def binds_another_role(live: Obj, wanted: Obj) -> bool:
    """Whether *live* has to go to make room for *wanted*."""
    return _is_auto_updated(live) and live.get("roleRef") != wanted["roleRef"]


def _is_auto_updated(live: Obj) -> bool:
    return (live["metadata"].get("annotations") or {}).get(AUTO_UPDATE) != "false"


def _with_metadata(live: Obj, wanted: Obj) -> Obj:
    """A copy of *live* with the labels and annotations it lacks; those it has keep their values."""
    new = copy.deepcopy(live)
    for field in ("labels", "annotations"):
        new["metadata"][field] = {**wanted["metadata"][field], **(live["metadata"].get(field) or {})}
    return new

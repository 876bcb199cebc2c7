"""Requests of a node, allowed ones and others, that every API server has to answer alike.

Node ``MINE`` asks; ``THEIRS`` is another. Pod ``p`` is bound to the first and refers to Secret ``s``, ConfigMap ``cm`` and the
pull secret ``pull``; pod ``q`` is bound to the second and refers to ``other``. ``@NAME`` in a body stands for NAME's uid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"

NAMESPACE = "answers"
MINE, THEIRS = "answers-mine", "answers-theirs"
_CORE = f"/api/v1/namespaces/{NAMESPACE}"
PODS, SECRETS, CONFIG_MAPS, EVENTS = (f"{_CORE}/{each}" for each in ("pods", "secrets", "configmaps", "events"))
TOKENS = f"{_CORE}/serviceaccounts/default/token"
NODES = "/api/v1/nodes"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


@dataclass(frozen=True, slots=True)
class Question:
    """One request.

    Attributes:
        older: why a server before the version that this program is written for may answer it otherwise; "" if it may not.
    """

    method: str
    path: str
    body: Json | None = None
    content_type: str = JSON
    older: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.body or ''}"


def _pod(name: str, node: str = MINE, *, metadata: Mapping[str, Any] = {}, **spec: Any) -> Json:
    whole = {
        "automountServiceAccountToken": False,
        "nodeName": node,
        "containers": [{"name": "c", "image": "i"}],
        **spec,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": whole}


def _object(kind: str, name: str, version: str = "v1", **fields: Any) -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields}


_TAINT = {"key": "k", "effect": "NoSchedule"}
SETUP = (
    ("/api/v1/namespaces", _object("Namespace", NAMESPACE)),
    (NODES, _object("Node", MINE, spec={"taints": [_TAINT]})),
    (NODES, _object("Node", THEIRS)),
    *((SECRETS, _object("Secret", name)) for name in ("s", "pull", "other")),
    (CONFIG_MAPS, _object("ConfigMap", "cm")),
    (
        PODS,
        _pod(
            "p",
            volumes=[
                {"name": "v", "secret": {"secretName": "s"}},
                {"name": "w", "configMap": {"name": "cm"}},
                {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            ],
            imagePullSecrets=[{"name": "pull"}],
        ),
    ),
    (PODS, _pod("q", THEIRS, volumes=[{"name": "v", "secret": {"secretName": "other"}}])),
    (LEASES, _object("Lease", THEIRS, "coordination.k8s.io/v1")),
)


def _mirror(name: str, node: str = MINE, *, owner: Mapping[str, Any] | None = None, **spec: Any) -> Question:
    made = {"apiVersion": "v1", "kind": "Node", "name": MINE, "uid": f"@{MINE}", "controller": True}
    owners = [made | dict(owner)] if owner is not None else [made]
    metadata = {"annotations": {"kubernetes.io/config.mirror": "h"}, "ownerReferences": owners}
    return Question("POST", PODS, _pod(name, node, metadata=metadata, **spec))


def _status(pod: str, **status: Any) -> Question:
    return Question("PATCH", f"{PODS}/{pod}/status", {"status": status}, STRATEGIC)


def _node(change: Json, name: str = MINE, subresource: str = "", older: str = "") -> Question:
    return Question("PATCH", f"{NODES}/{name}{subresource}", change, STRATEGIC if subresource else MERGE, older)


def _labels(**labels: str) -> Question:
    return _node({"metadata": {"labels": {key.replace("__", "/"): value for key, value in labels.items()}}})


def _token(older: str = "", **spec: Any) -> Question:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["x"], **spec}}
    return Question("POST", TOKENS, body, older=older)


def _bound(pod: str, uid: str) -> Json:
    return {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid}


def _event(name: str, *, kind: str = "Pod", namespace: str = NAMESPACE, where: str = EVENTS, **fields: Any) -> Question:
    about = {"kind": kind, "name": "p", **({"namespace": namespace} if namespace else {})}
    body = _object("Event", name, involvedObject=about, reason="R", message="m", type="Normal") | fields
    return Question("POST", where, body)


_NEW = {
    "eventTime": "2026-01-01T00:00:00.000000Z",
    "reportingComponent": "kubernetes.io/kubelet",
    "reportingInstance": "n",
    "action": "A",
}
_ENV = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
_AUDIENCES = "since 1.33 a node asks for audiences that a pod names, and no others"

QUESTIONS = (
    # Single objects that a pod of the node refers to, and nothing else.
    *(Question("GET", f"{SECRETS}/{name}") for name in ("s", "pull", "other", "absent")),
    *(Question("GET", f"{SECRETS}?fieldSelector=metadata.name%3D{name}") for name in ("s", "other")),
    *(Question("GET", path) for path in (SECRETS, "/api/v1/secrets", f"{CONFIG_MAPS}/cm", CONFIG_MAPS)),
    Question("POST", SECRETS, _object("Secret", "x")),
    Question("PUT", f"{SECRETS}/s", _object("Secret", "s")),
    Question("DELETE", f"{SECRETS}/s"),
    # What else a kubelet reads.
    Question("GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3D{MINE}"),
    *(Question("GET", f"/api/v1/{path}") for path in (f"nodes/{MINE}", "services", "namespaces", "persistentvolumes")),
    *(Question("GET", path) for path in (_CORE, f"{_CORE}/endpoints", EVENTS, LEASES, f"{LEASES}/{THEIRS}")),
    *(Question("GET", f"/apis/{path}") for path in ("storage.k8s.io/v1/csidrivers", "node.k8s.io/v1/runtimeclasses")),
    Question("GET", "/apis/certificates.k8s.io/v1/certificatesigningrequests"),
    Question("GET", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{MINE}"),
    Question("GET", f"{_CORE}/serviceaccounts/default", older="since 1.34 a node may read the accounts of its pods"),
    *(Question("GET", path) for path in ("/version", "/healthz", "/metrics", "/api")),
    # Pods: mirrors of its own alone, and no references from them.
    Question("POST", PODS, _pod("plain")),
    _mirror("m-other", THEIRS),
    _mirror("m-secret", volumes=[{"name": "v", "secret": {"secretName": "s"}}]),
    _mirror("m-config", volumes=[{"name": "v", "configMap": {"name": "cm"}}]),
    _mirror("m-claim", volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]),
    _mirror("m-token", volumes=[{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]),
    _mirror("m-env", containers=[{"name": "c", "image": "i", "env": [_ENV]}]),
    _mirror("m-account", serviceAccountName="default"),
    _mirror("m-owner", owner={"name": THEIRS, "uid": f"@{THEIRS}"}),
    _mirror("m-uid", owner={"uid": "wrong"}),
    _mirror("m-good"),
    Question("PATCH", f"{PODS}/p", {"metadata": {"labels": {"x": "y"}}}, MERGE),
    Question("DELETE", f"{PODS}/q"),
    Question("DELETE", f"{PODS}/absent"),
    Question("DELETE", f"{PODS}/p", {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "wrong"}}),
    Question("POST", f"{PODS}/p/binding", _object("Binding", "p", target={"kind": "Node", "name": MINE})),
    # Statuses of pods.
    _status("p", phase="Running"),
    _status("q", phase="Running"),
    _status("absent", phase="Running"),
    _status("p", podIP="10.0.0.1", podIPs=[{"ip": "10.0.0.1"}, {"ip": "nonsense"}]),
    _status("p", podIP="10.0.0.1", podIPs=[{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]),
    _status("p", nominatedNodeName="not valid!"),
    Question("PATCH", f"{PODS}/p/status", {"metadata": {"labels": {"x": "y"}}}, STRATEGIC),
    Question("PATCH", f"{PODS}/p/status", {"metadata": {"annotations": {"x": "y"}}}, STRATEGIC),
    Question(
        "PATCH",
        f"{PODS}/p/status",
        {"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}, "status": {"phase": "Running"}},
        STRATEGIC,
        older="another uid was an invalid change, and is a conflict",
    ),
    # The node itself.
    _labels(foo="bar"),
    _labels(**{"node-restriction.kubernetes.io__a": "b"}),
    _labels(**{"kubernetes.io__odd": "b"}),
    _labels(**{"kubelet.kubernetes.io__x": "b"}),
    _labels(**{"kubernetes.io__arch": "amd64"}),
    _node({"spec": {"taints": []}}),
    _node({"spec": {"unschedulable": True}}),
    _node({"metadata": {"annotations": {"foo": "bar"}}}),
    _node({"metadata": {"annotations": {"foo": "bar"}}}, THEIRS),
    _node({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, subresource="/status"),
    _node({"status": {"conditions": []}}, THEIRS, "/status"),
    _node({"status": {"capacity": {"cpu": "-1"}}}, subresource="/status"),
    _node({"status": {"capacity": {"cpu": "nonsense"}}}, subresource="/status"),
    _node({"status": {"addresses": [{"type": "Hostname", "address": "h"}] * 2}}, subresource="/status"),
    _node({"metadata": {"labels": {"kubernetes.io/odd": "b"}}}, subresource="/status"),
    Question("DELETE", f"{NODES}/{MINE}"),
    Question("DELETE", f"{NODES}/{THEIRS}"),
    Question("POST", NODES, _object("Node", "answers-third")),
    # Leases.
    Question("POST", LEASES, _object("Lease", MINE, "coordination.k8s.io/v1", spec={"leaseDurationSeconds": 40})),
    Question("POST", LEASES, _object("Lease", "answers-third", "coordination.k8s.io/v1")),
    Question("PUT", f"{LEASES}/{THEIRS}", _object("Lease", THEIRS, "coordination.k8s.io/v1")),
    Question("PATCH", f"{LEASES}/{MINE}", {"spec": {"leaseDurationSeconds": -1}}, MERGE),
    Question("PATCH", f"{LEASES}/{MINE}", {"spec": {"leaseTransitions": -1}}, MERGE),
    # Tokens of accounts: for pods of its own.
    _token(),
    _token(boundObjectRef=_bound("p", "@p"), older=_AUDIENCES),
    _token(boundObjectRef=_bound("p", "@p"), audiences=[]),
    _token(boundObjectRef=_bound("p", "wrong")),
    _token(boundObjectRef=_bound("p", "")),
    _token(boundObjectRef=_bound("q", "@q")),
    _token(boundObjectRef={"kind": "Secret", "apiVersion": "v1", "name": "s"}),
    _token(boundObjectRef=_bound("p", "@p"), audiences=[], expirationSeconds=10),
    # Events.
    _event("e1"),
    _event("e2", namespace="kube-system"),
    _event("e3", kind="Node", namespace=""),
    _event("e4", kind="Node", namespace="", where="/api/v1/namespaces/default/events"),
    _event("e5", eventTime=_NEW["eventTime"]),
    _event("e6", **_NEW, reason="R" * 129),
    Question("PATCH", f"{EVENTS}/e1", {"count": 2}, STRATEGIC),
    Question("DELETE", f"{EVENTS}/e1"),
    # What the kubelet's own server asks.
    Question(
        "POST",
        "/apis/authentication.k8s.io/v1/tokenreviews",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "x"}},
    ),
    *(
        Question(
            "POST",
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec},
        )
        for spec in ({"user": "u", "resourceAttributes": {"verb": "get", "resource": "nodes"}}, {"user": ""})
    ),
)

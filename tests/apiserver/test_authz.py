"""Who may do what: the words of denials, the Node authorizer's rules, NodeRestriction - over HTTP as a node meets them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kubelet_secrets.apiserver.node_restriction import forbidden_labels
from kubelet_secrets.apiserver.process import ServerHandle
from tests.apiserver.harness import PODS, SECRETS, STRATEGIC, Http, http_client, pod, secret

NODES = "/api/v1/nodes"
CSI_NODES = "/apis/storage.k8s.io/v1/csinodes"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
EVENTS = "/api/v1/namespaces/default/events"
USER = 'User "system:node:n1"'


@pytest.fixture
async def node(server: ServerHandle) -> AsyncIterator[Http]:
    """The identity system:node:n1."""
    async with http_client(server, server.authority.issue_node("n1")) as client:
        yield client


def _using(name: str, secret_name: str, node_name: str = "n1") -> dict[str, Any]:
    volume = {"name": "v", "secret": {"secretName": secret_name}}
    return pod(name, node=node_name, volumes=[volume])


def _denial(what: str, verb: str, resource: str, reason: str, namespace: str = "default", group: str = "") -> str:
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    text = f'{what} is forbidden: {USER} cannot {verb} resource "{resource}" in API group "{group}" {where}'
    return f"{text}: {reason}" if reason else text


@pytest.mark.parametrize(
    ("method", "path", "body", "message"),
    [
        pytest.param(
            "GET",
            f"{SECRETS}/s",
            None,
            _denial('secrets "s"', "get", "secrets", "no relationship found between node 'n1' and this object"),
            id="unrelated-secret",
        ),
        pytest.param(
            "GET",
            f"{SECRETS}/absent",
            None,
            _denial('secrets "absent"', "get", "secrets", "no relationship found between node 'n1' and this object"),
            id="absent-secret-looks-the-same",
        ),
        pytest.param(
            "GET", SECRETS, None, _denial("secrets", "list", "secrets", "No Object name found"), id="every-secret"
        ),
        pytest.param(
            "GET",
            f"{SECRETS}?watch=1&fieldSelector=type%3DOpaque",
            None,
            _denial("secrets", "watch", "secrets", "No Object name found"),
            id="selector-without-name",
        ),
        pytest.param(
            "GET",
            f"{SECRETS}?watch=1&fieldSelector=metadata.name%3Ds",
            None,
            _denial('secrets "s"', "watch", "secrets", "no relationship found between node 'n1' and this object"),
            id="watch-of-an-unrelated-secret",
        ),
        pytest.param(
            "GET",
            "/api/v1/secrets?fieldSelector=metadata.name%3Ds",
            None,
            _denial('secrets "s"', "list", "secrets", "can only read namespaced object of this type", ""),
            id="across-namespaces",
        ),
        pytest.param(
            "POST",
            SECRETS,
            secret("x"),
            _denial("secrets", "create", "secrets", "can only read resources of this type"),
            id="create-a-secret",
        ),
        pytest.param(
            "DELETE",
            "/api/v1/namespaces/default/configmaps/c",
            None,
            _denial('configmaps "c"', "delete", "configmaps", "can only read resources of this type"),
            id="delete-a-configmap",
        ),
        pytest.param(
            "GET",
            NODES,
            None,
            _denial("nodes", "list", "nodes", "node 'n1' cannot read all nodes, only its own Node object", ""),
            id="every-node",
        ),
        pytest.param(
            "GET",
            f"{NODES}/n2",
            None,
            _denial('nodes "n2"', "get", "nodes", "node 'n1' cannot read 'n2', only its own Node object", ""),
            id="another-node",
        ),
        pytest.param(
            "DELETE", f"{NODES}/n1", None, _denial('nodes "n1"', "delete", "nodes", "", ""), id="delete-itself"
        ),
        pytest.param(
            "GET",
            "/api/v1/pods",
            None,
            _denial("pods", "list", "pods", "can only list/watch pods with spec.nodeName field selector", ""),
            id="every-pod",
        ),
        pytest.param(
            "GET",
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2",
            None,
            _denial("pods", "list", "pods", "can only list/watch pods with spec.nodeName field selector", ""),
            id="pods-of-another-node",
        ),
        pytest.param(
            "GET",
            f"{LEASES}/n2",
            None,
            _denial(
                'leases.coordination.k8s.io "n2"',
                "get",
                "leases",
                "can only access node lease with the same name as the requesting node",
                "kube-node-lease",
                "coordination.k8s.io",
            ),
            id="lease-of-another-node",
        ),
        pytest.param(
            "GET",
            "/apis/coordination.k8s.io/v1/namespaces/default/leases/n1",
            None,
            _denial(
                'leases.coordination.k8s.io "n1"',
                "get",
                "leases",
                'can only access leases in the "kube-node-lease" system namespace',
                "default",
                "coordination.k8s.io",
            ),
            id="lease-in-another-namespace",
        ),
        pytest.param(
            "GET",
            LEASES,
            None,
            _denial(
                "leases.coordination.k8s.io",
                "list",
                "leases",
                "can only get, create, update, patch, or delete a node lease",
                "kube-node-lease",
                "coordination.k8s.io",
            ),
            id="list-leases",
        ),
        pytest.param(
            "GET",
            f"{CSI_NODES}/n2",
            None,
            _denial(
                'csinodes.storage.k8s.io "n2"',
                "get",
                "csinodes",
                "can only access CSINode with the same name as the requesting node",
                "",
                "storage.k8s.io",
            ),
            id="csinode-of-another-node",
        ),
        pytest.param(
            "GET",
            CSI_NODES,
            None,
            _denial(
                "csinodes.storage.k8s.io",
                "list",
                "csinodes",
                "can only get, create, update, patch, or delete a CSINode",
                "",
                "storage.k8s.io",
            ),
            id="list-csinodes",
        ),
        pytest.param(
            "GET",
            "/api/v1/namespaces/default/serviceaccounts/default",
            None,
            _denial(
                'serviceaccounts "default"',
                "get",
                "serviceaccounts",
                "no relationship found between node 'n1' and this object",
            ),
            id="unrelated-service-account",
        ),
        pytest.param("GET", EVENTS, None, _denial("events", "list", "events", ""), id="read-events"),
        pytest.param(
            "GET", "/api/v1/namespaces", None, _denial("namespaces", "list", "namespaces", "", ""), id="namespaces"
        ),
        pytest.param("GET", "/metrics", None, f'forbidden: {USER} cannot get path "/metrics"', id="no-resource"),
    ],
)
async def test_node_is_denied(admin: Http, node: Http, method: str, path: str, body: Any, message: str) -> None:
    await admin.post(SECRETS, secret("s"))
    answer = await node.send(method, path, body)
    assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
    assert answer.message == message


async def test_secret_opens_with_the_binding_and_closes_with_the_pod(admin: Http, node: Http) -> None:
    await admin.post(SECRETS, secret("s", k="v"))
    selector = "fieldSelector=metadata.name%3Ds"
    await admin.post(PODS, _using("p", "s", node_name=""))
    assert (await node.get(f"{SECRETS}/s")).status == 403  # not bound yet
    await admin.post(f"{PODS}/p/binding", {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}})
    assert (await node.get(f"{SECRETS}/s")).status == 200
    assert len((await node.get(f"{SECRETS}?{selector}")).json["items"]) == 1
    async with node.watch(f"{SECRETS}?watch=1&{selector}") as watch:
        assert await watch.next_names(1) == [("ADDED", "s")]
    await admin.patch(f"{PODS}/p/status", {"status": {"phase": "Succeeded"}})
    assert (await node.get(f"{SECRETS}/s")).status == 200  # a finished pod still refers to it
    await admin.delete(f"{PODS}/p", {"gracePeriodSeconds": 0})
    assert (await node.get(f"{SECRETS}/s")).status == 403


async def test_secret_stays_open_while_one_of_two_pods_refers_to_it(admin: Http, node: Http) -> None:
    await admin.post(SECRETS, secret("s"))
    for name in ("p", "q"):
        assert (await admin.post(PODS, _using(name, "s"))).status == 201
    await admin.delete(f"{PODS}/p", {"gracePeriodSeconds": 0})
    assert (await node.get(f"{SECRETS}/s")).status == 200
    await admin.delete(f"{PODS}/q", {"gracePeriodSeconds": 0})
    assert (await node.get(f"{SECRETS}/s")).status == 403


@pytest.mark.parametrize(
    "spec",
    [
        {"imagePullSecrets": [{"name": "s"}]},
        {"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}]}}]},
        {"containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "s"}}]}]},
        {
            "containers": [
                {
                    "name": "c",
                    "image": "i",
                    "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                }
            ]
        },
        {"initContainers": [{"name": "i", "image": "i", "envFrom": [{"secretRef": {"name": "s"}}]}]},
    ],
    ids=["pull-secret", "projected", "env-from", "env", "init-container"],
)
async def test_every_way_to_refer_to_a_secret_opens_it(admin: Http, node: Http, spec: dict[str, Any]) -> None:
    await admin.post(SECRETS, secret("s"))
    assert (await admin.post(PODS, pod("p", node="n1", **spec))).status == 201
    assert (await node.get(f"{SECRETS}/s")).status == 200


async def test_pod_of_another_node_opens_nothing(admin: Http, node: Http) -> None:
    await admin.post(SECRETS, secret("s"))
    await admin.post(PODS, _using("p", "s", node_name="n2"))
    assert (await node.get(f"{SECRETS}/s")).status == 403
    assert (await node.get(f"{PODS}/p")).status == 403


async def test_what_a_node_needs_for_its_work_is_allowed(admin: Http, node: Http) -> None:
    registered = await node.post(NODES, {"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}}})
    assert registered.status == 201, registered.body
    conditions = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert (await node.patch(f"{NODES}/n1/status", conditions, STRATEGIC)).status == 200
    assert (await node.get(f"{NODES}/n1")).status == 200
    assert (await node.get(f"{NODES}?fieldSelector=metadata.name%3Dn1")).status == 200
    lease = {"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1"}}
    created = await node.post(LEASES, lease)
    assert created.status == 201
    lease = created.json
    lease["spec"]["leaseDurationSeconds"] = 40
    assert (await node.put(f"{LEASES}/n1", lease)).status == 200
    assert (await node.get("/api/v1/services")).status == 200
    await admin.post(PODS, pod("p", node="n1"))
    assert len((await node.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1")).json["items"]) == 1
    assert (await node.get(f"{PODS}/p")).status == 200
    event = {"metadata": {"name": "p.1"}, "involvedObject": {"kind": "Pod", "name": "p"}, "reason": "Started"}
    assert (await node.post(EVENTS, event)).status == 201
    assert (await node.patch(f"{EVENTS}/p.1", {"count": 2}, STRATEGIC)).status == 200
    assert (await node.patch(f"{PODS}/p/status", {"status": {"phase": "Succeeded"}}, STRATEGIC)).status == 200
    assert (await node.delete(f"{PODS}/p", {"gracePeriodSeconds": 0})).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "message"),
    [
        pytest.param(
            "POST",
            NODES,
            {"metadata": {"name": "n2"}},
            'nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2"',
            id="register-as-another",
        ),
        pytest.param(
            "POST",
            NODES,
            {"metadata": {"name": "n1", "labels": {"node-restriction.kubernetes.io/x": "y", "a": "b"}}},
            'nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: '
            "node-restriction.kubernetes.io/x",
            id="register-with-a-protected-label",
        ),
        pytest.param(
            "PATCH",
            f"{PODS}/theirs/status",
            {"status": {"phase": "Failed"}},
            'pods "theirs" is forbidden: node "n1" can only update pod status for pods with spec.nodeName set to itself',
            id="status-of-another-nodes-pod",
        ),
        pytest.param(
            "PATCH",
            f"{PODS}/mine/status",
            {"metadata": {"labels": {"a": "b"}}},
            'pods "mine" is forbidden: node "n1" cannot update labels through pod status',
            id="labels-through-status",
        ),
        pytest.param(
            "DELETE",
            f"{PODS}/theirs",
            None,
            'pods "theirs" is forbidden: node "n1" can only delete pods with spec.nodeName set to itself',
            id="delete-another-nodes-pod",
        ),
        pytest.param(
            "POST",
            f"{PODS}/theirs/eviction",
            {"metadata": {"name": "theirs"}},
            'pods "theirs" is forbidden: node n1 can only evict pods with spec.nodeName set to itself',
            id="evict-another-nodes-pod",
        ),
        pytest.param(
            "POST",
            PODS,
            pod("new", node="n1"),
            'pods "new" is forbidden: pod does not have "kubernetes.io/config.mirror" annotation, '
            'node "n1" can only create mirror pods',
            id="create-a-pod",
        ),
        pytest.param(
            "POST",
            LEASES,
            {"metadata": {"name": "n2"}},
            'leases.coordination.k8s.io "n2" is forbidden: can only access node lease with the same name as the '
            "requesting node",
            id="lease-for-another",
        ),
        pytest.param(
            "POST",
            CSI_NODES,
            {"metadata": {"name": "n2"}, "spec": {"drivers": []}},
            'csinodes.storage.k8s.io "n2" is forbidden: can only access CSINode with the same name as the requesting node',
            id="csinode-for-another",
        ),
    ],
)
async def test_node_restriction(admin: Http, node: Http, method: str, path: str, body: Any, message: str) -> None:
    await admin.post(PODS, pod("mine", node="n1"))
    await admin.post(PODS, pod("theirs", node="n2"))
    content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
    answer = await node.send(method, path, body, content_type)
    assert (answer.status, answer.message) == (403, message)


async def test_mirror_pod_must_be_owned_by_the_node_and_refer_to_nothing(admin: Http, node: Http) -> None:
    uid = (await node.post(NODES, {"metadata": {"name": "n1"}})).json["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": True}

    def mirror(owners: list[dict[str, Any]], **spec: Any) -> dict[str, Any]:
        body = pod("static-n1", node="n1", **spec)
        body["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "hash"}
        body["metadata"]["ownerReferences"] = owners
        return body

    for owners, expected in (
        ([], 'node "n1" can only create pods with an owner reference set to itself'),
        (
            [{**owner, "controller": False}],
            'node "n1" can only create pods with a controller owner reference set to itself',
        ),
        ([{**owner, "blockOwnerDeletion": True}], 'node "n1" must not set blockOwnerDeletion on an owner reference'),
        ([{**owner, "uid": "other"}], f"node n1 UID mismatch: expected other got {uid}"),
    ):
        answer = await node.post(PODS, mirror(owners))
        assert (answer.status, answer.message) == (403, f'pods "static-n1" is forbidden: {expected}')
    volume = {"name": "v", "secret": {"secretName": "s"}}
    answer = await node.post(PODS, mirror([owner], volumes=[volume]))
    # Two plugins refuse it, each in its own words; which comes first does not matter.
    assert answer.status == 403
    assert answer.message.startswith('pods "static-n1" is forbidden: ')
    assert answer.message.endswith("reference secrets")
    assert (await node.post(PODS, mirror([owner]))).status == 201


@pytest.mark.parametrize(
    ("new", "old", "refused"),
    [
        ({"kubernetes.io/hostname": "a"}, {}, []),
        ({"example.com/x": "a", "plain": "b"}, {}, []),
        ({"kubelet.kubernetes.io/x": "a", "sub.node.kubernetes.io/y": "b"}, {}, []),
        ({"other.kubernetes.io/x": "a"}, {}, ["other.kubernetes.io/x"]),
        ({"k8s.io/x": "a"}, {"k8s.io/x": "a"}, []),
        ({}, {"k8s.io/x": "a"}, ["k8s.io/x"]),
        ({"node-restriction.kubernetes.io/x": "a"}, {}, ["node-restriction.kubernetes.io/x"]),
        ({"notkubernetes.io/x": "a"}, {}, []),
    ],
)
def test_labels_a_node_may_not_set(new: dict[str, str], old: dict[str, str], refused: list[str]) -> None:
    assert forbidden_labels(new, old) == refused


# --- everybody else --------------------------------------------------------------------------------------------------


async def test_authenticated_user_without_rights_sees_discovery_only(server: ServerHandle) -> None:
    async with http_client(server, server.authority.issue_client("jane", ("dev",))) as jane:
        for path in ("/version", "/healthz", "/api", "/api/v1", "/apis", "/openapi/v3"):
            assert (await jane.get(path)).status == 200, path
        answer = await jane.get(SECRETS)
        assert answer.status == 403
        assert answer.message == (
            'secrets is forbidden: User "jane" cannot list resource "secrets" in API group "" in the namespace "default"'
        )


async def test_group_membership_counts_not_the_name(server: ServerHandle) -> None:
    """A certificate that only calls itself a node is no node."""
    async with http_client(server, server.authority.issue_client("system:node:n1")) as impostor:
        answer = await impostor.get("/api/v1/services")
        assert answer.status == 403
    async with http_client(server, server.authority.issue_client("root", ("system:masters",))) as root:
        assert (await root.get(SECRETS)).status == 200


async def test_a_node_reads_what_a_kubelet_needs_to_be_ready_and_keeps_its_csinode(admin: Http, node: Http) -> None:
    driver = {"metadata": {"name": "csi.example.com"}, "spec": {}}
    assert (await admin.post("/apis/storage.k8s.io/v1/csidrivers", driver)).status == 201
    runtime_class = {"metadata": {"name": "sandboxed"}, "handler": "runsc"}
    assert (await admin.post("/apis/node.k8s.io/v1/runtimeclasses", runtime_class)).status == 201
    (seen,) = (await node.get("/apis/storage.k8s.io/v1/csidrivers")).json["items"]
    assert seen["spec"]["attachRequired"] is True
    assert (await node.get("/apis/node.k8s.io/v1/runtimeclasses/sandboxed")).json["handler"] == "runsc"
    mine = {"metadata": {"name": "n1"}, "spec": {"drivers": []}}
    assert (await node.post(CSI_NODES, mine)).status == 201
    entry = {"name": "csi.example.com", "nodeID": "n1", "topologyKeys": None}
    assert (await node.patch(f"{CSI_NODES}/n1", {"spec": {"drivers": [entry]}})).status == 200
    changed = await node.patch(f"{CSI_NODES}/n1", {"spec": {"drivers": [entry | {"nodeID": "other"}]}})
    assert (changed.status, "field is immutable" in changed.message) == (422, True)

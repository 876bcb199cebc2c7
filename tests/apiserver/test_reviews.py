"""Access reviews over HTTP, and the same through ``kubectl auth``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kubelet_secrets.apiserver.process import ServerHandle
from kubelet_secrets.memoryfile import memory_file
from tests.apiserver.harness import PODS, Http, http_client, pod
from tests.apiserver.kubectl import Kubectl, find_kubectl
from tests.apiserver.test_rbac_server import CLUSTER_BINDINGS, ROLE_BINDINGS, ROLES, binding, role

AUTHORIZATION = "/apis/authorization.k8s.io/v1"
AUTHENTICATION = "/apis/authentication.k8s.io/v1"
SELF = f"{AUTHORIZATION}/selfsubjectaccessreviews"
SUBJECT = f"{AUTHORIZATION}/subjectaccessreviews"
LOCAL = f"{AUTHORIZATION}/namespaces/default/localsubjectaccessreviews"
RULES = f"{AUTHORIZATION}/selfsubjectrulesreviews"
WHOAMI = f"{AUTHENTICATION}/selfsubjectreviews"
TOKENS = f"{AUTHENTICATION}/tokenreviews"
READ_S = 'RBAC: allowed by RoleBinding "b/default" of Role "read-s" to User "jane"'


@pytest.fixture
async def jane(server: ServerHandle, admin: Http) -> AsyncIterator[Http]:
    """Somebody who may read the Secret s in default, and nothing else."""
    await admin.post(ROLES, role("read-s", ["get", "list", "watch"], ["secrets"], ["s"]))
    await admin.post(ROLE_BINDINGS, binding("b", "Role/read-s"))
    async with http_client(server, server.authority.issue_client("jane", ("dev",))) as client:
        yield client


def _asking(verb: str, resource: str, name: str = "", namespace: str = "default", **more: Any) -> dict[str, Any]:
    attributes = {"verb": verb, "resource": resource, "name": name, "namespace": namespace, **more}
    return {"spec": {"resourceAttributes": attributes}}


@pytest.mark.parametrize(
    ("question", "status"),
    [
        pytest.param(_asking("get", "secrets", "s"), {"allowed": True, "reason": READ_S}, id="named"),
        pytest.param(_asking("get", "secrets"), {"allowed": False}, id="any"),
        pytest.param(_asking("get", "secrets", "s", "kube-system"), {"allowed": False}, id="another-namespace"),
        pytest.param(_asking("get", "secrets", "s", ""), {"allowed": False}, id="all-namespaces"),
        pytest.param(_asking("*", "*"), {"allowed": False}, id="everything"),
        pytest.param(
            {"spec": {"nonResourceAttributes": {"verb": "get", "path": "/api"}}},
            {
                "allowed": True,
                "reason": 'RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" to '
                'Group "system:authenticated"',
            },
            id="path",
        ),
    ],
)
async def test_may_i(jane: Http, question: dict[str, Any], status: dict[str, Any]) -> None:
    answer = await jane.post(SELF, question)
    assert (answer.status, answer.json["status"]) == (201, status)
    assert answer.json["kind"] == "SelfSubjectAccessReview"
    assert answer.json["spec"] == question["spec"]


@pytest.mark.parametrize(
    ("path", "question", "message"),
    [
        pytest.param(
            SELF,
            {"spec": {}},
            'SelfSubjectAccessReview.authorization.k8s.io "" is invalid: spec.resourceAttributes: Invalid value: null: '
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            id="nothing-asked",
        ),
        pytest.param(
            SUBJECT,
            _asking("get", "secrets"),
            'SubjectAccessReview.authorization.k8s.io "" is invalid: spec.user: Invalid value: "": at least one of user '
            "or group must be specified",
            id="about-nobody",
        ),
        pytest.param(
            LOCAL,
            {"spec": {**_asking("get", "secrets", "", "other")["spec"], "user": "x"}},
            'LocalSubjectAccessReview.authorization.k8s.io "" is invalid: spec.resourceAttributes.namespace: '
            'Invalid value: "other": must match metadata.namespace',
            id="local-about-elsewhere",
        ),
        pytest.param(RULES, {"spec": {}}, "no namespace on request", id="rules-of-nowhere"),
        pytest.param(TOKENS, {"spec": {}}, "token is required for TokenReview in authentication", id="no-token"),
    ],
)
async def test_questions_that_make_no_sense(admin: Http, path: str, question: dict[str, Any], message: str) -> None:
    answer = await admin.post(path, question)
    assert answer.status in (400, 422)
    assert answer.message == message


async def test_asking_about_others_is_a_permission(admin: Http, jane: Http) -> None:
    question = {"spec": {**_asking("get", "secrets", "s")["spec"], "user": "jane"}}
    assert (await jane.post(SUBJECT, question)).status == 403
    assert (await jane.post(TOKENS, {"spec": {"token": "x"}})).status == 403
    await admin.post(CLUSTER_BINDINGS, binding("d", "ClusterRole/system:auth-delegator"))
    assert (await jane.post(SUBJECT, question)).json["status"] == {"allowed": True, "reason": READ_S}
    assert (await jane.post(LOCAL, question)).status == 403
    assert (await admin.post(LOCAL, question)).json["status"] == {"allowed": True, "reason": READ_S}
    groups = {"spec": {**_asking("delete", "nodes", "", "")["spec"], "groups": ["system:masters"]}}
    assert (await admin.post(SUBJECT, groups)).json["status"] == {"allowed": True}


async def test_reviews_know_what_a_node_may_read(admin: Http) -> None:
    """The Node authorizer's answer, with its reason: what ``who-can`` and webhooks build on."""
    node = {"user": "system:node:n1", "groups": ["system:nodes"]}
    question = {"spec": {**_asking("get", "secrets", "s")["spec"], **node}}
    assert (await admin.post(SUBJECT, question)).json["status"] == {
        "allowed": False,
        "reason": "no relationship found between node 'n1' and this object",
    }
    volume = {"name": "v", "secret": {"secretName": "s"}}
    await admin.post(PODS, pod("p", node="n1", volumes=[volume]))
    assert (await admin.post(SUBJECT, question)).json["status"] == {"allowed": True}
    for selector in (
        {"rawSelector": "spec.nodeName=n1"},
        {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]},
    ):
        pods = {"spec": {**_asking("list", "pods", "", "", fieldSelector=selector)["spec"], **node}}
        assert (await admin.post(SUBJECT, pods)).json["status"] == {"allowed": True}


async def test_what_may_i_do_here(jane: Http) -> None:
    answer = await jane.post(RULES, {"spec": {"namespace": "default"}})
    status = answer.json["status"]
    assert (answer.status, status["incomplete"]) == (201, False)
    assert status["resourceRules"][-1] == {
        "verbs": ["get", "list", "watch"],
        "apiGroups": [""],
        "resources": ["secrets"],
        "resourceNames": ["s"],
    }
    assert any("/api/*" in rule["nonResourceURLs"] for rule in status["nonResourceRules"])
    elsewhere = (await jane.post(RULES, {"spec": {"namespace": "kube-system"}})).json["status"]
    assert not any("secrets" in rule["resources"] for rule in elsewhere["resourceRules"])


async def test_rules_of_a_node_are_not_all_rules(server: ServerHandle) -> None:
    async with http_client(server, server.authority.issue_node("n1")) as node:
        status = (await node.post(RULES, {"spec": {"namespace": "default"}})).json["status"]
    assert status["incomplete"] is True
    assert status["evaluationError"] == "node authorizer does not support user rule resolution"


async def test_who_am_i(jane: Http) -> None:
    answer = await jane.post(WHOAMI, {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
    info = answer.json["status"]["userInfo"]
    assert (answer.status, info["username"], info["groups"]) == (201, "jane", ["dev", "system:authenticated"])


async def test_whose_token_is_this(admin: Http) -> None:
    path = "/api/v1/namespaces/default/serviceaccounts/default/token"
    own = "https://kubernetes.default.svc.cluster.local"
    made = await admin.post(path, {"spec": {"audiences": ["vault", "other"]}})
    vault = made.json["status"]["token"]
    plain = (await admin.post(path, {"spec": {}})).json["status"]["token"]

    async def review(token: str, *audiences: str) -> Any:
        answer = await admin.post(TOKENS, {"spec": {"token": token, "audiences": list(audiences)}})
        assert answer.status == 201
        return answer.json["status"]

    status = await review(plain)
    assert (status["authenticated"], status["audiences"]) == (True, [own])
    assert status["user"]["username"] == "system:serviceaccount:default:default"
    assert "system:authenticated" in status["user"]["groups"]
    assert (await review(vault, "x", "vault"))["audiences"] == ["vault"]
    for token, audiences in ((vault, ()), (plain, ("vault",)), ("wrong", ())):
        assert await review(token, *audiences) == {"user": {}, "error": "invalid bearer token"}


async def test_reviews_are_created_and_nothing_else(admin: Http) -> None:
    for method in ("GET", "DELETE", "PUT"):
        assert (await admin.send(method, SELF)).status == 405, method
    assert (await admin.post(f"{SELF}/x", _asking("get", "pods"))).status == 405
    resources = {entry["name"]: entry for entry in (await admin.get(AUTHORIZATION)).json["resources"]}
    assert resources["localsubjectaccessreviews"]["verbs"] == ["create"]
    assert resources["localsubjectaccessreviews"]["namespaced"] is True
    assert "authentication.k8s.io" in [group["name"] for group in (await admin.get("/apis")).json["groups"]]


# --- kubectl ---------------------------------------------------------------------------------------------------------

_PATH = find_kubectl()
needs_kubectl = pytest.mark.skipif(_PATH is None, reason="needs kubectl on PATH")


@pytest.mark.kubectl
@needs_kubectl
async def test_kubectl_auth(server: ServerHandle, jane: Http, tmp_path: Path) -> None:
    assert _PATH is not None
    with memory_file(server.client_kubeconfig("jane", ("dev",)).reveal()) as path:
        kubectl = Kubectl(_PATH, path, tmp_path)
        assert (await kubectl("auth", "can-i", "get", "secrets/s")).out == "yes\n"
        refused = await kubectl.try_run("auth", "can-i", "get", "secrets")
        assert (refused.code, refused.out) == (1, "no\n")
        assert (await kubectl.try_run("auth", "can-i", "get", "secrets/s", "-n", "kube-system")).out == "no\n"
        assert (await kubectl("auth", "can-i", "get", "/api")).out == "yes\n"
        rows = [line.split() for line in (await kubectl("auth", "can-i", "--list")).lines]
        assert rows[0] == ["Resources", "Non-Resource", "URLs", "Resource", "Names", "Verbs"]
        assert ["secrets", "[]", "[s]", "[get", "list", "watch]"] in rows
        assert ["selfsubjectreviews.authentication.k8s.io", "[]", "[]", "[create]"] in rows
        shown = (await kubectl("auth", "whoami")).out
        assert "Username" in shown
        assert "jane" in shown
        assert (await kubectl("auth", "whoami", "-o", "json")).json["status"]["userInfo"]["username"] == "jane"


@pytest.mark.kubectl
@needs_kubectl
async def test_kubectl_writes_roles(server: ServerHandle, tmp_path: Path) -> None:
    """``create role`` and its like send protobuf."""
    assert _PATH is not None
    with memory_file(server.admin_kubeconfig().reveal()) as path:
        kubectl = Kubectl(_PATH, path, tmp_path)
        await kubectl("create", "role", "r", "--verb=get,list", "--resource=secrets", "--resource-name=s")
        await kubectl("create", "rolebinding", "b", "--role=r", "--user=jane", "--serviceaccount=default:robot")
        await kubectl("create", "clusterrole", "c", "--aggregation-rule=a=b")
        await kubectl("create", "clusterrolebinding", "cb", "--clusterrole=view", "--group=dev")
        rules = (await kubectl("get", "role", "r", "-o", "json")).json["rules"]
        assert rules == [
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"]}
        ]
        wide = (await kubectl("get", "rolebinding", "b", "-o", "wide", "--no-headers")).out.split()
        assert (wide[1], wide[3:]) == ("Role/r", ["jane", "default/robot"])
        assert "secrets" in (await kubectl("describe", "role", "r")).out

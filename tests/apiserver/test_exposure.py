"""Who gets at a Secret: each way there, and each near miss, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.decode import convert
from kubelet_secrets.apiserver.exposure import Exposure, Way, find_exposures
from kubelet_secrets.apiserver.rbac import GROUP, Policy


def _pod(name: str, node: str = "", annotations: dict[str, str] | None = None, **spec: Any) -> Pod:
    body = {"containers": [{"name": "c", "image": "i"}], **spec, **({"nodeName": node} if node else {})}
    metadata = {"name": name, "namespace": "prod", "annotations": annotations or {}}
    return convert({"metadata": metadata, "spec": body}, Pod)


MOUNTING: dict[str, Any] = {"volumes": [{"name": "v", "secret": {"secretName": "db"}}]}
PULLING: dict[str, Any] = {"imagePullSecrets": [{"name": "db"}]}
IN_ENVIRONMENT: dict[str, Any] = {
    "containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "db"}}]}]
}


def _policy(verbs: str, group: str, resource: str, names: str = "", namespace: str = "prod") -> Policy:
    """One role with one rule, bound to jane in *namespace* (empty: everywhere)."""
    rule = {
        "verbs": verbs.split(","),
        "apiGroups": [group],
        "resources": [resource],
        "resourceNames": [name for name in names.split(",") if name],
    }
    policy = Policy()
    policy.set_role("", "r", {"rules": [rule]})
    subjects = [{"kind": "User", "name": "jane"}]
    reference = {"apiGroup": GROUP, "kind": "ClusterRole", "name": "r"}
    policy.set_binding(namespace, "b", {"roleRef": reference, "subjects": subjects})
    return policy


def _of_jane(policy: Policy, *pods: Pod) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    found = find_exposures(policy, "prod", "db", pods).found
    return [(entry.way.value, entry.verbs, entry.pods) for entry in found if entry.subject.name == "jane"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param(_policy("get", "", "secrets"), [("read", ("get",), ())], id="get"),
        pytest.param(_policy("list", "", "secrets"), [("read", ("list",), ())], id="a-list-holds-the-data"),
        pytest.param(_policy("patch", "", "secrets"), [("read", ("patch",), ())], id="a-patch-answers-with-the-data"),
        pytest.param(
            _policy("deletecollection", "", "secrets"), [("read", ("deletecollection",), ())], id="deletecollection"
        ),
        pytest.param(_policy("create,delete,update", "", "secrets"), [], id="writing-is-not-reading"),
        pytest.param(_policy("get", "", "secrets", "db,x"), [("read", ("get",), ())], id="by-name"),
        pytest.param(_policy("get", "", "secrets", "x"), [], id="another-name"),
        pytest.param(_policy("deletecollection", "", "secrets", "db"), [], id="no-collection-by-name"),
        pytest.param(_policy("get", "", "secrets", namespace=""), [("read", ("get",), ())], id="everywhere"),
        pytest.param(_policy("get", "", "secrets", namespace="dev"), [], id="another-namespace"),
        pytest.param(_policy("get", "example.com", "secrets"), [], id="another-group"),
        pytest.param(_policy("create", "", "pods"), [("create pods", ("create pods",), ())], id="create-pods"),
        pytest.param(_policy("create", "", "pods", namespace="dev"), [], id="pods-of-another-namespace"),
        pytest.param(_policy("update", "", "pods"), [], id="a-pods-references-do-not-change"),
        pytest.param(
            _policy("patch", "", "pods/ephemeralcontainers"),
            [("create pods", ("patch pods/ephemeralcontainers",), ())],
            id="debug-containers",
        ),
        pytest.param(
            _policy("create,patch", "apps", "deployments"),
            [("create pods", ("create deployments", "patch deployments"), ())],
            id="deployments",
        ),
        pytest.param(
            _policy("create", "", "pods/exec"),
            [("exec", ("create pods/exec",), ("environment", "mounting"))],
            id="exec-anywhere",
        ),
        pytest.param(
            _policy("create", "", "pods/exec", "mounting,pulling"),
            [("exec", ("create pods/exec",), ("mounting",))],
            id="exec-by-name",
        ),
        pytest.param(_policy("create", "", "pods/exec", "pulling,plain"), [], id="exec-where-it-is-not"),
        pytest.param(
            _policy("create", "", "pods/attach", "mounting"),
            [("exec", ("create pods/attach",), ("mounting",))],
            id="attach",
        ),
        pytest.param(
            _policy("get", "", "nodes/proxy", namespace=""),
            [("exec", ("get nodes/proxy",), ("mounting",))],
            id="the-kubelets-own-exec",
        ),
        pytest.param(_policy("get", "", "nodes/proxy", "n2", namespace=""), [], id="of-another-kubelet"),
        pytest.param(_policy("get", "", "nodes/proxy"), [], id="nodes-are-in-no-namespace"),
        pytest.param(_policy("get", "", "pods/log"), [], id="logs-are-not-counted"),
    ],
)
def test_ways_of_a_user(policy: Policy, expected: list[Any]) -> None:
    pods = (
        _pod("mounting", "n1", **MOUNTING),
        _pod("environment", **IN_ENVIRONMENT),
        _pod("pulling", **PULLING),
        _pod("plain"),
    )
    assert _of_jane(policy, *pods) == expected


def test_everything_leads_there_in_every_way() -> None:
    ways = _of_jane(_policy("*", "*", "*", namespace=""), _pod("web", **MOUNTING))
    assert [way for way, _, _ in ways] == ["read", "create pods", "exec"]
    assert ways[0][1] == ("get", "list", "watch", "patch", "deletecollection")


def test_nodes_of_pods_that_refer_to_it() -> None:
    pods = (
        _pod("a", "n2", **MOUNTING),
        _pod("b", "n1", **PULLING),
        _pod("c", "n1", **IN_ENVIRONMENT),
        _pod("d", "n3"),
        _pod("e", "", **MOUNTING),
        _pod("f", "n4", {"kubernetes.io/config.mirror": "hash"}, **MOUNTING),
    )
    found = find_exposures(Policy(), "prod", "db", pods).found
    assert [(entry.subject.name, entry.pods) for entry in found if entry.way is Way.NODE] == [
        ("n1", ("b", "c")),
        ("n2", ("a",)),
    ]


def test_every_line_says_where_it_comes_from_and_masters_need_no_binding() -> None:
    policy = _policy("get", "", "secrets")
    account = {"kind": "ServiceAccount", "name": "robot"}
    reference = {"apiGroup": GROUP, "kind": "ClusterRole", "name": "r"}
    policy.set_binding("prod", "c", {"roleRef": reference, "subjects": [account]})
    policy.set_binding("prod", "d", {"roleRef": {**reference, "name": "gone"}, "subjects": [account]})
    exposures = find_exposures(policy, "prod", "db", ())

    def line(entry: Exposure) -> tuple[str, str, str, str]:
        return (
            entry.subject.kind,
            entry.subject.namespace,
            entry.subject.name,
            entry.binding.name if entry.binding else "",
        )

    assert [line(entry) for entry in exposures.found] == [
        ("Group", "", "system:masters", ""),
        ("User", "", "jane", "b"),
        ("ServiceAccount", "prod", "robot", "c"),
    ]
    assert exposures.broken == ('RoleBinding d: clusterrole.rbac.authorization.k8s.io "gone" not found',)

"""RBAC's decisions as tables: what a rule permits, whom a binding is for, what nobody may exceed in giving rights away.

Source: plugin/pkg/auth/authorizer/rbac/rbac_test.go, k8s.io/component-helpers/auth/rbac/validation/policy_comparator_test.go.
"""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.apiserver import default_roles
from kubelet_secrets.apiserver.attributes import User
from kubelet_secrets.apiserver.rbac import GROUP, Policy, Rule, Subject, find_grant, parse_rules, resolve
from kubelet_secrets.apiserver.rbac_cover import EVERYTHING, compact, describe, escalation_text, missing
from kubelet_secrets.apiserver.requestinfo import parse_request
from kubelet_secrets.apiserver.role_controller import aggregated_rules, selects

NS = "/api/v1/namespaces/ns"


def _rule(verbs: str, groups: str, resources: str, names: str = "") -> Rule:
    """Each argument is a list with commas; the core group is ``-``."""
    return Rule(
        verbs=tuple(verbs.split(",")),
        api_groups=tuple(group.replace("-", "") for group in groups.split(",")),
        resources=tuple(resources.split(",")),
        resource_names=tuple(filter(None, names.split(","))),
    )


def _paths(verbs: str, urls: str) -> Rule:
    return Rule(verbs=tuple(verbs.split(",")), non_resource_urls=tuple(urls.split(",")))


READ = _rule("get,list,watch", "-", "secrets")
NAMED = _rule("get,list,watch", "-", "secrets", "s,t")


@pytest.mark.parametrize(
    ("rule", "request_line", "expected"),
    [
        pytest.param(READ, f"GET {NS}/secrets/s", True, id="get"),
        pytest.param(READ, f"GET {NS}/secrets", True, id="list"),
        pytest.param(READ, f"GET {NS}/secrets?watch=1", True, id="watch"),
        pytest.param(READ, f"POST {NS}/secrets", False, id="other-verb"),
        pytest.param(READ, f"GET {NS}/configmaps/s", False, id="other-resource"),
        pytest.param(READ, "GET /apis/example.com/v1/namespaces/ns/secrets/s", False, id="other-group"),
        pytest.param(READ, f"GET {NS}/secrets/s/status", False, id="a-subresource-is-another-resource"),
        pytest.param(READ, "GET /api/v1", False, id="not-a-resource"),
        pytest.param(NAMED, f"GET {NS}/secrets/s", True, id="named"),
        pytest.param(NAMED, f"GET {NS}/secrets/x", False, id="not-named"),
        pytest.param(NAMED, f"GET {NS}/secrets", False, id="names-exclude-lists"),
        pytest.param(NAMED, f"GET {NS}/secrets?fieldSelector=metadata.name%3Ds", True, id="list-of-a-named-object"),
        pytest.param(NAMED, f"GET {NS}/secrets?watch=1&fieldSelector=metadata.name%3Dt", True, id="watch-of-a-named"),
        pytest.param(NAMED, f"GET {NS}/secrets?fieldSelector=metadata.name!%3Ds", False, id="all-but-one"),
        pytest.param(NAMED, f"GET {NS}/secrets?fieldSelector=metadata.name%3Dx", False, id="list-of-another"),
        pytest.param(
            _rule("deletecollection", "-", "secrets", "s"),
            f"DELETE {NS}/secrets?fieldSelector=metadata.name%3Ds",
            False,
            id="a-collection-is-not-deleted-by-name",
        ),
        pytest.param(_rule("create", "-", "secrets", "s"), f"POST {NS}/secrets", False, id="a-create-has-no-name"),
        pytest.param(_rule("*", "*", "*"), f"DELETE {NS}/pods/p", True, id="everything"),
        pytest.param(_rule("*", "*", "*"), f"POST {NS}/pods/p/exec", True, id="everything-has-subresources"),
        pytest.param(_rule("*", "*", "*"), "GET /metrics", False, id="every-resource-is-no-path"),
        pytest.param(_rule("create", "-", "pods/exec"), f"POST {NS}/pods/p/exec", True, id="subresource"),
        pytest.param(_rule("create", "-", "pods"), f"POST {NS}/pods/p/exec", False, id="parent-is-not-subresource"),
        pytest.param(_rule("update", "*", "*/status"), f"PUT {NS}/pods/p/status", True, id="subresource-of-any"),
        pytest.param(_rule("update", "*", "*/status"), f"PUT {NS}/pods/p", False, id="of-any-but-not-the-parent"),
        pytest.param(_paths("get", "/healthz"), "GET /healthz", True, id="path"),
        pytest.param(_paths("get", "/healthz"), "GET /healthz/", False, id="path-is-exact"),
        pytest.param(_paths("get", "/healthz"), "POST /healthz", False, id="path-other-verb"),
        pytest.param(_paths("get", "/api/*"), "GET /api/v1", True, id="path-prefix"),
        pytest.param(_paths("get", "/api/*"), "GET /api", False, id="prefix-includes-its-slash"),
        pytest.param(_paths("*", "*"), "PUT /anything", True, id="every-path"),
        pytest.param(_paths("get", "/a/*/b"), "GET /a/x/b", False, id="star-in-the-middle-is-a-character"),
    ],
)
def test_what_a_rule_permits(rule: Rule, request_line: str, expected: bool) -> None:
    method, _, url = request_line.partition(" ")
    path, _, query = url.partition("?")
    parameters = dict(part.split("=", 1) for part in query.replace("%3D", "\0").split("&") if part)
    request = parse_request(method, path, {name: text.replace("\0", "=") for name, text in parameters.items()})
    assert rule.allows(request) is expected


ROBOT = User("system:serviceaccount:ns:robot", ("system:serviceaccounts", "system:serviceaccounts:ns"))


@pytest.mark.parametrize(
    ("subject", "user", "binding_namespace", "expected"),
    [
        (Subject("User", "jane"), User("jane"), "", True),
        (Subject("User", "jane"), User("june"), "", False),
        (Subject("User", "dev"), User("jane", ("dev",)), "", False),
        (Subject("User", "*"), User("jane"), "", False),
        (Subject("Group", "dev"), User("jane", ("dev",)), "", True),
        (Subject("Group", "jane"), User("jane"), "", False),
        (Subject("ServiceAccount", "robot", "ns"), ROBOT, "", True),
        (Subject("ServiceAccount", "robot", "other"), ROBOT, "ns", False),
        (Subject("ServiceAccount", "robot"), ROBOT, "ns", True),
        (Subject("ServiceAccount", "robot"), ROBOT, "", False),
        (Subject("User", "system:serviceaccount:ns:robot"), ROBOT, "", True),
        (Subject("Group", "system:serviceaccounts"), ROBOT, "", True),
        (Subject("Group", "system:serviceaccounts:ns"), ROBOT, "", True),
        (Subject("Group", "system:serviceaccounts:other"), ROBOT, "", False),
        (Subject("Robot", "jane"), User("jane"), "", False),
    ],
)
def test_whom_a_subject_means(subject: Subject, user: User, binding_namespace: str, expected: bool) -> None:
    assert subject.matches(user, binding_namespace) is expected


def _binding(role: str, *subjects: dict[str, str]) -> dict[str, Any]:
    kind, _, name = role.partition("/")
    return {"roleRef": {"apiGroup": GROUP, "kind": kind, "name": name}, "subjects": list(subjects)}


JANE = {"kind": "User", "name": "jane"}


def _policy() -> Policy:
    policy = Policy()
    read = {"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]}
    policy.set_role("", "reader", read)
    policy.set_role("ns", "reader", {"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]})
    return policy


def test_a_binding_counts_in_its_namespace_only() -> None:
    policy = _policy()
    policy.set_binding("ns", "b", _binding("ClusterRole/reader", JANE))
    jane = User("jane")
    request = parse_request("GET", f"{NS}/secrets/s", {})
    assert find_grant(resolve(policy, jane, "ns").grants, request)
    assert resolve(policy, jane, "other").grants == []
    assert resolve(policy, jane, "").grants == []
    assert resolve(policy, User("june"), "ns").grants == []


def test_a_cluster_binding_counts_everywhere_and_is_told_in_full() -> None:
    policy = _policy()
    policy.set_binding("", "b", _binding("ClusterRole/reader", JANE))
    for namespace in ("", "ns", "other"):
        (grant,) = resolve(policy, User("jane"), namespace).grants
        assert grant.binding.describe(grant.subject) == (
            'ClusterRoleBinding "b" of ClusterRole "reader" to User "jane"'
        )
    policy.set_binding("", "b", None)
    assert resolve(policy, User("jane"), "ns").grants == []


def test_role_and_cluster_role_of_one_name_are_two() -> None:
    policy = _policy()
    account = {"kind": "ServiceAccount", "name": "robot"}
    policy.set_binding("ns", "b", _binding("Role/reader", account))
    (grant,) = resolve(policy, ROBOT, "ns").grants
    assert grant.rule.resources == ("pods",)
    assert grant.binding.describe(grant.subject) == ('RoleBinding "b/ns" of Role "reader" to ServiceAccount "robot/ns"')


def test_a_binding_to_a_missing_role_is_told_and_does_not_hide_the_others() -> None:
    policy = _policy()
    policy.set_binding("ns", "a", _binding("ClusterRole/gone", JANE))
    policy.set_binding("ns", "b", _binding("ClusterRole/reader", JANE))
    found = resolve(policy, User("jane"), "ns")
    assert found.errors == ['clusterrole.rbac.authorization.k8s.io "gone" not found']
    assert len(found.grants) == 1


# --- escalation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owned", "wanted", "lacking"),
    [
        pytest.param([READ], [READ], [], id="the-same"),
        pytest.param([_rule("*", "-", "secrets")], [READ], [], id="any-verb"),
        pytest.param([READ], [_rule("*", "-", "secrets")], ['Verbs:["*"]'], id="any-verb-is-more-than-some"),
        pytest.param([_rule("get", "-", "secrets"), _rule("list,watch", "-", "secrets")], [READ], [], id="in-parts"),
        pytest.param([_rule("get", "*", "*")], [READ], ['Verbs:["list"]', 'Verbs:["watch"]'], id="some-verbs-lack"),
        pytest.param([_rule("get,list,watch", "apps", "secrets")], [_rule("get", "-", "secrets")], [""], id="group"),
        pytest.param([NAMED], [_rule("get", "-", "secrets", "t")], [], id="one-of-the-names"),
        pytest.param([READ], [NAMED], [], id="names-narrow"),
        pytest.param([NAMED], [_rule("get", "-", "secrets")], [""], id="no-name-is-every-name"),
        pytest.param([_rule("*", "*", "*/scale")], [_rule("get", "apps", "a/scale")], [], id="subresource-of-any"),
        pytest.param([_rule("*", "*", "*/scale")], [_rule("get", "apps", "a")], [""], id="subresource-not-parent"),
        pytest.param([_rule("*", "*", "pods")], [_rule("get", "-", "pods/log")], [""], id="parent-not-subresource"),
        pytest.param([_paths("get", "/api/*")], [_paths("get", "/api/v1,/api/v2/*")], [], id="paths-below"),
        pytest.param([_paths("get", "/api/v1")], [_paths("get", "/api/*")], ["NonResourceURLs"], id="path-above"),
        pytest.param([_paths("*", "*")], [READ], ["", "", ""], id="paths-are-no-resources"),
        pytest.param([_rule("*", "*", "*")], [_paths("get", "/x")], [""], id="resources-are-no-paths"),
        pytest.param(list(EVERYTHING), [READ, _paths("put", "/x")], [], id="cluster-admin"),
        pytest.param([], [], [], id="nothing"),
    ],
)
def test_what_is_lacking_to_grant(owned: list[Rule], wanted: list[Rule], lacking: list[str]) -> None:
    found = missing(owned, wanted)
    assert len(found) == len(lacking)
    assert all(text in describe(rule) for text, rule in zip(lacking, found, strict=True))


def test_escalation_is_refused_in_upstreams_words() -> None:
    user = User("jane", ("dev", "system:authenticated"))
    lacking = missing([], [READ, _rule("create", "-", "pods/exec", "p"), _paths("get", "/x")])
    assert escalation_text(user, lacking) == (
        'user "jane" (groups=["dev" "system:authenticated"]) is attempting to grant RBAC permissions not currently held:\n'
        '{APIGroups:[""], Resources:["pods/exec"], ResourceNames:["p"], Verbs:["create"]}\n'
        '{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list" "watch"]}\n'
        '{NonResourceURLs:["/x"], Verbs:["get"]}'
    )
    assert escalation_text(user, [READ], ["one", "two"]).endswith("; resolution errors: [one two]")


def test_compact_joins_verbs_of_one_resource_only() -> None:
    parts = [_rule("get", "-", "secrets"), _rule("list", "-", "secrets"), _rule("get", "-", "secrets", "s")]
    assert [describe(rule) for rule in compact(parts)] == [
        '{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}',
        '{APIGroups:[""], Resources:["secrets"], ResourceNames:["s"], Verbs:["get"]}',
    ]


# --- default roles and aggregation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Near"}]}, {"a": ""}, False),
        ({"matchExpressions": [{"operator": "Exists"}]}, {"a": ""}, False),
        ({}, {}, True),
    ],
)
def test_which_roles_an_aggregation_selects(selector: dict[str, Any], labels: dict[str, str], expected: bool) -> None:
    assert selects(selector, labels) is expected


def _role(name: str, *resources: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    rules = [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]} for resource in resources]
    return {"metadata": {"name": name, "labels": labels or {}}, "rules": rules}


def test_aggregation_takes_each_rule_once_and_never_its_own() -> None:
    yes = {"in": "yes"}
    whole = {
        **_role("whole", "old", labels=yes),
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": yes}, {"matchLabels": {"also": "yes"}}]},
    }
    roles = [whole, _role("b", "pods", labels=yes), _role("a", "secrets", "pods", labels=yes), _role("c", "nodes")]
    assert [rule["resources"] for rule in aggregated_rules(whole, roles)] == [["secrets"], ["pods"]]


def _default(name: str) -> dict[str, Any]:
    return next(role for role in default_roles.CLUSTER_ROLES if role["metadata"]["name"] == name)


def test_view_does_not_show_secrets_and_edit_does() -> None:
    request = parse_request("GET", f"{NS}/secrets/s", {})
    assert not any(rule.allows(request) for rule in parse_rules(_default("system:aggregate-to-view")["rules"]))
    assert any(rule.allows(request) for rule in parse_rules(_default("system:aggregate-to-edit")["rules"]))


def _stored(wanted: dict[str, Any], **changes: Any) -> dict[str, Any]:
    metadata = {**wanted["metadata"], "uid": "u"}
    return {**wanted, "metadata": metadata, **changes}


def test_reconciling_adds_what_is_missing_and_keeps_what_was_added() -> None:
    wanted = _default("system:basic-user")
    own = {"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]}
    assert default_roles.reconcile_role(_stored(wanted), wanted) is None
    assert default_roles.reconcile_role(_stored(wanted, rules=[*wanted["rules"], own]), wanted) is None
    healed = default_roles.reconcile_role(_stored(wanted, rules=[own]), wanted)
    assert healed is not None
    assert healed["rules"][0] == own
    assert missing(parse_rules(healed["rules"]), parse_rules(wanted["rules"])) == []
    left_alone = _stored(wanted, rules=[])
    left_alone["metadata"]["annotations"] = {default_roles.AUTO_UPDATE: "false"}
    assert default_roles.reconcile_role(left_alone, wanted) is None


def test_reconciling_a_binding_adds_subjects_and_notices_another_role() -> None:
    wanted = default_roles.CLUSTER_ROLE_BINDINGS[0]
    extra = {"apiGroup": GROUP, "kind": "User", "name": "jane"}
    healed = default_roles.reconcile_binding(_stored(wanted, subjects=[extra]), wanted)
    assert healed is not None
    assert healed["subjects"] == [extra, *wanted["subjects"]]
    assert not default_roles.binds_another_role(_stored(wanted), wanted)
    assert default_roles.binds_another_role(_stored(wanted, roleRef={**wanted["roleRef"], "name": "view"}), wanted)

"""RBAC as users of the server meet it: permissions in force at once, denials, escalation, default and aggregated roles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from kubelet_secrets.apiserver.patch import APPLY
from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.apiserver.resources import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, served
from tests.apiserver.harness import SECRETS, Http, http_client, secret

RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROLES = f"{RBAC}/namespaces/default/roles"
ROLE_BINDINGS = f"{RBAC}/namespaces/default/rolebindings"
CLUSTER = f"{RBAC}/clusterroles"
CLUSTER_BINDINGS = f"{RBAC}/clusterrolebindings"
DENIED = (
    'secrets "s" is forbidden: User "jane" cannot get resource "secrets" in API group "" in the namespace "default"'
)
GROUPS = '["dev" "system:authenticated"]'


@pytest.fixture
async def jane(server: ServerHandle) -> AsyncIterator[Http]:
    async with http_client(server, server.authority.issue_client("jane", ("dev",))) as client:
        yield client


def role(name: str, verbs: list[str], resources: list[str], names: list[str] | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"verbs": verbs, "apiGroups": [""], "resources": resources}
    return {"metadata": {"name": name}, "rules": [{**rule, "resourceNames": names} if names else rule]}


def binding(name: str, role_ref: str, *, user: str = "jane") -> dict[str, Any]:
    kind, _, role_name = role_ref.partition("/")
    subject = {"kind": "User", "name": user}
    return {"metadata": {"name": name}, "roleRef": {"kind": kind, "name": role_name}, "subjects": [subject]}


async def _make(admin: Http, path: str, body: dict[str, Any]) -> None:
    answer = await admin.post(path, body)
    assert answer.status == 201, answer.body


async def test_a_permission_counts_from_its_write_to_its_deletion(admin: Http, jane: Http) -> None:
    await _make(admin, SECRETS, secret("s"))
    await _make(admin, SECRETS, secret("other"))
    assert (await jane.get(f"{SECRETS}/s")).message == DENIED
    await _make(admin, ROLES, role("read-s", ["get", "list", "watch"], ["secrets"], ["s"]))
    await _make(admin, ROLE_BINDINGS, binding("b", "Role/read-s"))
    assert (await jane.get(f"{SECRETS}/s")).status == 200
    assert (await jane.get(f"{SECRETS}/other")).status == 403
    assert (await jane.get(SECRETS)).status == 403
    assert (await jane.get(f"{SECRETS}?fieldSelector=metadata.name%3Ds")).status == 200
    async with jane.watch(f"{SECRETS}?watch=1&fieldSelector=metadata.name%3Ds") as watch:
        assert await watch.next_names(1) == [("ADDED", "s")]
    assert (await jane.get("/api/v1/namespaces/kube-system/secrets/s")).status == 403
    await admin.delete(f"{ROLE_BINDINGS}/b")
    assert (await jane.get(f"{SECRETS}/s")).message == DENIED


async def test_a_binding_to_a_missing_role_says_so(admin: Http, jane: Http) -> None:
    await _make(admin, ROLE_BINDINGS, binding("b", "ClusterRole/gone"))
    answer = await jane.get(f"{SECRETS}/s")
    assert answer.message == f'{DENIED}: RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found'


async def test_paths_are_granted_by_cluster_roles(admin: Http, jane: Http) -> None:
    assert (await jane.get("/metrics")).message == 'forbidden: User "jane" cannot get path "/metrics"'
    rules = [{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]
    await _make(admin, CLUSTER, {"metadata": {"name": "metrics"}, "rules": rules})
    await _make(admin, CLUSTER_BINDINGS, binding("b", "ClusterRole/metrics"))
    assert (await jane.get("/metrics")).status == 404


async def test_default_roles_separate_looking_from_reading_secrets(admin: Http, jane: Http) -> None:
    await _make(admin, SECRETS, secret("s"))
    await _make(admin, ROLE_BINDINGS, binding("b", "ClusterRole/view"))
    assert (await jane.get("/api/v1/namespaces/default/pods")).status == 200
    assert (await jane.get(f"{SECRETS}/s")).status == 403
    await _make(admin, ROLE_BINDINGS, binding("c", "ClusterRole/edit"))
    assert (await jane.get(f"{SECRETS}/s")).status == 200
    assert (await jane.get(ROLES)).status == 403
    await _make(admin, ROLE_BINDINGS, binding("d", "ClusterRole/admin"))
    assert (await jane.get(ROLES)).status == 200


async def test_aggregated_role_follows_the_roles_it_gathers(admin: Http, jane: Http) -> None:
    whole = {
        "metadata": {"name": "whole"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part-of": "whole"}}]},
    }
    await _make(admin, CLUSTER, whole)
    await _make(admin, ROLE_BINDINGS, binding("b", "ClusterRole/whole"))
    part = role("part", ["list"], ["secrets"])
    part["metadata"]["labels"] = {"part-of": "whole"}

    async def wait_rules(count: int) -> None:
        async with admin.watch(f"{CLUSTER}?watch=1&fieldSelector=metadata.name%3Dwhole") as watch:
            while len((await watch.next())[1].get("rules") or ()) != count:
                pass

    with trio.fail_after(60):
        await _make(admin, CLUSTER, part)
        await wait_rules(1)
        assert (await jane.get(SECRETS)).status == 200
        await admin.delete(f"{CLUSTER}/part")
        await wait_rules(0)
        assert (await jane.get(SECRETS)).status == 403


# --- escalation ------------------------------------------------------------------------------------------------------


async def test_nobody_grants_more_than_they_have(admin: Http, jane: Http) -> None:
    await _make(admin, ROLE_BINDINGS, binding("b", "ClusterRole/admin"))
    await _make(admin, CLUSTER, role("nodes", ["delete"], ["nodes"]))
    assert (await jane.post(ROLES, role("fine", ["get"], ["secrets"]))).status == 201
    answer = await jane.post(ROLES, role("r", ["delete", "get"], ["nodes", "pods"]))
    assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
    assert answer.message == (
        f'roles.rbac.authorization.k8s.io "r" is forbidden: user "jane" (groups={GROUPS}) is attempting to grant RBAC '
        "permissions not currently held:\n"
        '{APIGroups:[""], Resources:["nodes"], Verbs:["delete" "get"]}'
    )
    answer = await jane.patch(f"{ROLES}/fine", {"rules": role("x", ["*"], ["secrets"])["rules"]})
    assert answer.status == 403
    assert '{APIGroups:[""], Resources:["secrets"], Verbs:["*"]}' in answer.message
    answer = await jane.post(ROLE_BINDINGS, binding("c", "ClusterRole/nodes", user="june"))
    assert answer.message == (
        f'rolebindings.rbac.authorization.k8s.io "c" is forbidden: user "jane" (groups={GROUPS}) is attempting to grant '
        'RBAC permissions not currently held:\n{APIGroups:[""], Resources:["nodes"], Verbs:["delete"]}'
    )
    answer = await jane.post(ROLE_BINDINGS, binding("c", "ClusterRole/gone"))
    assert (answer.status, answer.message) == (404, 'clusterroles.rbac.authorization.k8s.io "gone" not found')
    assert (await jane.post(ROLE_BINDINGS, binding("c", "ClusterRole/view", user="june"))).status == 201


@pytest.mark.parametrize("verb", ["bind", "escalate"])
async def test_bind_and_escalate_are_permissions_of_their_own(admin: Http, jane: Http, verb: str) -> None:
    await _make(admin, ROLE_BINDINGS, binding("b", "ClusterRole/admin"))
    await _make(admin, CLUSTER, role("nodes", ["delete"], ["nodes"]))
    permission = {"verbs": [verb], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles", "roles"]}
    await _make(admin, CLUSTER, {"metadata": {"name": "more"}, "rules": [permission]})
    await _make(admin, ROLE_BINDINGS, binding("c", "ClusterRole/more"))
    bound = await jane.post(ROLE_BINDINGS, binding("d", "ClusterRole/nodes", user="june"))
    made = await jane.post(ROLES, role("r", ["delete"], ["nodes"]))
    assert (bound.status, made.status) == ((201, 403) if verb == "bind" else (403, 201))


async def test_what_an_apply_or_an_update_creates_takes_the_right_to_create(admin: Http, jane: Http) -> None:
    leases, rule = "coordination.k8s.io", {"verbs": ["patch", "update"], "resources": ["secrets", "leases"]}
    await _make(admin, ROLES, {"metadata": {"name": "r"}, "rules": [{**rule, "apiGroups": ["", leases]}]})
    await _make(admin, ROLE_BINDINGS, binding("b", "Role/r"))
    lease_path = f"/apis/{leases}/v1/namespaces/default/leases/new"
    lease = {"apiVersion": f"{leases}/v1", "kind": "Lease", "metadata": {"name": "new"}}
    applied = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "new"}}
    assert (await jane.put(lease_path, lease)).message == (
        f'leases.{leases} "new" is forbidden: User "jane" cannot create resource "leases" in API group "{leases}" in the '
        'namespace "default"'
    )
    apply = (f"{SECRETS}/new?fieldManager=jane", applied, APPLY)
    assert (await jane.patch(*apply)).status == 403
    await _make(admin, SECRETS, secret("new"))
    assert (await jane.patch(*apply)).status == 200
    await admin.delete(f"{SECRETS}/new")
    await _make(admin, ROLES, role("c", ["create"], ["secrets"]))
    await _make(admin, ROLE_BINDINGS, binding("c", "Role/c"))
    assert (await jane.patch(*apply)).status == 201


async def test_aggregation_is_for_those_who_have_everything(admin: Http, jane: Http) -> None:
    permission = {"verbs": ["create"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"]}
    await _make(admin, CLUSTER, {"metadata": {"name": "roles"}, "rules": [permission]})
    await _make(admin, CLUSTER_BINDINGS, binding("b", "ClusterRole/roles"))
    gathering = {"metadata": {"name": "g"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}}
    answer = await jane.post(CLUSTER, gathering)
    assert answer.message == (
        'clusterroles.rbac.authorization.k8s.io "g" is forbidden: must have cluster-admin privileges to use an '
        "aggregationRule"
    )
    await _make(admin, CLUSTER_BINDINGS, binding("c", "ClusterRole/cluster-admin"))
    assert (await jane.post(CLUSTER, gathering)).status == 201


# --- start -----------------------------------------------------------------------------------------------------------


async def test_default_roles_are_healed_at_the_next_start(tmp_path: Path) -> None:
    """What was taken away comes back, what was added stays, and permissions are in force from the first request."""
    roles, bindings = served(CLUSTER_ROLES), served(CLUSTER_ROLE_BINDINGS)
    options = ServerOptions(data_dir=tmp_path / "data", runs_scheduler=False)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server: ServerHandle = await nursery.start(serve_apiserver, options)
            await server.registry.delete(roles, "", "system:discovery")
            await server.registry.delete(bindings, "", "cluster-admin")
            own = {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}
            await server.registry.update(roles, "", "system:basic-user", lambda live: {**live, "rules": [own]})
            server.shut_down()
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_apiserver, options)
            rules = (await server.registry.get(roles, "", "system:basic-user")).object["rules"]
            assert (rules[0], len(rules)) == (own, 4)
            assert await server.registry.find(bindings, "", "cluster-admin") is not None
            async with http_client(server, server.authority.issue_client("jane")) as jane:
                assert (await jane.get("/api/v1")).status == 200
                assert (await jane.get("/api/v1/namespaces/default/secrets/s")).status == 404
            server.shut_down()

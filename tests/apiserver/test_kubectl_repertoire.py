"""The less common half of kubectl: lists, forced replacement, pruning, OpenAPI v2, everything that asks about the server.

The common half is in ``test_kubectl.py``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kubelet_secrets.apiserver.process import ServerHandle
from tests.apiserver.kubectl import OLDEST, Kubectl, find_kubectl, open_kubectl

_PATH = find_kubectl()
pytestmark = [
    pytest.mark.kubectl,
    pytest.mark.skipif(_PATH is None, reason=f"needs kubectl {'.'.join(map(str, OLDEST))} or later on PATH"),
]


@pytest.fixture
async def kubectl(server: ServerHandle, tmp_path: Path) -> AsyncIterator[Kubectl]:
    assert _PATH is not None
    async with open_kubectl(_PATH, server, tmp_path) as run:
        yield run


def listed(*names: str, **fields: object) -> str:
    """A ``kind: List`` of ConfigMaps."""
    items = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {"set": "one"}},
            "data": {"a": "1"},
            **fields,
        }
        for name in names
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


# --- lists: kubectl looks for their fields in OpenAPI v2 ---------------------------------------------------------------


async def test_a_list_is_created_applied_replaced_and_deleted(kubectl: Kubectl) -> None:
    both = listed("one", "two")
    assert (await kubectl("create", "-f", "-", stdin=both)).lines == ["configmap/one created", "configmap/two created"]
    replaced = await kubectl("replace", "-f", "-", stdin=both)
    assert replaced.lines == ["configmap/one replaced", "configmap/two replaced"]
    applied = await kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=both)
    assert applied.lines == ["configmap/one serverside-applied", "configmap/two serverside-applied"]
    forced = await kubectl("replace", "--force", "-f", "-", stdin=both)
    assert forced.lines[-2:] == ["configmap/one replaced", "configmap/two replaced"]
    deleted = await kubectl("delete", "-f", "-", stdin=both)
    assert deleted.deleted == ['configmap "one" deleted', 'configmap "two" deleted']


async def test_every_secret_is_written_again_as_key_rotation_does(kubectl: Kubectl) -> None:
    await kubectl("create", "secret", "generic", "one", "--from-literal=a=b")
    await kubectl("create", "secret", "generic", "two", "--from-literal=a=b")
    everything = (await kubectl("get", "secrets", "-A", "-o", "json")).out
    replaced = await kubectl("replace", "-f", "-", stdin=everything)
    assert replaced.lines == ["secret/one replaced", "secret/two replaced"]


async def test_a_wrong_field_in_a_list_is_refused(kubectl: Kubectl) -> None:
    message = await kubectl.fail("create", "-f", "-", stdin=listed("one", dta={"a": "b"}))
    assert 'unknown field "dta"' in message


async def test_a_review_is_created_and_answered(kubectl: Kubectl) -> None:
    """What cannot be patched: kubectl asks for custom resources first, and then validates by OpenAPI v2."""
    head = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
    asked = {"user": "jane", "resourceAttributes": {"namespace": "default", "verb": "get", "resource": "secrets"}}
    answer = await kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps({**head, "spec": asked}))
    assert answer.json["status"] == {"allowed": False}
    message = await kubectl.fail("create", "-f", "-", stdin=json.dumps({**head, "spec": {**asked, "usr": "x"}}))
    assert 'unknown field "usr" in io.k8s.api.authorization.v1.SubjectAccessReviewSpec' in message


async def test_explain_from_version_2(kubectl: Kubectl) -> None:
    explained = await kubectl("explain", "secret.immutable", "--output=plaintext-openapiv2")
    assert explained.lines[3] == "FIELD:    immutable <boolean>"
    tree = await kubectl("explain", "pod.spec.volumes.projected", "--recursive")
    assert "serviceAccountToken" in tree.out


# --- quotas ----------------------------------------------------------------------------------------------------------


async def test_a_quota_is_created_shown_and_kept_to(kubectl: Kubectl) -> None:
    made = await kubectl("create", "quota", "few", "--hard=count/secrets=1,pods=2,limits.memory=1Gi")
    assert made.out == "resourcequota/few created\n"
    await kubectl("wait", "quota/few", "--for=jsonpath={.status.used.count/secrets}=0", "--timeout=20s")
    shown = (await kubectl("get", "quota", "few", "--no-headers")).out
    assert "count/secrets: 0/1, pods: 0/2" in shown
    assert "limits.memory: 0/1Gi" in shown
    await kubectl("create", "secret", "generic", "one")
    refused = await kubectl.fail("create", "secret", "generic", "two")
    assert refused == (
        'error: failed to create secret secrets "two" is forbidden: exceeded quota: few, requested: count/secrets=1, '
        "used: count/secrets=1, limited: count/secrets=1"
    )
    described = [line.split() for line in (await kubectl("describe", "quota", "few")).lines]
    assert ["count/secrets", "1", "1"] in described


# --- pruning ---------------------------------------------------------------------------------------------------------


async def test_apply_prunes_by_label(kubectl: Kubectl) -> None:
    options = ("--prune", "-l", "set=one", "--prune-allowlist=core/v1/ConfigMap")
    await kubectl("apply", *options, "-f", "-", stdin=listed("one", "two"))
    pruned = await kubectl("apply", *options, "-f", "-", stdin=listed("one"))
    assert pruned.lines == ["configmap/one unchanged", "configmap/two pruned"]


async def test_apply_prunes_by_set(kubectl: Kubectl) -> None:
    enabled = {"KUBECTL_APPLYSET": "true"}
    command = ("apply", "--prune", "--applyset=mine", "-n", "default", "-f", "-")
    await kubectl(*command, stdin=listed("one", "two"), environment=enabled)
    parent = (await kubectl("get", "secret", "mine", "-o", "json")).json["metadata"]
    assert parent["annotations"]["applyset.kubernetes.io/contains-group-kinds"] == "ConfigMap"
    pruned = await kubectl(*command, stdin=listed("two"), environment=enabled)
    assert pruned.lines == ["configmap/two unchanged", "configmap/one pruned"]


# --- deleting --------------------------------------------------------------------------------------------------------


async def make(kubectl: Kubectl, *names: str) -> None:
    for name in names:
        await kubectl("create", "configmap", name, "--from-literal=a=1")


async def test_delete_all_but_what_a_field_or_label_says(kubectl: Kubectl) -> None:
    await make(kubectl, "one", "two", "three")
    await kubectl("label", "cm", "one", "keep=no")
    gone = await kubectl("delete", "cm", "-l", "keep=no", "--dry-run=server")
    assert gone.deleted == ['configmap "one" deleted (server dry run)']
    assert (await kubectl("delete", "cm", "-l", "keep=no")).deleted == ['configmap "one" deleted']
    by_field = ("delete", "cm", "--field-selector=metadata.name=two", "--wait=false", "-o", "name")
    assert (await kubectl(*by_field)).lines == ["configmap/two"]
    assert 'configmap "three" deleted' in (await kubectl("delete", "cm", "--all")).deleted
    assert (await kubectl("delete", "cm", "three", "--ignore-not-found")).out == ""


@pytest.mark.parametrize("flags", [("--grace-period=0", "--force"), ("--now",), ("--force",)])
async def test_delete_a_pod_in_a_hurry(kubectl: Kubectl, flags: tuple[str, ...]) -> None:
    await kubectl("run", "p", "--image=i")
    await kubectl("delete", "pod", "p", *flags, "--timeout=20s")
    assert (await kubectl("get", "pods", "-o", "name")).out == ""


@pytest.mark.parametrize(("cascade", "is_left"), [("background", False), ("foreground", False), ("orphan", True)])
async def test_delete_with_what_belongs_to_it(kubectl: Kubectl, cascade: str, is_left: bool) -> None:
    await make(kubectl, "owner", "owned")
    uid = (await kubectl("get", "cm", "owner", "-o", "jsonpath={.metadata.uid}")).out
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "blockOwnerDeletion": True}
    patch = json.dumps({"metadata": {"ownerReferences": [owner]}})
    await kubectl("patch", "cm", "owned", "-p", patch)
    await kubectl("delete", "cm", "owner", f"--cascade={cascade}", "--timeout=20s")
    if not is_left:
        await kubectl("wait", "--for=delete", "cm/owned", "--timeout=20s")
    else:
        assert (await kubectl("get", "cm", "owned", "-o", "jsonpath={.metadata.ownerReferences}")).out == ""


# --- reading ---------------------------------------------------------------------------------------------------------


async def test_output_formats(kubectl: Kubectl, tmp_path: Path) -> None:
    await make(kubectl, "one", "two")
    chosen = ("get", "cm", "one", "two")
    by_template = await kubectl(*chosen, "-o", "go-template={{range .items}}{{.metadata.name}}={{.data.a}} {{end}}")
    assert by_template.out == "one=1 two=1 "
    columns = tmp_path / "columns"
    columns.write_text("NAME DATA\n.metadata.name .data.a\n")
    assert (await kubectl(*chosen, "-o", f"custom-columns-file={columns}")).lines[1].split() == ["one", "1"]
    assert (await kubectl(*chosen, "--sort-by=.metadata.name", "--no-headers", "-o", "name")).lines[
        0
    ] == "configmap/one"
    labelled = await kubectl(*chosen, "--show-labels", "-L", "x", "--show-kind")
    assert labelled.lines[0].split() == ["NAME", "DATA", "AGE", "X", "LABELS"]
    plain = await kubectl("get", "cm", "one", "-o", "yaml")
    assert "managedFields" not in plain.out
    assert "manager: kubectl-create" in (await kubectl("get", "cm", "one", "-o", "yaml", "--show-managed-fields")).out
    assert (await kubectl("get", "cm", "--chunk-size=1", "-o", "name")).lines[-2:] == ["configmap/one", "configmap/two"]
    assert (await kubectl("get", "cm", "none", "--ignore-not-found")).out == ""


async def test_what_the_server_says_of_itself(kubectl: Kubectl, server: ServerHandle) -> None:
    assert server.url in (await kubectl("cluster-info")).out
    versions = (await kubectl("api-versions")).lines
    assert {"v1", "rbac.authorization.k8s.io/v1", "certificates.k8s.io/v1"} <= set(versions)
    cluster_wide = (await kubectl("api-resources", "--namespaced=false", "--verbs=list", "-o", "name")).lines
    assert "namespaces" in cluster_wide
    assert "secrets" not in cluster_wide
    assert (await kubectl("get", "--raw", "/readyz")).out == "ok"
    verbose = (await kubectl("get", "--raw", "/readyz?verbose")).out
    assert verbose == "[+]ping ok\n[+]shutdown ok\nreadyz check passed\n"
    raw = json.loads((await kubectl("get", "--raw", "/api/v1/namespaces/default/configmaps?limit=1")).out)
    assert raw["kind"] == "ConfigMapList"
    assert server.url in (await kubectl("config", "view")).out
    assert (await kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")).out == "kubernetes-admin"
    refused = await kubectl.try_run("auth", "can-i", "get", "secrets", "--as=nobody")
    assert (refused.code, refused.out) == (1, "no\n")


async def test_waiting_for_what_is_not_there_yet(kubectl: Kubectl) -> None:
    await kubectl("run", "p", "--image=i")
    missing = await kubectl.fail("wait", "--for=condition=Ready", "pod/p", "--timeout=1s")
    assert "timed out waiting for the condition on pods/p" in missing
    ready = '{"status":{"conditions":[{"type":"Ready","status":"True"}]}}'
    await kubectl("patch", "pod", "p", "--subresource=status", "--type=merge", "-p", ready)
    assert (await kubectl("wait", "--for=condition=Ready", "pod/p", "--timeout=20s")).out == "pod/p condition met\n"
    async with kubectl.follow("wait", "--for=create", "cm/later", "--timeout=25s") as lines:
        await make(kubectl, "later")
        assert await anext(lines) == "configmap/later condition met"


async def test_dry_runs_and_differences_change_nothing(kubectl: Kubectl) -> None:
    client = await kubectl("create", "cm", "dry", "--from-literal=a=1", "--dry-run=client", "-o", "yaml")
    assert "kind: ConfigMap" in client.out
    differs = await kubectl.try_run("diff", "-f", "-", stdin=client.out)
    assert differs.code == 1
    assert "+  name: dry" in differs.out
    applied = await kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=client.out)
    assert applied.out == "configmap/dry serverside-applied (server dry run)\n"
    assert "not found" in await kubectl.fail("get", "cm", "dry")

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
    assert deleted.lines == ['configmap "one" deleted', 'configmap "two" deleted']


async def test_every_secret_is_written_again_as_key_rotation_does(kubectl: Kubectl) -> None:
    await kubectl("create", "secret", "generic", "one", "--from-literal=a=b")
    await kubectl("create", "secret", "generic", "two", "--from-literal=a=b")
    everything = (await kubectl("get", "secrets", "-A", "-o", "json")).out
    replaced = await kubectl("replace", "-f", "-", stdin=everything)
    assert replaced.lines == ["secret/one replaced", "secret/two replaced"]


async def test_a_wrong_field_in_a_list_is_refused(kubectl: Kubectl) -> None:
    message = await kubectl.fail("create", "-f", "-", stdin=listed("one", dta={"a": "b"}))
    assert 'unknown field "dta"' in message


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

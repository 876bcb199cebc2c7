"""What the API server refused the node of these tests, by its own record: nothing that a kubelet would not be refused.

Its name makes it the last module: everything that the node has been through is in the record.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kubelet_secrets.testing.controlplane import VARIABLE, find_assets
from tests.testing.auditlog import Refusal, refusals, unexcused
from tests.testing.conftest import PlaneNode

NODE = "system:node:n1"
LAG = "no relationship found between node 'n1' and this object"


def entry(code: int, verb: str, resource: str, *, user: str = NODE, uri: str = "/", reason: str = "") -> str:
    name, _, subresource = resource.partition("/")
    event: dict[str, Any] = {
        "user": {"username": user},
        "verb": verb,
        "requestURI": uri,
        "objectRef": {"resource": name, "subresource": subresource},
        "responseStatus": {"code": code},
        "annotations": {"authorization.k8s.io/reason": reason},
    }
    return json.dumps(event, separators=(",", ":"))


@pytest.mark.parametrize(
    ("line", "is_excused"),
    [
        (entry(404, "get", "leases"), True),
        (entry(404, "delete", "pods"), True),
        (entry(403, "watch", "secrets", reason=LAG), True),
        (entry(403, "watch", "secrets"), False),
        (entry(403, "list", "nodes"), False),
        (entry(422, "watch", "secrets", uri="/api/v1/secrets?sendInitialEvents=true"), True),
        (entry(422, "watch", "secrets", uri="/api/v1/secrets"), False),
        (entry(422, "patch", "pods/status"), False),
        (entry(500, "patch", "nodes/status"), False),
    ],
)
def test_refusal_of_a_kubelet_is_told_from_a_fault(tmp_path: Path, line: str, is_excused: bool) -> None:
    log = tmp_path / "audit.log"
    others = (entry(200, "get", "leases"), entry(403, "get", "pods", user="system:node:n2"))
    log.write_text("\n".join([*others, line, '{"half":']))
    found: list[Refusal] = list(refusals(log, NODE))
    assert len(found) == 1
    assert (unexcused(found) == []) is is_excused


def test_node_asked_for_nothing_that_it_may_not(node: PlaneNode) -> None:
    if find_assets() is None:
        pytest.skip(f"needs kube-apiserver in the directory {VARIABLE} names: what stands in for it keeps no record")
    found = list(refusals(node.audit_log, f"system:node:{node.node_name}"))
    assert unexcused(found) == []
    assert found  # there was no lease yet, at least: the record is this node's

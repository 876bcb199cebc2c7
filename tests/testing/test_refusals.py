"""Which refusals in an API server's record a kubelet would have met as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.testing.auditlog import Refusal, refusals, unexcused

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

"""Whether a pod may be on a node. Source: k8s.io/component-helpers/scheduling/corev1/nodeaffinity/nodeaffinity_test.go."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.core import Pod, Taint, Toleration
from kubelet_secrets.api.decode import convert
from kubelet_secrets.api.nodeaffinity import matches_node, untolerated_taint

LABELS = {"disk": "ssd", "rank": "7"}


def required(*terms: Any) -> dict[str, Any]:
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    }


def rule(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({}, True, id="no-wish"),
        pytest.param({"nodeSelector": {"disk": "ssd"}}, True, id="selector"),
        pytest.param({"nodeSelector": {"disk": "ssd", "gpu": "1"}}, False, id="selector-half"),
        pytest.param(required({"matchExpressions": [rule("disk", "In", "hdd", "ssd")]}), True, id="in"),
        pytest.param(required({"matchExpressions": [rule("disk", "NotIn", "ssd")]}), False, id="not-in"),
        pytest.param(required({"matchExpressions": [rule("gpu", "NotIn", "a100")]}), True, id="not-in-absent"),
        pytest.param(required({"matchExpressions": [rule("disk", "Exists")]}), True, id="exists"),
        pytest.param(required({"matchExpressions": [rule("disk", "DoesNotExist")]}), False, id="does-not-exist"),
        pytest.param(required({"matchExpressions": [rule("rank", "Gt", "6")]}), True, id="gt"),
        pytest.param(required({"matchExpressions": [rule("rank", "Lt", "6")]}), False, id="lt"),
        pytest.param(required({"matchExpressions": [rule("disk", "Like", "s*")]}), False, id="unknown-operator"),
        pytest.param(
            required({"matchExpressions": [rule("disk", "Exists"), rule("gpu", "Exists")]}),
            False,
            id="and-within-a-term",
        ),
        pytest.param(
            required({"matchExpressions": [rule("gpu", "Exists")]}, {"matchExpressions": [rule("disk", "Exists")]}),
            True,
            id="or-between-terms",
        ),
        pytest.param(required({}), False, id="empty-term-matches-nothing"),
        pytest.param(required(), False, id="no-terms"),
        pytest.param(required({"matchFields": [rule("metadata.name", "In", "n1")]}), True, id="by-name"),
        pytest.param(
            {**required({"matchExpressions": [rule("disk", "Exists")]}), "nodeSelector": {"disk": "hdd"}},
            False,
            id="both-have-to-match",
        ),
    ],
)
def test_node_affinity(spec: dict[str, Any], expected: bool) -> None:
    assert matches_node(convert({"spec": spec}, Pod), name="n1", labels=LABELS) is expected


@pytest.mark.parametrize(
    ("toleration", "is_tolerated"),
    [
        pytest.param({"operator": "Exists"}, True, id="everything"),
        pytest.param({"key": "k", "operator": "Exists"}, True, id="any-value"),
        pytest.param({"key": "k", "value": "v"}, True, id="equal-is-the-default"),
        pytest.param({"key": "k", "operator": "Equal", "value": "w"}, False, id="another-value"),
        pytest.param({"key": "k", "value": "v", "effect": "NoExecute"}, True, id="same-effect"),
        pytest.param({"key": "k", "value": "v", "effect": "NoSchedule"}, False, id="another-effect"),
        pytest.param({"key": "l", "operator": "Exists"}, False, id="another-key"),
    ],
)
def test_taints(toleration: dict[str, str], is_tolerated: bool) -> None:
    taints = [Taint(key="x", effect="NoSchedule"), Taint(key="k", value="v", effect="NoExecute")]
    found = untolerated_taint(taints, [convert(toleration, Toleration)], "NoExecute")
    assert (found is None) is is_tolerated

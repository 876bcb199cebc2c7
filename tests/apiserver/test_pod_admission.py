"""What every pod has that was read back from a cluster: a priority, and tolerations with a time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.apiserver.harness import PODS, Http, pod

NOT_READY = {
    "key": "node.kubernetes.io/not-ready",
    "operator": "Exists",
    "effect": "NoExecute",
    "tolerationSeconds": 300,
}
UNREACHABLE = {**NOT_READY, "key": "node.kubernetes.io/unreachable"}
GIVEN = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}
OTHER = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoSchedule"}
ALL = {"operator": "Exists"}


def with_spec(**fields: Any) -> dict[str, Any]:
    made = pod("p")
    made["spec"] |= fields
    return made


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param([], [NOT_READY, UNREACHABLE], id="none"),
        pytest.param([GIVEN], [GIVEN, UNREACHABLE], id="one-of-them-without-a-time"),
        pytest.param([OTHER], [OTHER, NOT_READY, UNREACHABLE], id="another-effect"),
        pytest.param([ALL], [ALL], id="everything"),
    ],
)
async def test_tolerations(admin: Http, given: list[Any], expected: list[Any]) -> None:
    """Source: plugin/pkg/admission/defaulttolerationseconds/admission_test.go."""
    answer = await admin.post(PODS, with_spec(tolerations=given))
    assert (answer.status, answer.json["spec"]["tolerations"]) == (201, expected)


@pytest.mark.parametrize(
    ("fields", "priority", "policy"),
    [
        pytest.param({}, 0, "PreemptLowerPriority", id="no-class"),
        pytest.param({"priority": 0}, 0, "PreemptLowerPriority", id="read-from-another-cluster"),
        pytest.param(
            {"priorityClassName": "system-node-critical"}, 2_000_001_000, "PreemptLowerPriority", id="critical"
        ),
        pytest.param({"priorityClassName": "high", "priority": 7}, 7, None, id="a-class-of-another-cluster"),
    ],
)
async def test_priority(admin: Http, fields: dict[str, Any], priority: int, policy: str | None) -> None:
    spec = (await admin.post(PODS, with_spec(**fields))).json["spec"]
    assert (spec["priority"], spec.get("preemptionPolicy")) == (priority, policy)


async def test_a_priority_that_its_class_does_not_give_is_refused(admin: Http) -> None:
    answer = await admin.post(PODS, with_spec(priority=5))
    assert answer.status == 403
    assert answer.message == (
        'pods "p" is forbidden: the integer value of priority (5) must not be provided in pod spec; priority admission '
        "controller computed 0 from the given PriorityClass name"
    )


async def test_a_manifest_that_is_put_once_more_keeps_them(admin: Http) -> None:
    first = (await admin.post(PODS, with_spec())).json
    again = with_spec()
    again["spec"] |= {name: first["spec"][name] for name in ("serviceAccount", "serviceAccountName", "volumes")}
    again["spec"]["containers"] = first["spec"]["containers"]
    answer = await admin.put(f"{PODS}/p", again)
    assert answer.status == 200, answer.message
    assert answer.json["spec"] == first["spec"]
    assert answer.json["metadata"]["generation"] == 1

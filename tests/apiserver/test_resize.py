"""``pods/resize``. Source: pkg/apis/core/validation, TestValidatePodResize; test/e2e/common/node/pod_resize.go."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.apiserver.harness import Http, pod

PODS = "/api/v1/namespaces/default/pods"
RESOURCES = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}}


async def make(admin: Http, **container: Any) -> dict[str, Any]:
    body = pod("web")
    body["spec"]["containers"][0].update({"resources": RESOURCES, **container})
    made = await admin.post(PODS, body)
    assert made.status == 201, made.json
    found: dict[str, Any] = made.json
    return found


async def test_resize_changes_resources_and_nothing_else(admin: Http) -> None:
    before = await make(admin)
    change = {
        "name": before["spec"]["containers"][0]["name"],
        "resources": {"requests": {"cpu": "150m"}},
        "image": "other:1",
    }
    body = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [change], "activeDeadlineSeconds": 7}}
    answer = await admin.patch(f"{PODS}/web/resize", body, "application/strategic-merge-patch+json")
    assert answer.status == 200, answer.json
    after = (await admin.get(f"{PODS}/web")).json
    assert after["spec"]["containers"][0]["resources"] == {**RESOURCES, "requests": {"cpu": "150m", "memory": "64Mi"}}
    assert after["metadata"]["generation"] == 2
    after["spec"]["containers"][0]["resources"] = RESOURCES
    assert after["spec"] == before["spec"]
    assert after["metadata"].get("labels") == before["metadata"].get("labels")
    assert (await admin.get(f"{PODS}/web/resize")).json["metadata"]["name"] == "web"
    change["resources"] = {"requests": {"cpu": "160m"}}
    plain = await admin.patch(
        f"{PODS}/web", {"spec": {"containers": [change]}}, "application/strategic-merge-patch+json"
    )
    assert (plain.status, "pod updates may not change fields" in plain.json["message"]) == (422, True)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (
            {"limits": None, "requests": {"cpu": None}},
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
        ),
        ({"limits": {"memory": None}}, "resource limits cannot be removed"),
        ({"requests": {"ephemeral-storage": "1Gi"}}, "spec: Forbidden: only cpu and memory resources are mutable"),
        ({"requests": {"cpu": "500m"}}, "must be less than or equal to cpu limit of 200m"),
        (
            {"requests": {"cpu": "200m", "memory": "128Mi"}},
            'spec: Invalid value: "Guaranteed": Pod QOS Class may not change as a result of resizing',
        ),
    ],
)
async def test_refused(admin: Http, resources: dict[str, Any], message: str) -> None:
    name = (await make(admin))["spec"]["containers"][0]["name"]
    body = {"spec": {"containers": [{"name": name, "resources": resources}]}}
    answer = await admin.patch(f"{PODS}/web/resize", body, "application/strategic-merge-patch+json")
    assert answer.status == 422
    assert message in answer.json["message"]


async def test_refused_for_other_containers(admin: Http) -> None:
    whole = await make(admin)
    for rename, message in (
        (lambda found: [{**found[0], "name": "other"}], "containers may not be renamed or reordered on resize"),
        (lambda found: [*found, {**found[0], "name": "more"}], "containers may not be added or removed on resize"),
    ):
        body = {**whole, "spec": {**whole["spec"], "containers": rename(whole["spec"]["containers"])}}
        answer = await admin.put(f"{PODS}/web/resize", body)
        assert (answer.status, message in answer.json["message"]) == (422, True), answer.json


async def test_node_that_tells_no_resources(admin: Http) -> None:
    whole = await make(admin)
    name = whole["spec"]["containers"][0]["name"]
    status = {"containerStatuses": [{"name": name, "state": {"running": {}}}]}
    await admin.patch(f"{PODS}/web/status", {"status": status})
    body = {"spec": {"containers": [{"name": name, "resources": {"requests": {"cpu": "150m"}}}]}}
    answer = await admin.patch(f"{PODS}/web/resize", body, "application/strategic-merge-patch+json")
    assert "spec: Forbidden: Pod running on node without support for resize" in answer.json["message"]


async def test_resize_policy(admin: Http) -> None:
    body = pod("web", restartPolicy="Never")
    body["spec"]["containers"][0]["resizePolicy"] = [
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "cpu", "restartPolicy": "RestartContainer"},
        {"resourceName": "pods", "restartPolicy": "Maybe"},
    ]
    message = (await admin.post(PODS, body)).json["message"]
    for text in (
        'spec.containers[0].resizePolicy[1]: Duplicate value: "cpu"',
        'spec.containers[0].resizePolicy: Unsupported value: "pods": supported values: "cpu", "memory"',
        'spec.containers[0].resizePolicy: Unsupported value: "Maybe": supported values: "NotRequired", "RestartContainer"',
        "must be 'NotRequired' when `restartPolicy` is 'Never'",
    ):
        assert text in message


async def test_quota_counts_what_a_resize_adds(admin: Http) -> None:
    quota = {"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "120m"}}}
    quotas = "/api/v1/namespaces/default/resourcequotas"
    await admin.post(quotas, quota)
    with trio.fail_after(60):
        while "hard" not in (await admin.get(f"{quotas}/q")).json.get("status", {}):  # noqa: ASYNC110  # read over HTTP
            await trio.sleep(0.01)
    name = (await make(admin))["spec"]["containers"][0]["name"]
    body = {"spec": {"containers": [{"name": name, "resources": {"requests": {"cpu": "150m"}}}]}}
    answer = await admin.patch(f"{PODS}/web/resize", body, "application/strategic-merge-patch+json")
    assert answer.status == 403
    assert (
        "exceeded quota: q, requested: requests.cpu=50m, used: requests.cpu=100m, limited: requests.cpu=120m"
        in (answer.json["message"])
    )

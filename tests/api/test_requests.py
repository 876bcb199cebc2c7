"""What a pod requests in total. Source: k8s.io/component-helpers/resource/helpers_test.go, TestPodResourceRequests."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.decode import convert
from kubelet_secrets.api.requests import placed_amounts, request_amounts


def asks(cpu: str, **more: Any) -> dict[str, Any]:
    return {"name": "c", "resources": {"requests": {"cpu": cpu}}, **more}


ALWAYS = {"restartPolicy": "Always"}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({"containers": [{}]}, {}, id="nothing"),
        pytest.param({"containers": [asks("1"), asks("250m")]}, {"cpu": 1250}, id="sum"),
        pytest.param({"containers": [asks("1")], "initContainers": [asks("3"), asks("2")]}, {"cpu": 3000}, id="init"),
        pytest.param({"containers": [asks("4")], "initContainers": [asks("3")]}, {"cpu": 4000}, id="small-init"),
        pytest.param({"containers": [asks("1")], "initContainers": [asks("2", **ALWAYS)]}, {"cpu": 3000}, id="sidecar"),
        pytest.param(
            {"containers": [asks("1")], "initContainers": [asks("1", **ALWAYS), asks("5"), asks("1", **ALWAYS)]},
            {"cpu": 6000},
            id="init-beside-the-sidecars-before-it",
        ),
        pytest.param({"containers": [asks("1")], "overhead": {"cpu": "10m"}}, {"cpu": 1010}, id="overhead"),
        pytest.param(
            {"containers": [asks("1")], "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "1Mi"}}},
            {"cpu": 500, "memory": 1 << 20},
            id="pod-level",
        ),
        pytest.param(
            {"containers": [{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "0.5001"}}}]},
            {"cpu": 501, "memory": 1 << 30},
            id="limit-without-request-and-rounding-up",
        ),
    ],
)
def test_pod_requests(spec: dict[str, Any], expected: dict[str, int]) -> None:
    assert request_amounts(convert({"spec": spec}, Pod)) == expected


@pytest.mark.parametrize(
    ("status", "conditions", "expected"),
    [
        ({}, [], 1000),
        ({"resources": {"requests": {"cpu": "2"}}, "allocatedResources": {"cpu": "1"}}, [], 2000),
        ({"resources": {"requests": {"cpu": "500m"}}, "allocatedResources": {"cpu": "500m"}}, [], 1000),
        (
            {"resources": {"requests": {"cpu": "500m"}}, "allocatedResources": {"cpu": "500m"}},
            [{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}],
            500,
        ),
    ],
)
def test_pod_that_is_being_resized(status: dict[str, Any], conditions: list[dict[str, Any]], expected: int) -> None:
    """Source: TestPodRequestsInPlace: the most of what is asked for, allocated and in force, unless that can never be."""
    made = {
        "spec": {"containers": [asks("1")]},
        "status": {"conditions": conditions, "containerStatuses": [{"name": "c", **status}]},
    }
    assert placed_amounts(convert(made, Pod)) == {"cpu": expected}

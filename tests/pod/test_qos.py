"""Source: pkg/apis/core/v1/helper/qos/qos_test.go."""

from __future__ import annotations

import pytest

from kubelet_secrets.api.core import Container, ResourceRequirements
from kubelet_secrets.pod.qos import qos_class
from tests.pod.builders import make_pod

FULL = {"cpu": "1", "memory": "1Gi"}


def container(name: str, limits: dict[str, str], requests: dict[str, str]) -> Container:
    return Container(name=name, resources=ResourceRequirements(limits=dict(limits), requests=dict(requests)))


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        pytest.param([container("a", {}, {})], "BestEffort", id="nothing"),
        pytest.param([container("a", {"cpu": "0"}, {})], "BestEffort", id="zero-is-nothing"),
        pytest.param([container("a", {"ephemeral-storage": "1Gi"}, {})], "BestEffort", id="storage-does-not-count"),
        pytest.param([container("a", FULL, FULL)], "Guaranteed", id="limits-equal-requests"),
        pytest.param([container("a", FULL, {})], "Guaranteed", id="requests-default-to-limits"),
        pytest.param([container("a", FULL, {"cpu": "1000m", "memory": "1024Mi"})], "Guaranteed", id="other-spelling"),
        pytest.param([container("a", FULL, {"cpu": "500m"})], "Burstable", id="smaller-request"),
        pytest.param([container("a", {"memory": "1Gi"}, {})], "Burstable", id="memory-only"),
        pytest.param([container("a", {}, {"cpu": "1"})], "Burstable", id="request-only"),
        pytest.param([container("a", FULL, FULL), container("b", {}, {})], "Burstable", id="one-container-without"),
    ],
)
def test_qos_class(containers: list[Container], expected: str) -> None:
    assert qos_class(make_pod(*containers)) == expected


def test_init_containers_count() -> None:
    assert qos_class(make_pod(container("a", FULL, FULL), init=(container("i", {}, {}),))) == "Burstable"


def test_pod_level_resources_decide_alone() -> None:
    assert qos_class(make_pod("a", resources=ResourceRequirements(limits=dict(FULL)))) == "Guaranteed"

"""Deletion and status rules as tables. Source: rest/delete_test.go, pod/strategy_test.go."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kubelet_secrets.api import meta
from kubelet_secrets.api.qosclass import qos_class
from kubelet_secrets.apiserver.attributes import DeleteOptions
from kubelet_secrets.apiserver.resources import served
from kubelet_secrets.apiserver.strategy import Deletion, begin_deletion, is_deletion_complete

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PODS, SECRETS, NAMESPACES = served(meta.PODS), served(meta.SECRETS), served(meta.NAMESPACES)


def _pod(node: str = "n", grace_s: int | None = 30, phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    spec = {"terminationGracePeriodSeconds": grace_s} if grace_s is not None else {}
    return {"metadata": {"name": "p", **metadata}, "spec": {"nodeName": node, **spec}, "status": {"phase": phase}}


@pytest.mark.parametrize(
    ("pod", "requested_s", "expected_s"),
    [
        pytest.param(_pod(), None, 30, id="the-pods-own"),
        pytest.param(_pod(), 5, 5, id="the-requests"),
        pytest.param(_pod(), 0, 0, id="now"),
        pytest.param(_pod(), -1, 1, id="negative-is-one"),
        pytest.param(_pod(grace_s=None), None, 0, id="none-at-all"),
        pytest.param(_pod(node=""), 5, 0, id="unbound"),
        pytest.param(_pod(phase="Succeeded"), 5, 0, id="succeeded"),
        pytest.param(_pod(phase="Failed"), None, 0, id="failed"),
    ],
)
def test_grace_period_of_a_pod(pod: dict[str, Any], requested_s: int | None, expected_s: int) -> None:
    assert begin_deletion(PODS, pod, DeleteOptions(grace_s=requested_s), now=NOW) is Deletion.MARK
    assert pod["metadata"]["deletionGracePeriodSeconds"] == expected_s
    assert pod["metadata"]["deletionTimestamp"] == f"2026-01-01T00:00:{expected_s:02}Z"
    assert is_deletion_complete(PODS, pod) is (expected_s == 0)


@pytest.mark.parametrize(
    ("pending_s", "requested_s", "outcome"),
    [
        (30, None, Deletion.PENDING),
        (30, 30, Deletion.PENDING),
        (30, 60, Deletion.PENDING),
        (30, 5, Deletion.MARK),
        (30, 0, Deletion.MARK),
    ],
)
def test_grace_period_of_a_pending_deletion_only_shrinks(
    pending_s: int, requested_s: int | None, outcome: Deletion
) -> None:
    pod = _pod(deletionTimestamp="2026-01-01T00:01:00Z", deletionGracePeriodSeconds=pending_s)
    assert begin_deletion(PODS, pod, DeleteOptions(grace_s=requested_s), now=NOW) is outcome
    if outcome is Deletion.MARK:
        assert pod["metadata"]["deletionTimestamp"] == f"2026-01-01T00:00:{30 + (requested_s or 0):02}Z"


def test_grace_period_beyond_the_calendar() -> None:
    """A pod may have any 64-bit number of seconds, and has to be deletable all the same."""
    pod = _pod(grace_s=2**63 - 1)
    assert begin_deletion(PODS, pod, DeleteOptions(), now=NOW) is Deletion.MARK
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 2**63 - 1
    assert pod["metadata"]["deletionTimestamp"].startswith("2125-")
    assert begin_deletion(PODS, pod, DeleteOptions(grace_s=5), now=NOW) is Deletion.MARK
    assert pod["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:05Z"


def test_deletion_bumps_the_generation_once() -> None:
    pod = _pod(generation=3)
    begin_deletion(PODS, pod, DeleteOptions(grace_s=None), now=NOW)
    begin_deletion(PODS, pod, DeleteOptions(grace_s=5), now=NOW)
    assert pod["metadata"]["generation"] == 4


def test_other_kinds_go_at_once_unless_a_finalizer_holds_them() -> None:
    secret: dict[str, Any] = {"metadata": {"name": "s"}}
    assert begin_deletion(SECRETS, secret, DeleteOptions(grace_s=30), now=NOW) is Deletion.NOW
    secret["metadata"]["finalizers"] = ["a/b"]
    assert begin_deletion(SECRETS, secret, DeleteOptions(grace_s=30), now=NOW) is Deletion.MARK
    assert secret["metadata"]["deletionGracePeriodSeconds"] == 0
    assert begin_deletion(SECRETS, secret, DeleteOptions(grace_s=0), now=NOW) is Deletion.PENDING
    assert not is_deletion_complete(SECRETS, secret)
    del secret["metadata"]["finalizers"]
    assert is_deletion_complete(SECRETS, secret)


def test_namespace_waits_for_its_finalizer_in_spec() -> None:
    namespace: dict[str, Any] = {"metadata": {"name": "t"}, "spec": {"finalizers": ["kubernetes"]}, "status": {}}
    assert begin_deletion(NAMESPACES, namespace, DeleteOptions(), now=NOW) is Deletion.MARK
    assert namespace["status"]["phase"] == "Terminating"
    assert not is_deletion_complete(NAMESPACES, namespace)
    namespace["spec"]["finalizers"] = []
    assert is_deletion_complete(NAMESPACES, namespace)


_FULL = {"cpu": "1", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([{}], "BestEffort"),
        ([{"requests": {"example.com/gpu": "1"}}], "BestEffort"),
        ([{"limits": _FULL}], "Guaranteed"),
        ([{"limits": _FULL, "requests": _FULL}], "Guaranteed"),
        ([{"limits": _FULL, "requests": {"cpu": "1000m", "memory": "1024Mi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "nonsense"}}], "BestEffort"),
        ([{"limits": _FULL}, {}], "Burstable"),
        ([{"limits": {"cpu": "1"}}], "Burstable"),
        ([{"limits": _FULL, "requests": {"cpu": "500m", "memory": "1Gi"}}], "Burstable"),
        ([{"requests": {"memory": "1Gi"}}], "Burstable"),
    ],
)
def test_quality_of_service(resources: list[dict[str, Any]], expected: str) -> None:
    assert qos_class({"containers": [{"resources": entry} for entry in resources]}) == expected

"""Source of the pod cases: pkg/printers/internalversion/printers_test.go, TestPrintPod and its neighbours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubelet_secrets.apiserver import resources, tables
from kubelet_secrets.apiserver.podprinter import summarize

Obj = dict[str, Any]
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def _cells(kind: str, obj: Obj) -> list[Any]:
    (row,) = [row for row in resources.SERVED if row.kind == kind]
    obj = {**obj, "metadata": {"name": "x", "creationTimestamp": "2026-01-01T11:55:00Z", **obj.get("metadata", {})}}
    table = tables.to_table(row, [obj], NOW, "Metadata", {"resourceVersion": "7"})
    cells: list[Any] = table["rows"][0]["cells"]
    assert len(cells) == len(table["columnDefinitions"])
    return cells


@pytest.mark.parametrize("row", resources.SERVED, ids=lambda row: row.plural)
def test_every_kind_prints_even_when_empty(row: resources.ServedResource) -> None:
    table = tables.to_table(row, [{"metadata": {"name": "x"}}], NOW, "Metadata", {})
    assert len(table["rows"][0]["cells"]) == len(table["columnDefinitions"])
    assert any(column["format"] == "name" for column in table["columnDefinitions"])


def test_secret_counts_keys_and_shows_none() -> None:
    cells = _cells("Secret", {"type": "Opaque", "data": {"password": "c2VjcmV0", "user": "YQ=="}})
    assert cells == ["x", "Opaque", 2, "5m"]


def test_config_map_counts_both_maps() -> None:
    assert _cells("ConfigMap", {"data": {"a": "1"}, "binaryData": {"b": "eA=="}}) == ["x", 2, "5m"]


def test_objects_beside_the_cells() -> None:
    (row,) = [row for row in resources.SERVED if row.kind == "Secret"]
    secret: Obj = {"metadata": {"name": "x"}, "data": {"k": "dg=="}}
    for include, expected in (
        ("None", None),
        ("Metadata", {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "x"}}),
        ("Object", secret),
    ):
        assert tables.to_table(row, [secret], NOW, include, {})["rows"][0].get("object") == expected


def _status(name: str, **state: Any) -> Obj:
    extra = {key: state.pop(key) for key in ("ready", "restartCount", "started", "lastState") if key in state}
    return {"name": name, "state": state, **extra}


def _pod(status: Obj, *, init: int = 0, containers: int = 2, deleted: bool = False, **spec: Any) -> Obj:
    return {
        "metadata": {"name": "p"} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {}),
        "spec": {
            "initContainers": [{"name": f"i{n}"} for n in range(init)],
            "containers": [{"name": f"c{n}"} for n in range(containers)],
            **spec,
        },
        "status": status,
    }


_RUNNING: Obj = {"running": {}, "ready": True}


@pytest.mark.parametrize(
    ("pod", "word", "ready"),
    [
        pytest.param(_pod({"phase": "Pending"}), "Pending", "0/2", id="pending"),
        pytest.param(
            _pod({"phase": "Running", "containerStatuses": [_status("c0", **_RUNNING), _status("c1", **_RUNNING)]}),
            "Running",
            "2/2",
            id="running",
        ),
        pytest.param(
            _pod(
                {
                    "phase": "Pending",
                    "containerStatuses": [
                        _status("c0", waiting={"reason": "CreateContainerConfigError"}),
                        _status("c1", waiting={"reason": "ContainerCreating"}),
                    ],
                }
            ),
            "CreateContainerConfigError",
            "0/2",
            id="the-first-containers-reason-wins",
        ),
        pytest.param(
            _pod(
                {"phase": "Pending", "initContainerStatuses": [_status("i0", waiting={"reason": "PodInitializing"})]},
                init=2,
            ),
            "Init:0/2",
            "0/2",
            id="first-init-waits",
        ),
        pytest.param(
            _pod(
                {
                    "phase": "Pending",
                    "initContainerStatuses": [_status("i0", terminated={"exitCode": 0}), _status("i1", running={})],
                },
                init=2,
            ),
            "Init:1/2",
            "0/2",
            id="second-init-runs",
        ),
        pytest.param(
            _pod(
                {
                    "phase": "Pending",
                    "initContainerStatuses": [_status("i0", waiting={"reason": "CrashLoopBackOff"}, restartCount=3)],
                },
                init=1,
            ),
            "Init:CrashLoopBackOff",
            "0/2",
            id="init-crashes",
        ),
        pytest.param(
            _pod({"phase": "Failed", "initContainerStatuses": [_status("i0", terminated={"exitCode": 7})]}, init=1),
            "Init:ExitCode:7",
            "0/2",
            id="init-failed",
        ),
        pytest.param(
            _pod({"phase": "Succeeded", "containerStatuses": [_status("c0", terminated={"reason": "Completed"})]}),
            "Completed",
            "0/2",
            id="completed",
        ),
        pytest.param(
            _pod({"phase": "Failed", "containerStatuses": [_status("c0", terminated={"exitCode": 2})]}),
            "ExitCode:2",
            "0/2",
            id="exit-code",
        ),
        pytest.param(
            _pod({"phase": "Failed", "containerStatuses": [_status("c0", terminated={"exitCode": 137, "signal": 9})]}),
            "Signal:9",
            "0/2",
            id="signal",
        ),
        pytest.param(
            _pod(
                {
                    "phase": "Running",
                    "containerStatuses": [_status("c0", terminated={"reason": "Completed"}), _status("c1", **_RUNNING)],
                    "conditions": [{"type": "Ready", "status": "True"}],
                }
            ),
            "Running",
            "1/2",
            id="one-completed-one-running",
        ),
        pytest.param(
            _pod(
                {
                    "phase": "Running",
                    "containerStatuses": [_status("c0", terminated={"reason": "Completed"}), _status("c1", **_RUNNING)],
                }
            ),
            "NotReady",
            "1/2",
            id="one-completed-not-ready",
        ),
        pytest.param(_pod({"phase": "Failed", "reason": "Evicted"}), "Evicted", "0/2", id="pod-reason"),
        pytest.param(_pod({"phase": "Running"}, deleted=True), "Terminating", "0/2", id="terminating"),
        pytest.param(_pod({"phase": "Succeeded"}, deleted=True), "Succeeded", "0/2", id="deleted-but-done"),
        pytest.param(_pod({"phase": "Running", "reason": "NodeLost"}, deleted=True), "Unknown", "0/2", id="node-lost"),
        pytest.param(
            _pod({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
            "SchedulingGated",
            "0/2",
            id="gated",
        ),
        pytest.param(
            _pod(
                {
                    "phase": "Running",
                    "initContainerStatuses": [_status("s", running={}, started=True, ready=True, restartCount=1)],
                    "containerStatuses": [_status("c0", **_RUNNING)],
                },
                containers=1,
                initContainers=[{"name": "s", "restartPolicy": "Always"}],
            ),
            "Running",
            "2/2",
            id="sidecar-counts",
        ),
    ],
)
def test_pod_word(pod: Obj, word: str, ready: str) -> None:
    summary = summarize(pod)
    assert (summary.word, f"{summary.ready}/{summary.total}") == (word, ready)


def test_pod_row_with_restarts_and_wide_columns() -> None:
    last = {"terminated": {"finishedAt": "2026-01-01T11:59:00Z"}}
    pod = _pod(
        {
            "phase": "Running",
            "podIPs": [{"ip": "10.0.0.5"}],
            "containerStatuses": [_status("c0", **_RUNNING, restartCount=3, lastState=last)],
        },
        containers=1,
        nodeName="node-1",
    )
    assert _cells("Pod", pod) == ["p", "1/1", "Running", "3 (60s ago)", "5m", "10.0.0.5", "node-1", "<none>", "<none>"]


def test_finished_pods_carry_a_condition() -> None:
    (row,) = [row for row in resources.SERVED if row.kind == "Pod"]
    table = tables.to_table(row, [_pod({"phase": "Succeeded"})], NOW, "None", {})
    assert table["rows"][0]["conditions"][0]["reason"] == "Succeeded"


def test_node_event_service_lease_binding_and_signing_request() -> None:
    node = {
        "metadata": {"labels": {"node-role.kubernetes.io/worker": ""}},
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.0"},
        },
    }
    assert _cells("Node", node)[:7] == [
        "x",
        "Ready,SchedulingDisabled",
        "worker",
        "5m",
        "v1.36.0",
        "10.0.0.1",
        "<none>",
    ]
    event = {
        "type": "Warning",
        "reason": "FailedMount",
        "message": " text ",
        "involvedObject": {"kind": "Pod", "name": "p"},
        "source": {"component": "kubelet", "host": "n"},
        "firstTimestamp": "2026-01-01T11:50:00Z",
        "lastTimestamp": "2026-01-01T11:59:50Z",
        "count": 4,
    }
    assert _cells("Event", event) == [
        *("10s", "Warning", "FailedMount", "pod/p", "", "kubelet, n", "text", "10m", 4, "x"),
    ]
    service = {"spec": {"type": "ClusterIP", "clusterIP": "10.96.0.1", "ports": [{"port": 443, "protocol": "TCP"}]}}
    assert _cells("Service", service) == ["x", "ClusterIP", "10.96.0.1", "<none>", "443/TCP", "5m", "<none>"]
    assert _cells("Lease", {"spec": {"holderIdentity": "n"}}) == ["x", "n", "5m"]
    binding = {
        "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}],
    }
    assert _cells("RoleBinding", binding) == ["x", "Role/r", "5m", "u", "", "n/s"]
    request = {"spec": {"signerName": "s", "username": "u"}, "status": {"conditions": [{"type": "Approved"}]}}
    assert _cells("CertificateSigningRequest", request) == ["x", "5m", "s", "u", "<none>", "Approved"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (121, "2m1s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (49 * 3600, "2d1h"),
        (8 * 86400, "8d"),
        (2 * 365 * 86400, "2y"),
        (2 * 365 * 86400 + 86400, "2y1d"),
        (9 * 365 * 86400, "9y"),
    ],
)
def test_human_duration(seconds: int, text: str) -> None:
    assert tables.human_duration(timedelta(seconds=seconds)) == text

"""Source: pkg/kubelet/nodestatus/setters_test.go, kubelet_node_status_test.go; semantics §10.4."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubelet_secrets.api.core import NodeStatus
from kubelet_secrets.node.facts import default_ips, read_facts
from kubelet_secrets.node.status import is_changed, make_node, make_node_status
from tests.node.facts import T0, after, facts


def status(**changes: object) -> NodeStatus:
    arguments = {"previous": NodeStatus(), "problems": (), "now": T0, **changes}
    return make_node_status(facts(), **arguments)  # type: ignore[arg-type]


def test_node_object_to_register() -> None:
    node = make_node(facts(), now=T0)
    assert node.metadata.labels["kubernetes.io/hostname"] == "vm"
    assert node.metadata.labels["kubernetes.io/os"] == "linux"
    assert node.metadata.labels["kubernetes.io/arch"] == "amd64"
    assert [(each.type, each.address) for each in node.status.addresses] == [
        ("InternalIP", "192.0.2.7"),
        ("Hostname", "vm"),
    ]
    assert node.status.daemon_endpoints.kubelet_endpoint.port == 10250


def test_capacity_and_allocatable() -> None:
    assert status().capacity == {"cpu": "2", "ephemeral-storage": "104857600Ki", "memory": "4194304Ki", "pods": "110"}
    assert status().allocatable == {
        "cpu": "2",
        "ephemeral-storage": "96636764160",
        "memory": "4091904Ki",  # 100Mi less
        "pods": "110",
    }


def test_conditions_of_a_healthy_node() -> None:
    assert [(each.type, each.status, each.reason) for each in status().conditions] == [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID"),
        ("Ready", "True", "KubeletReady"),
    ]
    assert status().conditions[-1].message == "kubelet is posting ready status"


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        pytest.param(("container runtime is down",), "container runtime is down", id="one"),
        pytest.param(("a", "b"), "[a, b]", id="several"),
    ],
)
def test_problems_make_the_node_not_ready(problems: tuple[str, ...], message: str) -> None:
    ready = status(problems=problems).conditions[-1]
    assert (ready.status, ready.reason, ready.message) == ("False", "KubeletNotReady", message)


def test_heartbeats_move_and_transitions_stay() -> None:
    first = status()
    second = status(previous=first, now=after(60))
    assert {each.last_heartbeat_time for each in second.conditions} == {"2026-11-23T19:41:00Z"}
    assert {each.last_transition_time for each in second.conditions} == {"2026-11-23T19:40:00Z"}
    assert not is_changed(first, second)
    third = status(previous=second, now=after(120), problems=("x",))
    assert third.conditions[-1].last_transition_time == "2026-11-23T19:42:00Z"
    assert is_changed(second, third)


def test_facts_of_this_machine_are_plausible(tmp_path: Path) -> None:
    found = read_facts("n1", root_dir=tmp_path / "not" / "there", runtime_version="runc://1")
    assert found.cpus >= 1
    assert found.memory_bytes > 1 << 20
    assert found.storage_bytes > 0
    assert found.kernel_version
    assert found.ips == default_ips()

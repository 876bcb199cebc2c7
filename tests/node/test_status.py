"""Source: pkg/kubelet/nodestatus/setters_test.go, kubelet_node_status_test.go; semantics §10.4."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubelet_secrets.api.core import NodeStatus, Taint
from kubelet_secrets.errors import UsageError
from kubelet_secrets.node.facts import default_ips, read_facts
from kubelet_secrets.node.status import (
    Observations,
    describe_images,
    is_changed,
    make_node,
    make_node_status,
    transitions,
)
from tests.node.facts import T0, after, facts


def status(**changes: object) -> NodeStatus:
    arguments = {"previous": NodeStatus(), "seen": Observations(), "now": T0, **changes}
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


def test_huge_pages_are_a_resource_of_their_own() -> None:
    made = make_node_status(
        facts(hugepages={2 << 20: 512, 1 << 30: 0}), previous=NodeStatus(), seen=Observations(), now=T0
    )
    assert (made.capacity["hugepages-2Mi"], made.capacity["hugepages-1Gi"]) == ("1Gi", "0")
    assert made.allocatable["hugepages-2Mi"] == "1Gi"
    assert made.capacity["memory"] == "4194304Ki"
    assert made.allocatable["memory"] == "3043328Ki"  # 100Mi and those pages less


@pytest.mark.parametrize(
    ("name", "reason", "message"),
    [
        ("MemoryPressure", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("DiskPressure", "KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("PIDPressure", "KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    ],
)
def test_pressure_is_a_condition(name: str, reason: str, message: str) -> None:
    made = status(seen=Observations(pressures={name}))
    bad = [(each.type, each.reason, each.message) for each in made.conditions if each.status == "True"][:-1]
    assert bad == [(name, reason, message)]
    assert made.conditions[-1].status == "True"  # of Ready: pods go on


def test_what_becomes_of_conditions_is_told_in_events() -> None:
    good, bad = status(), status(seen=Observations(problems=("x",), pressures={"DiskPressure"}))
    assert transitions(good, bad) == ["NodeHasDiskPressure", "NodeNotReady"]
    assert transitions(bad, good) == ["NodeHasNoDiskPressure", "NodeReady"]
    assert transitions(good, good) == []


def test_images_are_the_fifty_largest_with_five_names_each() -> None:
    """Source: setters_test.go, TestImages."""
    names = [f"registry.example/app:{number}" for number in range(7)]
    many = [((f"small:{number:02}",), 100) for number in range(60)]
    found = describe_images([*many, (names, 5000), ((), 9000)])
    assert (found[0].names, found[0].size_bytes) == (tuple(names[:5]), 5000)
    assert len(found) == 50
    assert found[1].names == ("small:00",)


def test_labels_and_taints_that_the_user_asks_for() -> None:
    taint = Taint(key="dedicated", value="db", effect="NoSchedule")
    node = make_node(facts(), now=T0, labels={"rack": "7", "kubernetes.io/hostname": "other"}, taints=[taint])
    assert node.metadata.labels["rack"] == "7"
    assert node.metadata.labels["kubernetes.io/hostname"] == "other"
    assert node.metadata.labels["kubernetes.io/os"] == "linux"
    assert node.spec.taints == (taint,)


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        pytest.param(("container runtime is down",), "container runtime is down", id="one"),
        pytest.param(("a", "b"), "[a, b]", id="several"),
    ],
)
def test_problems_make_the_node_not_ready(problems: tuple[str, ...], message: str) -> None:
    ready = status(seen=Observations(problems=problems)).conditions[-1]
    assert (ready.status, ready.reason, ready.message) == ("False", "KubeletNotReady", message)


def test_heartbeats_move_and_transitions_stay() -> None:
    first = status()
    second = status(previous=first, now=after(60))
    assert {each.last_heartbeat_time for each in second.conditions} == {"2026-11-23T19:41:00Z"}
    assert {each.last_transition_time for each in second.conditions} == {"2026-11-23T19:40:00Z"}
    assert not is_changed(first, second)
    third = status(previous=second, now=after(120), seen=Observations(problems=("x",)))
    assert third.conditions[-1].last_transition_time == "2026-11-23T19:42:00Z"
    assert is_changed(second, third)


def test_facts_of_this_machine_are_plausible(tmp_path: Path) -> None:
    found = read_facts("n1", root_dir=tmp_path / "not" / "there", runtime_version="runc://1")
    assert found.cpus >= 1
    assert found.memory_bytes > 1 << 20
    assert found.storage_bytes > 0
    assert found.kernel_version
    assert found.ips == default_ips()[:1]


def test_address_that_no_interface_has_is_refused(tmp_path: Path) -> None:
    assert read_facts("n1", root_dir=tmp_path, ips=("127.0.0.1",)).ips == ("127.0.0.1",)
    with pytest.raises(UsageError, match=r'node IP: "192\.0\.2\.7" not found in the host'):
        read_facts("n1", root_dir=tmp_path, ips=("192.0.2.7",))

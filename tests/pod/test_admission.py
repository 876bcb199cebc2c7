"""Pods that the node does not take. Source: pkg/kubelet/lifecycle/predicate_test.go, pkg/kubelet/sysctl/allowlist_test.go."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.core import Taint
from kubelet_secrets.api.meta import NODES, PODS
from kubelet_secrets.pod.admission import NodeTerms, judge, share_of
from tests.pod.builders import pod_from
from tests.pod.cluster import NODE, Cluster, container

ALLOCATABLE = {"cpu": "2", "memory": "1Gi", "pods": "3", "example.com/disk": "1"}


def wants(amounts: dict[str, str], **spec: Any) -> dict[str, Any]:
    return {"containers": [{"name": "c", "resources": {"requests": amounts}}], **spec}


def ports(*numbers: int, **port: Any) -> dict[str, Any]:
    entries = [{"containerPort": number, "hostPort": number, **port} for number in numbers]
    return {"containers": [{"name": "c", "ports": entries}]}


OTHER = wants({"cpu": "500m", "memory": "512Mi", "example.com/disk": "1"}) | {}
APP_ARMOR = {"appArmorProfile": {"type": "RuntimeDefault"}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param(wants({"cpu": "1500m", "memory": "512Mi"}), None, id="just-fits"),
        pytest.param(
            wants({"cpu": "1501m"}),
            ("OutOfcpu", "Node didn't have enough resource: cpu, requested: 1501, used: 500, capacity: 2000"),
            id="cpu",
        ),
        pytest.param(
            wants({"memory": "513Mi"}),
            (
                "OutOfmemory",
                "Node didn't have enough resource: memory, requested: 537919488, used: 536870912, capacity: 1073741824",
            ),
            id="memory",
        ),
        pytest.param(
            wants({"ephemeral-storage": "1"}),
            (
                "OutOfephemeral-storage",
                "Node didn't have enough resource: ephemeral-storage, requested: 1, used: 0, capacity: 0",
            ),
            id="ephemeral-storage",
        ),
        pytest.param(
            wants({"example.com/disk": "1"}),
            (
                "OutOfexample.com/disk",
                "Node didn't have enough resource: example.com/disk, requested: 1, used: 1, capacity: 1",
            ),
            id="resource-of-a-plugin",
        ),
        pytest.param(wants({"example.com/gpu": "8"}), None, id="resource-that-is-not-the-nodes"),
        pytest.param(
            wants({}, nodeSelector={"disk": "tape"}),
            ("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"),
            id="node-selector",
        ),
        pytest.param(
            wants({"cpu": "8"}, nodeSelector={"disk": "tape"}),
            ("OutOfcpu", "Node didn't have enough resource: cpu, requested: 8000, used: 500, capacity: 2000"),
            id="resources-are-looked-at-first",
        ),
        pytest.param(
            ports(8080),
            ("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"),
            id="port",
        ),
        pytest.param(ports(8080, hostIP="127.0.0.1"), ("NodePorts", ...), id="port-of-one-address"),
        pytest.param(ports(8080, protocol="UDP"), None, id="port-of-another-protocol"),
        pytest.param(
            wants({}, os={"name": "windows"}),
            ("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"),
            id="os",
        ),
        pytest.param(
            wants({}, securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}),
            ("SysctlForbidden", 'forbidden sysctl: "kernel.msgmax" not allowlisted'),
            id="unsafe-sysctl",
        ),
        pytest.param(
            wants({}, securityContext={"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}),
            None,
            id="unsafe-sysctl-that-the-node-allows",
        ),
        pytest.param(
            wants({}, hostNetwork=True, securityContext={"sysctls": [{"name": "net/ipv4/tcp_rmem", "value": "1"}]}),
            ("SysctlForbidden", 'forbidden sysctl: "net.ipv4.tcp_rmem" not allowed with host net enabled'),
            id="sysctl-of-the-host",
        ),
        pytest.param(
            wants({}, hostIPC=True, securityContext={"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}),
            ("SysctlForbidden", 'forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled'),
            id="sysctl-of-the-hosts-ipc",
        ),
        pytest.param(
            wants({}, securityContext=APP_ARMOR),
            ("AppArmor", "Cannot enforce AppArmor: AppArmor is not supported by this node"),
            id="app-armor",
        ),
        pytest.param(
            {
                "containers": [{"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}],
                "securityContext": APP_ARMOR,
            },
            None,
            id="no-app-armor-for-the-container",
        ),
    ],
)
def test_rejections(spec: dict[str, Any], expected: tuple[str, Any] | None) -> None:
    terms = NodeTerms(
        name="n1", labels={"disk": "ssd"}, taints=(), allocatable=ALLOCATABLE, allowed_sysctls=("net.core.*",)
    )
    others = [share_of(pod_from({"spec": each})) for each in (OTHER, ports(8080))]
    found = judge(pod_from({"spec": spec}), terms, others, was_started=False)
    if found is None or expected is None:
        assert found is expected
    else:
        assert (found.reason, found.message if expected[1] is not ... else ...) == expected


TOLERATES = {"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}


@pytest.mark.parametrize(
    ("spec", "pressures", "message"),
    [
        (wants({}), (), None),
        (wants({}), ("MemoryPressure",), "The node had condition: [MemoryPressure]. "),
        (wants({}, tolerations=[TOLERATES]), ("MemoryPressure",), None),
        (wants({"cpu": "1m"}), ("MemoryPressure",), None),
        (wants({"cpu": "1m"}), ("DiskPressure",), "The node had condition: [DiskPressure]. "),
        (wants({}), ("MemoryPressure", "DiskPressure"), "The node had condition: [DiskPressure MemoryPressure]. "),
        (wants({}, priority=2_000_000_000), ("DiskPressure",), None),
    ],
)
def test_pressure_keeps_pods_away(spec: dict[str, Any], pressures: tuple[str, ...], message: str | None) -> None:
    """Source: pkg/kubelet/eviction/eviction_manager_test.go, TestMemoryPressure, TestDiskPressureNodeFs."""
    terms = NodeTerms(name="n1", labels={}, taints=(), allocatable=ALLOCATABLE, pressures=pressures)
    found = judge(pod_from({"spec": spec}), terms, [], was_started=False)
    assert (found and (found.reason, found.message)) == (message and ("Evicted", message))


def test_number_of_pods() -> None:
    terms = NodeTerms(name="n1", labels={}, taints=(), allocatable={"pods": "2"})
    pod = pod_from({"spec": wants({})})
    assert judge(pod, terms, [share_of(pod)], was_started=False) is None
    full = judge(pod, terms, [share_of(pod)] * 2, was_started=False)
    assert full is not None
    assert (full.reason, full.message) == (
        "OutOfpods",
        "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2",
    )


def test_taint_that_executes_counts_for_pods_of_the_api_that_have_not_been_here() -> None:
    terms = NodeTerms(
        name="n1",
        labels={},
        taints=[Taint(key="a", effect="NoSchedule"), Taint(key="b", effect="NoExecute")],
        allocatable=ALLOCATABLE,
    )
    manifest = {"metadata": {"name": "p"}, "spec": wants({})}
    found = judge(pod_from(manifest), terms, (), was_started=False)
    assert found is not None
    text = "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"
    assert (found.reason, found.message) == ("TaintToleration", text)
    assert judge(pod_from(manifest), terms, (), was_started=True) is None
    static = {"metadata": {"name": "p", "annotations": {"kubernetes.io/config.source": "file"}}, "spec": wants({})}
    assert judge(pod_from(static), terms, (), was_started=False) is None


@pytest.mark.runtime
async def test_rejected_pod_fails_and_the_node_is_asked_for_its_labels_before(lab: Cluster) -> None:
    """kubelet.go, rejectPod: an event, the status, nothing else; what a pod had is free when it ends."""
    async with lab.agent() as agent:
        half = {"resources": {"requests": {"cpu": "1500m"}}}
        await lab.create("first", container("exit 0", **half), restartPolicy="Never")
        await lab.wait_phase("first", "Succeeded")
        await lab.create("second", container(**half), restartPolicy="Never")
        await lab.wait_phase("second", "Running")
        await lab.create("third", container(**half))
        pod = await lab.wait_phase("third", "Failed")
        message = "Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000"
        assert (pod.status.reason, pod.status.message) == ("OutOfcpu", f"Pod was rejected: {message}")
        assert (pod.status.container_statuses, pod.status.conditions, pod.status.pod_ips) == ((), (), ())
        assert (pod.status.qos_class, pod.status.start_time is not None) == ("Burstable", True)
        await lab.wait_event("third", "OutOfcpu", message)
        await lab.admin.delete(PODS, "default", "third")
        await lab.wait_gone("third")
        # The label is put on the Node after the node has looked at it.
        await lab.admin.create(NODES, "", {"metadata": {"name": NODE, "labels": {"disk": "ssd"}}})
        await lab.create("selective", container(), nodeSelector={"disk": "ssd"})
        await lab.wait_phase("selective", "Running")
        await lab.create("elsewhere", container(), nodeSelector={"disk": "tape"})
        pod = await lab.wait_phase("elsewhere", "Failed")
        assert pod.status.reason == "NodeAffinity"
        assert not [each for each in agent.parts.sandboxes.list() if each.pod_uid == pod.metadata.uid]

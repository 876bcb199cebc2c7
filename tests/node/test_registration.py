"""The node's own object against the embedded API server, with the node's identity. Semantics §10.3, §10.4."""

from __future__ import annotations

import trio

from kubelet_secrets.api.core import Node, Taint
from kubelet_secrets.api.meta import NODES
from kubelet_secrets.node.registration import NodeReporter
from kubelet_secrets.node.status import Observations
from tests.node.conftest import NODE, Cluster
from tests.node.facts import Clock, facts


async def get_node(cluster: Cluster) -> Node:
    return await cluster.admin.get(NODES, "", NODE, Node)


def ready(node: Node) -> str:
    return next(each.status for each in node.status.conditions if each.type == "Ready")


async def test_node_is_registered_and_reported(cluster: Cluster) -> None:
    async with trio.open_nursery() as nursery:
        reporter = NodeReporter(cluster.node, facts(), clock=Clock())
        await nursery.start(reporter.run)
        node = await get_node(cluster)
        assert ready(node) == "True"
        assert node.status.node_info.container_runtime_version == "runc://1.1.5"
        assert reporter.allocatable["cpu"] == "2"
        nursery.cancel_scope.cancel()


async def test_node_gets_the_labels_and_taints_it_is_to_have(cluster: Cluster) -> None:
    """With the node's own identity: NodeRestriction lets them through."""
    async with trio.open_nursery() as nursery:
        taints = [Taint(key="dedicated", value="db", effect="NoSchedule")]
        reporter = NodeReporter(cluster.node, facts(), clock=Clock(), labels={"rack": "7"}, taints=taints)
        await nursery.start(reporter.run)
        nursery.cancel_scope.cancel()
    node = await get_node(cluster)
    assert node.metadata.labels["rack"] == "7"
    assert "dedicated" in [each.key for each in node.spec.taints]


async def test_node_that_was_declared_lost_says_at_once_that_it_is_not(cluster: Cluster) -> None:
    """Out of reach for a minute, it has changed nothing, and would have nothing to send for four minutes more."""
    told: list[str] = []
    reporter = NodeReporter(cluster.node, facts(), clock=Clock(), record=lambda reason, message: told.append(reason))
    async with trio.open_nursery() as nursery:
        await nursery.start(reporter.run)
        nursery.cancel_scope.cancel()
    await reporter.report()
    assert not await reporter.report()
    unknown = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "stopped posting"}
    network = {"type": "NetworkUnavailable", "status": "False", "reason": "RouteCreated"}
    patch = {"status": {"conditions": [unknown, network], "capacity": {"example.org/dongle": "4"}}}
    await cluster.admin.patch(NODES, "", NODE, patch, subresource="status")
    assert await reporter.report()
    node = await get_node(cluster)
    assert ready(node) == "True"
    assert node.status.capacity["example.org/dongle"] == "4"
    assert not await reporter.report(), "what is others' is not a change"
    assert told == [
        *("Starting", "NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"),
        "NodeReady",
    ]


async def test_nudge_reports_at_once(cluster: Cluster) -> None:
    seen = Observations()
    reporter = NodeReporter(cluster.node, facts(), clock=Clock(), observe=lambda: seen)
    async with trio.open_nursery() as nursery:
        await nursery.start(reporter.run)
        seen = Observations(problems=("the network is not there",))
        async with cluster.admin.watch(NODES, "", Node, send_initial_events=True) as events:
            async for event in events:
                if event.object.metadata.name == NODE and ready(event.object) == "False":
                    break
                if event.ends_initial_events:
                    reporter.nudge()
        nursery.cancel_scope.cancel()


async def test_node_that_exists_is_reconciled(cluster: Cluster) -> None:
    await cluster.admin.create(
        NODES, "", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"rack": "7"}}}
    )
    async with trio.open_nursery() as nursery:
        labels = {"rack": "8", "topology.kubernetes.io/zone": "a"}
        taints = [Taint(key="dedicated", value="db", effect="NoSchedule")]
        reporter = NodeReporter(cluster.node, facts(), clock=Clock(), labels=labels, taints=taints)
        await nursery.start(reporter.run)
        node = await get_node(cluster)
        assert node.metadata.labels["rack"] == "7"
        assert node.metadata.labels["kubernetes.io/hostname"] == "vm"
        assert node.metadata.labels["topology.kubernetes.io/zone"] == "a"
        assert node.metadata.annotations["volumes.kubernetes.io/controller-managed-attach-detach"] == "true"
        assert "dedicated" not in [each.key for each in node.spec.taints]
        nursery.cancel_scope.cancel()


async def test_status_is_sent_when_it_changes_and_every_five_minutes(cluster: Cluster) -> None:
    clock, problems = Clock(), list[str]()
    reporter = NodeReporter(cluster.node, facts(), clock=clock, observe=lambda: Observations(problems=tuple(problems)))
    async with trio.open_nursery() as nursery:
        await nursery.start(reporter.run)
        nursery.cancel_scope.cancel()
    await reporter.report()
    assert not await reporter.report()
    clock.advance(299)
    assert not await reporter.report()
    clock.advance(1)
    assert await reporter.report()
    problems.append("container runtime is down")
    clock.advance(10)
    assert await reporter.report()
    assert ready(await get_node(cluster)) == "False"


async def test_changed_address_replaces_the_old_one(cluster: Cluster) -> None:
    """Source: fixupPatchForNodeStatusAddresses: addresses merge by type, and there may be two of one type."""
    for ips in (("192.0.2.7",), ("192.0.2.8", "2001:db8::8")):
        async with trio.open_nursery() as nursery:
            reporter = NodeReporter(cluster.node, facts(ips=ips), clock=Clock())
            await nursery.start(reporter.run)
            await reporter.report()
            nursery.cancel_scope.cancel()
        addresses = (await get_node(cluster)).status.addresses
        assert [each.address for each in addresses if each.type == "InternalIP"] == list(ips)

"""Source: component-helpers apimachinery/lease/controller_test.go; semantics §10.4."""

from __future__ import annotations

from kubelet_secrets.api.core import Lease
from kubelet_secrets.api.meta import LEASES, NODES, OwnerReference
from kubelet_secrets.node.lease import NAMESPACE, LeaseKeeper, renewed
from tests.node.conftest import NODE, Cluster
from tests.node.facts import T0, Clock

OWNER = OwnerReference(api_version="v1", kind="Node", name=NODE, uid="u")


def test_renewed_lease() -> None:
    lease = renewed(Lease(), node_name=NODE, owner=OWNER, now=T0)
    assert lease.spec.holder_identity == NODE
    assert lease.spec.lease_duration_seconds == 40
    assert lease.spec.renew_time == "2026-11-23T19:40:00.000000Z"
    assert lease.metadata.owner_references == (OWNER,)
    assert renewed(Lease(), node_name=NODE, owner=None, now=T0).metadata.owner_references == ()


async def get_lease(cluster: Cluster) -> Lease:
    return await cluster.admin.get(LEASES, NAMESPACE, NODE, Lease)


async def make_keeper(cluster: Cluster, clock: Clock) -> LeaseKeeper:
    node = await cluster.admin.create(NODES, "", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
    return LeaseKeeper(cluster.node, NODE, clock=clock, node_uid=lambda: node["metadata"]["uid"])


async def test_lease_is_created_and_renewed(cluster: Cluster) -> None:
    clock = Clock()
    keeper = await make_keeper(cluster, clock)
    await keeper.renew()
    first = await get_lease(cluster)
    assert first.metadata.owner_references[0].kind == "Node"
    clock.advance(10)
    await keeper.renew()
    second = await get_lease(cluster)
    assert second.spec.renew_time == "2026-11-23T19:40:10.000000Z"
    assert second.metadata.uid == first.metadata.uid


async def test_lease_that_somebody_changed_is_taken_over(cluster: Cluster) -> None:
    clock = Clock()
    keeper = await make_keeper(cluster, clock)
    await keeper.renew()
    await cluster.admin.patch(LEASES, NAMESPACE, NODE, {"spec": {"holderIdentity": "somebody"}})
    clock.advance(10)
    await keeper.renew()
    lease = await get_lease(cluster)
    assert (lease.spec.holder_identity, lease.spec.renew_time) == (NODE, "2026-11-23T19:40:10.000000Z")


async def test_lease_that_was_deleted_is_made_again(cluster: Cluster) -> None:
    keeper = await make_keeper(cluster, Clock())
    await keeper.renew()
    await cluster.admin.delete(LEASES, NAMESPACE, NODE)
    await keeper.renew()
    assert (await get_lease(cluster)).spec.holder_identity == NODE


async def test_lease_of_an_earlier_agent_is_renewed(cluster: Cluster) -> None:
    clock = Clock()
    await (await make_keeper(cluster, clock)).renew()
    clock.advance(100)
    await LeaseKeeper(cluster.node, NODE, clock=clock, node_uid=lambda: "").renew()
    assert (await get_lease(cluster)).spec.renew_time == "2026-11-23T19:41:40.000000Z"

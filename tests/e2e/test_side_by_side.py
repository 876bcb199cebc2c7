"""Two nodes on one machine, each with an API server of its own: neither sees, disturbs or may read what is the other's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from kubelet_secrets.api.core import Node as NodeObject
from kubelet_secrets.api.meta import NODES
from tests.e2e.stacks import Cluster, Node, container, mount, open_cluster, secret_volume

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]


async def test_two_runs_side_by_side(cluster: Cluster, make_stack: Callable[..., Node]) -> None:
    other_stack = await trio.to_thread.run_sync(make_stack)
    async with open_cluster(other_stack) as other:
        pods = {}
        for each, value in ((cluster, "mine"), (other, "theirs")):
            await each.put_secret("side", {"key": value})
            node = {"name": "node", "hostPath": {"path": str(cluster.stack.root_dir)}}
            pods[value] = await each.run_pod(
                "side",
                container(volumeMounts=[mount("v", "/v"), {"name": "node", "mountPath": "/node"}]),
                volumes=[secret_volume("v", "side"), node],
            )
        assert await cluster.exec("side", "cat /v/key") == "mine"
        assert await other.exec("side", "cat /v/key") == "theirs"
        for each in (cluster, other):
            (node_object,) = await each.client.list(NODES, "", NodeObject)
            assert node_object.metadata.name == each.stack.node_name

        # A container of the other node is a stranger here, though it runs in a cgroup of the same making.
        path = (cluster.volume_dir(pods["mine"], "v") / "key").relative_to(cluster.stack.root_dir)
        done = await other.try_exec("side", f"cat /node/{path}")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"Permission denied" in done.stderr

        await cluster.put_secret("side", {"key": "mine-2"})
        await cluster.exec("side", "until grep -q mine-2 /v/key; do :; done")
        assert await other.exec("side", "cat /v/key") == "theirs"
    await trio.to_thread.run_sync(other_stack.stop)
    assert await cluster.exec("side", "cat /v/key") == "mine-2"
    assert cluster.stack.status().node == cluster.stack.node_name

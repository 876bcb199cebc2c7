"""This program as a node of a real kube-apiserver, end to end: joining, Secrets, logs, commands, outage, the end of a pod.

With the programs that ``KUBEBUILDER_ASSETS`` names; without it with what stands in for them, configured in the same way: that
shows the test itself to be sound, and of upstream nothing. The official tests, translated, are in ``tests/conformance``.
"""

from __future__ import annotations

import pytest
import trio

from kubelet_secrets.api.core import Lease
from kubelet_secrets.api.core import Node as NodeObject
from kubelet_secrets.api.meta import CERTIFICATE_SIGNING_REQUESTS, LEASES, NODES
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from tests.e2e.stacks import (
    Cluster,
    container,
    mount,
    secret_env,
    secret_volume,
)
from tests.e2e.test_port_forward import path_of, server_stream, upgrade
from tests.podexec import websocket_exec
from tests.testing.conftest import PlaneNode

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.runtime,
]


async def test_node_is_ready_and_alive(cluster: Cluster) -> None:
    def is_ready(found: NodeObject) -> bool:
        return any((each.type, each.status) == ("Ready", "True") for each in found.status.conditions)

    client, name = cluster.client, cluster.stack.node_name

    async def has_lease() -> bool:
        return name in [each.metadata.name for each in await client.list(LEASES, "kube-node-lease", Lease)]

    async def asks_for_a_serving_certificate() -> bool:
        requests = await client.list(CERTIFICATE_SIGNING_REQUESTS, "", dict)
        return any(each["spec"]["signerName"] == "kubernetes.io/kubelet-serving" for each in requests)

    async def has_become_ready() -> bool:
        nodes = await client.list(NODES, "", NodeObject, field_selector=f"metadata.name={name}")
        return any(map(is_ready, nodes))

    for holds in (has_become_ready, has_lease, asks_for_a_serving_certificate):
        while not await holds():  # noqa: ASYNC110  # a cluster of somebody else's is looked at, not waited on
            await trio.sleep(0.2)
    found = await client.get(NODES, "", name, NodeObject)
    assert found.metadata.labels["example.org/rack"] == "7"
    assert found.status.allocatable["pods"] == "110"
    assert found.status.node_info.container_runtime_version.partition("://")[2]


async def test_pod_with_a_secret_from_first_to_last(cluster: Cluster) -> None:
    await cluster.put_secret("real", {"key": "before"})
    await cluster.run_pod(
        "real",
        container(
            script="echo $KEY; nc -ll -p 7777 -e cat & trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done",
            volumeMounts=[mount("v", "/v")],
            env=[secret_env("KEY", "real", "key")],
        ),
        volumes=[secret_volume("v", "real")],
        nodeName=cluster.stack.node_name,
    )
    log = await cluster.client.request_text("/api/v1/namespaces/default/pods/real/log")
    assert log == "before\n"
    done = await websocket_exec(load_kubeconfig(cluster.stack.kubeconfig), "default", "real", ("cat", "/v/key"))
    assert (done.out[1], done.status["status"]) == (b"before", "Success")
    await cluster.exec("real", "until netstat -ltn | grep -q :7777; do sleep 0.05; done")
    async with server_stream(cluster) as stream:
        _, client = await upgrade(stream, path_of("real"))
        assert await client.say(7777) == (b"hello", b"")
    await cluster.wait_event("real", "MissingClusterDNS", 'cannot create Pod using "ClusterFirst" policy')
    await cluster.put_secret("real", {"key": "after"})
    await cluster.exec("real", "until grep -q after /v/key; do sleep 0.05; done")
    await cluster.delete_pod("real")
    await cluster.wait_gone("real")


async def test_outage_of_the_api_server(cluster: Cluster, node: PlaneNode) -> None:
    await cluster.put_secret("outage", {"key": "before"})
    await cluster.run_pod(
        "outage",
        container(volumeMounts=[mount("v", "/v")]),
        volumes=[secret_volume("v", "outage")],
        nodeName=cluster.stack.node_name,
    )
    inside = await cluster.exec_command("outage", "cat /v/key")
    await trio.to_thread.run_sync(lambda: node.plane.stop_apiserver(at_once=True))
    done = await trio.run_process(inside, capture_stdout=True)
    assert done.stdout == b"before"
    await trio.to_thread.run_sync(node.plane.start_apiserver)
    await cluster.put_secret("outage", {"key": "after"})
    await cluster.exec("outage", "until grep -q after /v/key; do sleep 0.05; done")
    await cluster.delete_pod("outage")
    await cluster.wait_gone("outage")

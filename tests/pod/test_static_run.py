"""Static pods with real containers, and their mirrors in a real API server under its Node authorizer. Semantics §13."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PODS
from kubelet_secrets.pod.parts import wall_clock
from kubelet_secrets.pod.staticpods import StaticPod, read_static_pod
from kubelet_secrets.pod.views import PodView
from tests.pod.cluster import NODE, Cluster, container

pytestmark = pytest.mark.runtime

NAME = f"web-{NODE}"


def static(script: str = "sleep 1000", **spec: Any) -> StaticPod:
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container(script)], **spec},
    }
    content = json.dumps(body).encode()
    return read_static_pod(content, path="/etc/manifests/web.yaml", node_name=NODE, seen=wall_clock())


def is_ready(pod: Pod) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions)


def is_running(view: PodView) -> bool:
    instance = view.containers[0].instance
    return instance is not None and instance.is_running


def mirrored_hash(pod: Pod) -> str:
    return pod.metadata.annotations["kubernetes.io/config.mirror"]


async def test_mirror_shows_the_pod_and_follows_it(lab: Cluster) -> None:
    await lab.register_node()
    first, second = static(), static("sleep 2000")
    async with lab.agent() as agent:
        agent.pods.static_pods_read([first])
        mirror = await lab.wait(NAME, is_ready)
        assert mirrored_hash(mirror) == first.hash
        assert mirror.metadata.uid != first.uid
        assert mirror.metadata.labels == {"app": "web"}
        assert [each.kind for each in mirror.metadata.owner_references] == ["Node"]

        before = await agent.wait_view(NAME, is_running)
        await lab.admin.delete(PODS, "default", NAME, grace_period_s=0)
        again = await lab.wait(NAME, lambda pod: pod.metadata.uid != mirror.metadata.uid and is_ready(pod))
        assert again.status.container_statuses[0].container_id == mirror.status.container_statuses[0].container_id
        assert again.status.start_time == mirror.status.start_time
        after = agent.view(NAME)
        assert after is not None
        assert after.containers[0].instance == before.containers[0].instance, "deleting the mirror stops nothing"

        agent.pods.static_pods_read([second])
        changed = await lab.wait(NAME, lambda pod: mirrored_hash(pod) == second.hash and is_ready(pod))
        assert changed.status.container_statuses[0].container_id != mirror.status.container_statuses[0].container_id

        agent.pods.static_pods_read([])
        await lab.wait_gone(NAME)
        assert agent.view(NAME) is None


async def test_static_pod_needs_no_api_server(lab: Cluster) -> None:
    await lab.register_node()
    async with lab.agent() as agent:
        with lab.api_away():
            agent.pods.static_pods_read([static()])
            await agent.wait_view(NAME, is_running)
            agent.pods.static_pods_read([])
            await lab_gone(agent)
            agent.pods.static_pods_read([static()])
            await agent.wait_view(NAME, is_running)
        await lab.wait(NAME, is_ready)


async def lab_gone(agent: Any) -> None:
    while agent.view(NAME) is not None:
        await agent.pods.wait_changed()


async def test_next_agent_adopts_it_and_removes_the_mirror_of_what_is_gone(lab: Cluster) -> None:
    await lab.register_node()
    async with lab.agent() as agent:
        agent.pods.static_pods_read([static()])
        mirror = await lab.wait(NAME, is_ready)
    async with lab.agent() as agent:
        agent.pods.static_pods_read([static()])
        view = await agent.wait_view(NAME, is_running)
        instance = view.containers[0].instance
        assert instance is not None
        assert instance.container_id in mirror.status.container_statuses[0].container_id
        same = await lab.wait(NAME, is_ready)
        assert same.metadata.uid == mirror.metadata.uid
        assert same.status.start_time == mirror.status.start_time
    async with lab.agent() as agent:
        await lab.wait_gone(NAME)

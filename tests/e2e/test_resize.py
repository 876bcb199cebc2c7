"""Resizing running containers, as far as their cgroups. Source: test/e2e/common/node/pod_resize.go; KEP-1287."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PODS
from kubelet_secrets.runtime.cgroups import CgroupTree, instance_name
from kubelet_secrets.runtime.hostfacts import probe_cgroups
from kubelet_secrets.runtime.usage import read_usage
from tests.apiserver.kubectl import find_kubectl
from tests.e2e.stacks import Cluster, container, in_thread
from tests.e2e.test_kubelet_api import kubectl, unique

SMALL = {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}}


def limit_of(cluster: Cluster, pod: Pod, *, of_pod: bool = False) -> int | None:
    layout = probe_cgroups()
    tree = CgroupTree(instance_name(cluster.stack.node_name, cluster.stack.root_dir), layout)
    container_id = str(pod.status.container_statuses[0].container_id).removeprefix("runc://")
    path = tree.pod_path(pod.metadata.uid) if of_pod else tree.container_path(pod.metadata.uid, container_id)
    usage = read_usage(layout, path)
    return usage.memory_limit_bytes if usage is not None else None


def cpu_quota(cluster: Cluster, pod: Pod) -> str:
    layout = probe_cgroups()
    tree = CgroupTree(instance_name(cluster.stack.node_name, cluster.stack.root_dir), layout)
    container_id = str(pod.status.container_statuses[0].container_id).removeprefix("runc://")
    path = tree.container_path(pod.metadata.uid, container_id).lstrip("/")
    if layout.is_v2:
        assert layout.unified is not None
        return Path(layout.unified, path, "cpu.max").read_text().split()[0]
    return Path(layout.controllers["cpu"], path, "cpu.cfs_quota_us").read_text().strip()


async def resize(cluster: Cluster, name: str, resources: dict[str, Any]) -> None:
    body = {"spec": {"containers": [{"name": "app", "resources": resources}]}}
    await cluster.client.patch(PODS, "default", name, body, subresource="resize")


def conditions(pod: Pod) -> dict[str, tuple[str, str]]:
    found = (each for each in pod.status.conditions if each.type.startswith("PodResize"))
    return {each.type: (each.reason, each.message) for each in found}


def has(amount: str) -> Callable[[Pod], bool]:
    """The first container has this memory limit, and nothing else is to come."""

    def holds(pod: Pod) -> bool:
        resources = pod.status.container_statuses[0].resources
        return bool(resources) and resources.limits.get("memory") == amount and not conditions(pod)  # type: ignore[union-attr]

    return holds


async def test_resize_in_place(cluster: Cluster) -> None:
    name = unique("resize")
    before = await cluster.run_pod(name, container(resources=SMALL))
    assert (limit_of(cluster, before), cpu_quota(cluster, before)) == (64 << 20, "20000")
    await resize(cluster, name, {"requests": {"cpu": "150m"}, "limits": {"cpu": "400m", "memory": "128Mi"}})
    after = await cluster.wait(name, has("128Mi"))
    assert (limit_of(cluster, after), limit_of(cluster, after, of_pod=True)) == (128 << 20, 128 << 20)
    assert cpu_quota(cluster, after) == "40000"
    only = after.status.container_statuses[0]
    assert only.allocated_resources == {"cpu": "150m", "memory": "32Mi"}
    assert (only.restart_count, only.container_id) == (0, before.status.container_statuses[0].container_id)
    assert after.status.observed_generation == 2
    # Smaller again, past an agent that was killed meanwhile: what the container has now is what the next one finds.
    killed = (await in_thread(cluster.stack.status)).agent_pid
    os.kill(killed, signal.SIGKILL)
    await cluster.stack.wait_agent(other_than=killed)
    await resize(cluster, name, {"limits": {"memory": "48Mi"}})
    smaller = await cluster.wait(name, has("48Mi"))
    assert (limit_of(cluster, smaller), limit_of(cluster, smaller, of_pod=True)) == (48 << 20, 48 << 20)
    assert smaller.status.container_statuses[0].restart_count == 0
    text = '{"limits":{"cpu":"400m","memory":"48Mi"},"requests":{"cpu":"150m","memory":"32Mi"}}'
    message = f'Pod resize completed: {{"containers":[{{"name":"app","resources":{text}}}],"generation":3}}'
    await cluster.wait_event(name, "ResizeCompleted", message)


async def test_resize_that_cannot_be(cluster: Cluster) -> None:
    """Below what is in use: the container keeps its limit, and says so. Beyond the node: it is never given."""
    name = unique("resize")
    fill = "head -c 30000000 /dev/zero > /tmp/fill; touch /tmp/full; "
    probe = {"exec": {"command": ["test", "-e", "/tmp/full"]}, "periodSeconds": 1, "failureThreshold": 60}
    script = fill + "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"
    pod = await cluster.run_pod(name, container(script=script, resources=SMALL, startupProbe=probe))
    await resize(cluster, name, {"requests": {"memory": "1Mi"}, "limits": {"memory": "8Mi"}})
    stuck = await cluster.wait(name, lambda pod: conditions(pod).get("PodResizeInProgress", ("", ""))[0] == "Error")
    assert "cannot decrease memory limits: " in conditions(stuck)["PodResizeInProgress"][1]
    assert 'container "app" memory limit (8388608) below current usage' in conditions(stuck)["PodResizeInProgress"][1]
    assert limit_of(cluster, stuck) == 64 << 20
    await resize(cluster, name, SMALL)
    await cluster.wait(name, has("64Mi"))
    await resize(cluster, name, {"requests": {"cpu": "900"}, "limits": {"cpu": "900"}})
    refused = await cluster.wait(name, lambda pod: "PodResizePending" in conditions(pod))
    reason, message = conditions(refused)["PodResizePending"]
    assert (reason, message.startswith("Node didn't have enough capacity: cpu, requested: 900000")) == (
        "Infeasible",
        True,
    )
    only = refused.status.container_statuses[0]
    assert (only.allocated_resources, only.restart_count) == (SMALL["requests"], 0)
    assert pod.metadata.uid == refused.metadata.uid


@pytest.mark.kubectl
@pytest.mark.skipif(find_kubectl() is None, reason="needs kubectl 1.27 or later on PATH")
async def test_kubectl_resizes_with_a_restart(cluster: Cluster) -> None:
    name = unique("resize")
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    await cluster.run_pod(name, container(resources=SMALL, resizePolicy=policy))
    patch = '{"spec":{"containers":[{"name":"app","resources":{"limits":{"memory":"96Mi"}}}]}}'
    code, _, error = await kubectl(cluster, "patch", "pod", name, "--subresource", "resize", "--patch", patch)
    assert code == 0, error
    after = await cluster.wait(name, has("96Mi"))
    assert (after.status.container_statuses[0].restart_count, limit_of(cluster, after)) == (1, 96 << 20)
    await cluster.wait_event(name, "Killing", "Container app resize requires restart")

"""Pods from their first event to their last DELETE, with real containers and a real API server. Semantics §7, §8."""

from __future__ import annotations

import pytest

from tests.pod.cluster import Cluster, container, mounted, secret_volume

pytestmark = pytest.mark.runtime


async def test_pod_runs_to_its_end(lab: Cluster) -> None:
    """§8.6, §8.8 (4): Succeeded, its log stays, its volumes go."""
    await lab.put_secret("db", password="hunter2")
    async with lab.agent() as agent:
        spec = container("cat /etc/s/password", volumeMounts=[mounted()])
        await lab.create("web", spec, volumes=[secret_volume("db")], restartPolicy="Never")
        pod = await lab.wait_phase("web", "Succeeded")
        assert lab.log(pod) == "hunter2"
        ended = pod.status.container_statuses[0].state.terminated
        assert ended is not None
        assert (ended.exit_code, ended.reason) == (0, "Completed")
        await agent.wait_view("web", lambda view: not any(each.is_ready for each in view.volumes.values()))

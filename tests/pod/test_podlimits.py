"""The cgroup of a pod. Source: pkg/kubelet/cm/helpers_linux_test.go, TestResourceConfigForPod."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubelet_secrets.api.core import Container
from kubelet_secrets.pod.podlimits import pod_resources
from kubelet_secrets.pod.settings import container_resources
from kubelet_secrets.runtime.cgrouplimits import cpu_weight, limit_files
from kubelet_secrets.runtime.cgroups import CgroupLayout, CgroupTree
from kubelet_secrets.runtime.settings import Resources
from tests.pod.builders import make_pod, pod_from
from tests.pod.cluster import Cluster, container


def with_resources(requests: dict[str, str], limits: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"name": "c", "resources": {"requests": requests, "limits": limits}, **more}


FULL = with_resources({"cpu": "100m", "memory": "1Mi"}, {"cpu": "200m", "memory": "2Mi"})
SIDECAR = {**FULL, "restartPolicy": "Always"}
MIB = 1 << 20


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({"containers": [{"name": "c"}]}, (2, None, None), id="best-effort"),
        pytest.param({"containers": [with_resources({"cpu": "100m"}, {})]}, (102, None, None), id="burstable"),
        pytest.param({"containers": [FULL, FULL]}, (204, 40_000, 4 * MIB), id="every-container-has-limits"),
        pytest.param(
            {"containers": [FULL, with_resources({"cpu": "100m"}, {"cpu": "100m"})]},
            (204, 30_000, None),
            id="not-every-one-a-memory-limit",
        ),
        pytest.param(
            {"containers": [with_resources({"cpu": "1", "memory": "1Gi"}, {"cpu": "1", "memory": "1Gi"})]},
            (1024, 100_000, 1024 * MIB),
            id="guaranteed",
        ),
        pytest.param({"containers": [FULL], "initContainers": [SIDECAR]}, (204, 40_000, 4 * MIB), id="sidecar"),
        pytest.param(
            {
                "containers": [FULL],
                "initContainers": [SIDECAR, with_resources({"cpu": "1"}, {"cpu": "2", "memory": "1Gi"})],
            },
            (1126, 220_000, 1026 * MIB),
            id="large-init-container",
        ),
        pytest.param(
            {
                "containers": [{"name": "c"}],
                "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}},
            },
            (1024, 200_000, 1024 * MIB),
            id="pod-level",
        ),
        pytest.param(
            {"containers": [FULL], "overhead": {"cpu": "100m", "memory": "1Mi"}}, (204, 30_000, 3 * MIB), id="overhead"
        ),
    ],
)
def test_resources_of_a_pod(spec: dict[str, Any], expected: tuple[int, int | None, int | None]) -> None:
    found = pod_resources(pod_from({"spec": spec}))
    assert (found.cpu_shares, found.cpu_quota_us, found.memory_limit_bytes) == expected
    assert found.cpu_period_us == (100_000 if found.cpu_quota_us else None)


def test_pod_level_limit_is_each_containers_that_has_none() -> None:
    """Source: kuberuntime_container_linux_test.go, TestGenerateLinuxContainerResourcesWithPodLevelResources."""
    spec = {"containers": [{"name": "c"}], "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}
    pod = pod_from({"spec": spec})
    found = container_resources(pod, pod.spec.containers[0])
    assert (found.cpu_quota_us, found.memory_limit_bytes) == (50_000, 1024 * MIB)
    own = pod_from({"spec": {**spec, "containers": [FULL]}})
    found = container_resources(own, own.spec.containers[0])
    assert (found.cpu_quota_us, found.memory_limit_bytes) == (20_000, 2 * MIB)
    assert container_resources(make_pod("a"), Container(name="a")).memory_limit_bytes is None


LIMITS = Resources(cpu_shares=1024, cpu_quota_us=50_000, cpu_period_us=100_000, memory_limit_bytes=MIB)


def test_files_of_a_cgroup() -> None:
    assert limit_files(LIMITS, is_v2=True) == {
        "cpu": [("cpu.weight", "39"), ("cpu.max", "50000 100000")],
        "memory": [("memory.max", "1048576")],
    }
    assert limit_files(LIMITS, is_v2=False) == {
        "cpu": [("cpu.shares", "1024"), ("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")],
        "memory": [("memory.limit_in_bytes", "1048576")],
    }
    assert [cpu_weight(shares) for shares in (2, 262144)] == [1, 10000]


def test_limits_on_v2_are_written_below_parents_that_hand_the_controllers_on(tmp_path: Path) -> None:
    """The kernel makes the files of a cgroup with its directory; here they have to be there already."""
    pod = tmp_path / "kubelet-secrets" / "node1" / "podu1"
    pod.mkdir(parents=True)
    for name in ("cpu.weight", "cpu.max", "memory.max"):
        (pod / name).write_text("old")
    CgroupTree("node1", CgroupLayout(unified=tmp_path)).make_pod("u1", LIMITS)
    assert [(pod / name).read_text() for name in ("cpu.weight", "cpu.max", "memory.max")] == [
        "39",
        "50000 100000",
        "1048576",
    ]
    for parent in (tmp_path, pod.parent.parent, pod.parent):
        assert (parent / "cgroup.subtree_control").read_text() == "+memory"  # the last of two


@pytest.mark.runtime
async def test_cgroups_of_a_running_pod_and_its_containers(lab: Cluster) -> None:
    limits = {"resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}}
    async with lab.agent() as agent:
        await lab.create("web", container(**limits), container(name="d", **limits))
        pod = await lab.wait_phase("web", "Running")
        (sandbox,) = agent.parts.sandboxes.list()
        handle = next(each for each in agent.parts.runtime.list() if each.record.container_name == "c")
        layout = lab.host.cgroups.layout
        names = ("cpu.weight", "cpu.max", "memory.max") if layout.is_v2 else (
            "cpu.shares", "cpu.cfs_quota_us", "memory.limit_in_bytes",
        )  # fmt: skip
        wide, narrow = (512, 100_000, 128 * MIB), (256, 50_000, 64 * MIB)
        for path, (shares, quota, memory) in ((sandbox.cgroup_path, wide), (handle.cgroup_path, narrow)):
            expected = (cpu_weight(shares), f"{quota} 100000", memory) if layout.is_v2 else (shares, quota, memory)
            found = []
            for name in names:
                hierarchy = layout.unified if layout.is_v2 else layout.controllers[name.split(".", 1)[0]]
                assert hierarchy is not None
                found.append((hierarchy / path.lstrip("/") / name).read_text().strip())
            assert found == [str(each) for each in expected]
        assert pod.status.qos_class == "Burstable"

"""Who goes first, and why. Source: pkg/kubelet/eviction/helpers_test.go, eviction_manager_test.go."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from kubelet_secrets.api.core import Container, Pod, ResourceRequirements
from kubelet_secrets.api.evictionsignals import InvalidThreshold, Observation, Threshold, met, parse_flag
from kubelet_secrets.api.meta import PODS
from kubelet_secrets.pod.evictor import Evictor
from kubelet_secrets.pod.pressureeviction import Candidate, is_critical, pressure_message, rank
from tests.pod.builders import make_pod
from tests.pod.cluster import Cluster, container

MIB = 1 << 20


def candidate(name: str, used: int, *, request: str = "", priority: int = 0, resource: str = "memory") -> Candidate:
    resources = ResourceRequirements(requests={resource: request} if request else {})
    pod = make_pod(Container(name="app", image="i", resources=resources), priority=priority)
    pod = msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, name=name))
    return Candidate(pod=pod, usage=used, containers={"app": used})


def order(resource: str, *candidates: Candidate) -> list[str]:
    return [each.pod.metadata.name for each in rank(resource, candidates)]


def test_ranking_for_memory() -> None:
    """Who exceeds its request; the least important; who exceeds it most."""
    assert order(
        "memory",
        candidate("within", 90 * MIB, request="100Mi"),
        candidate("important", 300 * MIB, request="100Mi", priority=10),
        candidate("over-by-50", 150 * MIB, request="100Mi"),
        candidate("over-by-60", 60 * MIB),
        candidate("lowly-within", 10 * MIB, request="100Mi", priority=-5),
    ) == ["over-by-60", "over-by-50", "important", "lowly-within", "within"]


def test_ranking_for_disk_and_process_ids() -> None:
    """Of disk it is the whole usage that counts; of what nobody requests, priority and usage."""
    storage = "ephemeral-storage"
    assert order(
        storage,
        candidate("much-within", 90 * MIB, request="100Mi", resource=storage),
        candidate("over", 11 * MIB, request="10Mi", resource=storage),
        candidate("silent", 20 * MIB),
    ) == ["silent", "over", "much-within"]
    assert order("pids", candidate("few", 1), candidate("many", 9), candidate("important", 99, priority=1)) == [
        "many",
        "few",
        "important",
    ]


def test_message() -> None:
    threshold = Threshold("memory.available", amount=100 * MIB)
    assert pressure_message(candidate("a", 60 * MIB), threshold, Observation(52332 * 1024, 1 << 30)) == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52332Ki. "
        "Container app was using 60Mi, request is 0, has larger consumption of memory. "
    )
    assert pressure_message(candidate("a", 60 * MIB, request="64Mi"), threshold, Observation(1, 1 << 30)) == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 1. "
    )


def test_thresholds() -> None:
    found = parse_flag("nodefs.available<10%, memory.available<1Gi,imagefs.available<0%")
    assert [each.signal for each in found] == ["nodefs.available", "memory.available"]
    observed = {"nodefs.available": Observation(9, 100), "memory.available": Observation(1, 2 << 30)}
    assert [each.signal for each in met(found, observed)] == ["memory.available", "nodefs.available"]
    assert met(found, {"nodefs.available": Observation(10, 100)}) == []
    assert met(parse_flag("nodefs.available<1Gi"), {"nodefs.available": Observation(0, 0)}) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("memory<1Gi", "unsupported eviction signal memory"),
        ("memory.available>1Gi", "invalid eviction threshold syntax"),
        ("memory.available<much", "eviction threshold memory.available: "),
        ("memory.available<-1Gi", "eviction threshold memory.available must be positive"),
        ("nodefs.available<101%", "eviction percentage threshold nodefs.available must be <= 100%"),
        ("pid.available<1,pid.available<2", "duplicate eviction threshold pid.available"),
    ],
)
def test_what_is_no_threshold(text: str, problem: str) -> None:
    with pytest.raises(InvalidThreshold, match=problem):
        parse_flag(text)


def test_critical_pods_stay() -> None:
    assert is_critical(make_pod(priority=2_000_000_000))
    assert not is_critical(make_pod(priority=1_999_999_999))


@pytest.mark.runtime
async def test_pod_is_evicted_when_the_node_runs_short(lab: Cluster) -> None:
    """Nobody while there is enough; then the one that has more than it requested; nobody again when that was enough."""
    left = 100

    def observe() -> Mapping[str, Observation]:
        return {"memory.available": Observation(left, 1000)}

    async with lab.agent() as agent:
        evictor = Evictor(
            agent.parts, agent.pods, parse_flag("memory.available<100"), observe=observe, reclaim=lambda: None
        )
        await lab.create("kept", container(resources={"requests": {"memory": "64Mi"}}))
        await lab.create("goes", container())
        pod: Pod = await lab.wait_phase("goes", "Running")
        await lab.wait_phase("kept", "Running")
        assert await evictor.look() == ""
        left = 99
        assert await evictor.look() == pod.metadata.uid
        pod = await lab.wait_phase("goes", "Failed")
        assert pod.status.reason == "Evicted"
        assert pod.status.message.startswith(
            "The node was low on resource: memory. Threshold quantity: 100, available: 99. "
        )
        target = next(each for each in pod.status.conditions if each.type == "DisruptionTarget")
        assert (target.status, target.reason, target.message) == ("True", "TerminationByKubelet", pod.status.message)
        await lab.wait_event("goes", "Evicted", pod.status.message)
        left = 100
        assert await evictor.look() == ""
        assert (await lab.admin.get(PODS, "default", "kept", Pod)).status.phase == "Running"

"""Resizing in place, as rules. Source: pkg/kubelet/allocation (allocation_manager_test.go, events_test.go); KEP-1287."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from kubelet_secrets.api.core import Container, ContainerResizePolicy, Pod, ResourceRequirements
from kubelet_secrets.pod.admission import Share, judge_resize, share_of
from kubelet_secrets.pod.backoff import BackOff
from kubelet_secrets.pod.plan import KillContainer, ResizeContainer, make_plan
from kubelet_secrets.pod.podlimits import widest
from kubelet_secrets.pod.resize import Refusal, ResizeState, resize_message, with_resources
from kubelet_secrets.pod.state import Instance, RuntimeState
from kubelet_secrets.pod.status import make_status
from kubelet_secrets.runtime.settings import Resources
from tests.pod.builders import T0, make_pod, running

SMALL = ResourceRequirements(requests={"cpu": "100m", "memory": "64Mi"}, limits={"cpu": "200m", "memory": "64Mi"})
LARGE = ResourceRequirements(requests={"cpu": "1", "memory": "128Mi"}, limits={"cpu": "2", "memory": "128Mi"})


def container(name: str = "a", resources: ResourceRequirements = LARGE, **policy: str) -> Container:
    policies = tuple(ContainerResizePolicy(resource_name=key, restart_policy=word) for key, word in policy.items())
    return Container(name=name, image="busybox:1", resources=resources, resize_policy=policies)


def has(name: str, resources: ResourceRequirements | None) -> Instance:
    return replace(running(name), resources=resources)


def plan(pod: Pod, instances: Sequence[Instance]) -> list[str]:
    state = RuntimeState(sandbox_ready=True, sandbox_attempts=1, instances=tuple(instances))
    told = []
    for action in make_plan(pod, state, back_off=BackOff(), failures={}, now=T0):
        match action:
            case ResizeContainer(instance=instance):
                told.append(f"resize {instance.name}")
            case KillContainer(message=message):
                told.append(message)
            case _:
                told.append(type(action).__name__)
    return told


@pytest.mark.parametrize(
    ("pod", "instances", "expected"),
    [
        pytest.param(make_pod(container()), [has("a", LARGE)], [], id="has-it"),
        pytest.param(make_pod(container()), [has("a", SMALL)], ["resize a"], id="in-place"),
        pytest.param(make_pod(container()), [has("a", None)], [], id="nobody-remembers"),
        pytest.param(
            make_pod(container(resources=ResourceRequirements(requests={"cpu": "1000m"}))),
            [has("a", ResourceRequirements(requests={"cpu": 1}))],
            [],
            id="the-same-amount",
        ),
        pytest.param(
            make_pod(container(memory="RestartContainer")),
            [has("a", SMALL)],
            ["Container a resize requires restart"],
            id="restart",
        ),
        pytest.param(
            make_pod(container(cpu="RestartContainer")),
            [has("a", msgspec.structs.replace(LARGE, limits={**LARGE.limits, "memory": "64Mi"}))],
            ["resize a"],
            id="restart-for-the-other",
        ),
        pytest.param(
            make_pod(container(), init=(msgspec.structs.replace(container("s"), restart_policy="Always"),)),
            [has("s", SMALL), has("a", LARGE)],
            ["resize s"],
            id="sidecar",
        ),
    ],
)
def test_plan(pod: Pod, instances: Sequence[Instance], expected: list[str]) -> None:
    assert plan(pod, instances) == expected


def refusal(resources: ResourceRequirements, *others: dict[str, int]) -> Refusal | None:
    allocatable = {"cpu": "4", "memory": "4Gi", "pods": "10"}
    return judge_resize(make_pod(container(resources=resources)), allocatable, [Share(each) for each in others])


def test_room() -> None:
    assert refusal(LARGE) is None
    assert refusal(LARGE, {"cpu": 3000}) is None
    assert refusal(LARGE, {"cpu": 3001}) == Refusal(
        reason="Deferred",
        message="Node didn't have enough resource: cpu, requested: 1000, used: 3001, capacity: 4000",
        cause="OutOfcpu",
    )
    too_large = ResourceRequirements(requests={"cpu": "5", "memory": "4500Mi"})
    assert refusal(too_large) == Refusal(
        reason="Infeasible",
        message="Node didn't have enough capacity: memory, requested: 4718592000, capacity: 4294967296",
        cause="Infeasible",
    )
    found = refusal(ResourceRequirements(requests={"cpu": "5"}))
    assert found is not None
    assert found.message == "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000"
    assert share_of(make_pod(container())).amounts["cpu"] == 1000


def test_events() -> None:
    pod = make_pod(container())
    pod = msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, generation=2))
    resources = '{"limits":{"cpu":"2","memory":"128Mi"},"requests":{"cpu":"1","memory":"128Mi"}}'
    told = f'{{"containers":[{{"name":"a","resources":{resources}}}],"generation":2'
    assert resize_message("started", pod) == f"Pod resize started: {told}}}"
    assert resize_message("OutOfcpu", pod, "why") == f'Pod resize OutOfcpu: {told},"error":"why"}}'


def test_allocated_resources_stand_in_for_those_asked_for() -> None:
    pod = make_pod(container(), container("b"))
    assert with_resources(pod, {"a": LARGE}) is pod
    given = with_resources(pod, {"a": SMALL})
    assert [each.resources for each in given.spec.containers] == [SMALL, LARGE]


def status(pod: Pod, instance: Instance, resize: ResizeState) -> list[tuple[str, Any, str]]:
    made = make_status(
        pod,
        RuntimeState(sandbox_ready=True, sandbox_attempts=1, instances=(instance,)),
        previous=pod.status,
        failures={},
        host_ips=(),
        now=T0,
        resize=resize,
    )
    return [(each.type, each.reason, each.message) for each in made.conditions if each.type.startswith("PodResize")]


def test_conditions() -> None:
    pod = make_pod(container())
    refused = Refusal(reason="Deferred", message="no room", cause="OutOfcpu")
    assert status(pod, has("a", LARGE), ResizeState()) == []
    assert status(pod, has("a", SMALL), ResizeState()) == [("PodResizeInProgress", "", "")]
    assert status(pod, has("a", SMALL), ResizeState(pending=refused, error="EINVAL")) == [
        ("PodResizePending", "Deferred", "no room"),
        ("PodResizeInProgress", "Error", "EINVAL"),
    ]


def test_cgroup_of_the_pod_holds_both() -> None:
    old = Resources(cpu_shares=10, cpu_quota_us=5, cpu_period_us=100, memory_limit_bytes=7)
    new = Resources(cpu_shares=9, cpu_quota_us=6, cpu_period_us=100)
    assert widest(old, new) == Resources(cpu_shares=10, cpu_quota_us=6, cpu_period_us=100, memory_limit_bytes=7)

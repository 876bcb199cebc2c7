"""What a pod asks of a node in total, and whether the node has it: the same question for scheduling and admission. Pure.

Source: k8s.io/component-helpers/resource/helpers.go, PodRequests; pkg/scheduler/framework/plugins/noderesources/fit.go.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import msgspec

from kubelet_secrets.api import quantity
from kubelet_secrets.api.core import Container, Pod, Quantity

_COUNTED = ("cpu", "memory", "ephemeral-storage")
_POD_LEVEL = ("cpu", "memory")  # and huge pages: what pod-level resources may speak of


def pod_requests(pod: Pod) -> dict[str, Fraction]:
    """By resource name: regular containers and sidecars together, or an init container with the sidecars before it,
    whichever is more; pod-level requests in their place; the pod's overhead on top.

    Raises:
        InvalidQuantity: a request is none.
    """
    spec = pod.spec
    total = _sum(_requests(each) for each in spec.containers)
    sidecars: dict[str, Fraction] = {}
    highest: dict[str, Fraction] = {}
    for container in spec.init_containers:
        asked = _requests(container)
        if container.restart_policy == "Always":
            total = _sum((total, asked))
            sidecars = _sum((sidecars, asked))
            asked = sidecars
        else:
            asked = _sum((sidecars, asked))
        highest = {
            name: max(highest.get(name, Fraction()), asked.get(name, Fraction())) for name in {**highest, **asked}
        }
    total = {name: max(total.get(name, Fraction()), highest.get(name, Fraction())) for name in {**total, **highest}}
    if spec.resources is not None:
        pod_level = {**spec.resources.limits, **spec.resources.requests}
        total |= {
            name: quantity.parse(amount)
            for name, amount in pod_level.items()
            if name in _POD_LEVEL or name.startswith("hugepages-")
        }
    return _sum((total, _parsed(spec.overhead)))


def request_amounts(pod: Pod) -> dict[str, int]:
    """:func:`pod_requests` in whole units, rounded up; cpu in thousandths."""
    return {name: _amount(name, amount) for name, amount in pod_requests(pod).items()}


def placed_amounts(pod: Pod) -> dict[str, int]:
    """:func:`request_amounts` of a pod that is on a node: of what a container asks for, is allocated and has, the most; what
    the node can never give it does not count. Source: determineContainerReqs, with UseStatusResources.
    """
    is_infeasible = any(
        each.type == "PodResizePending" and each.reason == "Infeasible" for each in pod.status.conditions
    )
    statuses = {each.name: each for each in (*pod.status.init_container_statuses, *pod.status.container_statuses)}

    def counted(container: Container) -> Container:
        status = statuses.get(container.name)
        if status is None or status.resources is msgspec.UNSET:
            return container
        asked = dict(container.resources.requests)
        allocated = {} if status.allocated_resources is msgspec.UNSET else status.allocated_resources
        for name in _POD_LEVEL:
            candidates = [each[name] for each in (status.resources.requests, allocated) if name in each]
            if not is_infeasible and name in asked:
                candidates.append(asked[name])
            if candidates:
                asked[name] = max(candidates, key=quantity.parse)
        return msgspec.structs.replace(
            container, resources=msgspec.structs.replace(container.resources, requests=asked)
        )

    containers, init_containers = pod.spec.containers, pod.spec.init_containers
    spec = msgspec.structs.replace(
        pod.spec,
        containers=tuple(map(counted, containers)),
        init_containers=tuple(counted(each) if each.restart_policy == "Always" else each for each in init_containers),
    )
    return request_amounts(msgspec.structs.replace(pod, spec=spec))


@dataclass(frozen=True, slots=True)
class Shortage:
    """A resource of which a node has not enough left."""

    name: str
    requested: int
    used: int
    capacity: int


def shortages(
    wanted: Mapping[str, int], allocatable: Mapping[str, Quantity], others: Collection[Mapping[str, int]]
) -> Iterator[Shortage]:
    """What a node lacks for one pod more, the number of pods first.

    Args:
        wanted, others: :func:`request_amounts` of that pod, and of each one that is there.
        allocatable: the node's. What it does not have at all is not its own: something else in the cluster provides that.
    """
    capacity = quantity.value(allocatable.get("pods", 0))
    if len(others) + 1 > capacity:
        yield Shortage("pods", 1, len(others), capacity)
    scalars = sorted(name for name in wanted if name not in _COUNTED and name in allocatable)
    for name in (*_COUNTED, *scalars):
        asked = wanted.get(name, 0)
        used = sum(each.get(name, 0) for each in others)
        capacity = _amount(name, quantity.parse(allocatable.get(name, 0)))
        if asked > 0 and asked > capacity - used:
            yield Shortage(name, asked, used, capacity)


def _amount(name: str, amount: Fraction) -> int:
    return math.ceil(amount * 1000) if name == "cpu" else math.ceil(amount)


def amount_of(name: str, amount: Quantity) -> int:
    """One amount in the units of :func:`request_amounts`."""
    return _amount(name, quantity.parse(amount))


def _requests(container: Container) -> dict[str, Fraction]:
    """A limit without a request is the request: the API server has defaulted it; a static pod's manifest has nobody."""
    return _parsed({**container.resources.limits, **container.resources.requests})


def _parsed(amounts: Mapping[str, Quantity]) -> dict[str, Fraction]:
    return {name: quantity.parse(amount) for name, amount in amounts.items()}


def _sum(groups: Iterable[Mapping[str, Fraction]]) -> dict[str, Fraction]:
    total: defaultdict[str, Fraction] = defaultdict(Fraction)
    for group in groups:
        for name, amount in group.items():
            total[name] += amount
    return dict(total)

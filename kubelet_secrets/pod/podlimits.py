"""What a pod's cgroup, the parent of its containers', is given: its weight always, limits where every container has one. Pure.

Called by ``pod/sandboxes.py``. Source: pkg/kubelet/cm/helpers_linux.go, ResourceConfigForPod. Differs: the levels Burstable and
BestEffort have no cgroup of their own above the pods': a BestEffort pod has the least weight, beside the others.
"""

from __future__ import annotations

import math
from fractions import Fraction

from kubelet_secrets.api import quantity
from kubelet_secrets.api.core import Container, Pod
from kubelet_secrets.api.requests import pod_requests
from kubelet_secrets.pod.qos import qos_class
from kubelet_secrets.runtime.resources import cpu_quota_us, cpu_shares
from kubelet_secrets.runtime.settings import Resources

_PERIOD_US = 100_000


def pod_resources(pod: Pod) -> Resources:
    """The numbers for *pod*'s own cgroup."""
    shares = 0 if qos_class(pod) == "BestEffort" else _milli(pod_requests(pod).get("cpu", Fraction()))
    cpu, memory = pod_limit(pod, "cpu"), pod_limit(pod, "memory")
    return Resources(
        cpu_shares=cpu_shares(shares),
        cpu_quota_us=cpu_quota_us(_milli(cpu)) if cpu else None,
        cpu_period_us=_PERIOD_US if cpu else None,
        memory_limit_bytes=math.ceil(memory) if memory else None,
    )


def widest(old: Resources, new: Resources) -> Resources:
    """What holds both, of each number the larger; a limit that only one has is that one's: none can be taken away."""

    def larger(before: int | None, after: int | None) -> int | None:
        return max((each for each in (before, after) if each is not None), default=None)

    return Resources(
        cpu_shares=larger(old.cpu_shares, new.cpu_shares),
        cpu_quota_us=larger(old.cpu_quota_us, new.cpu_quota_us),
        cpu_period_us=new.cpu_period_us or old.cpu_period_us,
        memory_limit_bytes=larger(old.memory_limit_bytes, new.memory_limit_bytes),
    )


def pod_limit(pod: Pod, name: str) -> Fraction | None:
    """How much of *name* all containers may have together: the pod's own word, or their sum; None: some may have any amount.

    Source: PodLimits: sidecars count with the regular containers, of the others the largest with the sidecars before it.
    """
    spec = pod.spec
    overhead = quantity.parse(spec.overhead.get(name, 0))
    if spec.resources is not None and not quantity.is_zero(spec.resources.limits.get(name, 0)):
        return quantity.parse(spec.resources.limits[name]) + overhead
    limits = [_limit(each, name) for each in (*spec.containers, *spec.init_containers)]
    if not all(limits):
        return None
    total = sum((_limit(each, name) for each in spec.containers), Fraction())
    sidecars = highest = Fraction()
    for container in spec.init_containers:
        own = _limit(container, name)
        if container.restart_policy == "Always":
            total += own
            sidecars += own
            highest = max(highest, sidecars)
        else:
            highest = max(highest, sidecars + own)
    return max(total, highest) + overhead


def _limit(container: Container, name: str) -> Fraction:
    return quantity.parse(container.resources.limits.get(name, 0))


def _milli(amount: Fraction) -> int:
    return math.ceil(amount * 1000)

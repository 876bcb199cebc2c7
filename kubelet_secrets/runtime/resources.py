"""From a container's requests and limits to the kernel's numbers. Pure.

Source: pkg/kubelet/cm/helpers_linux.go (MilliCPUToShares, MilliCPUToQuota), pkg/kubelet/kuberuntime
(calculateLinuxResources), pkg/kubelet/qos/policy.go (GetContainerOOMScoreAdjust).
"""

from __future__ import annotations

from kubelet_secrets.runtime.settings import Resources

_SHARES_PER_CPU = 1024
_MIN_SHARES = 2
_MAX_SHARES = 262_144
_PERIOD_US = 100_000
_MIN_QUOTA_US = 1000


def linux_resources(
    *,
    cpu_request_milli: int | None,
    cpu_limit_milli: int | None,
    memory_limit_bytes: int | None,
    pids_limit: int | None = None,
) -> Resources:
    """Limits of one container. None is "not given", 0 likewise."""
    # A limit without a request is the request; neither still gets the smallest share.
    shares_milli = cpu_limit_milli if cpu_request_milli is None and cpu_limit_milli else (cpu_request_milli or 0)
    return Resources(
        memory_limit_bytes=memory_limit_bytes or None,
        cpu_shares=cpu_shares(shares_milli),
        cpu_quota_us=cpu_quota_us(cpu_limit_milli) if cpu_limit_milli else None,
        cpu_period_us=_PERIOD_US if cpu_limit_milli else None,
        pids_limit=pids_limit or None,
    )


def cpu_shares(milli: int) -> int:
    return min(_MAX_SHARES, max(_MIN_SHARES, milli * _SHARES_PER_CPU // 1000))


def cpu_quota_us(milli: int) -> int:
    """Microseconds per 100 ms; never below 1 ms, which the kernel refuses."""
    return max(_MIN_QUOTA_US, milli * _PERIOD_US // 1000)


def oom_score_adj(
    qos_class: str, *, memory_request_bytes: int, memory_capacity_bytes: int, node_critical: bool = False
) -> int:
    """Who dies first when the node runs out of memory: -997 for the last, 1000 for the first."""
    if node_critical or qos_class == "Guaranteed":
        return -997
    if qos_class == "BestEffort":
        return 1000
    adjust = 1000 - 1000 * memory_request_bytes // memory_capacity_bytes
    # Above Guaranteed's, below BestEffort's.
    return 999 if adjust == 1000 else max(adjust, 1000 - 997)

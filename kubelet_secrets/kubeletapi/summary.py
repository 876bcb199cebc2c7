"""``/stats/summary`` out of a :class:`NodeSample`. Pure. What is not measured is left out, as every field may be.

Source: k8s.io/kubelet pkg/apis/stats/v1alpha1/types.go; pkg/kubelet/server/stats (summary.go, handler.go). Differs: no PSI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.kubeletapi.diskuse import PodDiskUse, VolumeUse
from kubelet_secrets.kubeletapi.samples import ContainerSample, Filesystem, NodeSample, PodSample, Sample
from kubelet_secrets.runtime.usage import Interface

Obj = dict[str, Any]

_DEFAULT_INTERFACE = "eth0"


def summary(node: NodeSample, disk: Mapping[str, PodDiskUse] | None) -> Obj:
    """The body of the answer.

    Args:
        disk: by pod uid; None: only cpu and memory are asked for.
    """
    at, only_cpu_and_memory = node.sample.at, disk is None
    told: Obj = {
        "nodeName": node.name,
        "systemContainers": _system_containers(node),
        "startTime": rfc3339(node.booted_at),
        "cpu": _cpu(node.sample),
        "memory": {**_memory(node.sample), "availableBytes": node.memory_available_bytes},
        "swap": _swap(at, node.sample.usage.swap_bytes, node.swap_total_bytes),
    }
    if not only_cpu_and_memory:
        images = {**_filesystem(at, node.imagefs), "usedBytes": node.images_bytes}
        told |= {
            "network": _network(at, node.interfaces),
            "fs": _filesystem(at, node.nodefs),
            "runtime": {"imageFs": images, "containerFs": _filesystem(at, node.containerfs)},
            "rlimit": {"time": rfc3339(at), "maxpid": node.max_pids, "curproc": node.tasks},
        }
        if told["network"] is None:
            del told["network"]
    return {
        "node": told,
        "pods": [_pod(each, node, (disk or {}).get(each.uid), only_cpu_and_memory) for each in node.pods],
    }


def _system_containers(node: NodeSample) -> list[Obj]:
    found = [("kubelet", node.agent, node.agent_started_at), ("pods", node.all_pods, node.agent_started_at)]
    return [
        {"name": name, "startTime": rfc3339(started_at), "cpu": _cpu(sample), "memory": _memory(sample)}
        for name, sample, started_at in found
        if sample is not None
    ]


def _pod(pod: PodSample, node: NodeSample, disk: PodDiskUse | None, only_cpu_and_memory: bool) -> Obj:
    told: Obj = {
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": rfc3339(pod.started_at),
        "containers": [_container(each, node, disk, only_cpu_and_memory) for each in pod.containers],
    }
    if pod.sample is not None:
        told |= {
            "cpu": _cpu(pod.sample),
            "memory": _memory(pod.sample),
            "swap": _swap(pod.sample.at, pod.sample.usage.swap_bytes, pod.sample.usage.swap_limit_bytes),
        }
        if not only_cpu_and_memory and (network := _network(pod.sample.at, pod.interfaces)) is not None:
            told["network"] = network
    if not only_cpu_and_memory:
        told["process_stats"] = {"process_count": pod.processes}
    if disk is not None:
        at = node.sample.at
        told["volume"] = [_volume(at, name, use) for name, use in sorted(disk.volumes.items())]
        told["ephemeral-storage"] = {**_shared(at, node.nodefs), "usedBytes": disk.ephemeral_bytes}
    return told


def _volume(at: datetime, name: str, use: VolumeUse) -> Obj:
    counted = {} if use.files is None else {"inodesUsed": use.files}
    return {"time": rfc3339(at), "usedBytes": use.used_bytes, **counted, "name": name}


def _shared(at: datetime, found: Filesystem) -> Obj:
    """Of a filesystem that others use too: how much of it is whose is told elsewhere."""
    whole = _filesystem(at, found)
    del whole["usedBytes"], whole["inodesUsed"]
    return whole


def _container(container: ContainerSample, node: NodeSample, disk: PodDiskUse | None, only_cpu_and_memory: bool) -> Obj:
    sample = container.sample
    told: Obj = {
        "name": container.name,
        "startTime": rfc3339(container.started_at),
        "cpu": _cpu(sample),
        "memory": _memory(sample),
        "swap": _swap(sample.at, sample.usage.swap_bytes, sample.usage.swap_limit_bytes),
    }
    if not only_cpu_and_memory:
        for field, used in (("rootfs", disk.layers if disk else {}), ("logs", disk.logs if disk else {})):
            own = {"usedBytes": used[container.name]} if container.name in used else {}
            told[field] = {**_shared(sample.at, node.containerfs if field == "rootfs" else node.logsfs), **own}
    return told


def _cpu(sample: Sample) -> Obj:
    rate = {} if sample.nano_cores is None else {"usageNanoCores": sample.nano_cores}
    return {"time": rfc3339(sample.at), **rate, "usageCoreNanoSeconds": sample.usage.cpu_ns}


def _memory(sample: Sample) -> Obj:
    usage = sample.usage
    left = {}
    if usage.memory_limit_bytes is not None:
        left["availableBytes"] = max(0, usage.memory_limit_bytes - usage.working_set_bytes)
    return {
        "time": rfc3339(sample.at),
        **left,
        "usageBytes": usage.memory_bytes,
        "workingSetBytes": usage.working_set_bytes,
        "rssBytes": usage.rss_bytes,
        "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    }


def _swap(at: datetime, used: int, limit: int | None) -> Obj:
    left = {} if limit is None else {"swapAvailableBytes": max(0, limit - used)}
    return {"time": rfc3339(at), **left, "swapUsageBytes": used}


def _network(at: datetime, interfaces: Sequence[Interface]) -> Obj | None:
    if not interfaces:
        return None
    told = [
        {
            "name": each.name,
            "rxBytes": each.rx_bytes,
            "rxErrors": each.rx_errors,
            "txBytes": each.tx_bytes,
            "txErrors": each.tx_errors,
        }
        for each in interfaces
    ]
    default = next((each for each in told if each["name"] == _DEFAULT_INTERFACE), {"name": ""})
    return {"time": rfc3339(at), **default, "interfaces": told}


def _filesystem(at: datetime, found: Filesystem) -> Obj:
    return {
        "time": rfc3339(at),
        "availableBytes": found.available_bytes,
        "capacityBytes": found.capacity_bytes,
        "usedBytes": found.used_bytes,
        "inodesFree": found.inodes_free,
        "inodes": found.inodes,
        "inodesUsed": found.inodes - found.inodes_free,
    }

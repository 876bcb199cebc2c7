"""What is told of a node's use. Source: pkg/kubelet/metrics/collectors/resource_metrics_test.go; metrics-server's decoder."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from kubelet_secrets.kubeletapi.diskuse import PodDiskUse, VolumeUse
from kubelet_secrets.kubeletapi.metrics import render
from kubelet_secrets.kubeletapi.resourcemetrics import cadvisor_metrics, resource_metrics
from kubelet_secrets.kubeletapi.samples import ContainerSample, Filesystem, NodeSample, PodSample, Sample, _Rate
from kubelet_secrets.kubeletapi.summary import summary
from kubelet_secrets.runtime.usage import Interface, Usage

AT = datetime(2026, 11, 23, 12, 0, 0, 500_000, tzinfo=UTC)
STARTED = datetime(2026, 11, 23, 11, 0, 0, tzinfo=UTC)
MS = 1795435200500
DISK = Filesystem(available_bytes=60, capacity_bytes=100, used_bytes=30, inodes_free=4, inodes=10)


def sample(cpu_ns: int, working_set: int) -> Sample:
    usage = Usage(cpu_ns=cpu_ns, memory_bytes=working_set + 10, working_set_bytes=working_set, memory_limit_bytes=1000)
    return Sample(at=AT, usage=usage, nano_cores=250_000_000)


CONTAINER = ContainerSample(
    name="app",
    container_id="c1",
    image="busybox:1",
    cgroup_path="/p/c1",
    started_at=STARTED,
    sample=sample(1_500_000_000, 200),
)
POD = PodSample(
    name="web",
    namespace="default",
    uid="u1",
    cgroup_path="/p",
    started_at=STARTED,
    containers=[CONTAINER],
    sample=sample(2_000_000_000, 300),
    interfaces=[Interface(name="eth0", rx_bytes=1, rx_errors=2, tx_bytes=3, tx_errors=4)],
    processes=2,
)
NODE = NodeSample(
    name="n1",
    booted_at=STARTED,
    sample=sample(9_000_000_000, 500),
    memory_available_bytes=700,
    memory_capacity_bytes=1200,
    swap_total_bytes=0,
    cpus=2,
    interfaces=[],
    nodefs=DISK,
    imagefs=DISK,
    images_bytes=25,
    containerfs=DISK,
    logsfs=DISK,
    max_pids=1000,
    tasks=100,
    agent=sample(1, 1),
    agent_started_at=STARTED,
    all_pods=None,
    pods=[POD],
)


def test_resource_metrics() -> None:
    """The lines that metrics-server reads, with their timestamps."""
    lines = render(resource_metrics(NODE)).splitlines()
    labels = 'container="app",namespace="default",pod="web"'
    assert [line for line in lines if not line.startswith("#")] == [
        f"container_cpu_usage_seconds_total{{{labels}}} 1.5 {MS}",
        f"container_memory_working_set_bytes{{{labels}}} 200 {MS}",
        f"container_start_time_seconds{{{labels}}} {int(STARTED.timestamp())}",
        f"container_swap_usage_bytes{{{labels}}} 0 {MS}",
        f"node_cpu_usage_seconds_total 9 {MS}",
        f"node_memory_working_set_bytes 500 {MS}",
        f"node_swap_usage_bytes 0 {MS}",
        f'pod_cpu_usage_seconds_total{{namespace="default",pod="web"}} 2 {MS}',
        f'pod_memory_working_set_bytes{{namespace="default",pod="web"}} 300 {MS}',
        f'pod_swap_usage_bytes{{namespace="default",pod="web"}} 0 {MS}',
        "resource_scrape_error 0",
    ]
    assert "# TYPE container_cpu_usage_seconds_total counter" in lines


def test_cadvisor_metrics() -> None:
    text = render(cadvisor_metrics(NODE))
    labels = 'container="app",id="/p/c1",image="busybox:1",name="c1",namespace="default",pod="web"'
    assert f"\ncontainer_memory_working_set_bytes{{{labels}}} 200 {MS}\n" in text
    pod = 'container="",id="/p",image="",interface="eth0",name="",namespace="default",pod="web"'
    assert f"\ncontainer_network_receive_bytes_total{{{pod}}} 1 {MS}\n" in text
    assert 'container_cpu_usage_seconds_total{container="",id="/",image="",name="",namespace="",pod=""} 9' in text
    assert "cfs_periods" not in text  # without a quota


def test_summary() -> None:
    written = PodDiskUse(
        volumes={"e": VolumeUse(4096), "s": VolumeUse(8192, 2), "m": VolumeUse(512)},
        scratch=frozenset({"e"}),
        layers={"app": 100},
        logs={"app": 10},
    )
    told = summary(NODE, {"u1": written})
    at = "2026-11-23T12:00:00Z"
    assert told["node"]["memory"] == {
        "time": at,
        "availableBytes": 700,
        "usageBytes": 510,
        "workingSetBytes": 500,
        "rssBytes": 0,
        "pageFaults": 0,
        "majorPageFaults": 0,
    }
    assert told["node"]["runtime"]["imageFs"]["usedBytes"] == 25
    assert told["node"]["fs"] == {
        "time": at,
        "availableBytes": 60,
        "capacityBytes": 100,
        "usedBytes": 30,
        "inodesFree": 4,
        "inodes": 10,
        "inodesUsed": 6,
    }
    (pod,) = told["pods"]
    assert pod["podRef"] == {"name": "web", "namespace": "default", "uid": "u1"}
    assert (pod["network"]["name"], pod["network"]["txErrors"]) == ("eth0", 4)
    (container,) = pod["containers"]
    assert container["cpu"] == {"time": at, "usageNanoCores": 250_000_000, "usageCoreNanoSeconds": 1_500_000_000}
    assert container["memory"]["availableBytes"] == 800
    assert (container["rootfs"]["usedBytes"], container["logs"]["usedBytes"]) == (100, 10)
    assert container["logs"]["capacityBytes"] == 100
    assert pod["ephemeral-storage"] == {
        "time": at,
        "availableBytes": 60,
        "capacityBytes": 100,
        "usedBytes": 4096 + 110,
        "inodesFree": 4,
        "inodes": 10,
    }
    assert pod["volume"] == [
        {"time": at, "usedBytes": 4096, "name": "e"},
        {"time": at, "usedBytes": 512, "name": "m"},
        {"time": at, "usedBytes": 8192, "inodesUsed": 2, "name": "s"},
    ]
    short = summary(replace(NODE, all_pods=NODE.sample), None)
    assert [each["name"] for each in short["node"]["systemContainers"]] == ["kubelet", "pods"]
    assert set(short["node"]) == {"nodeName", "systemContainers", "startTime", "cpu", "memory", "swap"}
    assert set(short["pods"][0]) == {"podRef", "startTime", "containers", "cpu", "memory", "swap"}


def test_rate_is_that_of_the_last_window() -> None:
    rate = _Rate(0.0, 0)
    assert rate.update(0.0, 0) is None
    assert rate.update(2.0, 1000) == 500  # nothing better yet
    assert rate.update(10.0, 10_000) == 1000
    assert rate.update(15.0, 10_000) == 1000  # not a whole window
    assert rate.update(25.0, 25_000) == 1000
    assert rate.update(35.0, 5) == 1000  # a counter that began anew

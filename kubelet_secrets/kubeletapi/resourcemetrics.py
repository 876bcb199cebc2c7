"""``/metrics/resource`` and ``/metrics/cadvisor`` out of a :class:`NodeSample`. Pure.

The first is what metrics-server reads for ``kubectl top``; of the second what dashboards of containers draw: cpu, throttling,
memory, network.

Source: pkg/kubelet/metrics/collectors/resource_metrics.go; cadvisor metrics/prometheus.go; the labels of
pkg/kubelet/server/server.go, containerPrometheusLabelsFunc.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from kubelet_secrets.kubeletapi.metrics import Metric
from kubelet_secrets.kubeletapi.metrics import Sample as Line
from kubelet_secrets.kubeletapi.samples import ContainerSample, NodeSample, PodSample, Sample
from kubelet_secrets.runtime.usage import Interface, Usage

Labels = Mapping[str, str]
Row = tuple[Labels, Sample]
Read = Callable[[Usage], float | None]


def _cpu_s(usage: Usage) -> float:
    return usage.cpu_ns / 1e9


def _family(name: str, kind: str, text: str, rows: Sequence[Row], read: Read) -> Metric:
    """One family; rows that have no such number are left out."""
    lines = [(labels, sample, read(sample.usage)) for labels, sample in rows]
    found = (Line(value, labels, _ms(sample.at)) for labels, sample, value in lines if value is not None)
    return Metric(name, kind, text, tuple(found))


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def resource_metrics(node: NodeSample) -> list[Metric]:
    """What ``/metrics/resource`` tells."""
    whole: list[Row] = [({}, node.sample)]
    pods: list[Row] = [(_pod_labels(pod), pod.sample) for pod in node.pods if pod.sample is not None]
    containers: list[Row] = [
        ({"container": each.name, **_pod_labels(pod)}, each.sample) for pod in node.pods for each in pod.containers
    ]
    started = tuple(
        Line(each.started_at.timestamp(), {"container": each.name, **_pod_labels(pod)})
        for pod in node.pods
        for each in pod.containers
    )
    families = [
        Metric(
            "container_start_time_seconds",
            "gauge",
            "[STABLE] Start time of the container since unix epoch in seconds",
            started,
        ),
        Metric(
            "resource_scrape_error",
            "gauge",
            "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
            (Line(0),),
        ),
    ]
    for what, rows in (("container", containers), ("node", whole), ("pod", pods)):
        cpu, memory = f"{what}_cpu_usage_seconds_total", f"{what}_memory_working_set_bytes"
        cpu_text = f"[STABLE] Cumulative cpu time consumed by the {what} in core-seconds"
        families.append(_family(cpu, "counter", cpu_text, rows, _cpu_s))
        text = f"[STABLE] Current working set of the {what} in bytes"
        families.append(_family(memory, "gauge", text, rows, lambda usage: usage.working_set_bytes))
        amount = f"amount of the {what} swap usage" if what != "node" else "swap usage of the node"
        text = f"[ALPHA] Current {amount} in bytes. Reported only on non-windows systems"
        families.append(_family(f"{what}_swap_usage_bytes", "gauge", text, rows, lambda usage: usage.swap_bytes))
    text = "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems"
    families.append(
        _family("container_swap_limit_bytes", "gauge", text, containers, lambda usage: usage.swap_limit_bytes)
    )
    return sorted((each for each in families if each.samples), key=lambda each: each.name)


def cadvisor_metrics(node: NodeSample) -> list[Metric]:
    """What ``/metrics/cadvisor`` tells, as far as it is measured."""
    rows: list[Row] = [({"id": "/"} | _NOBODY, node.sample)]
    for pod in node.pods:
        if pod.sample is not None:
            rows.append(({**_NOBODY, **_pod_labels(pod), "id": pod.cgroup_path}, pod.sample))
        rows += [(_container_labels(pod, each), each.sample) for each in pod.containers]
    families = [_family(f"container_{name}", kind, text, rows, read) for name, kind, text, read in _CADVISOR]
    started = tuple(
        Line(each.started_at.timestamp(), _container_labels(pod, each)) for pod in node.pods for each in pod.containers
    )
    families.append(
        Metric(
            "container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", started
        )
    )
    networks: list[tuple[Labels, datetime, Sequence[Interface]]] = [
        ({"id": "/"} | _NOBODY, node.sample.at, node.interfaces)
    ]
    networks += [
        ({**_NOBODY, **_pod_labels(pod), "id": pod.cgroup_path}, pod.sample.at, pod.interfaces)
        for pod in node.pods
        if pod.sample is not None
    ]
    for name, text, count in _NETWORK:
        lines = tuple(
            Line(count(interface), {**labels, "interface": interface.name}, _ms(at))
            for labels, at, interfaces in networks
            for interface in interfaces
        )
        families.append(Metric(f"container_network_{name}", "counter", text, lines))
    families += [
        Metric("machine_cpu_cores", "gauge", "Number of logical CPU cores.", (Line(node.cpus),)),
        Metric(
            "machine_memory_bytes",
            "gauge",
            "Amount of memory installed on the machine.",
            (Line(node.memory_capacity_bytes),),
        ),
    ]
    return sorted((each for each in families if each.samples), key=lambda each: each.name)


_NOBODY = {"container": "", "image": "", "name": "", "namespace": "", "pod": ""}


def _pod_labels(pod: PodSample) -> Labels:
    return {"pod": pod.name, "namespace": pod.namespace}


def _container_labels(pod: PodSample, container: ContainerSample) -> Labels:
    return {
        **_pod_labels(pod),
        "container": container.name,
        "id": container.cgroup_path,
        "image": container.image,
        "name": container.container_id,
    }


def _throttled(read: Callable[[Usage], float]) -> Read:
    """Only where there is a quota."""
    return lambda usage: read(usage) if usage.cpu_periods else None


_CADVISOR: tuple[tuple[str, str, str, Read], ...] = (
    ("cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", _cpu_s),
    (
        "cpu_cfs_periods_total",
        "counter",
        "Number of elapsed enforcement period intervals.",
        _throttled(lambda usage: usage.cpu_periods),
    ),
    (
        "cpu_cfs_throttled_periods_total",
        "counter",
        "Number of throttled period intervals.",
        _throttled(lambda usage: usage.throttled_periods),
    ),
    (
        "cpu_cfs_throttled_seconds_total",
        "counter",
        "Total time duration the container has been throttled.",
        _throttled(lambda usage: usage.throttled_ns / 1e9),
    ),
    ("memory_usage_bytes", "gauge", "Current memory usage in bytes.", lambda usage: usage.memory_bytes),
    ("memory_working_set_bytes", "gauge", "Current working set in bytes.", lambda usage: usage.working_set_bytes),
    ("memory_rss", "gauge", "Size of RSS in bytes.", lambda usage: usage.rss_bytes),
    ("memory_cache", "gauge", "Number of bytes of page cache memory.", lambda usage: usage.cache_bytes),
    ("memory_swap", "gauge", "Container swap usage in bytes.", lambda usage: usage.swap_bytes),
    (
        "spec_memory_limit_bytes",
        "gauge",
        "Memory limit for the container.",
        lambda usage: usage.memory_limit_bytes or 0,
    ),
)
_NETWORK: tuple[tuple[str, str, Callable[[Interface], int]], ...] = (
    ("receive_bytes_total", "Cumulative count of bytes received", lambda each: each.rx_bytes),
    ("receive_errors_total", "Cumulative count of errors encountered while receiving", lambda each: each.rx_errors),
    ("transmit_bytes_total", "Cumulative count of bytes transmitted", lambda each: each.tx_bytes),
    ("transmit_errors_total", "Cumulative count of errors encountered while transmitting", lambda each: each.tx_errors),
)

"""Numbers about the node in Prometheus' text format. Names and labels only; there is no value of a Secret near this.

Names of upstream's are used where they mean the same; what is ours begins with ``kubelet_secrets_``.
Source: prometheus.io/docs/instrumenting/exposition_formats; pkg/kubelet/metrics.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Sample:
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    at_ms: int | None = None  # when it was so, in milliseconds since 1970; None: now


@dataclass(frozen=True, slots=True)
class Metric:
    """One family.

    Attributes:
        kind: ``counter`` or ``gauge``.
    """

    name: str
    kind: str
    help: str
    samples: Sequence[Sample]


def render(metrics: Iterable[Metric]) -> str:
    """The text. Pure."""
    lines = []
    for metric in metrics:
        lines.append(f"# HELP {metric.name} {_escape(metric.help, quotes=False)}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        for sample in metric.samples:
            labels = ",".join(f'{name}="{_escape(value)}"' for name, value in sorted(sample.labels.items()))
            value = _number(sample.value)
            at = "" if sample.at_ms is None else f" {sample.at_ms}"
            lines.append(f"{metric.name}{{{labels}}} {value}{at}" if labels else f"{metric.name} {value}{at}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value) if float(value).is_integer() else value)


def _escape(text: str, *, quotes: bool = True) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def process_metrics() -> list[Metric]:
    """This process, under the names that every Prometheus client uses."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    size, pages = (int(each) for each in Path("/proc/self/statm").read_text().split()[:2])
    largest = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return [
        _one("process_start_time_seconds", "gauge", "When it started, in seconds since 1970.", _started_at()),
        _one("process_virtual_memory_bytes", "gauge", "Address space, in bytes.", size * resource.getpagesize()),
        _one("process_max_fds", "gauge", "How many file descriptors it may open.", largest),
        _one("process_cpu_seconds_total", "counter", "CPU time spent, in seconds.", usage.ru_utime + usage.ru_stime),
        _one("process_resident_memory_bytes", "gauge", "Resident memory, in bytes.", pages * resource.getpagesize()),
        _one("process_open_fds", "gauge", "Open file descriptors.", len(os.listdir("/proc/self/fd"))),
    ]


def _started_at() -> float:
    """Source: proc(5), /proc/pid/stat (22) and btime of /proc/stat."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    return int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")


def identity_metrics(node_name: str, version: str) -> list[Metric]:
    """Whose numbers these are.

    Args:
        version: of the kubelet whose behaviour this is.
    """
    return [
        Metric(
            "kubelet_node_name", "gauge", "The node's name. The count is always 1.", (Sample(1, {"node": node_name}),)
        ),
        Metric("kubernetes_build_info", "gauge", "Which program this is.", (Sample(1, {"git_version": version}),)),
    ]


def certificate_metrics(lives_s: Mapping[str, float | None], failures: Mapping[str, int]) -> list[Metric]:
    """The node's certificates, ``client`` and ``server``.

    Args:
        lives_s: seconds to the end of each; None: there is none of that kind to look after.
        failures: renewals that failed.
    """
    found = []
    for kind, counter in (
        ("client", "kubelet_certificate_manager_client_expiration_renew_errors"),
        ("server", "kubelet_server_expiration_renew_errors"),
    ):
        life_s = lives_s.get(kind)
        text = f"Seconds until the kubelet's {kind} certificate expires; +Inf: it is not the kubelet's to renew."
        name = f"kubelet_certificate_manager_{kind}_ttl_seconds"
        found.append(_one(name, "gauge", text, math.inf if life_s is None else round(life_s)))
        found.append(_one(counter, "counter", "Counter of certificate renewal errors.", failures.get(kind, 0)))
    return found


def eviction_metrics(counts: Mapping[str, int]) -> list[Metric]:
    """Pods that went for the node's sake, by signal."""
    samples = tuple(Sample(count, {"eviction_signal": signal}) for signal, count in sorted(counts.items()))
    return [Metric("kubelet_evictions", "counter", "Cumulative number of pod evictions by eviction signal", samples)]


def node_metrics(store_fd: int, *, audit_records: int, lost_events: int) -> list[Metric]:
    """The parts of a node that have a number.

    Args:
        store_fd: the filesystem that holds the files of Secrets. A ramfs, the fallback, counts nothing: it shows as empty.
        audit_records: of the present trail.
    """
    store = os.fstatvfs(store_fd)
    used_bytes = (store.f_blocks - store.f_bfree) * store.f_frsize
    return [
        _one("kubelet_secrets_store_bytes", "gauge", "Memory that the files of Secrets take up.", used_bytes),
        _one(
            "kubelet_secrets_store_files", "gauge", "Files, directories and links in it.", store.f_files - store.f_ffree
        ),
        _one("kubelet_secrets_audit_records_total", "counter", "Records of the audit trail.", audit_records),
        _one("kubelet_secrets_events_lost_total", "counter", "Events that the API server did not take.", lost_events),
    ]


def _one(name: str, kind: str, text: str, value: float) -> Metric:
    return Metric(name, kind, text, (Sample(value),))

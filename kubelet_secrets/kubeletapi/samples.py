"""What the node and its containers use, looked at when somebody asks: for ``/stats/summary`` and the Prometheus endpoints.

:class:`Sampler` looks, at most once a second however many ask, a pod at a time: between two pods the rest of the agent has its
turn. What is shown of it is ``summary.py``'s and ``resourcemetrics.py``'s.

Source: pkg/kubelet/stats (cri_stats_provider.go); cadvisor.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import trio

from kubelet_secrets.api.times import parse_rfc3339
from kubelet_secrets.node.pressure import memory_available_bytes
from kubelet_secrets.pod.views import ContainerView, PodView
from kubelet_secrets.runtime.cgroups import CgroupTree
from kubelet_secrets.runtime.usage import (
    Interface,
    Usage,
    machine_cpu_ns,
    parse_meminfo,
    read_interfaces,
    read_usage,
)

MAX_AGE_S = 1.0
WINDOW_S = (
    10.0  # over which usage per second is counted, where it is asked for that often: cadvisor's housekeeping interval
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One cgroup at one moment."""

    at: datetime
    usage: Usage
    nano_cores: int | None = None  # over the last seconds; None: seen for the first time


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSample:
    name: str
    container_id: str
    image: str
    cgroup_path: str
    started_at: datetime
    sample: Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSample:
    name: str
    namespace: str
    uid: str
    cgroup_path: str
    started_at: datetime
    containers: Sequence[ContainerSample]
    sample: Sample | None
    interfaces: Sequence[Interface] = ()  # of a network of its own, loopback left out
    processes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Filesystem:
    """Bytes and inodes, of ``statvfs``."""

    available_bytes: int
    capacity_bytes: int
    used_bytes: int
    inodes_free: int
    inodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSample:
    name: str
    booted_at: datetime
    sample: Sample
    memory_available_bytes: int
    memory_capacity_bytes: int
    swap_total_bytes: int
    cpus: int
    interfaces: Sequence[Interface]
    nodefs: Filesystem
    imagefs: Filesystem
    images_bytes: int
    containerfs: Filesystem  # what containers write to their root filesystems
    logsfs: Filesystem
    max_pids: int
    tasks: int
    agent: Sample  # this process
    agent_started_at: datetime
    all_pods: Sample | None
    pods: Sequence[PodSample]


@dataclass(slots=True)
class _Rate:
    """Of one cgroup: where the window began, and the last rate that a whole window gave."""

    at_s: float
    cpu_ns: int
    nano_cores: int | None = None

    def update(self, at_s: float, cpu_ns: int) -> int | None:
        elapsed_s = at_s - self.at_s
        if elapsed_s <= 0 or cpu_ns < self.cpu_ns:
            return self.nano_cores
        rate = int((cpu_ns - self.cpu_ns) / elapsed_s)
        if elapsed_s < WINDOW_S:
            return rate if self.nano_cores is None else self.nano_cores
        self.at_s, self.cpu_ns, self.nano_cores = at_s, cpu_ns, rate
        return rate


@dataclass(slots=True, kw_only=True)
class Sampler:
    """See the module's text.

    Args:
        views: the pods.
        scratch_dir: on the filesystem that containers write to; *logs_dir* likewise, of their output.
        images_bytes: the size of all images; asked in a thread.
    """

    node_name: str
    cgroups: CgroupTree
    views: Callable[[], Sequence[PodView]]
    root_dir: Path
    image_dir: Path
    scratch_dir: Path
    logs_dir: Path
    images_bytes: Callable[[], int]
    clock: Callable[[], datetime]
    _rates: dict[str, _Rate] = field(default_factory=dict)
    _last: NodeSample | None = None
    _last_at_s: float = float("-inf")
    _looking: trio.Lock = field(default_factory=trio.Lock)

    async def look(self) -> NodeSample:
        """The node now, or as it was within the last second."""
        async with self._looking:
            if self._last is None or trio.current_time() >= self._last_at_s + MAX_AGE_S:
                self._last = await self._look()
                self._last_at_s = trio.current_time()
            return self._last

    async def _look(self) -> NodeSample:
        former, self._rates = self._rates, {}
        pods = []
        for view in self.views():
            found = self._look_at_pod(view, former)
            if found is not None:
                pods.append(found)
            await trio.lowlevel.checkpoint()
        images_bytes = await trio.to_thread.run_sync(self.images_bytes)
        meminfo_text, stat = Path("/proc/meminfo").read_text(), Path("/proc/stat").read_text()
        meminfo = parse_meminfo(meminfo_text)
        total, available = meminfo["MemTotal"], memory_available_bytes(meminfo_text)
        swap_total = meminfo.get("SwapTotal", 0)
        machine = Usage(
            cpu_ns=machine_cpu_ns(stat),
            memory_bytes=total - meminfo["MemFree"],
            working_set_bytes=total - available,
            rss_bytes=meminfo.get("AnonPages", 0),
            cache_bytes=meminfo.get("Cached", 0) + meminfo.get("Buffers", 0),
            swap_bytes=swap_total - meminfo.get("SwapFree", 0),
        )
        limits = [int(Path(f"/proc/sys/kernel/{each}").read_text()) for each in ("pid_max", "threads-max")]
        booted = next(line for line in stat.splitlines() if line.startswith("btime "))
        everything = read_usage(self.cgroups.layout, self.cgroups.instance_path)
        agent, agent_started_at = _read_agent(int(booted.split()[1]))
        return NodeSample(
            name=self.node_name,
            booted_at=datetime.fromtimestamp(int(booted.split()[1]), UTC),
            sample=self._sample("/", machine, former),
            memory_available_bytes=available,
            memory_capacity_bytes=total,
            swap_total_bytes=swap_total,
            cpus=len(os.sched_getaffinity(0)),
            interfaces=read_interfaces("self"),
            nodefs=filesystem_of(self.root_dir),
            imagefs=filesystem_of(self.image_dir),
            images_bytes=images_bytes,
            containerfs=filesystem_of(self.scratch_dir),
            logsfs=filesystem_of(self.logs_dir),
            max_pids=min(limits),
            tasks=int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2]),
            agent=self._sample("self", agent, former),
            agent_started_at=agent_started_at,
            all_pods=None if everything is None else self._sample(self.cgroups.instance_path, everything, former),
            pods=pods,
        )

    def _look_at_pod(self, view: PodView, former: Mapping[str, _Rate]) -> PodSample | None:
        meta = view.pod.metadata
        found = (self._look_at_container(meta.uid, each, former) for each in view.containers)
        containers = [each for each in found if each is not None]
        if not containers:
            return None
        path = self.cgroups.pod_path(meta.uid)
        usage = read_usage(self.cgroups.layout, path)
        pids = [self.cgroups.processes(each.cgroup_path) for each in containers]
        first = next((each[0] for each in pids if each), None)
        has_network = first is not None and not view.pod.spec.host_network
        started_at = parse_rfc3339(view.status.start_time)
        return PodSample(
            name=meta.name,
            namespace=meta.namespace,
            uid=meta.uid,
            cgroup_path=path,
            started_at=started_at or min(each.started_at for each in containers),
            containers=containers,
            sample=None if usage is None else self._sample(path, usage, former),
            interfaces=read_interfaces(first) if has_network and first is not None else (),
            processes=sum(map(len, pids)),
        )

    def _look_at_container(
        self, pod_uid: str, view: ContainerView, former: Mapping[str, _Rate]
    ) -> ContainerSample | None:
        instance = view.instance
        if instance is None or not instance.is_running or instance.started_at is None:
            return None
        path = self.cgroups.container_path(pod_uid, instance.container_id)
        usage = read_usage(self.cgroups.layout, path)
        if usage is None:
            return None
        return ContainerSample(
            name=view.name,
            container_id=instance.container_id,
            image=instance.image,
            cgroup_path=path,
            started_at=instance.started_at,
            sample=self._sample(path, usage, former),
        )

    def _sample(self, path: str, usage: Usage, former: Mapping[str, _Rate]) -> Sample:
        now_s = trio.current_time()
        rate = former.get(path)
        nano_cores = rate.update(now_s, usage.cpu_ns) if rate is not None else None
        self._rates[path] = rate or _Rate(now_s, usage.cpu_ns)
        return Sample(at=self.clock(), usage=usage, nano_cores=nano_cores)


def filesystem_of(directory: Path) -> Filesystem:
    """The filesystem of *directory*; of its nearest parent, while it is not there."""
    existing = next((each for each in (directory, *directory.parents) if each.exists()), Path("/"))
    found = os.statvfs(existing)
    return Filesystem(
        available_bytes=found.f_bavail * found.f_frsize,
        capacity_bytes=found.f_blocks * found.f_frsize,
        used_bytes=(found.f_blocks - found.f_bfree) * found.f_frsize,
        inodes_free=found.f_ffree,
        inodes=found.f_files,
    )


def _read_agent(booted_s: int) -> tuple[Usage, datetime]:
    """This process, and when it was started."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    usage = Usage(
        cpu_ns=int((used.ru_utime + used.ru_stime) * 1e9),
        memory_bytes=pages * resource.getpagesize(),
        working_set_bytes=pages * resource.getpagesize(),
        rss_bytes=pages * resource.getpagesize(),
        page_faults=used.ru_minflt,
        major_page_faults=used.ru_majflt,
    )
    return usage, datetime.fromtimestamp(booted_s + ticks / os.sysconf("SC_CLK_TCK"), UTC)

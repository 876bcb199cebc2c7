"""What a pod's worker needs of the node: the parts below it, by name. Filled in once, by the composition root."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import trio

from kubelet_secrets.access.registry import ContainerRegistry
from kubelet_secrets.api.core import ConfigMap, Secret, Service
from kubelet_secrets.api.sources import NodeInfo
from kubelet_secrets.cache.manager import ObjectManager
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.pod.admitting import Admission
from kubelet_secrets.pod.backoff import CONTAINER_CAP_S, IMAGE_CAP_S, IMAGE_INITIAL_S, BackOff
from kubelet_secrets.pod.events import EventRecorder
from kubelet_secrets.pod.syncing import AT_ONCE, SyncPolicy
from kubelet_secrets.pod.tokenbucket import TokenBucket
from kubelet_secrets.pod.tokens import TokenManager
from kubelet_secrets.pod.turns import Turns
from kubelet_secrets.runtime.cgroups import CgroupTree
from kubelet_secrets.runtime.images import ImageStore
from kubelet_secrets.runtime.oci import OciRuntime
from kubelet_secrets.runtime.sandbox import SandboxManager
from kubelet_secrets.volume.manager import VolumeManager
from kubelet_secrets.volume.payload import TrustBundleSource

IMAGE_PULL_QPS = 5.0  # registryPullQPS
IMAGE_PULL_BURST = 10  # registryBurst
STATUSES_AT_ONCE = 4
"""Of all pods. The kubelet sends them one by one; what changes while it waits is sent in one."""


def wall_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParts:
    """One node, as its pods use it."""

    client: ApiClient
    secrets: ObjectManager[Secret]
    config_maps: ObjectManager[ConfigMap]
    volumes: VolumeManager
    runtime: OciRuntime
    sandboxes: SandboxManager
    images: ImageStore
    cgroups: CgroupTree
    registry: ContainerRegistry
    admission: Admission
    events: EventRecorder
    tokens: TokenManager | None = None  # None: serviceAccountToken projections fail
    trust_bundles: TrustBundleSource | None = None  # None: clusterTrustBundle projections are switched off
    services: Callable[[], Sequence[Service] | None]  # None while they have not been read
    node: Callable[[], NodeInfo]
    node_uid: Callable[[], str]  # of the Node object; empty while it is not known
    host_ips: tuple[str, ...]  # the node's, primary first
    memory_bytes: int  # of the machine
    logs_dir: Path  # on the run tmpfs
    seccomp_dir: Path  # the node's own profiles
    sync_policy: SyncPolicy = AT_ONCE  # whether changes of objects act at once
    network_problem: Callable[[], str] = lambda: ""  # why pods cannot have a network now; empty: they can
    cluster_domain: str = "cluster.local"
    cluster_dns: tuple[str, ...] = ()
    is_cluster_dns_missing: bool = False  # there is none, and nobody has said that there shall be none
    resolv_conf: Path = Path("/etc/resolv.conf")
    supports_recursive_read_only: bool = True  # mount_setattr(2), Linux 5.12; runc 1.1
    clock: Callable[[], datetime] = wall_clock
    restart_back_off: BackOff = field(default_factory=lambda: BackOff(cap_s=CONTAINER_CAP_S))
    image_pull_rate: TokenBucket = field(default_factory=lambda: TokenBucket(IMAGE_PULL_QPS, IMAGE_PULL_BURST))
    turns: Turns = field(default_factory=Turns)
    status_lane: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(STATUSES_AT_ONCE))
    image_back_off: BackOff = field(default_factory=lambda: BackOff(initial_s=IMAGE_INITIAL_S, cap_s=IMAGE_CAP_S))

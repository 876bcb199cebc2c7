"""Pods that write more to the node than they may are evicted: Failed, with reason Evicted.

Measured are, on disk or where they stand for it: emptyDirs with a ``sizeLimit``, the writable layer and the log of containers
with a limit of ``ephemeral-storage``, and of a pod whose containers have such limits everything together. An emptyDir of medium
Memory is a tmpfs of its size and says ENOSPC. Run by ``pod/worker.py``; what else a kubelet evicts pods for, the pressure of
the node as a whole, is not here.

Source: pkg/kubelet/eviction/eviction_manager.go, localStorageEviction, evictPod; semantics §2.7. Differs: it is measured every
ten seconds, where the kubelet reads what it measured within the last minute.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from kubelet_secrets.api.core import Container, Pod
from kubelet_secrets.api.quantity import canonical, value
from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.staticpod import is_static_pod
from kubelet_secrets.volume.emptydir import MEMORY

logger = logging.getLogger(__name__)

REASON = "Evicted"
CHECK_S = 10.0  # the eviction manager's period
GRACE_S = 1  # immediateEvictionGracePeriodSeconds
_STORAGE = "ephemeral-storage"
_SYSTEM_CRITICAL = 2_000_000_000  # pods of this priority and above are not evicted
_PATIENCE = 10  # a look may take a tenth of the time at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """In bytes.

    Attributes:
        volumes: by name, of emptyDirs on disk.
        pod: of everything together; None: there is none.
        containers: by name.
    """

    volumes: Mapping[str, int] = field(default_factory=dict)
    pod: int | None = None
    containers: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.volumes or self.containers) or self.pod is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a pod writes.

    Attributes:
        volume: by name; None while it is not set up.
        container: by name: its writable layers and logs, as far as there are any.
    """

    volume: Callable[[str], Path | None]
    container: Callable[[str], Sequence[Path]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Bytes in use, by name."""

    volumes: Mapping[str, int]
    containers: Mapping[str, int]


def limits_of(pod: Pod) -> Limits:
    """The limits of *pod*; none for a pod that is never evicted."""
    if is_static_pod(pod) or (pod.spec.priority or 0) >= _SYSTEM_CRITICAL:
        return Limits()
    sized = {name: value(pod_source) for name, pod_source in _sizes(pod).items()}
    containers = {each.name: _limit(each) for each in pod.spec.containers}
    return Limits(
        volumes={name: limit for name, limit in sized.items() if limit > 0},
        pod=_pod_limit(pod),
        containers={name: limit for name, limit in containers.items() if limit > 0},
    )


def _sizes(pod: Pod) -> dict[str, str | int | float]:
    return {
        each.name: each.empty_dir.size_limit
        for each in pod.spec.volumes
        if each.name in _disk_volumes(pod) and each.empty_dir is not None and each.empty_dir.size_limit is not None
    }


def _disk_volumes(pod: Pod) -> list[str]:
    """emptyDirs that take up the node's disk."""
    return [each.name for each in pod.spec.volumes if each.empty_dir is not None and each.empty_dir.medium != MEMORY]


def _limit(container: Container) -> int:
    return value(container.resources.limits.get(_STORAGE, 0))


def _pod_limit(pod: Pod) -> int | None:
    """Of those containers that have one, whatever the others do; None: none has. Source: PodLimits."""
    spec = pod.spec
    if not any(_STORAGE in each.resources.limits for each in (*spec.containers, *spec.init_containers)):
        return None
    total = sum(map(_limit, spec.containers))
    sidecars = highest = 0
    for container in spec.init_containers:
        if container.restart_policy == "Always":
            total += _limit(container)
            sidecars += _limit(container)
            highest = max(highest, sidecars)
        else:
            highest = max(highest, sidecars + _limit(container))
    return max(total, highest)


def exceeded(pod: Pod, limits: Limits, usage: Usage) -> str:
    """Why *pod* is to go, in the kubelet's words, with the blank at their end; "" when it keeps to its limits."""
    for name, limit in limits.volumes.items():
        if usage.volumes.get(name, 0) > limit:
            return f"Usage of EmptyDir volume {go_quote(name)} exceeds the limit {go_quote(_text(_sizes(pod)[name]))}. "
    total = sum(usage.volumes.values()) + sum(usage.containers.values())
    if limits.pod is not None and total > limits.pod:
        return f"Pod ephemeral local storage usage exceeds the total limit of containers {_text(limits.pod)}. "
    for container in pod.spec.containers:
        limit = limits.containers.get(container.name, 0)
        if 0 < limit < usage.containers.get(container.name, 0):
            text = go_quote(_text(container.resources.limits[_STORAGE]))
            return f"Container {container.name} exceeded its local ephemeral storage limit {text}. "
    return ""


def _text(amount: str | int | float) -> str:
    """As Go prints a quantity: a sum of binary ones in binary units."""
    if isinstance(amount, int) and amount % 1024 == 0:
        return canonical(f"{amount // 1024}Ki")
    return canonical(amount)


async def wait_exceeded(pod: Pod, places: Places) -> str:
    """Wait until *pod* has written more than it may, and return the message. Waits for ever where there is no limit.

    Cancellation: nothing has changed.
    """
    limits = limits_of(pod)
    while limits:
        began = trio.current_time()
        if message := exceeded(pod, limits, await measure(pod, limits, places)):
            return message
        await trio.sleep(max(CHECK_S, _PATIENCE * (trio.current_time() - began)))
    await trio.sleep_forever()
    raise AssertionError("unreachable")


async def measure(pod: Pod, limits: Limits, places: Places) -> Usage:
    """What *pod* has in use, as far as its limits ask."""
    is_whole = limits.pod is not None or bool(limits.containers)
    volumes = {name: places.volume(name) for name in (_disk_volumes(pod) if is_whole else limits.volumes)}
    containers = [*pod.spec.containers, *pod.spec.init_containers] if is_whole else []
    written = {each.name: places.container(each.name) for each in containers}
    paths = [path for path in volumes.values() if path is not None]
    found = await used_bytes([*paths, *(path for group in written.values() for path in group)])
    return Usage(
        volumes={name: found.get(path, 0) for name, path in volumes.items() if path is not None},
        containers={name: sum(found.get(path, 0) for path in group) for name, group in written.items()},
    )


async def used_bytes(paths: Sequence[Path]) -> dict[Path, int]:
    """Disk space in use below each of *paths*; those that are gone are left out.

    By ``du``, one for all: containers change the trees meanwhile, and may make them deep and odd.
    """
    if not paths:
        return {}
    names = b"".join(bytes(path) + b"\0" for path in paths)
    options = ["--one-file-system", "--summarize", "--block-size=1", "--null", "--files0-from=-"]
    command = ["nice", "-n", "19", "du", *options]
    done = await trio.run_process(command, stdin=names, capture_stdout=True, stderr=subprocess.DEVNULL, check=False)
    found = {}
    for line in done.stdout.split(b"\0"):  # also with status 1: files that went while it looked
        size, separator, name = line.partition(b"\t")
        if separator and size.isdigit():
            found[Path(name.decode(errors="surrogateescape"))] = int(size)
    return found

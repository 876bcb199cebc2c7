"""Pods that write more into an emptyDir than its ``sizeLimit`` allows are evicted: Failed, with reason Evicted.

Only volumes on disk are measured; one of medium Memory is a tmpfs of that size and says ENOSPC. What else a kubelet evicts pods
for, the pressure of the node as a whole, is not here. Run by ``pod/worker.py``.

Source: pkg/kubelet/eviction/eviction_manager.go, emptyDirLimitEviction, evictPod; semantics §2.7. Differs: a volume is measured
every ten seconds, where the kubelet reads what it measured within the last minute.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.quantity import canonical, value
from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.staticpod import is_static_pod
from kubelet_secrets.volume.emptydir import MEMORY

logger = logging.getLogger(__name__)

REASON = "Evicted"
CHECK_S = 10.0  # the eviction manager's period
GRACE_S = 1  # immediateEvictionGracePeriodSeconds
_SYSTEM_CRITICAL = 2_000_000_000  # pods of this priority and above are not evicted
_PATIENCE = 10  # a look may take a tenth of the time at most


def size_limits(pod: Pod) -> dict[str, int]:
    """Volume name → bytes, of the emptyDirs on disk that have a limit; empty for a pod that is never evicted."""
    if is_static_pod(pod) or (pod.spec.priority or 0) >= _SYSTEM_CRITICAL:
        return {}
    sources = {each.name: each.empty_dir for each in pod.spec.volumes if each.empty_dir is not None}
    limits = {
        name: value(source.size_limit)
        for name, source in sources.items()
        if source.size_limit is not None and source.medium != MEMORY
    }
    return {name: limit for name, limit in limits.items() if limit > 0}


def eviction_message(pod: Pod, volume: str) -> str:
    """The kubelet's text, with the blank at its end."""
    source = next(each.empty_dir for each in pod.spec.volumes if each.name == volume)
    limit = source.size_limit if source is not None else None
    return f"Usage of EmptyDir volume {go_quote(volume)} exceeds the limit {go_quote(canonical(limit or 0))}. "


async def wait_exceeded(pod: Pod, host_path: Callable[[str], Path | None]) -> str:
    """Wait until a volume of *pod* holds more than it may, and return its name. Waits for ever where there is no limit.

    Args:
        host_path: of a volume; None while it is not set up.

    Cancellation: nothing has changed.
    """
    limits = size_limits(pod)
    while limits:
        began = trio.current_time()
        for name, limit in limits.items():
            path = host_path(name)
            if path is not None and await used_bytes(path) > limit:
                return name
        await trio.sleep(max(CHECK_S, _PATIENCE * (trio.current_time() - began)))
    await trio.sleep_forever()
    raise AssertionError("unreachable")


async def used_bytes(path: Path) -> int:
    """Disk space in use below *path*. By ``du``: containers change the tree meanwhile, and may make it deep and odd."""
    command = ["nice", "-n", "19", "du", "--one-file-system", "--summarize", "--block-size=1", "--", str(path)]
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL, check=False)
    field = done.stdout.split(b"\t", 1)[0]
    if not field.isdigit():  # not there any more
        logger.debug("du says nothing of %s", path)
        return 0
    return int(field)  # also with status 1: files that went while it looked

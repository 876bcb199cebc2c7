"""Limits of a cgroup that is not a container's: what runc does for containers, for the pods above them, on v1 and v2.

:func:`limit_files` is pure; :func:`apply_limits` writes. Called by ``cgroups.CgroupTree``. Source: opencontainers/runc
libcontainer/cgroups (fs, fs2); pkg/kubelet/cm/cgroup_v2_manager_linux.go for the weight.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from kubelet_secrets.runtime.settings import Resources

logger = logging.getLogger(__name__)

CONTROLLERS = ("cpu", "memory")
_V1_MEMORY = "memory.limit_in_bytes"
_UNLIMITED_BYTES = 1 << 62


def limit_files(resources: Resources, *, is_v2: bool) -> dict[str, list[tuple[str, str]]]:
    """By controller, the files of a cgroup and what to write into them, in order."""
    cpu: list[tuple[str, str]] = []
    memory: list[tuple[str, str]] = []
    period_us = resources.cpu_period_us or 100_000
    if resources.cpu_shares is not None:
        weight = str(cpu_weight(resources.cpu_shares))
        cpu.append(("cpu.weight", weight) if is_v2 else ("cpu.shares", str(resources.cpu_shares)))
    if resources.cpu_quota_us is not None:
        if is_v2:
            cpu.append(("cpu.max", f"{resources.cpu_quota_us} {period_us}"))
        else:
            cpu += [("cpu.cfs_period_us", str(period_us)), ("cpu.cfs_quota_us", str(resources.cpu_quota_us))]
    if resources.memory_limit_bytes is not None:
        memory.append(("memory.max" if is_v2 else _V1_MEMORY, str(resources.memory_limit_bytes)))
    return {"cpu": cpu, "memory": memory}


def cpu_weight(shares: int) -> int:
    """1..10000 for 2..262144. Source: CpuSharesToCpuWeight, which the runtime applies to containers too."""
    return 1 + (shares - 2) * 9999 // 262142


def apply_limits(directories: Mapping[str, Path], resources: Resources, *, is_v2: bool) -> None:
    """Write them, as far as this host has the controllers.

    Args:
        directories: controller → the cgroup's directory in its hierarchy; the same one for all on v2.

    Raises:
        OSError: the kernel refused a value.
    """
    for controller, files in limit_files(resources, is_v2=is_v2).items():
        directory = directories.get(controller)
        for name, text in files:
            if directory is None or not (directory / name).exists():
                logger.debug("no %s to limit a pod by", name)
                continue
            if name == _V1_MEMORY:
                _write_v1_memory(directory, text)
            else:
                (directory / name).write_text(text)


def _write_v1_memory(directory: Path, text: str) -> None:
    """The limit, and the one of memory and swap together where that is set: it is the same here, and never the smaller one, so
    which of them goes first depends on where they go."""
    limit, both = directory / _V1_MEMORY, directory / "memory.memsw.limit_in_bytes"
    is_limited = both.exists() and int(both.read_text()) < _UNLIMITED_BYTES
    if is_limited and int(text) > int(both.read_text()):
        both.write_text(text)
    limit.write_text(text)
    if is_limited:
        both.write_text(text)

"""Find out what ``spec`` has to know about this machine. Reads /proc, /sys and /dev; called once, by the composition root."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

from kubelet_secrets.errors import HostError
from kubelet_secrets.runtime.capabilities import capabilities_of_mask
from kubelet_secrets.runtime.cgroups import CgroupLayout, parse_mountinfo
from kubelet_secrets.runtime.settings import DeviceNode, HostFacts


def probe_cgroups() -> CgroupLayout:
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text())


def probe_host(layout: CgroupLayout) -> HostFacts:
    """Look once; nothing here changes while the node runs (but for devices plugged in later)."""
    return HostFacts(
        cgroup_v2=layout.is_v2,
        capabilities=_capabilities(),
        controllers=_controllers(layout),
        limits_swap=_limits_swap(layout),
        seccomp=Path("/proc/sys/kernel/seccomp/actions_avail").exists(),
        devices=_devices(Path("/dev")),
        oom_score_adj=int(Path("/proc/self/oom_score_adj").read_text()),
        core_limit_bytes=_core_limit_bytes(),
    )


def check_runtime(runtime: Path, layout: CgroupLayout) -> None:
    """Refuse a combination that cannot run a single container, before a pod finds out.

    Raises:
        HostError: crun on a hybrid host whose v2 hierarchy has controllers ("cgroups in hybrid mode not supported").
    """
    if not runtime.name.startswith("crun") or layout.is_v2 or layout.unified is None:
        return
    controllers = layout.unified.joinpath("cgroup.controllers").read_text().split()
    if controllers:
        raise HostError(
            f"crun cannot run on hybrid cgroups while v2 has controllers ({' '.join(controllers)}): use --runtime runc"
        )


def _capabilities() -> tuple[str, ...]:
    """What we could pass on; inside a container or a hardened unit it is less than the kernel has."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapBnd":
            return capabilities_of_mask(int(value, 16))
    return ()


def _controllers(layout: CgroupLayout) -> frozenset[str]:
    if layout.is_v2:
        assert layout.unified is not None
        return frozenset(layout.unified.joinpath("cgroup.controllers").read_text().split())
    return frozenset(name for name in layout.controllers if not name.startswith("name="))


def _core_limit_bytes() -> int | None:
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    return None if hard == resource.RLIM_INFINITY else hard


def _limits_swap(layout: CgroupLayout) -> bool:
    if layout.is_v2:
        # The file exists in every non-root cgroup when the kernel accounts for swap; our own cgroup may be the root.
        assert layout.unified is not None
        return any(layout.unified.glob("*/memory.swap.max"))
    memory = layout.controllers.get("memory")
    return memory is not None and memory.joinpath("memory.memsw.limit_in_bytes").exists()


def _devices(root: Path) -> tuple[DeviceNode, ...]:
    """Device nodes for privileged containers, without those a container gets from its own /dev.

    Source: containerd pkg/oci, HostDevices: skips pts, shm, fd, mqueue, .lxc, .udev and /dev/console.
    """
    skipped = {"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"}
    found = []
    for directory, subdirectories, files in os.walk(root):
        subdirectories[:] = sorted(name for name in subdirectories if name not in skipped)
        for name in sorted(files):
            path = os.path.join(directory, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            if path == "/dev/console" or not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
                continue
            found.append(
                DeviceNode(
                    path=path,
                    kind="c" if stat.S_ISCHR(status.st_mode) else "b",
                    major=os.major(status.st_rdev),
                    minor=os.minor(status.st_rdev),
                    mode=stat.S_IMODE(status.st_mode),
                    uid=status.st_uid,
                    gid=status.st_gid,
                )
            )
    return tuple(found)

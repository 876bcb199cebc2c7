"""The OCI ``config.json`` of one container, pure: settings and facts in, a dictionary out.

The result holds the container's environment, secrets included. Only ``bundle`` writes it, and only to the run tmpfs.

Source: OCI runtime specification 1.0; defaults of containerd's CRI plugin (internal/cri/server, container_create_linux.go and
pkg/oci/spec.go), which a pod on a real node gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubelet_secrets.envvars.passing import argument_refusal, as_passed, refusal
from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.runtime.capabilities import container_capabilities
from kubelet_secrets.runtime.seccomp import runtime_default
from kubelet_secrets.runtime.settings import (
    ContainerSettings,
    HostFacts,
    Mount,
    NamespacePaths,
    Resources,
    SeccompMode,
)

MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
    "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_UNLIMITED = (1 << 64) - 1  # RLIM_INFINITY as OCI writes it
_PROPAGATION = {"None": "rprivate", "HostToContainer": "rslave", "Bidirectional": "rshared"}


def make_spec(settings: ContainerSettings, host: HostFacts, *, termination_log: Path | None = None) -> dict[str, Any]:
    """Compose ``config.json``; the root filesystem is ``rootfs`` in the bundle.

    Args:
        termination_log: host file shown at ``settings.termination_message_path``, or None for none.

    Returns:
        A dictionary ready for ``json.dumps``; secret, because it holds the environment.

    Raises:
        ContainerRunError: no command, an argument or a variable that no runtime can pass on, an unknown capability.

    Differs: no AppArmor profile and no SELinux label are set; a container runs unconfined by both.
    """
    try:
        capabilities = container_capabilities(
            settings.capabilities_add,
            settings.capabilities_drop,
            privileged=settings.privileged,
            available=host.capabilities,
        )
    except ValueError as error:
        raise ContainerRunError(f"failed to generate container spec: {error}") from None
    return {
        "ociVersion": "1.0.2",
        "process": _process(settings, host, capabilities),
        "root": {"path": "rootfs", "readonly": settings.read_only_rootfs},
        "mounts": _mounts(settings, host, termination_log),
        "annotations": {
            "io.kubernetes.pod.namespace": settings.pod_namespace,
            "io.kubernetes.pod.name": settings.pod_name,
            "io.kubernetes.pod.uid": settings.pod_uid,
            "io.kubernetes.container.name": settings.container_name,
        },
        "linux": _linux(settings, host, capabilities),
    }


def environment_list(env: Mapping[str, str]) -> list[str]:
    """``NAME=value`` strings as they go into the spec: what is not UTF-8 as other runtimes write it, too (``envvars.passing``).

    Raises:
        ContainerRunError: a value with a NUL byte: no process can have it.
    """
    entries = []
    for name, value in env.items():
        if why := refusal(name, value):
            raise ContainerRunError(why)
        entries.append(as_passed(f"{name}={value}"))
    return entries


def _process(settings: ContainerSettings, host: HostFacts, capabilities: tuple[str, ...]) -> dict[str, Any]:
    if not settings.args:
        raise ContainerRunError("failed to generate container spec: no command specified")
    if why := argument_refusal(settings.args):
        raise ContainerRunError(why)
    user: dict[str, Any] = {"uid": settings.user.uid, "gid": settings.user.gid}
    if settings.user.additional_gids:
        user["additionalGids"] = list(settings.user.additional_gids)
    held = list(capabilities)
    return {
        "terminal": settings.tty,
        "user": user,
        "args": list(settings.args),
        "env": environment_list(settings.env),
        "cwd": settings.cwd or "/",
        # Inheritable and ambient stay empty (CVE-2022-24769): a non-root process holds nothing.
        "capabilities": {"bounding": held, "effective": held, "permitted": held},
        "noNewPrivileges": not settings.allow_privilege_escalation,
        "oomScoreAdj": _oom_score_adj(settings.oom_score_adj, host),
        "rlimits": [_core_limit(host)],
    }


def _core_limit(host: HostFacts) -> dict[str, Any]:
    """What the node's service was given, soft and hard: the agent has taken core dumps from itself and its children.

    Source: containerd's CRI sets no limits (WithoutDefaultSecuritySettings: "Remove default rlimits"), so containers have those
    of containerd.service: LimitCORE=infinity.
    """
    limit = _UNLIMITED if host.core_limit_bytes is None else host.core_limit_bytes
    return {"type": "RLIMIT_CORE", "soft": limit, "hard": limit}


def _oom_score_adj(wanted: int, host: HostFacts) -> int:
    """As low as is wanted, or as this machine allows: runc would fail on a lower one, and with it every Guaranteed pod.

    Source: containerd's restrict_oom_score_adj.
    """
    return wanted if "CAP_SYS_RESOURCE" in host.capabilities else max(wanted, host.oom_score_adj)


def _mounts(settings: ContainerSettings, host: HostFacts, termination_log: Path | None) -> list[dict[str, Any]]:
    """The runtime's own mounts, then the pod's by depth, so that no mount hides one that lies beneath it."""
    binds = list(settings.mounts)
    taken = {_clean(mount.container_path) for mount in binds}
    if termination_log is not None and settings.termination_message_path:
        _add_default(binds, taken, settings.termination_message_path, termination_log, read_only=False)
    for path, source in (
        ("/etc/hosts", settings.hosts_path),
        ("/etc/resolv.conf", settings.resolv_conf_path),
        ("/etc/hostname", settings.hostname_path),
    ):
        if source is not None:
            _add_default(binds, taken, path, source, read_only=settings.read_only_rootfs)
    if settings.shm_path is not None:
        _add_default(binds, taken, "/dev/shm", settings.shm_path, read_only=False)
    own = [entry for entry in _system_mounts(settings, host) if entry["destination"] not in taken]
    # Source: containerd orderedMounts: by number of path components, otherwise in the given order.
    binds.sort(key=lambda mount: _clean(mount.container_path).count("/"))
    return own + [_bind(mount) for mount in binds]


def _add_default(binds: list[Mount], taken: set[str], path: str, source: Path, *, read_only: bool) -> None:
    """A mount of the runtime's yields to one of the pod's at the same path."""
    if _clean(path) in taken:
        return
    taken.add(_clean(path))
    binds.append(Mount(container_path=path, host_path=source, read_only=read_only))


def _system_mounts(settings: ContainerSettings, host: HostFacts) -> list[dict[str, Any]]:
    def entry(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
        return {"destination": destination, "type": kind, "source": source, "options": list(options)}

    writable = "rw" if settings.privileged else "ro"
    mounts = [
        entry("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        entry("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        entry("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        entry("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        entry("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", writable),
    ]
    if host.cgroup_v2:
        # On v1 and hybrid hosts runc would show a tmpfs with a bind per controller; nothing a pod needs, so left out.
        mounts.append(entry("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", writable))
    if settings.shm_path is None:
        mounts.append(entry("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"))
    return mounts


def _bind(mount: Mount) -> dict[str, Any]:
    access = "ro" if mount.read_only else "rw"
    if mount.recursive_read_only:
        access = "rro"
    return {
        "destination": mount.container_path,
        "type": "bind",
        "source": str(mount.host_path),
        "options": ["rbind", _PROPAGATION[mount.propagation], access],
    }


def _linux(settings: ContainerSettings, host: HostFacts, capabilities: tuple[str, ...]) -> dict[str, Any]:
    linux: dict[str, Any] = {
        "namespaces": _namespaces(settings.namespaces, host),
        "cgroupsPath": settings.cgroup_path,
        "resources": _resources(settings.resources, host, privileged=settings.privileged),
        "maskedPaths": [] if settings.privileged or settings.unmasked_proc else list(MASKED_PATHS),
        "readonlyPaths": [] if settings.privileged or settings.unmasked_proc else list(READ_ONLY_PATHS),
        "rootfsPropagation": _rootfs_propagation(settings.mounts),
    }
    if settings.seccomp is SeccompMode.RUNTIME_DEFAULT and host.seccomp and not settings.privileged:
        linux["seccomp"] = runtime_default(capabilities)
    if settings.seccomp is SeccompMode.LOCALHOST and not settings.privileged:
        linux["seccomp"] = dict(settings.seccomp_profile)
    if settings.privileged:
        linux["devices"] = [
            {
                "path": node.path,
                "type": node.kind,
                "major": node.major,
                "minor": node.minor,
                "fileMode": node.mode,
                "uid": node.uid,
                "gid": node.gid,
            }
            for node in host.devices
        ]
    return linux


def _namespaces(paths: NamespacePaths, host: HostFacts) -> list[dict[str, str]]:
    namespaces = [{"type": "mount"}]
    for kind, path in (("network", paths.net), ("ipc", paths.ipc), ("uts", paths.uts)):
        if path is not None:
            namespaces.append({"type": kind, "path": str(path)})
    if paths.pid is not None:
        namespaces.append({"type": "pid", "path": str(paths.pid)})
    elif not paths.host_pid:
        namespaces.append({"type": "pid"})
    if host.cgroup_v2:
        namespaces.append({"type": "cgroup"})
    return namespaces


def _resources(resources: Resources, host: HostFacts, *, privileged: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"devices": [{"allow": privileged, "access": "rwm"}]}
    cpu: dict[str, Any] = {}
    if "cpu" in host.controllers:
        if resources.cpu_shares is not None:
            cpu["shares"] = resources.cpu_shares
        if resources.cpu_quota_us is not None:
            cpu["quota"] = resources.cpu_quota_us
            cpu["period"] = resources.cpu_period_us or 100_000
    if resources.cpuset_cpus and "cpuset" in host.controllers:
        cpu["cpus"] = resources.cpuset_cpus
    if cpu:
        result["cpu"] = cpu
    memory: dict[str, Any] = {}
    if resources.memory_limit_bytes is not None and "memory" in host.controllers:
        memory["limit"] = resources.memory_limit_bytes
        if host.limits_swap:
            memory["swap"] = resources.memory_limit_bytes  # memory plus swap: so no swap
    # A container's own memory holds the secrets it was given; keep all of it out of swap where the kernel lets us.
    unified: dict[str, str] = {}
    if host.cgroup_v2 and "memory" in host.controllers:
        unified["memory.oom.group"] = (
            "1"  # all of it or nothing. Source: kuberuntime_container_linux.go, singleProcessOOMKill
        )
    if host.cgroup_v2 and host.limits_swap and not memory:
        unified["memory.swap.max"] = "0"
    if unified:
        result["unified"] = unified
    if not host.cgroup_v2 and "memory" in host.controllers:
        memory["swappiness"] = 0
    if memory:
        result["memory"] = memory
    if resources.pids_limit is not None and "pids" in host.controllers:
        result["pids"] = {"limit": resources.pids_limit}
    return result


def _rootfs_propagation(mounts: tuple[Mount, ...]) -> str:
    """The weakest propagation of the root that still lets every mount keep its own."""
    wanted = {mount.propagation for mount in mounts}
    if "Bidirectional" in wanted:
        return "rshared"
    return "rslave" if "HostToContainer" in wanted else "rprivate"


def _clean(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))

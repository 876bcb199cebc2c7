"""What this machine is: read once at start, handed to ``node/status.py`` as plain data.

Blocking reads of /proc and /sys, some of a few hundred bytes each; called by the composition root before trio starts, or in a
thread. Source: pkg/kubelet/nodestatus/setters.go; cadvisor's machine info.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path

from kubelet_secrets import __version__

KUBERNETES_VERSION = "v1.36.0"  # the kubelet whose behaviour this is (docs: semantics)
MAX_PODS = 110
_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One machine, as far as the Node object tells of it."""

    name: str  # the Node's name
    hostname: str
    ips: tuple[str, ...]  # primary first, at most one per family
    cpus: int
    memory_bytes: int
    storage_bytes: int  # of the filesystem that holds the root directory
    max_pods: int = MAX_PODS
    kubelet_port: int = 10250
    machine_id: str = ""
    system_uuid: str = ""
    boot_id: str = ""
    kernel_version: str = ""
    os_image: str = ""
    runtime_version: str = ""  # "runc://1.1.5"
    kubelet_version: str = f"{KUBERNETES_VERSION}+kubelet-secrets.{__version__}"
    architecture: str = "amd64"  # as Go spells it


def read_facts(
    name: str, *, root_dir: Path, runtime_version: str = "", ips: tuple[str, ...] = (), kubelet_port: int = 10250
) -> NodeFacts:
    """Look at this machine.

    Args:
        name: the Node's name.
        root_dir: whose filesystem counts as ephemeral storage; need not exist yet.
        ips: addresses to announce; empty: those that the default routes leave from.
    """
    return NodeFacts(
        name=name,
        hostname=name,  # --node-name is the kubelet's --hostname-override: what the Node says of its host is that name
        ips=ips or default_ips(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=_memory_bytes(),
        storage_bytes=_storage_bytes(root_dir),
        kubelet_port=kubelet_port,
        machine_id=_read("/etc/machine-id"),
        system_uuid=_read("/sys/class/dmi/id/product_uuid"),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        kernel_version=platform.release(),
        os_image=_os_image(),
        runtime_version=runtime_version,
        architecture=_GO_ARCHITECTURES.get(platform.machine(), platform.machine()),
    )


def default_ips() -> tuple[str, ...]:
    """The addresses that this machine would talk to the world from, IPv4 first; loopback when it has no route."""
    found = []
    # Connecting a datagram socket sends nothing: it only asks the routing table. Documentation prefixes, RFC 5737 and 3849.
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                address = ipaddress.ip_address(probe.getsockname()[0])
        except (OSError, ValueError):
            continue
        if not address.is_loopback and not address.is_link_local:
            found.append(str(address))
    return tuple(found) or ("127.0.0.1",)


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _memory_bytes() -> int:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _storage_bytes(root_dir: Path) -> int:
    existing = next((each for each in (root_dir, *root_dir.parents) if each.exists()), Path("/"))
    filesystem = os.statvfs(existing)
    return filesystem.f_blocks * filesystem.f_frsize


def _os_image() -> str:
    for line in _read("/etc/os-release").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip('"')
    return "Linux"

"""What this machine is: read once at start, handed to ``node/status.py`` as plain data.

Blocking reads of /proc and /sys, some of a few hundred bytes each; called by the composition root before trio starts, or in a
thread. Source: pkg/kubelet/nodestatus/setters.go; cadvisor's machine info.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kubelet_secrets import __version__
from kubelet_secrets.errors import UsageError

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
    hugepages: Mapping[int, int] = field(default_factory=dict)  # size of a page in bytes → how many there are
    swap_bytes: int = 0
    has_recursive_read_only: bool = True  # the kernel can make a mount and all below it read-only (5.12)
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
    name: str,
    *,
    root_dir: Path,
    runtime_version: str = "",
    ips: tuple[str, ...] = (),
    kubelet_port: int = 10250,
    max_pods: int = MAX_PODS,
) -> NodeFacts:
    """Look at this machine.

    Args:
        name: the Node's name.
        root_dir: whose filesystem counts as ephemeral storage; need not exist yet.
        ips: addresses to announce; empty: the one that the default route leaves from.

    Raises:
        UsageError: no interface has one of *ips*.
    """
    for address in ips:
        if not _is_of_this_machine(address):
            raise UsageError(f'node IP: "{address}" not found in the host\'s network interfaces')
    return NodeFacts(
        name=name,
        hostname=name,  # --node-name is the kubelet's --hostname-override: what the Node says of its host is that name
        ips=ips or default_ips()[:1],
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=_memory_bytes(),
        storage_bytes=_storage_bytes(root_dir),
        hugepages=_hugepages(Path("/sys/kernel/mm/hugepages")),
        swap_bytes=_swap_bytes(),
        has_recursive_read_only=_kernel_version() >= (5, 12),
        max_pods=max_pods,
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


def _is_of_this_machine(address: str) -> bool:
    """Whether an interface has it: only such an address can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _hugepages(directory: Path) -> dict[int, int]:
    found = {}
    for each in sorted(directory.glob("hugepages-*kB")):
        size_kb = each.name.removeprefix("hugepages-").removesuffix("kB")
        found[int(size_kb) * 1024] = int(_read(str(each / "nr_hugepages")) or 0)
    return found


def _swap_bytes() -> int:
    lines = _read("/proc/swaps").splitlines()[1:]
    return sum(int(line.split()[2]) * 1024 for line in lines)


def _kernel_version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])


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

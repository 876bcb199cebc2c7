"""What the containers of a pod share: namespaces, /dev/shm, /etc/hosts and its kin, an address, a cgroup.

There is no pause container: a namespace is kept alive by a bind mount, so it costs no process and nobody can kill it. Only a
shared pid namespace needs a first process (``pause.py``). Networking is what a CNI configuration says (``cni.py``). Without
one it is the loopback interface with an address of the pod's own: its containers reach each other at 127.0.0.1 and at the
pod's IP; the pod has no way out unless it runs on the host's network.

::

    <run>/netns/<pod uid>/
        sandbox.json       written last: a directory without it is a creation cut short
        net ipc uts pid    bind mounts of namespaces (pid only when shared)
        shm/               tmpfs, the pod's /dev/shm
        cni.json           what attached the pod to its network, to undo it
        hosts resolv.conf hostname
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import re
import shutil
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec
import trio

from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.linux import MNT_DETACH, MS_NODEV, MS_NOEXEC, MS_NOSUID, mount_tmpfs, unmount
from kubelet_secrets.runtime.cgroups import CgroupTree
from kubelet_secrets.runtime.cni import CniNetwork, NetworkFailed, PortMapping
from kubelet_secrets.runtime.netns import make_namespaces
from kubelet_secrets.runtime.pause import kill_pause, start_pause
from kubelet_secrets.runtime.podfiles import hosts_file
from kubelet_secrets.runtime.settings import NamespacePaths, Resources

logger = logging.getLogger(__name__)

_SHM_BYTES = 64 * 1024 * 1024  # containerd's defaultShmSize
_HOSTS = Path("/etc/hosts")


class SandboxFailed(ContainerRunError):
    """The sandbox cannot be made: event FailedCreatePodSandBox, retry. Nothing of it stays behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    pod_uid: str
    namespace: str = "default"
    name: str = ""
    hostname: str  # not used on the host's network: there it is the host's
    domain: str = ""  # fully qualified, for a pod with a subdomain
    host_network: bool = False
    host_ipc: bool = False
    host_pid: bool = False
    share_process_namespace: bool = False
    host_aliases: tuple[tuple[str, tuple[str, ...]], ...] = ()
    resolv_conf: str = ""  # the text; ``podfiles.resolv_conf``
    sysctls: Mapping[str, str] = field(default_factory=dict)
    port_mappings: tuple[PortMapping, ...] = ()  # hostPorts, for a CNI plugin that can
    resources: Resources | None = None  # of all containers together; None: no limits
    host_ips: tuple[str, ...] = ()  # podIPs of a pod on the host's network


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    pod_uid: str
    hostname: str
    ips: tuple[str, ...]
    kinds: tuple[str, ...]  # the namespaces of its own
    host_pid: bool
    cgroup_path: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A sandbox as its containers use it; every path stays valid until :meth:`SandboxManager.remove`."""

    pod_uid: str
    hostname: str
    ips: tuple[str, ...]  # podIPs
    namespaces: NamespacePaths
    hosts_path: Path
    resolv_conf_path: Path
    hostname_path: Path
    shm_path: Path | None  # None with the host's ipc namespace: /dev/shm of the host
    cgroup_path: str  # parent of the containers' cgroups
    created_at: datetime


class SandboxManager:
    """The sandboxes of one node. State is on the run tmpfs, so a restarted agent finds them all.

    Args:
        run_dir: the node's attached noswap tmpfs, 0700.
        pod_cidr: where pod addresses come from. They are seen inside the pod only, so nodes may share it.
        network: gives pods their addresses instead.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        cgroups: CgroupTree,
        pod_cidr: str = "10.88.0.0/16",
        network: CniNetwork | None = None,
    ) -> None:
        self._directory = run_dir / "netns"
        self._scratch = run_dir / "scratch"  # containers may write to their pod's /etc/hosts
        for directory in (self._directory, self._scratch):
            directory.mkdir(mode=0o700, exist_ok=True)
        self._cgroups = cgroups
        self._addresses = ipaddress.IPv4Network(pod_cidr)
        self._network = network
        self._ips: dict[str, Sequence[str]] | None = None  # by pod; None until they are asked for
        self._picking = trio.Lock()  # two pods must not pick one address
        self._locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()  # by pod

    async def create(self, settings: SandboxSettings) -> Sandbox:
        """Make the sandbox, or return the pod's existing one.

        Raises:
            SandboxFailed: a namespace, mount or file cannot be made, or a sysctl would reach beyond the pod.

        Cancellation: nothing stays behind.
        """
        check_sysctls(settings.sysctls, own_net=not settings.host_network, own_ipc=not settings.host_ipc)
        async with self._lock(settings.pod_uid):
            existing = self.get(settings.pod_uid)
            if existing is not None:
                return existing
            if self._path(settings.pod_uid).exists() or self._files(settings.pod_uid).exists():
                await self._remove(settings.pod_uid)  # the rest of an attempt cut short
            try:
                async with self._picking:
                    # Not abandoned on cancel: mounts made behind our back would stay.
                    await trio.to_thread.run_sync(self._make, settings)
                if self._network is not None and not settings.host_network:
                    await self._attach(self._network, settings)
                if settings.share_process_namespace and not settings.host_pid:
                    await self._make_pid_namespace(settings.pod_uid)
                await trio.to_thread.run_sync(self._finish, settings)
            except OSError as error:
                await self._remove(settings.pod_uid)
                what = f": {error.filename}" if error.filename else ""
                raise SandboxFailed(f"failed to create pod sandbox: {error.strerror}{what}") from None
            except NetworkFailed as error:
                await self._remove(settings.pod_uid)
                what = f'failed to setup network for sandbox "{settings.pod_uid}"'
                raise SandboxFailed(f"failed to create pod sandbox: {what}: {error}") from None
            except BaseException:
                await self._remove(settings.pod_uid)
                raise
        sandbox = self.get(settings.pod_uid)
        assert sandbox is not None
        return sandbox

    async def remove(self, pod_uid: str) -> None:
        """Undo everything: after the pod's containers are deleted. Idempotent, shielded, short."""
        async with self._lock(pod_uid):
            await self._remove(pod_uid)

    def get(self, pod_uid: str) -> Sandbox | None:
        directory = self._path(pod_uid)
        try:
            record = msgspec.json.decode(directory.joinpath("sandbox.json").read_bytes(), type=_Record)
        except (OSError, msgspec.DecodeError):
            return None
        paths = {kind: directory / kind for kind in record.kinds}
        return Sandbox(
            pod_uid=record.pod_uid,
            hostname=record.hostname,
            ips=record.ips,
            namespaces=NamespacePaths(
                net=paths.get("net"),
                ipc=paths.get("ipc"),
                uts=paths.get("uts"),
                pid=paths.get("pid"),
                host_pid=record.host_pid,
            ),
            hosts_path=self._files(pod_uid) / "hosts",
            resolv_conf_path=self._files(pod_uid) / "resolv.conf",
            hostname_path=self._files(pod_uid) / "hostname",
            shm_path=directory / "shm" if "ipc" in record.kinds else None,
            cgroup_path=record.cgroup_path,
            created_at=record.created_at,
        )

    def list(self) -> tuple[Sandbox, ...]:
        """Every complete sandbox."""
        found = (self.get(path.name) for path in sorted(self._directory.iterdir()))
        return tuple(sandbox for sandbox in found if sandbox is not None)

    async def sweep(self) -> None:
        """After a restart: remove what an earlier agent did not finish making."""
        for path in tuple(self._directory.iterdir()):
            async with self._lock(path.name):
                if self.get(path.name) is None:
                    await self._remove(path.name)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _lock(self, pod_uid: str) -> trio.Lock:
        return self._locks.setdefault(pod_uid, trio.Lock())

    def _path(self, pod_uid: str) -> Path:
        assert "/" not in pod_uid, pod_uid
        return self._directory / pod_uid

    def _files(self, pod_uid: str) -> Path:
        return self._scratch / f"pod{pod_uid}"

    def _make(self, settings: SandboxSettings) -> None:
        """(1) directory and cgroup, (2) namespaces, (3) /dev/shm. The rest is :meth:`_finish`'s."""
        directory = self._path(settings.pod_uid)
        directory.mkdir(mode=0o700)
        self._cgroups.make_pod(settings.pod_uid, settings.resources)
        targets = {kind: directory / kind for kind in _own_kinds(settings)}
        for target in targets.values():
            target.touch(mode=0o600)
        ip = None
        if "net" in targets and self._network is None:
            taken = self._taken()
            used = {each for ips in tuple(taken.values()) for each in ips}
            ip = str(pick_address(self._addresses, settings.pod_uid, used))
            taken[settings.pod_uid] = [ip]
        make_namespaces(targets, hostname=settings.hostname, ip=ip, sysctls=settings.sysctls)
        if ip is not None:
            directory.joinpath("ips").write_text(ip)
        if "ipc" in targets:
            shm = directory / "shm"
            shm.mkdir()
            mount_tmpfs("shm", shm, MS_NOSUID | MS_NODEV | MS_NOEXEC, f"mode=1777,size={_SHM_BYTES}")

    async def _attach(self, network: CniNetwork, settings: SandboxSettings) -> None:
        directory = self._path(settings.pod_uid)
        ips = await network.add(
            directory / "cni.json",
            pod_uid=settings.pod_uid,
            namespace=settings.namespace,
            name=settings.name,
            netns=directory / "net",
            ports=settings.port_mappings,
        )
        directory.joinpath("ips").write_text("\n".join(ips))

    async def _make_pid_namespace(self, pod_uid: str) -> None:
        target = self._path(pod_uid) / "pid"
        target.touch(mode=0o600)
        await start_pause(target, cgroups=self._cgroups, cgroup_path=f"{self._cgroups.pod_path(pod_uid)}/pause")

    def _finish(self, settings: SandboxSettings) -> None:
        directory = self._path(settings.pod_uid)
        kinds = tuple(kind for kind in ("net", "ipc", "uts", "pid") if directory.joinpath(kind).exists())
        ips = tuple(directory.joinpath("ips").read_text().split()) if "net" in kinds else settings.host_ips
        hostname = socket.gethostname() if settings.host_network else settings.hostname
        host_text = _HOSTS.read_text() if settings.host_network and _HOSTS.exists() else None
        texts = {
            "hosts": hosts_file(
                ips, settings.hostname, settings.domain, settings.host_aliases, host_network_text=host_text
            ),
            "resolv.conf": settings.resolv_conf,
            "hostname": f"{hostname}\n",
        }
        files = self._files(settings.pod_uid)
        files.mkdir(mode=0o700)
        for name, text in texts.items():
            files.joinpath(name).write_text(text)
            files.joinpath(name).chmod(0o644)
        record = _Record(
            pod_uid=settings.pod_uid,
            hostname=hostname,
            ips=ips,
            kinds=kinds,
            host_pid=settings.host_pid,
            cgroup_path=self._cgroups.pod_path(settings.pod_uid),
            created_at=datetime.now(UTC),
        )
        temporary = directory / "sandbox.json.new"
        temporary.write_bytes(msgspec.json.encode(record))
        temporary.rename(directory / "sandbox.json")

    async def _remove(self, pod_uid: str) -> None:
        with trio.CancelScope(shield=True):
            await kill_pause(self._cgroups, f"{self._cgroups.pod_path(pod_uid)}/pause")
            if self._network is not None:
                await self._network.remove(self._path(pod_uid) / "cni.json")
            await trio.to_thread.run_sync(self._undo, pod_uid)

    def _undo(self, pod_uid: str) -> None:
        directory = self._path(pod_uid)
        directory.joinpath("sandbox.json").unlink(missing_ok=True)
        for name in ("net", "ipc", "uts", "pid", "shm"):
            try:
                unmount(directory / name, MNT_DETACH)
            except OSError:
                pass  # not mounted, or not there
        shutil.rmtree(self._files(pod_uid), ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)
        if self._ips is not None:
            self._ips.pop(pod_uid, None)
        self._cgroups.remove(self._cgroups.pod_path(pod_uid))
        self._cgroups.remove_idle()

    def _taken(self) -> dict[str, Sequence[str]]:
        """Addresses by pod, of all sandboxes there are: read once, for each new one asks."""
        if self._ips is None:
            self._ips = {path.parent.name: path.read_text().split() for path in self._directory.glob("*/ips")}
        return self._ips


def pick_address(network: ipaddress.IPv4Network, pod_uid: str, used: Collection[str]) -> ipaddress.IPv4Address:
    """An address for a pod: the same one each time, if it is free, so that a re-made sandbox keeps it.

    Never the network, gateway (.1) or broadcast address.

    Raises:
        SandboxFailed: every address is taken.
    """
    first, count = 2, network.num_addresses - 3
    start = int.from_bytes(hashlib.sha256(pod_uid.encode()).digest()[:8], "big") % count
    for step in range(count):
        address = network[first + (start + step) % count]
        if str(address) not in used:
            return address
    raise SandboxFailed(f"failed to create pod sandbox: no address left in {network}")


def check_sysctls(names: Collection[str], *, own_net: bool, own_ipc: bool) -> None:
    """Refuse what is not a namespaced sysctl of a namespace that the pod has for itself: it would change the host.

    Raises:
        SandboxFailed: naming the sysctl.

    Source: pkg/kubelet/sysctl: namespaces.go.
    """
    for name in names:
        parts = name.replace("/", ".").split(".")
        dotted = ".".join(parts)
        in_ipc = dotted.startswith(("kernel.shm", "kernel.msg", "fs.mqueue.")) or dotted == "kernel.sem"
        in_net = dotted.startswith("net.")
        if not all(re.fullmatch(r"[a-z0-9_-]+", part) for part in parts) or not (in_ipc or in_net):
            raise SandboxFailed(f'failed to create pod sandbox: sysctl "{name}" is not namespaced')
        if (in_ipc and not own_ipc) or (in_net and not own_net):
            raise SandboxFailed(f'failed to create pod sandbox: sysctl "{name}" not allowed with the host\'s namespace')


def _own_kinds(settings: SandboxSettings) -> tuple[str, ...]:
    """A pod on the host's network has the host's name too (containerd does the same)."""
    kinds = [] if settings.host_network else ["net", "uts"]
    if not settings.host_ipc:
        kinds.append("ipc")
    return tuple(kinds)

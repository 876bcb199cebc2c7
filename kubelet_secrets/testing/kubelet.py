"""A real kubelet on this machine, with containerd, for tests and benchmarks: it takes the agent's place, to be compared with.

The programs come from the directory that ``KUBELET_ASSETS`` names: ``kubelet``, ``containerd``, ``containerd-shim-runc-v2``
and ``ctr``; runc and the CNI plugins are the machine's own. The node joins as any would: with a bootstrap token, certificates
signed by the API server, RBAC and the Node authorizer over it. Versions from 1.20 on are known.

Processes, files and mounts below one directory; blocking. Delete the node's pods before :meth:`Kubelet.stop`, so that their
networks go as well. Source: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/,
https://github.com/containerd/containerd/blob/main/docs/cri/config.md.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubelet_secrets.client.version import Version
from kubelet_secrets.errors import HostError, UsageError
from kubelet_secrets.fusefs import mounts
from kubelet_secrets.testing.controlplane import free_ports, program_version, stop_process

VARIABLE = "KUBELET_ASSETS"
PAUSE_IMAGE = "registry.k8s.io/pause:3.10"
_NAMES = ("kubelet", "containerd", "containerd-shim-runc-v2", "ctr")
_START_TIMEOUT_S = 60.0
_TOOL_TIMEOUT_S = 120.0
_CNI_DIR = Path("/usr/lib/cni")
_NAMESPACE = "k8s.io"  # of containerd: what its CRI uses
_RUNTIME_IN_CONFIG = Version(1, 27)
_KNOWS_CGROUP_V1_IS_OLD = Version(1, 31)
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class KubeletAssets:
    """The programs, in one directory."""

    directory: Path

    def program(self, name: str) -> Path:
        return self.directory / name


def find_kubelet(environment: Mapping[str, str] = os.environ) -> KubeletAssets | None:
    """What ``KUBELET_ASSETS`` names; None when it is not set.

    Raises:
        UsageError: it is set, and a program is missing there.
    """
    named = environment.get(VARIABLE, "")
    if not named:
        return None
    for name in _NAMES:
        if not os.access(Path(named, name), os.X_OK):
            raise UsageError(f"{VARIABLE}: there is no program {name} in {named}")
    return KubeletAssets(Path(named).absolute())


# --- configuration (pure) ---------------------------------------------------------------------------------------------


def containerd_config(directory: Path) -> str:
    """TOML, written as JSON where the two agree."""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = {_quoted(directory / "containerd")}
state = {_quoted(directory / "state")}
[grpc]
  address = {_quoted(directory / "containerd.sock")}
[{cri}]
  sandbox_image = {json.dumps(PAUSE_IMAGE)}
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[{cri}.containerd]
  snapshotter = "native"
[{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
  Root = {_quoted(directory / "runc")}
[{cri}.cni]
  bin_dir = {_quoted(_CNI_DIR)}
  conf_dir = {_quoted(directory / "cni")}
"""


def _quoted(path: Path) -> str:
    return json.dumps(str(path))


def cni_config(directory: Path) -> dict[str, Any]:
    """A pair of interfaces for each pod, which go with its network namespace: nothing is left of it."""
    addresses = {"type": "host-local", "subnet": "10.93.0.0/20", "dataDir": str(directory / "addresses")}
    plugin = {"type": "ptp", "ipMasq": False, "ipam": {**addresses, "routes": [{"dst": "0.0.0.0/0"}]}}
    return {"cniVersion": "0.4.0", "name": "kubelet", "plugins": [plugin]}


def kubelet_config(directory: Path, version: Version, *, port: int, healthz_port: int, max_pods: int) -> dict[str, Any]:
    """A KubeletConfiguration: upstream's defaults, but for what one machine that does other things as well cannot give."""
    config: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(directory / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        # Of a hybrid of cgroups v1 and v2 a kubelet cannot make its tree.
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "rotateCertificates": True,
        "serverTLSBootstrap": True,
        "port": port,
        "healthzPort": healthz_port,
        "maxPods": max_pods,
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "evictionHard": {"memory.available": "1Mi"},
        # What 1.27 and later have by default: before, a kubelet asked five times a second.
        "kubeAPIQPS": 50,
        "kubeAPIBurst": 100,
        "eventRecordQPS": 50,
        "eventBurst": 100,
    }
    if version >= _RUNTIME_IN_CONFIG:
        config["containerRuntimeEndpoint"] = _endpoint(directory)
    if version >= _KNOWS_CGROUP_V1_IS_OLD:
        config["failCgroupV1"] = False
    return config


def kubelet_arguments(directory: Path, version: Version, node_name: str, bootstrap_kubeconfig: Path) -> list[str]:
    arguments = [
        f"--config={directory / 'kubelet.json'}",
        f"--bootstrap-kubeconfig={bootstrap_kubeconfig}",
        f"--kubeconfig={directory / 'kubelet.kubeconfig'}",
        f"--cert-dir={directory / 'pki'}",
        f"--root-dir={directory / 'kubelet'}",
        f"--hostname-override={node_name}",
    ]
    if version < _RUNTIME_IN_CONFIG:
        arguments += ["--container-runtime=remote", f"--container-runtime-endpoint={_endpoint(directory)}"]
    return arguments


def _endpoint(directory: Path) -> str:
    return f"unix://{directory / 'containerd.sock'}"


# --- doing ----------------------------------------------------------------------------------------------------------


class Kubelet:
    """One node.

    Args:
        directory: exists, and is nobody else's; short, as unix sockets' paths are.
        bootstrap_kubeconfig: has a bootstrap token.
        authority: the cluster's certificate authority, PEM.
    """

    def __init__(
        self,
        assets: KubeletAssets,
        directory: Path,
        *,
        node_name: str,
        bootstrap_kubeconfig: Path,
        authority: bytes,
        max_pods: int = 110,
    ) -> None:
        self._assets = assets
        self._directory = directory
        self._node_name = node_name
        self._bootstrap_kubeconfig = bootstrap_kubeconfig
        self._authority = authority
        self._max_pods = max_pods
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def pid(self) -> int:
        return self._processes["kubelet"].pid

    @property
    def containerd_pid(self) -> int:
        return self._processes["containerd"].pid

    @property
    def pods_dir(self) -> Path:
        """Pods' volumes are below, as ``<uid>/volumes/<plugin>/<name>``."""
        return self._directory / "kubelet" / "pods"

    @property
    def runc_root(self) -> Path:
        """What ``runc --root`` takes to see the containers."""
        return self._directory / "runc" / _NAMESPACE

    @property
    def log(self) -> Path:
        return self._directory / "kubelet.log"

    def start(self, images: Mapping[str, str]) -> None:
        """Start containerd, give it the images, start the kubelet. The node is Ready some seconds later.

        Args:
            images: name with tag → where skopeo finds it, ``oci:…``; :data:`PAUSE_IMAGE` among them.

        Raises:
            HostError: a program ended or did not answer in time.
        """
        directory = self._directory
        directory.joinpath("containerd.toml").write_text(containerd_config(directory))
        directory.joinpath("cni").mkdir()
        directory.joinpath("cni/10-kubelet.conflist").write_text(json.dumps(cni_config(directory)))
        directory.joinpath("ca.crt").write_bytes(self._authority)
        self._start("containerd", [f"--config={directory / 'containerd.toml'}"])
        self._wait_containerd()
        for number, (name, layout) in enumerate(images.items()):
            archive = directory / f"image-{number}.tar"
            self._run("skopeo", "copy", "--quiet", layout, f"docker-archive:{archive}:{name}")
            self._ctr("images", "import", "--snapshotter=native", str(archive))
            archive.unlink()
        version = program_version(self._assets.program("kubelet"))
        port, healthz_port = free_ports(2)
        config = kubelet_config(directory, version, port=port, healthz_port=healthz_port, max_pods=self._max_pods)
        directory.joinpath("kubelet.json").write_text(json.dumps(config))
        self._start("kubelet", kubelet_arguments(directory, version, self._node_name, self._bootstrap_kubeconfig))

    def stop(self) -> None:
        """End everything that runs, the containers as well, and take the mounts away. Can be called at any time."""
        self._stop("kubelet")
        if self.runc_root.exists():
            listed = self._run("runc", "--root", str(self.runc_root), "list", "--quiet")
            for container in listed.split():
                with suppress(HostError):  # it has gone by itself
                    self._run("runc", "--root", str(self.runc_root), "delete", "--force", container)
        for shim in self._shims():
            with suppress(ProcessLookupError):
                os.kill(shim, signal.SIGKILL)
        self._stop("containerd")
        mounts.umount_all_below(self._directory)
        for empty in (_CGROUPS / _NAMESPACE, *_CGROUPS.glob(f"*/{_NAMESPACE}")):
            with suppress(OSError):
                empty.rmdir()

    def _shims(self) -> list[int]:
        """Of each pod one: they outlive containerd."""
        address = f"{self._directory / 'containerd.sock'}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = process.read_bytes().split(b"\0")
                if words[0].endswith(b"containerd-shim-runc-v2") and address in words:
                    found.append(int(process.parent.name))
        return found

    def _wait_containerd(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                self._ctr("version")
                return
            except HostError:
                if self._processes["containerd"].poll() is not None or time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def _ctr(self, *arguments: str) -> str:
        address = f"--address={self._directory / 'containerd.sock'}"
        return self._run(str(self._assets.program("ctr")), address, f"--namespace={_NAMESPACE}", *arguments)

    def _run(self, *command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, check=True, timeout=_TOOL_TIMEOUT_S, text=True)
        except subprocess.CalledProcessError as error:
            raise HostError(f"{command[0]} failed: {error.stderr.strip()[-1000:]}") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HostError(str(error)) from error
        return done.stdout

    def _start(self, name: str, arguments: list[str]) -> None:
        path = f"{self._assets.directory}:{os.environ.get('PATH', os.defpath)}"
        with (self._directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [self._assets.program(name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": path},
                start_new_session=True,
            )

    def _stop(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            stop_process(process)

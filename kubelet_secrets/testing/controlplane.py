"""A real control plane on this machine, for tests and benchmarks: etcd, kube-apiserver, and whatever else is there.

The programs come from the directory that ``KUBEBUILDER_ASSETS`` names, as with envtest; kube-controller-manager and
kube-scheduler are used when they lie beside the two that are needed. It is configured as kubeadm would, so that a node meets
what it meets in a cluster: Node and RBAC authorizers, NodeRestriction, bootstrap tokens, client certificates towards kubelets,
bound service account tokens. What a missing controller manager leaves undone, and a test cannot do without, ``standins.py``
does.

Processes and files only; blocking, for fixtures that are not asynchronous (else: in a worker thread). Keys lie in the given
directory, 0600: they are good for this control plane and end with it.

Source: sigs.k8s.io/controller-runtime/pkg/internal/testing/controlplane (flags and conventions of envtest);
cmd/kubeadm/app/phases/{controlplane,certs}; https://kubernetes.io/docs/reference/command-line-tools-reference/ (1.36).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kubelet_secrets.apiserver import pki
from kubelet_secrets.apiserver.pki import CertificateAuthority, KeyPair
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.client.version import NEWEST, Version, parse_version
from kubelet_secrets.errors import ApiError, ApiUnavailable, HostError, UsageError
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.testing.clusterobjects import has_furnished, make_bootstrap_token, prepare_cluster

VARIABLE = "KUBEBUILDER_ASSETS"
SERVICE_RANGE = "10.96.0.0/16"
ISSUER = "https://kubernetes.default.svc.cluster.local"
START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 30.0
# Where the command lines differ by version; kube-apiserver's and etcd's do not.
_INSECURE_PORT_REMOVED = Version(1, 24)
_CONTROLLERS_RENAMED = Version(1, 28)
# An API server ends when its watches have: those who watch go first, however often it was started again.
_STOP_ORDER = ("standins", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd")
_NAMES = ("localhost", "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.96.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assets:
    """The programs."""

    etcd: Path
    apiserver: Path
    controller_manager: Path | None = None
    scheduler: Path | None = None


def find_assets(environment: Mapping[str, str] = os.environ) -> Assets | None:
    """What ``KUBEBUILDER_ASSETS`` names; None when it is not set.

    Raises:
        UsageError: it is set, and etcd or kube-apiserver is not in that directory.
    """
    named = environment.get(VARIABLE, "")
    if not named:
        return None
    found = {
        name: Path(named, name) for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
    }
    present = {name: path for name, path in found.items() if os.access(path, os.X_OK)}
    for name in ("etcd", "kube-apiserver"):
        if name not in present:
            raise UsageError(f"{VARIABLE}: there is no program {name} in {named}")
    return Assets(
        etcd=present["etcd"],
        apiserver=present["kube-apiserver"],
        controller_manager=present.get("kube-controller-manager"),
        scheduler=present.get("kube-scheduler"),
    )


def program_version(program: Path) -> Version:
    """Ask a program of Kubernetes.

    Raises:
        HostError: it cannot be started, does not end in time, or says no version.
    """
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, check=True, timeout=START_TIMEOUT_S, text=True
        )
        return parse_version(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise HostError(f"{program} --version: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """All on loopback, but for the API server's, which is on *address*."""

    client: int  # etcd's
    peer: int
    api: int
    controller_manager: int
    scheduler: int
    address: str = "127.0.0.1"


# --- command lines (pure) -------------------------------------------------------------------------------------------


def etcd_arguments(directory: Path, ports: Ports) -> list[str]:
    url = f"http://127.0.0.1:{ports.client}"
    return [
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls=http://127.0.0.1:{ports.peer}",
        "--unsafe-no-fsync=true",  # what is kept here is not meant to outlive a power cut
    ]


def apiserver_arguments(directory: Path, ports: Ports, extra: Sequence[str] = ()) -> list[str]:
    return [
        f"--etcd-servers=http://127.0.0.1:{ports.client}",
        f"--bind-address={ports.address}",
        f"--advertise-address={ports.address}",
        "--endpoint-reconciler-type=none",  # the endpoints of Service kubernetes may not be on loopback
        f"--secure-port={ports.api}",
        f"--cert-dir={directory / 'certs'}",
        f"--tls-cert-file={directory / 'apiserver.crt'}",
        f"--tls-private-key-file={directory / 'apiserver.key'}",
        f"--client-ca-file={directory / 'ca.crt'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--enable-bootstrap-token-auth=true",
        f"--kubelet-client-certificate={directory / 'kubelet-client.crt'}",
        f"--kubelet-client-key={directory / 'kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
        f"--service-account-issuer={ISSUER}",
        # Not the same file: of keys in PKCS #8 the API server takes the public half only from a public key.
        f"--service-account-key-file={directory / 'accounts.pub'}",
        f"--service-account-signing-key-file={directory / 'accounts.key'}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--allow-privileged=true",
        "--profiling=false",
        *extra,
    ]


def controller_manager_arguments(directory: Path, ports: Ports, version: Version = NEWEST) -> list[str]:
    further = ("bootstrap-signer-controller", "token-cleaner-controller")
    if version < _CONTROLLERS_RENAMED:
        further = ("bootstrapsigner", "tokencleaner")
    return [
        f"--kubeconfig={directory / 'controller-manager.kubeconfig'}",
        f"--controllers={','.join(('*', *further))}",
        f"--cluster-signing-cert-file={directory / 'ca.crt'}",
        f"--cluster-signing-key-file={directory / 'ca.key'}",
        f"--root-ca-file={directory / 'ca.crt'}",
        f"--service-account-private-key-file={directory / 'accounts.key'}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports.controller_manager}",
        *_no_insecure_port(version),
    ]


def scheduler_arguments(directory: Path, ports: Ports, version: Version = NEWEST) -> list[str]:
    return [
        f"--kubeconfig={directory / 'scheduler.kubeconfig'}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports.scheduler}",
        *_no_insecure_port(version),
    ]


def _no_insecure_port(version: Version) -> list[str]:
    """Old ones also listen without TLS, all on the same port and for everybody; newer ones refuse the flag."""
    return ["--port=0"] if version < _INSECURE_PORT_REMOVED else []


# --- doing ----------------------------------------------------------------------------------------------------------


def write_credentials(directory: Path, ports: Ports) -> None:
    """Everything that the command lines name, signed by one new authority."""
    authority = CertificateAuthority.create("kubernetes")
    url = f"https://{ports.address}:{ports.api}"

    def write_pair(name: str, pair: KeyPair) -> None:
        pki.write_private(directory / f"{name}.crt", SensitiveBytes(pair.certificate_pem))
        pki.write_private(directory / f"{name}.key", pair.key_pem)

    write_pair("ca", authority.pair)
    write_pair("apiserver", authority.issue_server([*_NAMES, ports.address]))
    write_pair("kubelet-client", authority.issue_client("kube-apiserver-kubelet-client", ["system:masters"]))
    accounts = CertificateAuthority.create("accounts").pair
    pki.write_private(directory / "accounts.key", accounts.key_pem)
    public_key = x509.load_pem_x509_certificate(accounts.certificate_pem).public_key()
    spki = public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    pki.write_private(directory / "accounts.pub", SensitiveBytes(spki))
    for name, user, groups in (
        ("admin", "kubernetes-admin", ["system:masters"]),
        ("controller-manager", "system:kube-controller-manager", []),
        ("scheduler", "system:kube-scheduler", []),
    ):
        client = authority.issue_client(user, groups)
        content = pki.kubeconfig(url, authority.certificate_pem, client, user=user, cluster="kubernetes")
        pki.write_private(directory / f"{name}.kubeconfig", content)


class ControlPlane:
    """Made by :func:`run_control_plane`; :meth:`stop_apiserver` and :meth:`start_apiserver` are for outages.

    Attributes:
        kubeconfig: the administrator's.
        client_ca_file: who signs client certificates, the API server's own for kubelets among them.
        has_scheduler: pods without a node get one.
        has_controllers: namespaces get their ServiceAccount and root certificate, requests of nodes are approved and signed:
            by the controller manager, or by what stands in for it. Nothing else of its work is done by the latter.
        port: the API server's; it keeps it when it is started again.
    """

    def __init__(
        self,
        assets: Assets,
        directory: Path,
        *,
        extra: Sequence[str] = (),
        only_apiserver: bool = False,
        address: str = "127.0.0.1",
    ) -> None:
        self._assets = assets
        self._directory = directory
        self._extra = extra
        self._only_apiserver = only_apiserver
        client, peer, api, controller_manager, scheduler = free_ports(5)
        self._ports = Ports(
            client=client,
            peer=peer,
            api=api,
            controller_manager=controller_manager,
            scheduler=scheduler,
            address=address,
        )
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kubeconfig = directory / "admin.kubeconfig"
        self.client_ca_file = directory / "ca.crt"
        self.has_scheduler = assets.scheduler is not None and not only_apiserver
        self.has_controllers = not only_apiserver
        self.port = api

    @property
    def pids(self) -> tuple[int, ...]:
        """Of etcd and the API server."""
        return tuple(self._processes[name].pid for name in ("etcd", "kube-apiserver"))

    @property
    def etcd_url(self) -> str:
        """Plain HTTP, on loopback."""
        return f"http://127.0.0.1:{self._ports.client}"

    def start(self) -> None:
        """Start everything; returns when the API server is ready, the controllers are at work and nodes may join.

        Raises:
            HostError: a program ended, or was not ready in time; the end of its log is in the message.
        """
        write_credentials(self._directory, self._ports)
        self._start("etcd", self._assets.etcd, etcd_arguments(self._directory, self._ports))
        self.start_apiserver()
        if self._only_apiserver:
            return
        trio.run(prepare_cluster, self.kubeconfig)
        if self._assets.controller_manager is not None:
            version = program_version(self._assets.controller_manager)
            arguments = controller_manager_arguments(self._directory, self._ports, version)
            self._start("kube-controller-manager", self._assets.controller_manager, arguments)
        if self._assets.scheduler is not None:
            arguments = scheduler_arguments(self._directory, self._ports, program_version(self._assets.scheduler))
            self._start("kube-scheduler", self._assets.scheduler, arguments)
        standins = ["-m", "kubelet_secrets.testing.standins", f"--kubeconfig={self.kubeconfig}"]
        if self._assets.controller_manager is None:
            standins.append(f"--authority={self._directory}")
        self._start("standins", Path(sys.executable), standins)
        trio.run(self._wait_until, "the controllers had given namespace default its account", has_furnished)

    def start_apiserver(self) -> None:
        """Start the API server, again after :meth:`stop_apiserver`; returns when it is ready."""
        arguments = apiserver_arguments(self._directory, self._ports, self._extra)
        self._start("kube-apiserver", self._assets.apiserver, arguments)
        trio.run(self._wait_until, "kube-apiserver was ready", _is_ready)

    def stop_apiserver(self, *, at_once: bool = False) -> None:
        """End the API server, *at_once* as in a crash."""
        self._stop("kube-apiserver", at_once=at_once)

    def make_bootstrap_kubeconfig(self, path: Path) -> None:
        """Credentials for one node to join with."""
        trio.run(make_bootstrap_token, self.kubeconfig, path)

    def stop(self) -> None:
        """End everything, in the order in which each needs the others."""
        for name in _STOP_ORDER:
            self._stop(name)

    async def _wait_until(self, what: str, holds: Callable[[ApiClient], Awaitable[bool]]) -> None:
        with trio.move_on_after(START_TIMEOUT_S):
            async with open_client(load_kubeconfig(self.kubeconfig)) as client:
                while True:
                    for name, process in self._processes.items():
                        if process.poll() is not None:
                            raise HostError(f"{name} ended with {process.returncode}: {self._log_end(name)}")
                    try:
                        if await holds(client):
                            return
                    except (ApiError, ApiUnavailable):
                        pass  # not listening, or not ready: which of the two does not matter here
                    await trio.sleep(0.1)
        ends = "; ".join(f"{name}: {self._log_end(name)}" for name in self._processes)
        raise HostError(f"it took more than {START_TIMEOUT_S:g} s until {what}: {ends}")

    def _start(self, name: str, program: Path, arguments: Sequence[str]) -> None:
        with (self._directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [program, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _stop(self, name: str, *, at_once: bool = False) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            stop_process(process, at_once=at_once)

    def _log_end(self, name: str) -> str:
        text = (self._directory / f"{name}.log").read_text(errors="replace")
        return " / ".join(text.strip().splitlines()[-3:])[-1000:] or "it has said nothing"


@contextmanager
def run_control_plane(
    assets: Assets,
    directory: Path,
    *,
    extra: Sequence[str] = (),
    only_apiserver: bool = False,
    address: str = "127.0.0.1",
) -> Iterator[ControlPlane]:
    """A control plane for the length of the block.

    Args:
        directory: exists, and is nobody else's.
        extra: further flags of kube-apiserver; they win over the ones above.
        only_apiserver: with etcd, and nothing that makes it a cluster: for benchmarks.
        address: where the API server listens; nodes of other machines need more than loopback.
    """
    plane = ControlPlane(assets, directory, extra=extra, only_apiserver=only_apiserver, address=address)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


async def _is_ready(client: ApiClient) -> bool:
    return await client.request_text("/readyz") == "ok"


def stop_process(process: subprocess.Popen[bytes], *, at_once: bool = False) -> None:
    """SIGTERM, and SIGKILL if that does not do it; *at_once*, SIGKILL. Returns when it has ended."""
    if at_once:
        process.kill()
    else:
        process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    """Held all at once while they are chosen, so that none is given twice."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports

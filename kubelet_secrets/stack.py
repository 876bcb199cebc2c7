"""An API server and a node on this machine, as child processes with one lifetime: what ``up``, ``demo``, the bench and the
pytest plugin run.

The children are the very commands a user can run alone (``kubelet-secrets apiserver``, ``kubelet-secrets agent``). This module
starts them in order, waits until each says ``READY=1`` (sd_notify), and takes everything down again: containers first, then
mounts, then the server, then the credentials' tmpfs. The node joins with a bootstrap token, as any other node would. No secret
values are held here but that token and the admin's credentials.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import trio

from kubelet_secrets.api import bootstraptoken
from kubelet_secrets.api.bootstraptoken import BootstrapToken
from kubelet_secrets.api.core import Node
from kubelet_secrets.api.meta import NODES, SECRETS
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.kubeconfigfile import make_bootstrap_kubeconfig
from kubelet_secrets.client.patience import insist
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.errors import AlreadyExists, AlreadyTold, ApiUnavailable, HostError, NotFound
from kubelet_secrets.fusefs import mounts
from kubelet_secrets.fusefs.nodemounts import NodeMounts
from kubelet_secrets.notify import NotifySocket, parse_notification
from kubelet_secrets.runtime.cgroups import CgroupTree, instance_name, parse_mountinfo
from kubelet_secrets.runtime.tools import find_tools

RUN_DIR = Path("/run/kubelet-secrets")
_MAKE_TRIES = 40
CREDENTIALS_SIZE_BYTES = 4 * 1024 * 1024
START_TIMEOUT_S = (
    300  # a process that hangs is what this is for: where the processor is emulated, imports take a minute
)
JOIN_TOKEN_TTL = timedelta(minutes=10)
_CONFIGURATION_ERRORS = (1, 2)  # HostError, UsageError: the child has printed its one line
STOP_TIMEOUT_S = 60  # the keeper bounds the agent's own clean-up; this is the last resort behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """What ``up`` takes, with paths made absolute."""

    node_name: str
    root_dir: Path
    image_dir: Path
    socket: Path
    kubeconfig: Path | None = None  # where to write the admin's; None: on the stack's own tmpfs
    port: int = 6443  # 0: any free port
    data_dir: Path | None = None  # None: the API server keeps its objects in memory
    encryption_config: Path | None = None  # an EncryptionConfiguration for the API server's store
    encryption_reloads: bool = False  # follow changes of that file
    runtime: str = "runc"
    change_detection: str = "Watch"  # or "Cache", "Get"
    projects_trust_bundles: bool = False  # see agent.AgentOptions
    emulates_delays: bool = False
    pod_manifest_path: Path | None = None  # static pods
    max_pods: int = 110
    allowed_unsafe_sysctls: tuple[str, ...] = ()
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    resolv_conf: Path = Path("/etc/resolv.conf")
    eviction_hard: str | None = None
    image_gc_high_percent: int = 85
    image_gc_low_percent: int = 80
    max_parallel_image_pulls: int = 4
    registry_qps: float = 5.0
    registry_burst: int = 10
    image_verification: str = "NeverVerifyPreloadedImages"
    image_allow_list: tuple[str, ...] = ()
    kubelet_address: str = "127.0.0.1"  # where the kubelet's API listens
    kubelet_port: int = 0  # 0: any free port
    healthz_address: str = "127.0.0.1"
    healthz_port: int = 0  # 0: not served
    cni_conf_dir: Path | None = None
    cni_bin_dirs: tuple[Path, ...] = ()
    store_size_bytes: int = 512 << 20
    store_files: int = 400_000
    pod_store_size_bytes: int = 128 << 20
    pod_store_files: int = 100_000
    scratch_size_bytes: int = 1 << 30
    logs_size_bytes: int = 256 << 20
    audit_file: Path | None = None
    audit_journal: str = "auto"
    stop_grace_s: float = 3.0
    verbose: int = 0
    log_fd: int | None = None  # takes the children's standard error; None: they share ours


@dataclass(slots=True, kw_only=True)
class Stack:
    """A running API server and node.

    Attributes:
        client: an admin's client; owned by the stack.
        kubeconfig: path of the admin's kubeconfig, mode 0600.
        server_url: for example ``https://127.0.0.1:6443``.
        keeper: the node's process; its child is the agent.
        apiserver: the server's process.
    """

    options: StackOptions
    client: ApiClient
    kubeconfig: Path
    server_url: str
    keeper: subprocess.Popen[bytes]
    apiserver: subprocess.Popen[bytes]
    stopped: dict[str, int] = field(default_factory=dict)

    async def wait_stopped(self) -> str:
        """Wait until one of the two processes ends by itself, and name it. Cancelling loses nothing."""
        async with trio.open_nursery() as nursery:
            for name, process in (("API server", self.apiserver), ("node", self.keeper)):
                nursery.start_soon(self._note_exit, name, process, nursery.cancel_scope)
        return next(iter(self.stopped))

    async def _note_exit(self, name: str, process: subprocess.Popen[bytes], scope: trio.CancelScope) -> None:
        self.stopped[name] = await _wait_exit(process)
        scope.cancel()


def check_host(runtime: str = "runc") -> None:
    """Say in one line what this machine lacks.

    Raises:
        HostError: no root, no /dev/fuse, or a program that is not installed.
    """
    if os.geteuid() != 0:
        raise HostError("running containers and mounting their secrets needs root: try again with sudo")
    if not os.path.exists("/dev/fuse"):
        raise HostError("/dev/fuse is missing: `modprobe fuse`, or give this machine or container the device")
    find_tools(runtime)


@asynccontextmanager
async def run_stack(
    options: StackOptions, *, progress: Callable[[str], None] = lambda line: None
) -> AsyncIterator[Stack]:
    """Start both, yield when the Node is Ready, and leave nothing behind.

    Args:
        progress: called with one line for each step that is done.

    Raises:
        HostError: something is missing, a port, directory or node name is in use, or a child ended before it was ready; as
            AlreadyTold, when the child's own message has been printed to standard error.

    Cancellation: at any point everything is stopped and unmounted, within ``STOP_TIMEOUT_S``.
    """
    check_host(options.runtime)
    async with AsyncExitStack() as undo:
        credentials = RUN_DIR / options.node_name
        _attach_credentials(credentials, undo)
        notifications = NotifySocket()
        undo.callback(notifications.close)
        admin_kubeconfig = options.kubeconfig or credentials / "kubeconfig"

        storage = ["--data-dir", str(options.data_dir)] if options.data_dir else ["--in-memory"]
        if options.encryption_config is not None:
            storage += ["--encryption-provider-config", str(options.encryption_config)]
        if options.encryption_reloads:
            storage.append("--encryption-provider-config-automatic-reload")
        flags = {
            "--port": str(options.port),
            "--kubeconfig": str(admin_kubeconfig),
            "--local-node": options.node_name,
        }
        apiserver = _spawn(["apiserver", *storage, *_flatten(flags)], notifications, options)
        undo.callback(lambda: admin_kubeconfig.unlink(missing_ok=True))
        undo.push_async_callback(_stop, apiserver)
        await _wait_ready(apiserver, notifications, "the API server", options.log_fd)
        cluster = load_kubeconfig(admin_kubeconfig)
        client_ca = credentials / "client-ca.crt"
        client_ca.write_bytes(cluster.ca_pem)
        progress(f"API server at {cluster.server}, objects in {options.data_dir or 'memory'}")

        client = await undo.enter_async_context(open_client(cluster))
        token = await _create_join_token(client, options.node_name)
        bootstrap = credentials / "bootstrap.kubeconfig"
        bootstrap.touch(mode=0o600)
        bootstrap.write_bytes(make_bootstrap_kubeconfig(cluster, token.text).reveal())

        flags = {
            "--bootstrap-kubeconfig": str(bootstrap),
            "--kubeconfig": str(credentials / "node.kubeconfig"),
            "--cert-dir": str(credentials / "pki"),
            "--node-name": options.node_name,
            "--root-dir": str(options.root_dir),
            "--image-dir": str(options.image_dir),
            "--socket": str(options.socket),
            "--runtime": options.runtime,
            "--store-size": str(options.store_size_bytes),
            "--store-files": str(options.store_files),
            "--pod-store-size": str(options.pod_store_size_bytes),
            "--pod-store-files": str(options.pod_store_files),
            "--scratch-size": str(options.scratch_size_bytes),
            "--logs-size": str(options.logs_size_bytes),
            "--address": options.kubelet_address,
            "--kubelet-port": str(options.kubelet_port),
            "--healthz-bind-address": options.healthz_address,
            "--healthz-port": str(options.healthz_port),
            "--client-ca-file": str(client_ca),
            "--max-pods": str(options.max_pods),
            "--cluster-domain": options.cluster_domain,
            "--resolv-conf": str(options.resolv_conf),
            "--image-gc-high-threshold": str(options.image_gc_high_percent),
            "--image-gc-low-threshold": str(options.image_gc_low_percent),
            "--max-parallel-image-pulls": str(options.max_parallel_image_pulls),
            "--registry-qps": str(options.registry_qps),
            "--registry-burst": str(options.registry_burst),
            "--image-pull-credentials-verification-policy": options.image_verification,
            "--stop-grace": str(options.stop_grace_s),
            "--audit-journal": options.audit_journal,
            "--config-map-and-secret-change-detection-strategy": options.change_detection,
        }
        switches = ["--rotate-server-certificates"]
        if options.emulates_delays:
            switches.append("--emulate-kubelet-delays")
        if options.projects_trust_bundles:
            switches.append("--cluster-trust-bundle-projection")
        if options.pod_manifest_path is not None:
            flags["--pod-manifest-path"] = str(options.pod_manifest_path)
        if options.cni_conf_dir is not None:
            flags["--cni-conf-dir"] = str(options.cni_conf_dir)
        switches += [word for each in options.cni_bin_dirs for word in ("--cni-bin-dir", str(each))]
        if options.eviction_hard is not None:
            flags["--eviction-hard"] = options.eviction_hard
        for address in options.cluster_dns or ("none",):
            switches += ["--cluster-dns", address]
        for name in options.allowed_unsafe_sysctls:
            switches += ["--allowed-unsafe-sysctls", name]
        for pattern in options.image_allow_list:
            switches += ["--preloaded-images-verification-allowlist", pattern]
        if options.audit_file is not None:
            flags["--audit-file"] = str(options.audit_file)
        keeper = _spawn(["agent", *_flatten(flags), *switches], notifications, options)
        undo.callback(_clean_up_after, keeper, options)
        undo.push_async_callback(_stop, keeper)
        await _wait_ready(keeper, notifications, "the node", options.log_fd)
        # The node has its own certificate by now, and nobody else is to come in by this token.
        with suppress(NotFound):
            await insist(
                partial(client.delete, SECRETS, bootstraptoken.NAMESPACE, token.name), within_s=START_TIMEOUT_S
            )
        bootstrap.unlink()
        await wait_node_ready(client, options.node_name, progress=progress)
        progress(f"node {options.node_name} is Ready")
        yield Stack(
            options=options,
            client=client,
            kubeconfig=admin_kubeconfig,
            server_url=cluster.server,
            keeper=keeper,
            apiserver=apiserver,
        )


async def _create_join_token(client: ApiClient, node_name: str) -> BootstrapToken:
    """A token that one node joins with, and that ends by itself should this process be killed."""
    token_id, token_secret = bootstraptoken.generate(secrets.choice)
    token = BootstrapToken(
        id=token_id,
        secret=token_secret,
        description=f"The token that `kubelet-secrets up` starts node {node_name} with.",
        expires=datetime.now(UTC) + JOIN_TOKEN_TTL,
        usages=("authentication",),
        groups=(bootstraptoken.DEFAULT_GROUP,),
    )
    secret = bootstraptoken.make_secret(token)
    with suppress(AlreadyExists):
        await insist(partial(client.create, SECRETS, bootstraptoken.NAMESPACE, secret), within_s=START_TIMEOUT_S)
    return token


async def wait_node_ready(client: ApiClient, name: str, *, progress: Callable[[str], None] = lambda line: None) -> None:
    """Return once the Node's condition Ready is True. Polls: this happens once per start.

    Args:
        progress: told, each time it changes, what the node waits for: a network that somebody has yet to configure.

    Raises:
        HostError: it was not Ready within ``START_TIMEOUT_S``; the message says why.
    """
    reason = ""
    with trio.move_on_after(START_TIMEOUT_S):
        while True:
            try:
                node = await client.get(NODES, "", name, Node)
                ready = next((each for each in node.status.conditions if each.type == "Ready"), None)
                if ready is not None and ready.status == "True":
                    return
                if ready is not None and ready.message != reason:
                    reason = ready.message
                    progress(f"node {name} is not Ready yet: {reason}")
            except (NotFound, ApiUnavailable):
                pass  # not registered yet
            await trio.sleep(0.05)
    raise HostError(f"node {name} was not Ready within {START_TIMEOUT_S} s: {reason or 'it has not been registered'}")


def _attach_credentials(path: Path, undo: AsyncExitStack) -> None:
    """A small tmpfs for kubeconfigs: client keys stay off the disk, and one umount removes them all."""
    _make_directory(path)
    if os.path.ismount(path):  # left by a run that was killed, or in use
        os.close(_lock_directory(path))
        mounts.umount_lazy(path)
    mounts.attach_tmpfs(path, size_bytes=CREDENTIALS_SIZE_BYTES)

    def detach() -> None:
        mounts.umount_lazy(path)
        path.rmdir()
        try:
            path.parent.rmdir()
        except OSError:
            pass  # another node's credentials or socket are there

    undo.callback(detach)
    undo.callback(os.close, _lock_directory(path))


def _make_directory(path: Path) -> None:
    """Also when another node of this machine stops just now, and takes the empty parent away."""
    for _ in range(_MAKE_TRIES):
        with suppress(FileNotFoundError, FileExistsError):
            return path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _lock_directory(path: Path) -> int:
    """Lock the credentials of a node for as long as the descriptor is open: a run that was killed holds no lock."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise HostError(f"a node named {path.name} runs on this machine: give this one another --node-name") from None
    return descriptor


def _clean_up_after(keeper: subprocess.Popen[bytes], options: StackOptions) -> None:
    """Do what a keeper that was killed could not."""
    if keeper.returncode is None or keeper.returncode >= 0:
        return
    layout = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    CgroupTree(instance_name(options.node_name, options.root_dir), layout).sweep()
    NodeMounts.clean_up(options.root_dir, keep=options.image_dir)


def _flatten(flags: dict[str, str]) -> list[str]:
    return [word for flag in flags.items() for word in flag]


def _spawn(arguments: list[str], notifications: NotifySocket, options: StackOptions) -> subprocess.Popen[bytes]:
    """Start ``kubelet-secrets <arguments>`` in a session of its own: Ctrl-C in the terminal is ours to pass on, in order.

    Called from the main thread on purpose: the children ask to be ended with their parent (PR_SET_PDEATHSIG), and that
    means the parent *thread*, prctl(2).
    """
    command = [sys.executable, "-m", "kubelet_secrets.cli.main"]
    if options.verbose:
        command.append("-" + "v" * options.verbose)
    environment = dict(os.environ, NOTIFY_SOCKET=notifications.address, KS_PDEATHSIG="1")
    return subprocess.Popen(
        command + arguments, env=environment, stdin=subprocess.DEVNULL, stderr=options.log_fd, start_new_session=True
    )


async def _wait_ready(
    process: subprocess.Popen[bytes], notifications: NotifySocket, name: str, log_fd: int | None
) -> None:
    """Wait for READY=1 from the one child that has not said it yet.

    Raises:
        AlreadyTold: it ended instead, and has said why where we do.
        HostError: it said why into *log_fd*; it crashed, or took longer than ``START_TIMEOUT_S``.
    """
    ready = False

    async def note_exit(scope: trio.CancelScope) -> None:
        await _wait_exit(process)
        scope.cancel()

    with trio.move_on_after(START_TIMEOUT_S) as patience:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note_exit, nursery.cancel_scope)
            while not ready:
                await trio.lowlevel.wait_readable(notifications.socket)
                ready = "READY" in parse_notification(notifications.socket.recv(4096))
            nursery.cancel_scope.cancel()
    if patience.cancelled_caught:
        raise HostError(f"{name} was not ready within {START_TIMEOUT_S} s; run it alone with -v to see why")
    if not ready:
        message = f"{name} did not start (exit status {process.returncode})"
        if process.returncode not in _CONFIGURATION_ERRORS:
            raise HostError(message)
        if log_fd is None:
            raise AlreadyTold(message)
        raise HostError(_last_words(log_fd) or message)


def _last_words(log_fd: int) -> str:
    """Why a child did not start: the last line there that is no log record but a word to the user; "" if there is none."""
    size, prefix = os.fstat(log_fd).st_size, "kubelet-secrets: "
    lines = os.pread(log_fd, 16384, max(size - 16384, 0)).decode(errors="replace").splitlines()
    return next((line.removeprefix(prefix) for line in reversed(lines) if line.startswith(prefix)), "")


async def _wait_exit(process: subprocess.Popen[bytes]) -> int:
    """Reap *process* once it has ended. Cancelling leaves it running and unreaped."""
    if process.poll() is None:
        descriptor = os.pidfd_open(process.pid)
        try:
            while process.poll() is None:
                await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
    assert process.returncode is not None
    return process.returncode


async def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then patience, then SIGKILL. Shielded: clean-up must not be cut short by the cancellation that caused it."""
    with trio.CancelScope(shield=True):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        with trio.move_on_after(STOP_TIMEOUT_S) as patience:
            await _wait_exit(process)
        if patience.cancelled_caught:
            process.kill()
            await _wait_exit(process)

"""No file outside memory: a whole node under strace, from its start over everything it does with secrets to its end.

docs/threat-model.md, "What lies on disk", declares the exceptions; ``declared`` here is that list.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from kubelet_secrets.client.kubeconfig import load_kubeconfig, ssl_context
from kubelet_secrets.runtime.tools import find_tools
from kubelet_secrets.testing.images import build_busybox_image
from tests.cli.command import run_cli
from tests.e2e.stacks import (
    WAIT,
    Cluster,
    Command,
    Stack,
    container,
    mount,
    open_cluster,
    scrub,
    secret_env,
    secret_volume,
)
from tests.e2e.tracing import Filesystems, Touch, read_trace, strace_command
from tests.podexec import websocket_exec
from tests.runtime.private_registry import PASSWORD, USERNAME, PrivateRegistry, serve_registry

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]

UID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@dataclass
class TracedStack(Stack):
    trace: Path = field(default_factory=Path)

    def start(self) -> None:
        arguments = ["-vv", "up", "--port", "0", *self.node_options]
        self.command = Command(arguments, self.directory / "up.log", prefix=strace_command(self.trace))
        self.command.wait_line("ready")
        self.kubeconfig = Path(self.command.wait_line("export KUBECONFIG="))

    def stop(self) -> None:
        """strace does not pass signals on; it ends with its child, and with its status."""
        tracer = self.command.process.pid
        for child in Path(f"/proc/{tracer}/task/{tracer}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)
        self.command.process.wait(60)
        super().stop()


@pytest.fixture
def stack(image_dir: Path, tmp_path: Path) -> Iterator[TracedStack]:
    with tempfile.TemporaryDirectory(prefix="ks-e2e-") as directory:
        options = ("--audit-file", str(tmp_path / "audit.log"))
        stack = TracedStack(Path(directory), image_dir, options, trace=tmp_path / "trace")
        try:
            yield stack
        finally:
            if stack.command.process.poll() is None:
                stack.stop()
            scrub(stack.directory, stack.node_name)


def declared(touch: Touch, stack: Stack) -> str:
    """Which of the exceptions this is; "" for none."""
    root, path = str(stack.root_dir), touch.path
    below = path.removeprefix(f"{root}/")
    if path == str(stack.image_dir) or path.startswith(f"{stack.image_dir}/"):
        return "image store"
    if path == root or below in ("fuse", "run", "pods"):
        return "mount points of the node"
    if below in ("keeper.json", "keeper.json.new"):
        return "how many mounts are the node's"
    if re.fullmatch(rf"pods/{UID}(/volumes|/plugins|/volume-subpaths)?(/[^/]+){{0,4}}", below):
        is_marker = below.endswith("/ready") and "/plugins/kubernetes.io~empty-dir/" in below
        if is_marker or touch.call in ("mkdir", "mkdirat"):
            return "directories of pods and their volumes"
        if "/volume-subpaths/" in below:
            return "mount points of subPaths"
    if path in ("/run/kubelet-secrets", f"/run/kubelet-secrets/{stack.node_name}"):
        return "mount points of the node"
    if path in stack.options:
        return "the audit file"
    if touch.program == "skopeo" and path.startswith("/var/lib/containers/cache"):
        return "skopeo's cache of which registry has which blob"
    return ""


async def test_nothing_but_memory_is_written(stack: TracedStack, tmp_path: Path) -> None:
    filesystems = Filesystems()
    stack.start()
    uids: set[str] = set()
    layout = build_busybox_image(tmp_path / "layout", env={"IMAGE": "private"})
    async with serve_registry(tmp_path / "registry", layout, find_tools()) as registry, open_cluster(stack) as cluster:
        assert store_filesystem(stack.status().agent_pid) == "tmpfs"
        await live(cluster, registry, filesystems, uids, tmp_path / "shown")
    filesystems.look()
    stack.stop()
    trace = read_trace(stack.trace)
    assert {"python", "conmon", "runc", "skopeo", "umoci"} <= trace.programs
    assert {name.partition(":")[0] for name in trace.memfds} <= {
        "tls",  # a key on its way to OpenSSL, locked and zeroed
        "runc_cloned",  # runc's own program
        "kubelet-secrets-keeper",  # numbers of descriptors, for the keeper after a crash
    }

    def is_in_store(path: str) -> bool:
        """The store is mounted nowhere: a path in it begins at its root, and no such file is on the disk."""
        first = path.split("/")[1]
        return (first in uids or first == ".grave") and not os.path.lexists(f"/{first}")

    in_store = [touch for touch in trace.touches if is_in_store(touch.path)]
    on_disk = [touch for touch in trace.touches if not filesystems.is_memory(touch.path) and touch not in in_store]
    guarded = f"{stack.root_dir}/fuse"
    undeclared = {touch for touch in on_disk if not declared(touch, stack) and not touch.path.startswith(f"{guarded}/")}
    assert undeclared == set()
    # That this finds anything: what is known to be written was seen, in memory and on disk.
    assert {declared(touch, stack) for touch in on_disk} >= {
        "image store",
        "how many mounts are the node's",
        "directories of pods and their volumes",
        "the audit file",
    }
    assert any(touch.path.endswith("/key") and touch.program == "python" for touch in in_store)
    assert any(touch.path.startswith(f"{guarded}/") and touch.path.endswith("/key") for touch in trace.touches)
    seen = {os.path.basename(touch.path) for touch in trace.touches if filesystems.is_memory(touch.path)}
    assert seen >= {"config.json", "kubeconfig", "node.kubeconfig", "0.log", "exit"}
    auth = re.compile(rf"{re.escape(str(stack.root_dir))}/run/[0-9a-f]{{16}}\.json")
    assert any(auth.fullmatch(touch.path) for touch in trace.touches), "the registry's password, for skopeo"
    writers = {touch.program for touch in trace.touches if touch.path.startswith(f"{stack.root_dir}/run/")}
    assert writers >= {"python", "conmon", "runc"}
    shown = read_trace(tmp_path / "shown")
    assert shown.programs >= {"python"}
    assert [touch for touch in shown.touches if not filesystems.is_memory(touch.path)] == []


def store_filesystem(agent: int) -> str:
    environ = dict(each.partition(b"=")[::2] for each in Path(f"/proc/{agent}/environ").read_bytes().split(b"\0"))
    store = f"/proc/{agent}/fd/{environ[b'KS_STORE_FD'].decode()}"
    done = subprocess.run(["stat", "-L", "-f", "-c", "%T", store], capture_output=True, text=True, check=True)
    return done.stdout.strip()


async def live(
    cluster: Cluster, registry: PrivateRegistry, filesystems: Filesystems, uids: set[str], shown_trace: Path
) -> None:
    """Everything that a node does with a value."""
    await cluster.put_secret("s", {"key": "first-value-of-memory-only"})
    login = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    auth = json.dumps({"auths": {registry.domain: {"auth": login}}})
    await cluster.put_secret("pull", {".dockerconfigjson": auth}, type="kubernetes.io/dockerconfigjson")
    projected = {"name": "p", "projected": {"sources": [{"secret": {"name": "s"}}]}}
    mounts = [mount("v", "/v"), mount("p", "/p"), mount("v", "/one", subPath="key"), mount("e", "/e", readOnly=False)]
    await cluster.run_pod(
        "every-way",
        container(
            script=f"cat /v/key | tee /dev/termination-log; {WAIT}",
            env=[secret_env("A", "s", "key")],
            volumeMounts=mounts,
            lifecycle={"postStart": {"exec": {"command": ["sh", "-c", "cat /v/key; echo $A"]}}},
        ),
        initContainers=[container("init", "cat /v/key > /e/copy", volumeMounts=mounts)],
        volumes=[secret_volume("v", "s"), projected, {"name": "e", "emptyDir": {"medium": "Memory"}}],
    )
    private = {**container(), "image": registry.image}
    await cluster.run_pod("private", private, imagePullSecrets=[{"name": "pull"}])
    for name in ("every-way", "private"):
        uids.add((await cluster.pod(name)).metadata.uid)
    filesystems.look()
    assert await cluster.exec("every-way", "cat /one") == "first-value-of-memory-only"
    shown = run_cli(
        *("env", "every-way", "--show-values"),
        prefix=strace_command(shown_trace),
        env={"KUBELET_SECRETS_SOCKET": str(cluster.stack.socket)},
    )
    assert "first-value-of-memory-only" in shown.stdout
    await exec_and_logs(cluster)
    # A rotation, a crash, a restart, an end.
    await cluster.put_secret("s", {"key": "second-value-of-memory-only"})
    await cluster.exec("every-way", "until grep -q second /v/key; do :; done")
    before = cluster.stack.status().agent_pid
    os.kill(before, signal.SIGKILL)
    await cluster.stack.wait_agent(other_than=before)
    await cluster.restart("every-way")
    filesystems.look()
    last = (await cluster.pod("every-way")).status.container_statuses[0].last_state.terminated
    assert last is not None
    assert last.message == "first-value-of-memory-only"
    await cluster.delete_pod("every-way", grace_s=1)
    await cluster.wait_gone("every-way")


async def exec_and_logs(cluster: Cluster) -> None:
    """Values on their way through the kubelet's API, in both directions."""
    config = load_kubeconfig(cluster.stack.kubeconfig)
    for command, flags in ((["cat", "/v/key", "-"], {}), (["cat", "/v/key"], {"tty": "1"})):
        stdin = None if flags else b"typed-value-of-memory-only"
        done = await websocket_exec(config, "default", "every-way", command, stdin=stdin, container="app", **flags)
        assert done.out[1] == b"first-value-of-memory-only" + (stdin or b"")
    async with httpx2.AsyncClient(verify=ssl_context(config), base_url=config.server, timeout=120) as client:
        logs = await client.get("/api/v1/namespaces/default/pods/every-way/log", params={"container": "app"})
    assert logs.text.startswith("first-value-of-memory-only")

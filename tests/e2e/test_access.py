"""Who may open a secret file, and who may not, however privileged: with real containers, and what the audit says of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.control.protocol import AuditView
from kubelet_secrets.errors import NotFound
from tests.e2e.stacks import COMMAND, Cluster, container, environment, mount, secret_volume, without_repeats

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]


@dataclass
class Scene:
    """A pod whose container ``app`` mounts the Secret. ``sidecar`` and the pod ``other`` have the node's directory instead."""

    cluster: Cluster
    pod: Pod
    inside_node: str  # the file below /node in sidecar and other

    @property
    def on_host(self) -> Path:
        return self.cluster.volume_dir(self.pod, "v") / "key"

    def last_denial(self) -> AuditView:
        return without_repeats(self.cluster.stack.ask("audit", AuditView, follow=False, denied=True))[-1]


@pytest.fixture
async def scene(cluster: Cluster) -> Scene:
    node_dir = str(cluster.stack.root_dir)
    host = {"name": "node", "hostPath": {"path": node_dir, "type": "Directory"}}
    attacker = {"volumeMounts": [{"name": "node", "mountPath": "/node"}], "securityContext": {"privileged": True}}
    try:
        pod = await cluster.pod("victim")
    except NotFound:  # the first test of the module makes the scene
        await cluster.put_secret("guarded", {"key": "only-for-app"})
        await cluster.run_pod(
            "victim",
            container("app", volumeMounts=[mount("v", "/v")]),
            container("sidecar", **attacker),
            volumes=[secret_volume("v", "guarded"), host],
        )
        await cluster.run_pod("other", container(**attacker), volumes=[host])
        pod = await cluster.pod("victim")
    below = (cluster.volume_dir(pod, "v") / "key").relative_to(cluster.stack.root_dir)
    return Scene(cluster, pod, f"/node/{below}")


def refused(done: subprocess.CompletedProcess[bytes]) -> bool:
    return done.returncode != 0 and done.stdout == b"" and b"ermission denied" in done.stderr


def run(*command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, check=False, timeout=120)


async def test_container_that_mounts_it_reads_it(scene: Scene) -> None:
    assert await scene.cluster.exec("victim", "cat /v/key", "app") == "only-for-app"
    records = scene.cluster.stack.ask("audit", AuditView, follow=False, denied=False)
    record = next(each for each in records if each.pod == "victim" and each.path == "key")
    assert (record.verdict, record.who, record.volume, record.uid) == ("allowed", "default/victim/app", "v", 0)
    assert record.exe.endswith("busybox")
    assert record.version.startswith("..20")


@pytest.mark.parametrize("name", ["key", "..data/key"])
async def test_root_on_the_host_is_refused(scene: Scene, name: str) -> None:
    path = scene.on_host.parent / name
    assert refused(await trio.to_thread.run_sync(run, "cat", str(path)))
    record = scene.last_denial()
    assert (record.verdict, record.pod, record.container) == ("denied", "victim", "")
    # Stopped on its way, at ..data, when the kernel's cache was emptied just now.
    assert (record.kind, record.path) in [("open", "key"), ("lookup", name.removeprefix("..data/key"))]
    assert record.why.startswith("host process")
    assert record.exe == os.path.realpath("/bin/cat")


async def test_root_on_the_host_may_not_list_it(scene: Scene) -> None:
    assert refused(await trio.to_thread.run_sync(run, "ls", str(scene.on_host.parent)))


async def test_root_through_proc_is_refused(scene: Scene) -> None:
    pid = await scene.cluster.pid("victim", "app")
    assert refused(await trio.to_thread.run_sync(run, "cat", f"/proc/{pid}/root/v/key"))


async def test_root_within_the_mount_namespace_is_refused(scene: Scene) -> None:
    pid = await scene.cluster.pid("victim", "app")
    assert refused(await trio.to_thread.run_sync(run, "nsenter", "-t", str(pid), "-m", "cat", "/v/key"))
    assert scene.last_denial().why.startswith("entered the container's mount namespace from outside")


async def test_root_within_the_cgroup_is_refused(scene: Scene) -> None:
    """Moving into the container's cgroup is not enough either: the mount namespace is not the container's."""
    pid = await scene.cluster.pid("victim", "app")
    # Field 3 of each line is the container's path in that hierarchy, which is mounted below /sys/fs/cgroup.
    script = (
        f"while IFS=: read n c p; do for f in /sys/fs/cgroup/*$p/cgroup.procs /sys/fs/cgroup$p/cgroup.procs; do "
        f"[ -e $f ] && echo $$ > $f; done; done < /proc/{pid}/cgroup 2>/dev/null; cat {scene.on_host}"
    )
    assert refused(await trio.to_thread.run_sync(run, "sh", "-c", script))


async def test_sibling_container_is_refused(scene: Scene) -> None:
    done = await scene.cluster.try_exec("victim", f"cat {scene.inside_node}", "sidecar")
    assert refused(done)
    record = scene.last_denial()
    assert (record.who, record.pod) == ("default/victim/sidecar", "victim")
    assert record.why.startswith("the container does not mount the volume")


async def test_other_pod_is_refused(scene: Scene) -> None:
    done = await scene.cluster.try_exec("other", f"cat {scene.inside_node}")
    assert refused(done)
    record = scene.last_denial()
    assert (record.who, record.pod) == ("default/other/app", "victim")


async def test_whole_fuse_directory_is_closed(scene: Scene) -> None:
    fuse = scene.cluster.stack.root_dir / "fuse"
    done = await trio.to_thread.run_sync(run, "ls", "-R", str(fuse))
    assert done.returncode != 0
    assert b"key" not in done.stdout
    uid = scene.pod.metadata.uid
    assert refused(await trio.to_thread.run_sync(run, "cat", f"{fuse}/{uid}/v/key"))
    assert refused(await scene.cluster.try_exec("other", f"cat /node/fuse/{uid}/v/key"))


async def test_nobody_writes_to_it(scene: Scene) -> None:
    """Not even through the mount that is not read-only: only the writer process may change it."""
    uid = scene.pod.metadata.uid
    for path in (f"{scene.cluster.stack.root_dir}/fuse/{uid}/v", str(scene.on_host.parent)):
        for command in (f"echo x > {path}/new", f"rm {path}/key", f"mv {path}/..data {path}/x", f"mkdir {path}/d"):
            done = await trio.to_thread.run_sync(run, "sh", "-c", command)
            assert done.returncode != 0, command
    assert await scene.cluster.exec("victim", "cat /v/key", "app") == "only-for-app"


async def test_descriptor_handed_to_a_debugger_is_no_way_in(scene: Scene) -> None:
    """``/proc/<pid>/fd/N`` of a file the container has open: opening that link is an open like any other."""
    cluster = scene.cluster
    pid = await cluster.pid("victim", "app")
    async with cluster.started("victim", "exec 3</v/key; echo; sleep 100 & wait", "app") as holder:
        assert holder.stdout is not None
        await holder.stdout.receive_some()
        children = Path(f"/proc/{pid}/root/proc").glob("[0-9]*")  # the container's view of its processes
        inner = []
        for each in children:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # of the command before, which is ending
                if b"exec 3" in (each / "cmdline").read_bytes():
                    inner.append(each.name)
        assert inner
        done = await trio.to_thread.run_sync(run, "cat", f"/proc/{pid}/root/proc/{inner[0]}/fd/3")
        assert refused(done)
        await cluster.exec("victim", "pkill sleep -n || true", "app")
        holder.kill()


async def test_follower_of_the_audit_is_told_of_a_refusal(scene: Scene) -> None:
    command = [*COMMAND, "audit", "--follow", "--denied", "-o", "json", "--socket", str(scene.cluster.stack.socket)]
    process = await trio.lowlevel.open_process(command, stdout=-1, env=environment())
    assert process.stdout is not None
    text = b""
    try:
        with trio.fail_after(60):
            path = scene.on_host.parent / "..data" / "key"
            await trio.to_thread.run_sync(run, "head", "-c", "1", str(path))
            while b'"exe":"/usr/bin/head"' not in text:
                chunk = await process.stdout.receive_some()
                assert chunk
                text += chunk
    finally:
        process.terminate()
        await process.wait()
        await process.stdout.aclose()
    assert b"only-for-app" not in text

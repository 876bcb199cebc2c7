"""A cluster of one node in this process: the embedded API server, real containers, and the pods' half of an agent.

Volumes lie in a real store and are cloned from it without the guarded filesystem in between; with it, and with the agent as the
process it is, they are tested in ``tests/e2e``.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from kubelet_secrets.access.registry import ContainerRegistry
from kubelet_secrets.api.core import Event, Node, Pod, Secret
from kubelet_secrets.api.meta import EVENTS, NODES, PODS, SECRETS, ObjectMeta
from kubelet_secrets.api.sources import NodeInfo
from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.cache.kinds import CONFIG_MAP_KIND, SECRET_KIND
from kubelet_secrets.cache.manager import ObjectManager
from kubelet_secrets.client.answers import EventType
from kubelet_secrets.client.kubeconfig import ClusterConfig, load_kubeconfig
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.errors import NotFound
from kubelet_secrets.fusefs import mounts
from kubelet_secrets.linux import MNT_DETACH, MS_NODEV, MS_NOSUID, mount, unmount
from kubelet_secrets.pod.admitting import Admission
from kubelet_secrets.pod.events import EventRecorder
from kubelet_secrets.pod.manager import PodManager
from kubelet_secrets.pod.parts import NodeParts, wall_clock
from kubelet_secrets.pod.source import PodSource, ServiceCache
from kubelet_secrets.pod.tokens import TokenManager
from kubelet_secrets.pod.views import PodView
from kubelet_secrets.runtime.cgroups import CgroupTree
from kubelet_secrets.runtime.hostfacts import probe_cgroups, probe_host
from kubelet_secrets.runtime.images import ImageStore
from kubelet_secrets.runtime.logs import LogOptions, copy_log
from kubelet_secrets.runtime.oci import OciRuntime
from kubelet_secrets.runtime.registry import Registry
from kubelet_secrets.runtime.sandbox import SandboxManager
from kubelet_secrets.runtime.tools import find_tools
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.volume.layout import PodsLayout
from kubelet_secrets.volume.manager import VolumeManager
from kubelet_secrets.volume.store import Store
from tests.volume.test_manager import LocalWriter

NODE = "n1"
IMAGE = "busybox:test"


@dataclass
class Host:
    """What of a node outlives an agent: its directories, its store, its cgroups."""

    directory: Path
    image_dir: Path
    store_fd: int
    cgroups: CgroupTree = field(default_factory=lambda: CgroupTree(f"test-{secrets.token_hex(4)}", probe_cgroups()))

    @property
    def run_dir(self) -> Path:
        return self.directory / "run"

    @property
    def pods_dir(self) -> Path:
        return self.directory / "pods"


@contextmanager
def host(directory: Path, image_dir: Path) -> Iterator[Host]:
    """A host, and the check that nothing stays behind on it."""
    store_fd, _ = mounts.make_store(size_bytes=16 << 20)
    made = Host(directory, image_dir, store_fd)
    made.run_dir.mkdir(mode=0o700)
    mount("tmpfs", made.run_dir, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700,size=256m")
    try:
        yield made
        trio.run(_clean_up, made)
    finally:
        mounts.umount_all_below(made.pods_dir)
        for entry in reversed(mounts.mounts_below(made.run_dir)):
            unmount(Path(entry.target), MNT_DETACH)
        os.close(store_fd)
        made.cgroups.remove_idle()


async def _clean_up(made: Host) -> None:
    """Whatever pods a test left, failed or not."""
    runtime = _runtime(made)
    for handle in runtime.list():
        await runtime.delete(handle.id)
    sandboxes = SandboxManager(made.run_dir, cgroups=made.cgroups)
    for sandbox in sandboxes.list():
        await sandboxes.remove(sandbox.pod_uid)


def _runtime(made: Host) -> OciRuntime:
    return OciRuntime(made.run_dir, tools=find_tools(), host=probe_host(made.cgroups.layout), cgroups=made.cgroups)


@dataclass
class Agent:
    """The running half of a node."""

    parts: NodeParts
    pods: PodManager
    scope: trio.CancelScope

    def view(self, name: str) -> PodView | None:
        return self.pods.find("default", name)

    async def wait_view(self, name: str, wanted: Callable[[PodView], bool]) -> PodView:
        while True:
            view = self.view(name)
            if view is not None and wanted(view):
                return view
            await self.pods.wait_changed()

    async def exec(self, name: str, *argv: str, container: str = "") -> tuple[int, str]:
        view = self.view(name)
        assert view is not None
        found = view.container(container)
        assert found is not None
        assert found.instance is not None
        result = await self.parts.runtime.exec(found.instance.container_id, list(argv))
        return result.code, result.stdout.decode()


class Door:
    """The way from the node to the API server, which a test can shut."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._connections: set[trio.SocketStream] = set()
        self.port = 0
        self.is_shut = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._forward, listeners)
            task_status.started()

    def shut(self) -> None:
        self.is_shut = True
        for each in self._connections:
            each.socket.close()

    async def _forward(self, inner: trio.SocketStream) -> None:
        if self.is_shut:
            inner.socket.close()
            return
        outer = await trio.open_tcp_stream("127.0.0.1", self._target_port)
        self._connections |= {inner, outer}
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, inner, outer, nursery.cancel_scope)
                nursery.start_soon(self._copy, outer, inner, nursery.cancel_scope)
        finally:
            self._connections -= {inner, outer}
            inner.socket.close()
            outer.socket.close()

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            async for chunk in source:
                await sink.send_all(chunk)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@dataclass
class Cluster:
    """What a test talks to."""

    server: ServerHandle
    admin: ApiClient
    node: ApiClient
    host: Host
    door: Door
    node_uid: str = ""  # until register_node()

    async def register_node(self) -> None:
        """Make the Node object that mirror pods are owned by."""
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        self.node_uid = (await self.admin.create(NODES, "", body))["metadata"]["uid"]

    @contextmanager
    def api_away(self) -> Iterator[None]:
        """The node cannot reach the API server."""
        self.door.shut()
        yield
        self.door.is_shut = False

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[Agent]:
        """Run the node's pods. At the end the agent vanishes, as if it had been killed; the pods stay."""
        made = self.host
        services_box: list[ServiceCache] = []

        def info() -> NodeInfo:
            return NodeInfo(name=NODE, allocatable={"cpu": "2", "memory": "1Gi", "pods": "110"})

        def node() -> Node:
            return Node(metadata=ObjectMeta(name=NODE, labels={"kubernetes.io/os": "linux"}))

        parts = NodeParts(
            client=self.node,
            secrets=ObjectManager(self.node, SECRET_KIND),
            config_maps=ObjectManager(self.node, CONFIG_MAP_KIND),
            volumes=VolumeManager(Store(made.store_fd), PodsLayout(made.pods_dir), LocalWriter(made.store_fd)),
            runtime=_runtime(made),
            sandboxes=SandboxManager(made.run_dir, cgroups=made.cgroups),
            images=ImageStore(
                made.image_dir,
                tools=find_tools(),
                registry=Registry(find_tools(), auth_dir=made.run_dir, scratch_dir=made.image_dir / "tmp"),
            ),
            cgroups=made.cgroups,
            registry=ContainerRegistry(),
            admission=Admission(self.node, known=node, info=info),
            events=EventRecorder(self.node, node_name=NODE, clock=wall_clock),
            tokens=TokenManager(self.node, clock=wall_clock),
            services=lambda: services_box[0].services,
            node=info,
            node_uid=lambda: self.node_uid,
            host_ips=("192.0.2.7",),
            memory_bytes=1 << 30,
            logs_dir=made.run_dir / "logs",
            seccomp_dir=made.directory / "seccomp",
            cluster_dns=("10.96.0.10",),
        )
        pods = PodManager(parts)
        services_box.append(ServiceCache(self.node, changed=pods.services_changed))
        async with trio.open_nursery() as nursery:
            await nursery.start(parts.secrets.run)
            await nursery.start(parts.config_maps.run)
            await nursery.start(parts.events.run)
            await nursery.start(pods.run)
            nursery.start_soon(services_box[0].run)
            nursery.start_soon(PodSource(self.node, NODE, pods).run)
            yield Agent(parts, pods, nursery.cancel_scope)
            nursery.cancel_scope.cancel()

    async def create(self, name: str, *containers: dict[str, Any], **spec: Any) -> Pod:
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "nodeName": NODE,
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 1,
                "containers": list(containers),
                **spec,
            },
        }
        await self.admin.create(PODS, "default", body)
        return await self.get(name)

    async def get(self, name: str) -> Pod:
        return await self.admin.get(PODS, "default", name, Pod)

    async def wait(self, name: str, wanted: Callable[[Pod], bool]) -> Pod:
        """Wait until the API server's pod is as wanted."""
        async with self.admin.watch(
            PODS, "default", Pod, field_selector=f"metadata.name={name}", send_initial_events=True
        ) as events:
            async for event in events:
                if isinstance(event.object, Pod) and event.object.metadata.name == name and wanted(event.object):
                    return event.object
        raise AssertionError("the watch ended")

    async def wait_phase(self, name: str, phase: str) -> Pod:
        return await self.wait(name, lambda pod: pod.status.phase == phase)

    async def wait_gone(self, name: str) -> None:
        async with self.admin.watch(
            PODS, "default", Pod, field_selector=f"metadata.name={name}", send_initial_events=True
        ) as events:
            async for event in events:
                if event.type is EventType.DELETED or event.ends_initial_events:
                    try:
                        await self.get(name)
                    except NotFound:
                        return

    async def delete(self, name: str, *, grace_s: int | None = None) -> Pod:
        """Delete a pod and wait until it is gone; returns what it was at last. Watched from before: an end may be quick."""
        async with self.admin.watch(
            PODS, "default", Pod, field_selector=f"metadata.name={name}", send_initial_events=True
        ) as events:
            async for event in events:
                if event.ends_initial_events:
                    await self.admin.delete(PODS, "default", name, grace_period_s=grace_s)
                elif event.type is EventType.DELETED and isinstance(event.object, Pod):
                    return event.object
        raise AssertionError("the watch ended")

    async def put_secret(self, name: str, **data: str) -> None:
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
        try:
            await self.admin.get(SECRETS, "default", name, Secret)
        except NotFound:
            await self.admin.create(SECRETS, "default", body)
        else:
            await self.admin.patch(
                SECRETS, "default", name, {"stringData": data}, content_type="application/merge-patch+json"
            )

    async def events(self, name: str) -> list[tuple[str, str, str]]:
        """(type, reason, message) of the events about a pod, oldest first."""
        found = await self.admin.list(EVENTS, "default", Event, field_selector=f"involvedObject.name={name}")
        return [(each.type, each.reason, each.message) for each in found]

    async def wait_event(self, name: str, reason: str, text: str = "") -> None:
        async with self.admin.watch(EVENTS, "default", Event, send_initial_events=True) as events:
            async for event in events:
                seen = event.object
                if (
                    isinstance(seen, Event)
                    and seen.involved_object.name == name
                    and seen.reason == reason
                    and text in seen.message
                ):
                    return

    def log_path(self, pod: Pod, container: str = "c", attempt: int = 0) -> Path:
        meta = pod.metadata
        return self.host.run_dir / "logs" / f"{meta.namespace}_{meta.name}_{meta.uid}" / container / f"{attempt}.log"

    async def wait_log(self, pod: Pod, text: str, container: str = "c", attempt: int = 0) -> None:
        """Wait until a running container has said *text*."""
        seen = b""
        with trio.CancelScope() as scope:

            async def receive(data: bytes) -> None:
                nonlocal seen
                seen += data
                if text.encode() in seen:
                    scope.cancel()

            await copy_log(self.log_path(pod, container, attempt), LogOptions(follow=True), receive)

    def log(self, pod: Pod, container: str = "c", attempt: int = 0) -> str:
        path = self.log_path(pod, container, attempt)
        return "\n".join(line.split(" ", 3)[3] for line in path.read_text().splitlines())


@asynccontextmanager
async def cluster(made: Host) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as serving:
        server: ServerHandle = await serving.start(serve_apiserver, ServerOptions(runs_scheduler=False))
        door = Door(server.port)
        async with trio.open_nursery() as nursery:
            await nursery.start(door.run)
            node_kubeconfig = server.node_kubeconfig(NODE).reveal().replace(b":%d" % server.port, b":%d" % door.port)
            async with (
                open_client(_config(made.directory, server.admin_kubeconfig())) as admin,
                open_client(_config(made.directory, SensitiveBytes(node_kubeconfig))) as node,
            ):
                yield Cluster(server, admin, node, made, door)
            nursery.cancel_scope.cancel()
        server.shut_down()


def _config(directory: Path, kubeconfig: SensitiveBytes) -> ClusterConfig:
    path = directory / "kubeconfig"
    path.write_bytes(kubeconfig.reveal())
    return load_kubeconfig(path)


def container(script: str = "sleep 1000", name: str = "c", **spec: Any) -> dict[str, Any]:
    """A container that runs a shell script and ends at SIGTERM."""
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", f"trap 'exit 143' TERM; {script} & wait $!"],
        **spec,
    }


def secret_volume(secret: str, name: str = "v", **source: Any) -> dict[str, Any]:
    return {"name": name, "secret": {"secretName": secret, **source}}


def mounted(path: str = "/etc/s", name: str = "v", **mount: Any) -> dict[str, Any]:
    return {"name": name, "mountPath": path, **mount}

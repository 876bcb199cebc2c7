"""The cache as a node uses it: its identity, the embedded API server, HTTP/2 over TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from kubelet_secrets.api.core import Pod, Secret
from kubelet_secrets.api.meta import PODS, SECRETS, PodUID
from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.cache.changes import ObjectRef
from kubelet_secrets.cache.kinds import SECRET_KIND
from kubelet_secrets.cache.manager import ObjectManager
from kubelet_secrets.cache.reflector import Reflector, Target
from kubelet_secrets.client.kubeconfig import ClusterConfig, load_kubeconfig
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.errors import CacheNotSynced, Forbidden, MissingObject
from kubelet_secrets.sensitive import SensitiveBytes

NODE = "n1"
DB = ObjectRef("default", "db")


@asynccontextmanager
async def api_server(**options: Any) -> AsyncIterator[ServerHandle]:
    async with trio.open_nursery() as nursery:
        handle: ServerHandle = await nursery.start(serve_apiserver, ServerOptions(**options))
        yield handle
        handle.shut_down()


def config(directory: Path, kubeconfig: SensitiveBytes) -> ClusterConfig:
    path = directory / "kubeconfig"
    path.write_bytes(kubeconfig.reveal())
    return load_kubeconfig(path)


@asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[tuple[ApiClient, ApiClient]]:
    """An administrator's client and a node's."""
    with trio.fail_after(60):
        async with api_server() as server:
            async with (
                open_client(config(directory, server.admin_kubeconfig())) as admin,
                open_client(config(directory, server.node_kubeconfig(NODE))) as node,
            ):
                yield admin, node


def secret(value: str, name: str = "db") -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"password": value}}


def pod(name: str, *secrets: str, node: str = NODE) -> dict[str, Any]:
    sources = [{"secretRef": {"name": secret_name}} for secret_name in secrets]
    container = {"name": "c", "image": "busybox", "envFrom": sources}
    spec = {"nodeName": node, "containers": [container], "automountServiceAccountToken": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


async def bind(admin: ApiClient, name: str, *secrets: str) -> Pod:
    await admin.create(PODS, "default", pod(name, *secrets))
    return await admin.get(PODS, "default", name, Pod)


def password(found: Secret | None) -> bytes | None:
    return None if found is None else found.data["password"].reveal()


async def test_secret_of_a_bound_pod_comes_changes_and_goes(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (admin, node), trio.open_nursery() as nursery:
        manager = ObjectManager(node, SECRET_KIND)
        await nursery.start(manager.run)
        manager.register_pod(await bind(admin, "web", "db"))
        assert await manager.changes.receive() == DB
        with pytest.raises(MissingObject):
            await manager.get("default", "db")
        assert str(await admin.apply(secret("one"))) == "secret/db created"
        assert await manager.changes.receive() == DB
        assert password(await manager.get("default", "db")) == b"one"
        assert str(await admin.apply(secret("two"))) == "secret/db configured"
        assert await manager.changes.receive() == DB
        assert password(manager.peek("default", "db")) == b"two"
        await admin.delete(SECRETS, "default", "db")
        assert await manager.changes.receive() == DB
        assert manager.peek("default", "db") is None
        nursery.cancel_scope.cancel()


async def test_node_may_not_read_what_no_pod_of_its_refers_to(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (admin, node):
        await admin.apply(secret("one"))
        with pytest.raises(Forbidden, match="No Object name found"):
            await node.list(SECRETS, "default", Secret)
        with pytest.raises(Forbidden, match="no relationship found between node 'n1' and this object"):
            await node.get(SECRETS, "default", "db", Secret)
        with pytest.raises(Forbidden):
            async with node.watch(SECRETS, "default", Secret, field_selector="metadata.name=db"):
                pass


async def test_pod_registered_before_the_server_knows_of_its_binding(tmp_path: Path) -> None:
    """403 until the binding is known; then without anybody asking again."""
    async with cluster(tmp_path) as (admin, node), trio.open_nursery() as nursery:
        await admin.apply(secret("one"))
        manager = ObjectManager(node, SECRET_KIND)
        await nursery.start(manager.run)
        await admin.create(PODS, "default", pod("elsewhere", "db", node="n2"))
        bound = await admin.get(PODS, "default", "elsewhere", Pod)
        manager.register_pod(bound)
        cause = None
        while cause is None:  # without one there was no answer in the second that it waits
            with pytest.raises(CacheNotSynced) as caught:
                await manager.get("default", "db")
            cause = caught.value.__cause__
        assert isinstance(cause, Forbidden)
        await admin.create(PODS, "default", pod("here", "db"))
        assert await manager.changes.receive() == DB
        assert password(await manager.get("default", "db")) == b"one"
        nursery.cancel_scope.cancel()


async def test_restarted_server_is_found_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with api_server(data_dir=data) as server:
                port = server.port
                admin_config = config(tmp_path, server.admin_kubeconfig())
                node_config = config(tmp_path, server.node_kubeconfig(NODE))
                node = await nursery.start(hold_client, node_config)
                manager = ObjectManager(node, SECRET_KIND)
                await nursery.start(manager.run)
                async with open_client(admin_config) as admin:
                    await admin.apply(secret("one"))
                    manager.register_pod(await bind(admin, "web", "db"))
                    assert await manager.changes.receive() == DB
                    assert password(await manager.get("default", "db")) == b"one"
            assert password(await manager.get("default", "db")) == b"one"
            async with api_server(data_dir=data, port=port):
                async with open_client(admin_config) as admin:
                    await admin.apply(secret("two"))
                assert await manager.changes.receive() == DB
                assert password(manager.peek("default", "db")) == b"two"
                nursery.cancel_scope.cancel()


async def hold_client(
    settings: ClusterConfig, *, task_status: trio.TaskStatus[ApiClient] = trio.TASK_STATUS_IGNORED
) -> None:
    async with open_client(settings) as client:
        task_status.started(client)
        await trio.sleep_forever()


class Names:
    """A sink that keeps the names of pods."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.changed = trio.Event()

    def replace(self, objects: Sequence[Pod]) -> None:
        self._set({pod.metadata.name for pod in objects})

    def upsert(self, obj: Pod) -> None:
        self._set(self.names | {obj.metadata.name})

    def remove(self, obj: Pod) -> None:
        self._set(self.names - {obj.metadata.name})

    def report(self, error: Exception | None) -> None:
        pass

    def _set(self, names: set[str]) -> None:
        self.names = names
        self.changed.set()
        self.changed = trio.Event()

    async def wait_for(self, *names: str) -> None:
        while self.names != set(names):
            await self.changed.wait()


@pytest.mark.parametrize("streams", [True, False], ids=["streaming-list", "list-and-watch"])
async def test_pods_of_the_node_are_reflected(tmp_path: Path, streams: bool) -> None:
    async with cluster(tmp_path) as (admin, node), trio.open_nursery() as nursery:
        await bind(admin, "first")
        await admin.create(PODS, "default", pod("other-node", node="n2"))
        sink = Names()
        target = Target(resource=PODS, kind=Pod, field_selector=f"spec.nodeName={NODE}")
        nursery.start_soon(Reflector(node, target, sink, streams=streams).run)
        await sink.wait_for("first")
        await bind(admin, "second")
        await sink.wait_for("first", "second")
        await node.delete(PODS, "default", "first", grace_period_s=0)
        await sink.wait_for("second")
        nursery.cancel_scope.cancel()


async def test_unregistered_pods_leave_no_stream_on_the_server(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (admin, node), trio.open_nursery() as nursery:
        manager = ObjectManager(node, SECRET_KIND)
        await nursery.start(manager.run)
        names = [f"s{number}" for number in range(30)]
        registered = await bind(admin, "web", *names)
        for round_number in range(3):
            manager.register_pod(registered)
            for _ in names:
                await manager.changes.receive()
            manager.unregister_pod(PodUID(registered.metadata.uid))
            assert manager.users("default", "s0") == frozenset(), round_number
        nursery.cancel_scope.cancel()

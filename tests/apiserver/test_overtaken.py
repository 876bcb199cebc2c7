"""Two steps of one, somebody else's in between: an object that comes, a namespace that comes back, a place that is taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from kubelet_secrets.api.meta import NAMESPACES, NODES, PODS, SECRETS
from kubelet_secrets.apiserver.controllers import Controllers
from kubelet_secrets.apiserver.process import ServerHandle
from kubelet_secrets.apiserver.registry import IN_PROCESS, Registry
from kubelet_secrets.apiserver.resources import ServedResource, served
from kubelet_secrets.apiserver.scheduler import Scheduler
from tests.apiserver.harness import Http, pod, secret
from tests.apiserver.test_deletion_race import OvertakenStorage, registry, storage

__all__ = ["registry", "storage"]

STATUS = dataclasses.replace(IN_PROCESS, subresource="status")
CONFIG_MAP = "/api/v1/namespaces/default/configmaps/c"
ROLE = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/r"


@pytest.fixture
def overtaken(server: ServerHandle, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Call it with an object: somebody creates that right before the server creates the next one."""
    create = server.registry.create

    def arrange(rival: dict[str, Any]) -> None:
        async def create_second(row: ServedResource, namespace: str, obj: dict[str, Any], *more: Any) -> dict[str, Any]:
            monkeypatch.setattr(server.registry, "create", create)
            await create(row, namespace, rival)
            return await create(row, namespace, obj, *more)

        monkeypatch.setattr(server.registry, "create", create_second)

    return arrange


async def test_apply_that_creates_finds_that_somebody_has(
    admin: Http, overtaken: Callable[[dict[str, Any]], None]
) -> None:
    overtaken({"metadata": {"name": "c"}, "data": {"theirs": "1"}})
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"mine": "2"}}
    assert (await admin.patch(f"{CONFIG_MAP}?fieldManager=m", body, "application/apply-patch+yaml")).status == 200
    assert (await admin.get(CONFIG_MAP)).json["data"] == {"theirs": "1", "mine": "2"}


async def test_put_that_creates_finds_that_somebody_has(
    admin: Http, overtaken: Callable[[dict[str, Any]], None]
) -> None:
    overtaken({"metadata": {"name": "r"}, "rules": []})
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    assert (await admin.put(ROLE, {"metadata": {"name": "r"}, "rules": rules})).status == 200
    assert (await admin.get(ROLE)).json["rules"] == rules


async def test_namespace_that_came_back_keeps_what_is_its_own(registry: Registry) -> None:
    """Three loops empty namespaces; the slowest may find one of the same name, which nobody has deleted."""
    namespaces, secrets = served(NAMESPACES), served(SECRETS)
    controllers = Controllers(registry, b"", {})
    first = await registry.create(namespaces, "", {"metadata": {"name": "t"}})
    await registry.create(secrets, "t", secret("old"))
    await registry.delete(namespaces, "", "t")
    await controllers._empty_namespace(first)
    assert await registry.find(namespaces, "", "t") is None
    assert await registry.find(secrets, "t", "old") is None
    await registry.create(namespaces, "", {"metadata": {"name": "t"}})
    await registry.create(secrets, "t", secret("new"))
    await controllers._empty_namespace(first)
    assert await registry.find(secrets, "t", "new") is not None
    assert (await registry.get(namespaces, "", "t")).object["spec"]["finalizers"] == ["kubernetes"]


async def test_last_place_of_a_node_is_given_once(storage: OvertakenStorage, registry: Registry) -> None:
    """A pod is being bound when news of a node is a reason to look at those that wait."""
    pods, nodes = served(PODS), served(NODES)
    scheduler = Scheduler(registry)
    ready = [{"type": "Ready", "status": "True"}]
    body: dict[str, Any] = {"metadata": {"name": "n"}, "status": {"conditions": ready, "allocatable": {"pods": "0"}}}
    node = await registry.create(nodes, "", body)
    waiting = await registry.create(pods, "default", pod("waiting"))
    await scheduler.pod_changed("ADDED", waiting)

    def grow(live: dict[str, Any]) -> dict[str, Any]:
        live["status"]["allocatable"]["pods"] = "1"
        return live

    await registry.update(nodes, "", "n", grow, STATUS)
    comes = await registry.create(pods, "default", pod("comes"))
    async with trio.open_nursery() as nursery:

        async def news_of_the_node() -> None:
            nursery.start_soon(scheduler.node_changed, "MODIFIED", node)
            await trio.testing.wait_all_tasks_blocked()

        storage.meanwhile = news_of_the_node
        await scheduler.pod_changed("ADDED", comes)
    bound = {
        name: (await registry.get(pods, "default", name)).object["spec"].get("nodeName")
        for name in ("waiting", "comes")
    }
    assert bound == {"waiting": None, "comes": "n"}

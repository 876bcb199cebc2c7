"""Silent nodes, with a clock that jumps."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from kubelet_secrets.api import meta
from kubelet_secrets.apiserver.node_monitor import _STATUS, CONDITIONS, GRACE_PERIOD_S
from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.resources import served

NODES, PODS, LEASES = served(meta.NODES), served(meta.PODS), served(meta.LEASES)


async def _prepare(registry: Registry) -> None:
    ready = [{"type": "Ready", "status": "True"}]
    await registry.create(NODES, "", {"metadata": {"name": "n"}, "status": {"conditions": ready}})
    for name in ("p", "elsewhere"):
        spec = {"nodeName": "n" if name == "p" else "m", "containers": [{"name": "c", "image": "i"}]}
        await registry.create(PODS, "default", {"metadata": {"name": name}, "spec": spec})

        def set_ready(pod: dict[str, Any]) -> dict[str, Any]:
            pod["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
            return pod

        await registry.update(PODS, "default", name, set_ready, _STATUS)


async def _conditions(registry: Registry) -> dict[str, str]:
    node = (await registry.get(NODES, "", "n")).object
    return {entry["type"]: entry["status"] for entry in node["status"]["conditions"]}


async def _renew(registry: Registry) -> None:
    def renew(lease: dict[str, Any]) -> dict[str, Any]:
        lease["spec"]["leaseTransitions"] = lease["spec"].get("leaseTransitions", 0) + 1
        return lease

    await registry.update(LEASES, "kube-node-lease", "n", renew)


async def test_node_that_stops_renewing_is_lost_and_its_pods_are_not_ready(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        server: ServerHandle = await nursery.start(serve_apiserver, ServerOptions(runs_scheduler=False))
        registry = server.registry
        await _prepare(registry)
        await registry.create(LEASES, "kube-node-lease", {"metadata": {"name": "n"}, "spec": {}})
        for _ in range(20):
            await trio.sleep(10)
            await _renew(registry)
        assert await _conditions(registry) == {"Ready": "True"}
        await trio.sleep(GRACE_PERIOD_S + 15)
        assert await _conditions(registry) == dict.fromkeys(CONDITIONS, "Unknown")
        ready = {}
        for name in ("p", "elsewhere"):
            pod = (await registry.get(PODS, "default", name)).object
            ready[name] = pod["status"]["conditions"][0]["status"]
        assert ready == {"p": "False", "elsewhere": "True"}
        server.shut_down()


async def test_node_without_a_lease_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        server: ServerHandle = await nursery.start(serve_apiserver, ServerOptions(runs_scheduler=False))
        await _prepare(server.registry)
        await trio.sleep(10 * GRACE_PERIOD_S)
        assert await _conditions(server.registry) == {"Ready": "True"}
        server.shut_down()

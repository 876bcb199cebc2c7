"""Settings that change when and how a node notices changes: ``--emulate-kubelet-delays`` and the detection strategies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from kubelet_secrets.api.meta import NODES, PODS
from kubelet_secrets.control.protocol import EnvView
from tests.e2e.stacks import Cluster, Stack, container, mount, open_cluster, secret_env, secret_volume, waiting

MERGE = "application/merge-patch+json"


async def annotate(cluster: Cluster, pod: str) -> None:
    """What makes a kubelet sync a pod at once."""
    body = {"metadata": {"annotations": {"sync": "now"}}}
    await cluster.client.patch(PODS, "default", pod, body, content_type=MERGE)


async def run_reader(cluster: Cluster) -> None:
    await cluster.put_secret("s", {"k": "one"})
    await cluster.run_pod(
        "p",
        container(env=[secret_env("K", "s", "k")], volumeMounts=[mount("v", "/v")]),
        volumes=[secret_volume("v", "s")],
    )
    assert await cluster.exec("p", "cat /v/k; echo :$K") == "one:one\n"


async def wait_content(cluster: Cluster, content: str) -> None:
    with trio.fail_after(60):
        while await cluster.exec("p", "cat /v/k") != content:  # noqa: ASYNC110  # there is no event to wait for
            await trio.sleep(0.05)


async def test_emulated_delays(make_stack: Callable[..., Stack]) -> None:
    """The node knows of a change at once; the container sees it when the kubelet would have synced its pod.

    The start of the container is a reason for a sync as well, and that sync may still be on its way at the first change.
    """
    stack = make_stack("--emulate-kubelet-delays")
    async with open_cluster(stack) as cluster:
        await run_reader(cluster)
        shown = "one"
        for number in range(2, 10):
            latest = f"value {number}"
            await cluster.put_secret("s", {"k": latest})
            with trio.fail_after(60):
                view: EnvView | None = None
                while view is None or view.current_version < number:
                    (view,) = stack.ask("env", EnvView, namespace="default", pod="p")
                    await trio.sleep(0.02)
            before, shown = shown, await cluster.exec("p", "cat /v/k")
            if shown == before:
                break
        else:
            raise AssertionError("every change was seen at once")
        await annotate(cluster, "p")
        await wait_content(cluster, latest)


@pytest.mark.parametrize("strategy", ["Cache", "Get"])
async def test_polling_strategies(make_stack: Callable[..., Stack], strategy: str) -> None:
    """No watch of Secrets; what a sync finds is what counts, and the API server's own words tell what is missing."""
    stack = make_stack("--config-map-and-secret-change-detection-strategy", strategy)
    async with open_cluster(stack) as cluster:
        await run_reader(cluster)
        await cluster.put_secret("s", {"k": "two"})
        await annotate(cluster, "p")
        await wait_content(cluster, "two")
        await cluster.create_pod("q", container(env=[secret_env("K", "none", "k")]))
        assert waiting(await cluster.wait_waiting("q", "CreateContainerConfigError"))[1] == 'secrets "none" not found'
        if strategy == "Cache":  # the node's annotation is read; what comes of it is tests/cache's
            body = {"metadata": {"annotations": {"node.alpha.kubernetes.io/ttl": "0"}}}
            await cluster.client.patch(NODES, "", stack.node_name, body, content_type=MERGE)


def test_unknown_strategy_is_refused() -> None:
    from tests.e2e.stacks import run_cli

    done = run_cli("up", "--config-map-and-secret-change-detection-strategy", "Push")
    assert done.returncode == 2
    assert "'Push' is not one of 'Watch', 'Cache', 'Get'" in done.stderr

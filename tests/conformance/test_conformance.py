"""The official e2e tests on Secrets and what goes with them, translated: one row each, under upstream's own text.

All rows that were chosen run beside each other on one node, like ``e2e.test -p``; each row is a result of its own.
Source: semantics §14.
"""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from kubelet_secrets.api.meta import NAMESPACES
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import open_client
from kubelet_secrets.client.version import server_version
from kubelet_secrets.runtime.tools import find_tools
from kubelet_secrets.testing.images import build_busybox_image
from tests.conformance import (
    conditions,
    containers,
    downward_volumes,
    empty_dirs,
    environments,
    expansions,
    file_keys,
    images,
    init_containers,
    keyed_volumes,
    pods,
    security,
    service_accounts,
    subpaths,
)
from tests.conformance.features import lack
from tests.conformance.framework import Case, Cluster, Framework, PrivateImage
from tests.runtime.private_registry import PASSWORD, USERNAME, serve_registry

pytestmark = [pytest.mark.fuse, pytest.mark.runtime, pytest.mark.timeout(1200)]

CASES: tuple[Case, ...] = (
    # Those that wait for back-off or for much come first.
    *(*subpaths.CASES, *init_containers.CASES, *empty_dirs.CASES, *containers.CASES),
    *(*keyed_volumes.CASES, *downward_volumes.CASES, *environments.CASES, *expansions.CASES),
    *(*file_keys.CASES, *images.CASES, *service_accounts.CASES, *conditions.CASES, *pods.CASES, *security.CASES),
)
CONCURRENCY = 32
CASE_TIMEOUT_S = 600


@asynccontextmanager
async def private_image(directory: Path) -> AsyncIterator[PrivateImage]:
    """A registry with a password, and busybox in it. In a cluster it is a pod; here the node's host runs it."""
    layout = build_busybox_image(directory / "layout", env={"IMAGE": "private"})
    async with serve_registry(directory / "registry", layout, find_tools()) as registry:
        auth = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        yield PrivateImage(image=registry.image, docker_config={"auths": {registry.domain: {"auth": auth}}})


async def run_all(cluster: Cluster, cases: Sequence[Case], scratch: Path) -> Mapping[str, BaseException | None]:
    """Run the cases, some at a time, and say how each ended."""
    outcomes: dict[str, BaseException | None] = {}
    config = load_kubeconfig(cluster.kubeconfig)
    limit = trio.Semaphore(CONCURRENCY)

    async def run_one(number: int, case: Case) -> None:
        name = re.sub(r"[^a-z0-9]+", "-", case.title.lower())[:30].strip("-")
        f = Framework(cluster, config, client, f"{name}-{number}")
        try:
            try:
                if reason := lack(case.title, server, cluster.node_version):
                    pytest.skip(reason)
                with trio.fail_after(CASE_TIMEOUT_S):
                    await f.create_namespace(f.namespace)
                    await case.run(f)
            finally:
                for each in f.others:
                    await client.delete(NAMESPACES, "", each)
            outcomes[case.title] = None
        except (
            Exception,
            pytest.skip.Exception,
            pytest.fail.Exception,
        ) as error:  # whatever is the matter with one row is that row's result
            outcomes[case.title] = error
        finally:
            limit.release()

    async with open_client(config) as client, private_image(scratch) as image:
        cluster = dataclasses.replace(cluster, registry=image)
        server = await server_version(client)
        async with trio.open_nursery() as nursery:
            for number, case in enumerate(cases):
                await limit.acquire()
                nursery.start_soon(run_one, number, case)
    return outcomes


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, conformance_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, BaseException | None]:
    here = Path(__file__)
    chosen = [item.callspec.params["case"] for item in request.session.items if item.path == here]  # type: ignore[attr-defined]
    return trio.run(run_all, conformance_cluster, chosen, tmp_path_factory.mktemp("registry"))


@pytest.mark.parametrize("case", [pytest.param(each, id=each.title) for each in CASES])
def test_conforms(case: Case, outcomes: Mapping[str, BaseException | None]) -> None:
    error = outcomes[case.title]
    if error is not None:
        raise error

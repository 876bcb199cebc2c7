"""The official e2e tests on Secrets and what goes with them, translated: one row each, under upstream's own text.

All rows that were chosen run beside each other on one node, like ``e2e.test -p``; each row is a result of its own.
Source: semantics §14.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import trio

from kubelet_secrets.api.meta import NAMESPACES
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import open_client
from tests.conformance import keyed_volumes
from tests.conformance.framework import Case, Cluster, Framework

pytestmark = [pytest.mark.fuse, pytest.mark.runtime, pytest.mark.timeout(600)]

CASES: tuple[Case, ...] = (*keyed_volumes.CASES,)
CONCURRENCY = 32
CASE_TIMEOUT_S = 300


async def run_all(cluster: Cluster, cases: Sequence[Case]) -> Mapping[str, BaseException | None]:
    """Run the cases, some at a time, and say how each ended."""
    outcomes: dict[str, BaseException | None] = {}
    config = load_kubeconfig(cluster.kubeconfig)
    limit = trio.Semaphore(CONCURRENCY)

    async def run_one(number: int, case: Case) -> None:
        name = re.sub(r"[^a-z0-9]+", "-", case.title.lower())[:30].strip("-")
        f = Framework(cluster, config, client, f"{name}-{number}")
        try:
            with trio.fail_after(CASE_TIMEOUT_S):
                await f.create_namespace(f.namespace)
                await case.run(f)
            outcomes[case.title] = None
        except Exception as error:  # whatever is wrong with one row is that row's result
            outcomes[case.title] = error
        finally:
            limit.release()
        for each in f.others:
            await client.delete(NAMESPACES, "", each)

    async with open_client(config) as client:
        async with trio.open_nursery() as nursery:
            for number, case in enumerate(cases):
                await limit.acquire()
                nursery.start_soon(run_one, number, case)
    return outcomes


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, conformance_cluster: Cluster) -> Mapping[str, BaseException | None]:
    here = Path(__file__)
    chosen = [item.callspec.params["case"] for item in request.session.items if item.path == here]  # type: ignore[attr-defined]
    return trio.run(run_all, conformance_cluster, chosen)


@pytest.mark.parametrize("case", [pytest.param(each, id=each.title) for each in CASES])
def test_conforms(case: Case, outcomes: Mapping[str, BaseException | None]) -> None:
    error = outcomes[case.title]
    if error is not None:
        raise error

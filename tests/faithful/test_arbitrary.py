"""Arbitrary pods: whatever becomes of one, ``explain`` had said so.

A few of them each time; a larger range, for an hour of looking, is one number away.
"""

from __future__ import annotations

import pytest

from kubelet_secrets.api.meta import PODS
from kubelet_secrets.errors import Invalid, NotFound
from kubelet_secrets.explain import Explanation, Problem, Severity
from tests.e2e.stacks import Cluster
from tests.faithful.arbitrary import arbitrary_manifests
from tests.faithful.looking import (
    apply,
    foretell,
    foretold,
    look,
    make_namespace,
    own_service,
    wait_pod,
    wait_refusal,
)

NUMBERS = range(12)


@pytest.mark.parametrize("number", NUMBERS)
async def test_what_becomes_of_a_pod_was_foretold(cluster: Cluster, number: int) -> None:
    namespace, text = f"any-{number}", arbitrary_manifests(number)
    explanation = foretell(text + await own_service(cluster), namespace)
    await make_namespace(cluster, namespace)
    try:
        await apply(cluster, text, namespace)
    except Invalid as refused:
        told = [f"{each.where.rpartition(': ')[2]}: {each.message}" for each in blocking(explanation, "invalid")]
        said = str(refused).partition(" is invalid: ")[2]
        assert said == (told[0] if len(told) == 1 else f"[{', '.join(told)}]")
        return
    assert not blocking(explanation, "invalid")
    try:
        if blocking(explanation):
            check_refusal(await wait_refusal(cluster, namespace, "web"), blocking(explanation))
        else:
            await check_containers(cluster, namespace, explanation)
    finally:
        try:
            await cluster.client.delete(PODS, namespace, "web", grace_period_s=0)
        except NotFound:
            pass


def blocking(explanation: Explanation, code: str = "") -> list[Problem]:
    return [each for each in explanation.all_problems() if each.severity is Severity.BLOCKS and code in ("", each.code)]


def check_refusal(said: str, told: list[Problem]) -> None:
    """One of what was told is what the node says first; of a projected volume it says all at once."""
    if any(each.code == "mount-impossible" for each in told) and said.startswith("Error: failed to start container"):
        return  # the runtime's words, with paths of the node
    said = said.removeprefix("Error: ")
    messages = [each.message for each in told]
    head, separator, causes = said.partition(" : ")
    known = {message.removeprefix(f"{head} : ") for message in messages if message.startswith(f"{head} : ")}
    listed = separator and causes.startswith("[") and set(causes[1:-1].split(", ")) <= known
    assert said in messages or listed, (said, messages)


async def check_containers(cluster: Cluster, namespace: str, explanation: Explanation) -> None:
    pod = await wait_pod(cluster, namespace, "web")
    (told,) = explanation.pods
    for container in told.containers:
        expected = foretold(container)
        seen = (await look(cluster, pod, container.name)).without_run_time(expected)
        assert seen.files == expected.files
        assert seen.variables == expected.variables
        assert seen.mounts == expected.mounts

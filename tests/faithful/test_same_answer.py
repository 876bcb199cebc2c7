"""The same manifests, told by ``explain`` and run by runc: the same answer, field by field."""

from __future__ import annotations

import json

import pytest

from kubelet_secrets.api.meta import PODS
from kubelet_secrets.errors import Invalid
from kubelet_secrets.explain import Severity
from tests.e2e.stacks import Cluster
from tests.faithful import cases
from tests.faithful.looking import (
    apply,
    arguments,
    foretell,
    foretold,
    look,
    make_namespace,
    own_service,
    run_inside,
    wait_pod,
    wait_refusal,
)


async def test_the_case_objects_are_good(cluster: Cluster) -> None:
    """The tables below would prove little if explain saw nothing in them."""
    (pod,) = foretell(cases.VOLUMES["secret"], "x").pods
    assert {file.path for file in pod.containers[0].files if file.volume == "v"} == {
        *("/v/user", "/v/password", "/v/bin", "/v/.dot", "/v/a.b-c_D", "/v/empty")
    }


@pytest.mark.parametrize("case", [*cases.VOLUMES, *cases.ENVIRONMENTS])
async def test_container_sees_what_was_foretold(cluster: Cluster, case: str) -> None:
    text = {**cases.VOLUMES, **cases.ENVIRONMENTS}[case]
    namespace = f"ok-{case}"
    explanation = foretell(text + await own_service(cluster), namespace)
    assert not explanation.is_blocked, [problem.message for problem in explanation.all_problems()]
    await make_namespace(cluster, namespace)
    await apply(cluster, text, namespace)
    try:
        pod = await wait_pod(cluster, namespace, "web")
        (told,) = explanation.pods
        lasting = {each.name for each in pod.spec.init_containers if each.restart_policy == "Always"}
        for container in told.containers:
            if container.kind == "container" or container.name in lasting:
                expected = foretold(container)
                seen = (await look(cluster, pod, container.name)).without_run_time(expected)
                assert seen.files == expected.files
                assert seen.variables == expected.variables
                assert seen.mounts == expected.mounts
    finally:
        await cluster.client.delete(PODS, namespace, "web", grace_period_s=1)  # the next one may need its processors


ARGUMENTS = {
    "$(A)": "a",
    "<$(PW)>": "<hunter2>",
    "$$(A)": "$(A)",
    "$(NOPE) $(A": "$(NOPE) $(A",
    "$(KUBERNETES_SERVICE_PORT)": "443",
    "ü$(REF)$": "ü$(A)$",
    "": "",
}


async def test_command_and_arguments_are_expanded_and_hooks_are_not(cluster: Cluster) -> None:
    """§6.4: with the final environment, services included, in one pass; lifecycle hooks stay as they are written."""
    hook = '{exec: {command: [touch, "/dev/shm/$(A)"]}}'
    text = cases.env(
        "{name: A, value: a}",
        "{name: REF, value: $$(A)}",
        cases.value_from("PW", "secretKeyRef: {name: db, key: password}"),
        more=f", args: {json.dumps(list(ARGUMENTS), ensure_ascii=False)}, lifecycle: {{postStart: {hook}}}",
    )
    await make_namespace(cluster, "arguments")
    await apply(cluster, text, "arguments")
    pod = await wait_pod(cluster, "arguments", "web")
    assert (await arguments(cluster, pod, "app"))[3:] == list(ARGUMENTS.values())
    assert await run_inside(cluster, pod, "app", "ls", "/dev/shm") == "$(A)\n"


@pytest.mark.parametrize("case", cases.REFUSED_BY_THE_NODE)
async def test_node_refuses_in_the_words_that_were_foretold(cluster: Cluster, case: str) -> None:
    text, namespace = cases.REFUSED_BY_THE_NODE[case], f"no-{case}"
    explanation = foretell(text, namespace)
    told = [problem.message for problem in explanation.all_problems() if problem.severity is Severity.BLOCKS]
    await make_namespace(cluster, namespace)
    await apply(cluster, text, namespace)
    said = (await wait_refusal(cluster, namespace, "web")).removeprefix("Error: ")
    if len(told) == 1:
        assert told == [said]
    else:  # explain names every source by itself; the kubelet puts them in one list
        assert said.endswith(f"[{', '.join(message.rpartition(' : ')[2] for message in told)}]")


@pytest.mark.parametrize("case", cases.REFUSED_BY_THE_RUNTIME)
async def test_runtime_refuses_where_that_was_foretold(cluster: Cluster, case: str) -> None:
    """In its own words, which name paths of the node."""
    text, namespace = cases.REFUSED_BY_THE_RUNTIME[case], f"stop-{case}"
    told = [each.code for each in foretell(text, namespace).all_problems() if each.severity is Severity.BLOCKS]
    assert told == ["mount-impossible"]
    await make_namespace(cluster, namespace)
    await apply(cluster, text, namespace)
    said = await wait_refusal(cluster, namespace, "web")
    assert said.startswith("Error: failed to ")
    assert "OCI runtime create failed" in said


@pytest.mark.parametrize("case", cases.REFUSED_BY_THE_API)
async def test_api_refuses_in_the_words_that_were_foretold(cluster: Cluster, case: str) -> None:
    text, namespace = cases.REFUSED_BY_THE_API[case], f"bad-{case}"
    explanation = foretell(text, namespace)
    told = [
        f"{problem.where.rpartition(': ')[2]}: {problem.message}".removeprefix(": ")
        for problem in explanation.all_problems()
        if problem.code == "invalid"
    ]
    assert told
    await make_namespace(cluster, namespace)
    with pytest.raises(Invalid) as caught:
        await apply(cluster, text, namespace)
    said = str(caught.value).partition(" is invalid: ")[2]
    assert said == (told[0] if len(told) == 1 else f"[{', '.join(told)}]")

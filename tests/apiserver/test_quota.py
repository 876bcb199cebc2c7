"""ResourceQuota: what is refused, in upstream's words, and what ``status.used`` says at any time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from kubelet_secrets.api import meta
from kubelet_secrets.api.validation.quotas import validate_resource_quota
from kubelet_secrets.apiserver import quota
from kubelet_secrets.apiserver.resources import served
from tests.apiserver.harness import PODS, SECRETS, Answer, Http, pod, secret

QUOTAS = "/api/v1/namespaces/default/resourcequotas"


async def limit(admin: Http, name: str = "q", *, scopes: tuple[str, ...] = (), **hard: str) -> None:
    """Create a quota and wait until its status counts. In keywords ``__`` is a slash and ``_`` a dot."""
    named = {key.replace("__", "/").replace("_", "."): amount for key, amount in hard.items()}
    spec: dict[str, Any] = {"hard": named}
    if scopes:
        spec["scopes"] = list(scopes)
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec}
    made = await admin.post(QUOTAS, body)
    assert made.status == 201, made.body
    await wait_status(admin, lambda status: status.get("hard") == named, name)


async def wait_status(admin: Http, holds: Callable[[dict[str, Any]], bool], name: str = "q") -> dict[str, Any]:
    with trio.fail_after(60):
        while True:
            status: dict[str, Any] = (await admin.get(f"{QUOTAS}/{name}")).json.get("status") or {}
            if holds(status):
                return status
            await trio.sleep(0.02)


def refusal(answer: Answer) -> str:
    assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
    return answer.message


async def test_the_last_place_is_the_last(admin: Http) -> None:
    await limit(admin, secrets="2", count__configmaps="3")
    for name in ("a", "b"):
        assert (await admin.post(SECRETS, secret(name))).status == 201
    assert refusal(await admin.post(SECRETS, secret("c"))) == (
        'secrets "c" is forbidden: exceeded quota: q, requested: secrets=1, used: secrets=2, limited: secrets=2'
    )
    assert (await admin.get(f"{QUOTAS}/q")).json["status"]["used"] == {"secrets": "2", "count/configmaps": "1"}
    assert (await admin.patch(f"{SECRETS}/a", {"metadata": {"labels": {"x": "y"}}})).status == 200, (
        "no more than before"
    )
    await admin.delete(f"{SECRETS}/a")
    await wait_status(admin, lambda status: status["used"]["secrets"] == "1")
    assert (await admin.post(SECRETS, secret("c"))).status == 201


async def test_of_many_writers_at_once_no_more_get_in_than_there_are_places(admin: Http) -> None:
    await limit(admin, secrets="5")
    statuses: list[int] = []

    async def create(number: int) -> None:
        statuses.append((await admin.post(SECRETS, secret(f"s{number}"))).status)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(create, number)
    assert sorted(statuses) == [201] * 5 + [403] * 15
    assert len((await admin.get(SECRETS)).json["items"]) == 5


async def test_a_dry_run_is_refused_and_takes_nothing(admin: Http) -> None:
    await limit(admin, secrets="1")
    assert (await admin.post(f"{SECRETS}?dryRun=All", secret("a"))).status == 201
    assert (await admin.get(f"{QUOTAS}/q")).json["status"]["used"] == {"secrets": "0"}
    await admin.post(SECRETS, secret("a"))
    assert "exceeded quota" in refusal(await admin.post(f"{SECRETS}?dryRun=All", secret("b")))


async def test_pods_take_what_they_request_until_they_end(admin: Http) -> None:
    def sized(name: str, cpu: str, memory: str) -> dict[str, Any]:
        container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}, "limits": {"memory": memory}}}
        return pod(name, containers=[container])

    await limit(admin, pods="9", requests_cpu="1", limits_memory="1Gi")
    assert refusal(await admin.post(PODS, pod("silent"))) == (
        'pods "silent" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c'
    )
    assert (await admin.post(PODS, sized("one", "600m", "512Mi"))).status == 201
    assert refusal(await admin.post(PODS, sized("two", "0.5", "768Mi"))) == (
        'pods "two" is forbidden: exceeded quota: q, requested: limits.memory=768Mi,requests.cpu=500m, '
        "used: limits.memory=512Mi,requests.cpu=600m, limited: limits.memory=1Gi,requests.cpu=1"
    )
    await admin.patch(f"{PODS}/one/status", {"status": {"phase": "Succeeded"}})
    await wait_status(admin, lambda status: status["used"]["requests.cpu"] == "0")
    assert (await admin.post(PODS, sized("two", "0.5", "768Mi"))).status == 201


async def test_scopes_choose_pods(admin: Http) -> None:
    await limit(admin, pods="1", scopes=("BestEffort",))
    request = {"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}
    assert (await admin.post(PODS, pod("a"))).status == 201
    assert (await admin.post(PODS, pod("burstable", containers=[request]))).status == 201
    assert "exceeded quota: q, requested: pods=1" in refusal(await admin.post(PODS, pod("b")))


async def test_every_quota_has_to_agree(admin: Http) -> None:
    await limit(admin, "wide", secrets="10")
    await limit(admin, "narrow", count__secrets="1")
    assert (await admin.post(SECRETS, secret("a"))).status == 201
    assert "exceeded quota: narrow, requested: count/secrets=1" in refusal(await admin.post(SECRETS, secret("b")))
    assert (await admin.get(f"{QUOTAS}/wide")).json["status"]["used"] == {"secrets": "1"}
    await admin.patch(f"{QUOTAS}/narrow", {"spec": {"hard": {"count/secrets": "2"}}})
    await wait_status(admin, lambda status: status["hard"]["count/secrets"] == "2", "narrow")
    assert (await admin.post(SECRETS, secret("b"))).status == 201


def test_init_containers_and_overhead_as_the_scheduler_counts() -> None:
    def with_cpu(amount: str, **more: Any) -> dict[str, Any]:
        return {"name": "c", "resources": {"requests": {"cpu": amount}}, **more}

    spec = {
        "initContainers": [with_cpu("200m", restartPolicy="Always"), with_cpu("900m")],
        "containers": [with_cpu("300m"), with_cpu("300m")],
        "overhead": {"cpu": "50m"},
    }
    used = quota.usage_of(served(meta.PODS), {"metadata": {"name": "x"}, "spec": spec})
    # 200m + 900m while the second starts; 200m + 600m later.
    assert quota.text_of("requests.cpu", used["requests.cpu"]) == "1150m"


@pytest.mark.parametrize(
    ("spec", "texts"),
    [
        ({"hard": {"pods": "-1"}}, ['spec.hard[pods]: Invalid value: "-1": must be greater than or equal to 0']),
        ({"hard": {"pods": "1500m"}}, ['spec.hard[pods]: Invalid value: "1500m": must be an integer']),
        ({"hard": {"pots": "1"}}, ['spec.hard[pots]: Invalid value: "pots": must be a standard resource for quota']),
        ({"hard": {"count/widgets.example.com": "1"}}, []),
        ({"scopes": ["Mine"]}, ['spec.scopes[0]: Invalid value: "Mine": unsupported scope']),
        (
            {"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}},
            [
                "spec.scopeSelector.matchExpressions[0].values: Required value: must be at least one value when `operator` "
                "is 'In' or 'NotIn' for scope selector"
            ],
        ),
    ],
)
def test_rules(spec: dict[str, Any], texts: list[str]) -> None:
    errors = validate_resource_quota({"metadata": {"name": "q", "namespace": "d"}, "spec": spec})
    assert [str(error) for error in errors] == texts

"""Namespaces filled and emptied, pods given a node, old events gone - by a whole server."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from kubelet_secrets.apiserver.controllers import EVENT_TTL_S
from kubelet_secrets.apiserver.loops import sweep_every
from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.apiserver.resources import BY_PATH
from kubelet_secrets.apiserver.selection import select
from tests.apiserver.harness import PODS, Http, http_client, pod, secret

NAMESPACES = "/api/v1/namespaces"
NODES = "/api/v1/nodes"


@pytest.fixture
async def scheduling() -> AsyncIterator[Http]:
    """An admin of a server with a scheduler."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server: ServerHandle = await nursery.start(serve_apiserver, ServerOptions())
            async with http_client(server, server.authority.issue_admin()) as admin:
                yield admin
            server.shut_down()


async def _wait_event(admin: Http, path: str, kind: str, name: str) -> Any:
    """The object of the first event of that kind and name on the watch *path*."""
    with trio.fail_after(60):
        async with admin.watch(path) as watch:
            while True:
                seen, obj = await watch.next()
                if (seen, obj["metadata"]["name"]) == (kind, name):
                    return obj


def _node(name: str, status: str = "True", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"disk": "ssd"}},
        "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": status}]},
    }


async def test_system_namespaces_exist_at_once(admin: Http) -> None:
    names = [item["metadata"]["name"] for item in (await admin.get(NAMESPACES)).json["items"]]
    assert names == ["default", "kube-node-lease", "kube-public", "kube-system"]
    for name in names:
        assert (await admin.get(f"{NAMESPACES}/{name}/serviceaccounts/default")).status == 200


async def test_new_namespace_gets_an_account_and_the_root_certificate(admin: Http, server: ServerHandle) -> None:
    created = (await admin.post(NAMESPACES, {"metadata": {"name": "t"}})).json
    assert created["status"] == {"phase": "Active"}
    assert created["spec"] == {"finalizers": ["kubernetes"]}
    assert created["metadata"]["labels"] == {"kubernetes.io/metadata.name": "t"}
    await _wait_event(admin, f"{NAMESPACES}/t/serviceaccounts?watch=1", "ADDED", "default")
    published = await _wait_event(admin, f"{NAMESPACES}/t/configmaps?watch=1", "ADDED", "kube-root-ca.crt")
    assert published["data"]["ca.crt"].encode() == server.ca_pem


async def test_deleted_root_certificate_comes_back(admin: Http) -> None:
    async with admin.watch(f"{NAMESPACES}/default/configmaps?watch=1") as watch:
        assert await watch.next_names(1) == [("ADDED", "kube-root-ca.crt")]
        await admin.delete(f"{NAMESPACES}/default/configmaps/kube-root-ca.crt")
        with trio.fail_after(60):
            assert await watch.next_names(2) == [("DELETED", "kube-root-ca.crt"), ("ADDED", "kube-root-ca.crt")]


async def test_changed_root_certificate_is_put_right(admin: Http, server: ServerHandle) -> None:
    async with admin.watch(f"{NAMESPACES}/default/configmaps?watch=1") as watch:
        assert await watch.next_names(1) == [("ADDED", "kube-root-ca.crt")]
        path = f"{NAMESPACES}/default/configmaps/kube-root-ca.crt"
        await admin.put(path, {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "", "more": "x"}})
        with trio.fail_after(60):
            assert await watch.next_names(2) == [("MODIFIED", "kube-root-ca.crt")] * 2
    assert (await admin.get(path)).json["data"] == {"ca.crt": server.ca_pem.decode()}


async def test_pod_right_after_its_namespace_waits_for_the_account(admin: Http) -> None:
    await admin.post(NAMESPACES, {"metadata": {"name": "t"}})
    created = await admin.post(f"{NAMESPACES}/t/pods", pod("p"))
    assert created.status == 201
    assert created.json["spec"]["serviceAccountName"] == "default"


async def test_pod_takes_over_the_pull_secrets_of_its_account(admin: Http) -> None:
    account = {"metadata": {"name": "puller"}, "imagePullSecrets": [{"name": "registry"}]}
    await admin.post(f"{NAMESPACES}/default/serviceaccounts", account)
    created = (await admin.post(PODS, pod("p", serviceAccountName="puller"))).json
    assert created["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    own = (await admin.post(PODS, pod("q", serviceAccountName="puller", imagePullSecrets=[{"name": "own"}]))).json
    assert own["spec"]["imagePullSecrets"] == [{"name": "own"}]


async def test_pod_of_an_absent_account_is_forbidden(admin: Http) -> None:
    answer = await admin.post(PODS, pod("p", serviceAccountName="nobody"))
    assert answer.status == 403
    assert answer.message == (
        'pods "p" is forbidden: error looking up service account default/nobody: serviceaccount "nobody" not found'
    )


async def test_deleted_namespace_is_emptied_and_goes(admin: Http) -> None:
    await admin.post(NAMESPACES, {"metadata": {"name": "t"}})
    await admin.post(f"{NAMESPACES}/t/secrets", secret("s"))
    await admin.post(f"{NAMESPACES}/t/pods", pod("p"))
    async with admin.watch(f"{NAMESPACES}?watch=1&fieldSelector=metadata.name%3Dt") as watch:
        await watch.next()
        marked = (await admin.delete(f"{NAMESPACES}/t")).json
        assert marked["status"]["phase"] == "Terminating"
        with trio.fail_after(60):
            assert await watch.next_names(2) == [("MODIFIED", "t"), ("DELETED", "t")]
    assert (await admin.get("/api/v1/secrets")).json["items"] == []


async def test_sweep_survives_a_bug_and_says_where(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What one object brings to light must not end the server, now and at each of its starts."""
    rounds = 0

    async def sweep() -> None:
        nonlocal rounds
        rounds += 1
        raise ValueError("canary")

    with trio.move_on_after(3.5):
        await sweep_every(1, sweep)
    assert rounds == 3
    assert "sweep: ValueError in" in caplog.text
    assert "canary" not in caplog.text
    caplog.clear()


async def test_bound_pod_holds_its_namespace_and_nothing_new_gets_in(admin: Http) -> None:
    await admin.post(NAMESPACES, {"metadata": {"name": "t"}})
    await admin.post(f"{NAMESPACES}/t/pods", pod("p", node="n"))
    async with admin.watch(f"{NAMESPACES}/t/pods?watch=1") as watch:
        await watch.next()
        await admin.delete(f"{NAMESPACES}/t")
        with trio.fail_after(60):
            assert await watch.next_names(1) == [("MODIFIED", "p")]  # marked as being deleted
    answer = await admin.post(f"{NAMESPACES}/t/secrets", secret("late"))
    assert answer.status == 403
    assert answer.message == (
        'secrets "late" is forbidden: unable to create new content in namespace t because it is being terminated'
    )
    assert answer.json["details"]["causes"] == [
        {
            "reason": "NamespaceTerminating",
            "message": "namespace t is being terminated",
            "field": "metadata.namespace",
        }
    ]
    async with admin.watch(f"{NAMESPACES}?watch=1&fieldSelector=metadata.name%3Dt") as watch:
        await watch.next()
        await admin.delete(f"{NAMESPACES}/t/pods/p", {"gracePeriodSeconds": 0})
        with trio.fail_after(60):
            assert await watch.next_names(1) == [("DELETED", "t")]


@pytest.mark.parametrize("name", ["default", "kube-system", "kube-public"])
async def test_system_namespaces_stay(admin: Http, name: str) -> None:
    answer = await admin.delete(f"{NAMESPACES}/{name}")
    assert (answer.status, answer.message) == (
        403,
        f'namespaces "{name}" is forbidden: this namespace may not be deleted',
    )


async def test_pod_is_bound_to_the_ready_node_with_an_event(scheduling: Http) -> None:
    await scheduling.post(NODES, _node("n"))
    await scheduling.post(PODS, pod("p"))
    bound = await _wait_event(scheduling, "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn", "ADDED", "p")
    assert bound["status"]["conditions"][0]["type"] == "PodScheduled"
    with trio.fail_after(60):
        async with scheduling.watch("/api/v1/namespaces/default/events?watch=1") as watch:
            _, event = await watch.next()
    assert (event["reason"], event["message"]) == ("Scheduled", "Successfully assigned default/p to n")
    assert event["involvedObject"]["uid"] == bound["metadata"]["uid"]


async def test_waiting_pod_is_bound_when_a_node_becomes_ready(scheduling: Http) -> None:
    await scheduling.post(PODS, pod("p"))
    await scheduling.post(NODES, _node("n", "False"))
    async with scheduling.watch("/api/v1/pods?watch=1&fieldSelector=spec.nodeName!%3D") as watch:
        conditions = [{"type": "Ready", "status": "True"}]
        await scheduling.patch(f"{NODES}/n/status", {"status": {"conditions": conditions}})
        with trio.fail_after(60):
            assert await watch.next_names(1) == [("ADDED", "p")]


async def test_pod_is_not_bound_where_it_does_not_belong(scheduling: Http) -> None:
    await scheduling.post(NODES, _node("not-ready", "False"))
    await scheduling.post(NODES, _node("cordoned", unschedulable=True))
    await scheduling.post(PODS, pod("selective", nodeSelector={"disk": "tape"}))
    await scheduling.post(NODES, _node("ready"))
    await scheduling.post(PODS, pod("p", nodeSelector={"disk": "ssd"}))
    bound = await _wait_event(scheduling, "/api/v1/pods?watch=1&fieldSelector=spec.nodeName!%3D", "ADDED", "p")
    assert bound["spec"]["nodeName"] == "ready"
    assert "nodeName" not in (await scheduling.get(f"{PODS}/selective")).json["spec"]


async def test_events_go_after_an_hour(autojump_clock: trio.testing.MockClock) -> None:
    """The clock of the sweep jumps; whether an event is old is told by its own time."""
    async with trio.open_nursery() as nursery:
        server: ServerHandle = await nursery.start(serve_apiserver, ServerOptions())
        events = BY_PATH["", "v1", "events"]
        for name, stamp in (("old", "2020-01-01T00:00:00Z"), ("new", "2999-01-01T00:00:00Z")):
            event = {"metadata": {"name": name}, "lastTimestamp": stamp, "involvedObject": {"name": "p"}}
            await server.registry.create(events, "default", event)
        await trio.sleep(EVENT_TTL_S / 10)
        page = await server.registry.list_objects(select(events, "", "", ""))
        assert [item.object["metadata"]["name"] for item in page.items] == ["new"]
        server.shut_down()


async def test_pod_waits_for_room_and_says_so(scheduling: Http) -> None:
    """Source: kube-scheduler's FailedScheduling; what has ended takes no room."""
    node = _node("n")
    node["status"]["allocatable"] = {"cpu": "2", "memory": "1Gi", "pods": "3"}
    await scheduling.post(NODES, node)
    large = pod("large")
    large["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1500m"}}
    second = copy.deepcopy(large) | {"metadata": {"name": "second"}}
    bound_only = "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn"
    await scheduling.post(PODS, large)
    await _wait_event(scheduling, bound_only, "ADDED", "large")
    await scheduling.post(PODS, second)
    with trio.fail_after(60):
        async with scheduling.watch("/api/v1/namespaces/default/events?watch=1") as watch:
            while True:
                _, event = await watch.next()
                if event["reason"] == "FailedScheduling":
                    break
    assert (event["type"], event["message"]) == ("Warning", "0/1 nodes are available: 1 Insufficient cpu.")
    waiting = (await scheduling.get(f"{PODS}/second")).json
    conditions = [(each["type"], each["status"], each["reason"]) for each in waiting["status"]["conditions"]]
    assert conditions == [("PodScheduled", "False", "Unschedulable")]
    await scheduling.patch(f"{PODS}/large/status", {"status": {"phase": "Succeeded"}})
    bound = await _wait_event(scheduling, bound_only, "ADDED", "second")
    assert [each["status"] for each in bound["status"]["conditions"]] == ["True"]

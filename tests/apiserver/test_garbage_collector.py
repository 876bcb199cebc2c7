"""What goes with its owner, what holds it, what is let go. Source: test/e2e/apimachinery/garbage_collector.go."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.apiserver.harness import SECRETS, Http

PATH = "/api/v1/namespaces/default/configmaps"


def config_map(name: str, *owners: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "ownerReferences": list(owners), **metadata}, "data": {}}


async def create(admin: Http, name: str, *owners: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """Returns a reference to it."""
    made = (await admin.post(PATH, config_map(name, *owners, **metadata))).json
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": made["metadata"]["uid"]}


async def wait_gone(admin: Http, name: str) -> None:
    with trio.fail_after(60):
        while (await admin.get(f"{PATH}/{name}")).status != 404:  # noqa: ASYNC110 - the server's own pace
            await trio.sleep(0.02)


async def wait_owners(admin: Http, name: str, *uids: str) -> None:
    with trio.fail_after(60):
        while True:
            found = (await admin.get(f"{PATH}/{name}")).json
            if [each["uid"] for each in found["metadata"].get("ownerReferences", ())] == list(uids):
                return
            await trio.sleep(0.02)


async def settle(admin: Http) -> None:
    """Everything that happened until now has been looked at: an object whose owner never was is gone."""
    nobody = {"apiVersion": "v1", "kind": "ConfigMap", "name": "never-was", "uid": "1"}
    await create(admin, "marker", nobody)
    await wait_gone(admin, "marker")


async def test_dependents_follow_their_owner_and_theirs(admin: Http) -> None:
    owner = await create(admin, "owner")
    middle = await create(admin, "middle", owner)
    await create(admin, "leaf", middle)
    await create(admin, "other")
    await admin.delete(f"{PATH}/owner")
    await wait_gone(admin, "leaf")
    assert (await admin.get(f"{PATH}/middle")).status == 404
    assert (await admin.get(f"{PATH}/other")).status == 200


async def test_owner_that_never_was(admin: Http) -> None:
    """A dependent whose owner has gone before it came, or had another uid, goes too."""
    owner = await create(admin, "owner")
    await create(admin, "stranger", {**owner, "uid": "another"})
    await wait_gone(admin, "stranger")
    assert (await admin.get(f"{PATH}/owner")).status == 200


async def test_one_living_owner_is_enough(admin: Http) -> None:
    first, second = await create(admin, "first"), await create(admin, "second")
    await create(admin, "child", first, second)
    await admin.delete(f"{PATH}/first")
    await wait_owners(admin, "child", second["uid"])
    await admin.delete(f"{PATH}/second")
    await wait_gone(admin, "child")


async def test_owner_of_a_kind_that_is_not_served_is_believed(admin: Http) -> None:
    await create(admin, "child", {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "1"})
    await settle(admin)
    assert (await admin.get(f"{PATH}/child")).status == 200


@pytest.mark.parametrize("how", ["query", "body", "legacy"])
async def test_orphans_stay(admin: Http, how: str) -> None:
    owner = await create(admin, "owner")
    await create(admin, "child", owner)
    match how:
        case "query":
            await admin.delete(f"{PATH}/owner?propagationPolicy=Orphan")
        case "body":
            await admin.delete(f"{PATH}/owner", {"propagationPolicy": "Orphan"})
        case _:
            await admin.delete(f"{PATH}/owner", {"orphanDependents": True})
    await wait_gone(admin, "owner")
    await wait_owners(admin, "child")
    await settle(admin)
    assert (await admin.get(f"{PATH}/child")).status == 200


async def test_orphans_of_another_kind_than_their_owner_stay(admin: Http) -> None:
    """Each kind has its watch: that of the owner told of its end before that of the child told who is no owner any more."""
    made = (await admin.post(SECRETS, {"metadata": {"name": "owner"}})).json
    await create(
        admin, "child", {"apiVersion": "v1", "kind": "Secret", "name": "owner", "uid": made["metadata"]["uid"]}
    )
    await admin.delete(f"{SECRETS}/owner", {"propagationPolicy": "Orphan"})
    with trio.fail_after(60):
        while (await admin.get(f"{SECRETS}/owner")).status != 404:  # noqa: ASYNC110 - the server's own pace
            await trio.sleep(0.02)
    await settle(admin)
    child = await admin.get(f"{PATH}/child")
    assert (child.status, child.json["metadata"].get("ownerReferences")) == (200, None)


async def test_foreground_waits_for_those_that_block(admin: Http) -> None:
    owner = await create(admin, "owner")
    await create(admin, "blocking", {**owner, "blockOwnerDeletion": True}, finalizers=["example.com/hold"])
    await create(admin, "loose", owner, finalizers=["example.com/hold"])
    marked = (await admin.delete(f"{PATH}/owner", {"propagationPolicy": "Foreground"})).json
    assert marked["metadata"]["finalizers"] == ["foregroundDeletion"]
    with trio.fail_after(60):
        while "deletionTimestamp" not in (await admin.get(f"{PATH}/blocking")).json["metadata"]:  # noqa: ASYNC110
            await trio.sleep(0.02)
    assert (await admin.get(f"{PATH}/owner")).status == 200
    release = {"metadata": {"finalizers": None}}
    await admin.patch(f"{PATH}/blocking", release)
    await wait_gone(admin, "owner")
    await admin.patch(f"{PATH}/loose", release)
    await wait_gone(admin, "loose")


async def test_options_that_make_no_sense(admin: Http) -> None:
    await create(admin, "owner")
    both = await admin.delete(f"{PATH}/owner", {"orphanDependents": True, "propagationPolicy": "Orphan"})
    assert (both.status, both.json["message"]) == (
        400,
        "orphanDependents and deletionPropagation cannot be both set",
    )
    unknown = await admin.delete(f"{PATH}/owner", {"propagationPolicy": "Backwards"})
    assert unknown.status == 400
    assert 'propagationPolicy: Unsupported value: "Backwards"' in unknown.json["message"]
    assert (await admin.get(f"{PATH}/owner")).status == 200

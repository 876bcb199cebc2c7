"""A pod without a grace period is deleted in two writes, and its node acts on the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable

import pytest

from kubelet_secrets.api.meta import PODS
from kubelet_secrets.apiserver import codec
from kubelet_secrets.apiserver.attributes import Attributes, DeleteOptions
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.listing import object_key
from kubelet_secrets.apiserver.registry import IN_PROCESS, Registry
from kubelet_secrets.apiserver.resources import served
from kubelet_secrets.apiserver.storage import Record, Storage
from kubelet_secrets.apiserver.watch import WatchHub
from kubelet_secrets.errors import NotFound
from tests.apiserver.harness import pod

ROW = served(PODS)
STATUS = dataclasses.replace(IN_PROCESS, subresource="status")


class AdmitsAll:
    async def mutate(self, attributes: Attributes) -> None: ...

    async def validate(self, attributes: Attributes) -> None: ...


class OvertakenStorage(Storage):
    """After the next write, and before whoever wrote can go on, somebody else does what ``meanwhile`` says."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def write(self, key: str, value: bytes | None, *, expected: int, previous: bytes | None = None) -> Record:
        record = await super().write(key, value, expected=expected, previous=previous)
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            await act()
        return record


@pytest.fixture
def storage() -> OvertakenStorage:
    return OvertakenStorage()


@pytest.fixture
def registry(storage: OvertakenStorage) -> Registry:
    return Registry(storage, WatchHub(storage), AdmitsAll())


def with_status(phase: str) -> Callable[[Object], Object]:
    def change(live: Object) -> Object:
        live["status"] = {**live.get("status", {}), "phase": phase, "message": "the node was here"}
        return live

    return change


@pytest.mark.parametrize("by", ["delete", "status"])
@pytest.mark.parametrize("comes_back", [False, True], ids=["", "and another has its name"])
async def test_a_pod_that_its_node_removes_between_mark_and_deletion_was_deleted(
    storage: OvertakenStorage, registry: Registry, by: str, comes_back: bool
) -> None:
    uid = (await registry.create(ROW, "default", pod("p", node="n")))["metadata"]["uid"]
    await registry.update(ROW, "default", "p", with_status("Succeeded"), STATUS)

    async def node() -> None:
        if by == "delete":
            await registry.delete(ROW, "default", "p", DeleteOptions(grace_s=0, uid=uid))
        else:
            await registry.update(ROW, "default", "p", with_status("Failed"), STATUS)
        if comes_back:
            await registry.create(ROW, "default", pod("p"))

    storage.meanwhile = node
    last, is_gone = await registry.delete(ROW, "default", "p")
    assert is_gone
    assert last["metadata"]["uid"] == uid
    if comes_back:
        assert (await registry.get(ROW, "default", "p")).object["metadata"]["uid"] != uid
    else:
        with pytest.raises(NotFound):
            await registry.delete(ROW, "default", "p")


async def test_a_precondition_is_judged_once(storage: OvertakenStorage, registry: Registry) -> None:
    """The mark itself changes the resourceVersion; a node's status after it is no conflict of the one who deletes."""
    await registry.create(ROW, "default", pod("p"))
    version = (await registry.get(ROW, "default", "p")).object["metadata"]["resourceVersion"]

    async def finalizer() -> None:
        record = storage.get(object_key(ROW, "default", "p"))
        assert record is not None
        held = (await registry.get(ROW, "default", "p")).object
        held["metadata"]["finalizers"] = ["example.com/hold"]
        await storage.write(record.key, codec.encode(held), expected=record.revision)

    storage.meanwhile = finalizer
    _, is_gone = await registry.delete(ROW, "default", "p", DeleteOptions(resource_version=version))
    assert not is_gone


async def test_an_update_that_a_deletion_overtakes_is_not_refused(
    storage: OvertakenStorage, registry: Registry
) -> None:
    body = pod("p", node="n")
    body["metadata"]["finalizers"] = ["example.com/hold"]
    await registry.create(ROW, "default", body)
    await registry.delete(ROW, "default", "p", DeleteOptions(grace_s=0))
    tries = 0

    async def release(live: Object) -> Object:
        nonlocal tries
        tries += 1
        live["metadata"]["finalizers"] = []
        if tries == 1:  # somebody else writes while this update is being worked out
            await registry.update(ROW, "default", "p", with_status("Failed"), STATUS)
        return live

    assert (await registry.update(ROW, "default", "p", release))["status"]["phase"] == "Failed"
    assert tries == 2
    assert await registry.find(ROW, "default", "p") is None

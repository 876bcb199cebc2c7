"""The seam between objects and stored bytes, seen from outside: with a transformer of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from kubelet_secrets.apiserver.encryption import Identity, Opened, Transformer, TransformError
from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from tests.apiserver.harness import PODS, SECRETS, Http, http_client, pod, secret

KEY = "/registry/secrets/default/s"


class Marking:
    """Prefixes values with a version of itself; stale are those of another version."""

    version = b"v1"
    is_broken = False

    async def to_storage(self, value: bytes, *, context: bytes) -> bytes:
        await trio.lowlevel.checkpoint()  # as a key management service would make it wait
        return b"%s:%s:%s" % (self.version, context, bytes(byte ^ 0x55 for byte in value))

    async def from_storage(self, stored: bytes, *, context: bytes) -> Opened:
        await trio.lowlevel.checkpoint()
        version, key, value = stored.split(b":", 2)
        if self.is_broken or key != context:
            raise TransformError("no matching prefix found")
        return Opened(bytes(byte ^ 0x55 for byte in value), is_stale=version != self.version)


@pytest.fixture
async def marked() -> AsyncIterator[tuple[ServerHandle, Http, Marking]]:
    """A server whose Secrets pass a :class:`Marking`."""
    marking = Marking()

    def choose(plural: str) -> Transformer:
        return marking if plural == "secrets" else Identity()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            options = ServerOptions(transformer_for=choose, runs_scheduler=False)
            server: ServerHandle = await nursery.start(serve_apiserver, options)
            async with http_client(server, server.authority.issue_admin()) as admin:
                yield server, admin, marking
            server.shut_down()


def _stored(server: ServerHandle, key: str = KEY) -> bytes:
    record = server.registry.storage.get(key)
    assert record is not None
    assert record.stored is not None
    return record.stored


async def test_chosen_resource_is_stored_transformed_and_served_plain(
    marked: tuple[ServerHandle, Http, Marking],
) -> None:
    server, admin, _ = marked
    created = (await admin.post(SECRETS, secret("s", k="value"))).json
    assert _stored(server).startswith(b"v1:/registry/secrets/default/s:")
    assert b'"data"' not in _stored(server)
    assert (await admin.get(f"{SECRETS}/s")).json == created
    assert (await admin.get(SECRETS)).json["items"] == [created]
    async with admin.watch(f"{SECRETS}?watch=1") as watch:
        assert await watch.next() == ("ADDED", created)
    await admin.post(PODS, pod("p"))
    assert b'"spec"' in _stored(server, "/registry/pods/default/p")


async def test_history_of_a_transformed_resource_can_be_replayed(marked: tuple[ServerHandle, Http, Marking]) -> None:
    _, admin, _ = marked
    version = (await admin.post(SECRETS, secret("s", k="1"))).json["metadata"]["resourceVersion"]
    await admin.put(f"{SECRETS}/s", secret("s", k="2"))
    await admin.delete(f"{SECRETS}/s")
    async with admin.watch(f"{SECRETS}?watch=1&resourceVersion={version}") as watch:
        events = [await watch.next() for _ in range(2)]
    assert [(kind, obj["data"]["k"]) for kind, obj in events] == [("MODIFIED", "Mg=="), ("DELETED", "Mg==")]


async def test_stale_object_is_rewritten_by_an_update_that_changes_nothing(
    marked: tuple[ServerHandle, Http, Marking],
) -> None:
    """How keys are rotated: ``kubectl get secrets -o json | kubectl replace -f -``."""
    server, admin, marking = marked
    created = (await admin.post(SECRETS, secret("s", k="v"))).json
    assert (await admin.put(f"{SECRETS}/s", created)).json == created
    marking.version = b"v2"
    rewritten = (await admin.put(f"{SECRETS}/s", created)).json
    assert rewritten["metadata"]["resourceVersion"] != created["metadata"]["resourceVersion"]
    assert _stored(server).startswith(b"v2:")
    assert (await admin.put(f"{SECRETS}/s", rewritten)).json == rewritten


async def test_object_that_cannot_be_read_is_an_internal_error(marked: tuple[ServerHandle, Http, Marking]) -> None:
    _, admin, marking = marked
    await admin.post(SECRETS, secret("s", k="v"))
    marking.is_broken = True
    one = await admin.get(f"{SECRETS}/s")
    assert (one.status, one.message) == (500, "Internal error occurred: no matching prefix found")
    several = await admin.get(SECRETS)
    assert several.status == 500
    assert several.message == f'Internal error occurred: unable to transform key "{KEY}": no matching prefix found'
    async with admin.watch(f"{SECRETS}?watch=1") as watch:
        [event] = await watch.rest()
    assert (event["type"], event["object"]["code"]) == ("ERROR", 500)
    assert (await admin.get(PODS)).status == 200


async def test_identity_refuses_what_looks_encrypted() -> None:
    identity = Identity()
    assert await identity.to_storage(b"x", context=b"k") == b"x"
    assert await identity.from_storage(b"x", context=b"k") == Opened(b"x", is_stale=False)
    with pytest.raises(TransformError, match="identity transformer tried to read encrypted data"):
        await identity.from_storage(b"k8s:enc:aesgcm:v1:k:", context=b"k")

"""``ObjectManager`` over a fake list-watch. Source: pkg/kubelet/util/manager/*_test.go; semantics §7.1-§7.3, §7.6."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from kubelet_secrets.api.core import Secret
from kubelet_secrets.cache.changes import ChangeQueue, ObjectRef
from kubelet_secrets.cache.kinds import SECRET_KIND
from kubelet_secrets.cache.manager import ObjectManager, Strategy
from kubelet_secrets.cache.polled import ttl_from_annotations
from kubelet_secrets.errors import CacheNotSynced, MissingObject, SetUpError
from kubelet_secrets.sensitive import SensitiveBytes
from tests.cache.objects import FORBIDDEN, INTERNAL, UNREACHABLE, FakeServer, pod, secret

pytestmark = pytest.mark.usefixtures("autojump_clock")  # the cache's second is none of the machine's

DB = ObjectRef("shop", "db")


@asynccontextmanager
async def running(server: FakeServer, **options: Any) -> AsyncIterator[ObjectManager[Secret]]:
    manager = ObjectManager(server, SECRET_KIND, random=lambda: 0.0, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(manager.run)
        yield manager
        nursery.cancel_scope.cancel()


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


def value(found: Secret | None) -> bytes | None:
    return None if found is None else found.data["k"].reveal()


# --- Watch ---


async def test_one_reference_starts_exactly_one_stream_for_the_object_alone() -> None:
    server = FakeServer()
    server.put("db", "v1")
    async with running(server) as manager:
        manager.register_pod(pod("1", "db"))
        assert value(await manager.get("shop", "db")) == b"v1"
        assert value(await manager.get("shop", "db")) == b"v1"
        assert server.requests == ["stream db"]


async def test_pods_registered_before_the_run_are_watched() -> None:
    server = FakeServer()
    server.put("db", "v1")
    manager = ObjectManager(server, SECRET_KIND)
    manager.register_pod(pod("1", "db"))
    async with trio.open_nursery() as nursery:
        await nursery.start(manager.run)
        assert value(await manager.get("shop", "db")) == b"v1"
        nursery.cancel_scope.cancel()


async def test_missing_object_has_the_kubelets_text() -> None:
    async with running(FakeServer()) as manager:
        manager.register_pod(pod("1", "db"))
        with pytest.raises(MissingObject) as caught:
            await manager.get("shop", "db")
        assert str(caught.value) == 'secret "db" not found'
        assert manager.peek("shop", "db") is None


async def test_object_nobody_refers_to_is_not_registered() -> None:
    async with running(FakeServer()) as manager:
        with pytest.raises(SetUpError) as caught:
            await manager.get("default", "foo")
    assert str(caught.value) == 'object "default"/"foo" not registered'


async def test_create_update_and_delete_arrive() -> None:
    server = FakeServer()
    async with running(server) as manager:
        manager.register_pod(pod("1", "db"))
        await settled()
        seen = []
        for change in (lambda: server.put("db", "v1"), lambda: server.put("db", "v2"), lambda: server.remove("db")):
            change()
            await settled()
            seen.append(value(manager.peek("shop", "db")))
        assert seen == [b"v1", b"v2", None]
        assert server.requests == ["stream db"]
        with pytest.raises(MissingObject):
            await manager.get("shop", "db")


async def test_missing_secret_releases_who_waits_for_a_change() -> None:
    server = FakeServer()
    async with running(server) as manager:
        manager.register_pod(pod("1", "db"))
        assert await manager.changes.receive() == DB  # known to be missing
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                assert await manager.changes.receive() == DB
                assert value(await manager.get("shop", "db")) == b"v1"

            nursery.start_soon(wait)
            await settled()
            server.put("db", "v1")


async def test_unanswered_sync_is_waited_for_a_second(autojump_clock: trio.testing.MockClock) -> None:
    server = FakeServer()
    server.hangs = True
    async with running(server) as manager:
        manager.register_pod(pod("1", "db"))
        started = trio.current_time()
        with pytest.raises(CacheNotSynced) as caught:
            await manager.get("shop", "db")
        assert trio.current_time() - started == pytest.approx(1)
        assert str(caught.value) == "failed to sync secret cache: timed out waiting for the condition"


async def test_object_in_a_long_line_is_waited_for_while_the_server_answers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A burst of new pods asks for more than a server can answer in a second; none of them failed."""
    names = [f"s{number}" for number in range(100)]
    server = FakeServer()
    server.pace_s = 0.05
    for name in names:
        server.put(name)
    found: list[bytes | None] = []
    async with running(server) as manager:
        manager.register_pod(pod("1", *names))

        async def read(name: str) -> None:
            found.append(value(await manager.get("shop", name)))

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(read, name)
    assert len(found) == len(names)


async def test_line_is_not_waited_in_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    names = [f"s{number}" for number in range(100)]
    server = FakeServer()
    server.pace_s = 0.5
    waits: list[float] = []
    async with running(server) as manager:
        manager.register_pod(pod("1", *names))

        async def read(name: str) -> None:
            started = trio.current_time()
            try:
                await manager.get("shop", name)
            except (CacheNotSynced, MissingObject):
                waits.append(trio.current_time() - started)

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(read, name)
    assert max(waits) == pytest.approx(10)


async def test_refused_object_fails_though_others_are_answered(autojump_clock: trio.testing.MockClock) -> None:
    server = FakeServer()
    server.pace_s = 0.4
    server.forbidden = {"db"}
    async with running(server) as manager:
        manager.register_pod(pod("1", "db"))
        await trio.sleep(1)
        manager.register_pod(pod("2", "a", "b", "c", "d", "e"))
        started = trio.current_time()
        with pytest.raises(CacheNotSynced):
            await manager.get("shop", "db")
        assert trio.current_time() - started == pytest.approx(1)


async def test_forbidden_for_a_moment_after_the_binding_is_not_noticed(autojump_clock: trio.testing.MockClock) -> None:
    server = FakeServer()
    server.put("db", "v1")
    server.failures.extend([FORBIDDEN] * 3)
    async with running(server) as manager:
        manager.register_pod(pod("1", "db"))
        assert value(await manager.get("shop", "db")) == b"v1"
        assert trio.current_time() < 1


async def test_forbidden_for_good_is_not_synced(autojump_clock: trio.testing.MockClock) -> None:
    server = FakeServer()
    server.failure = FORBIDDEN
    async with running(server) as manager:
        manager.register_pod(pod("1", "db"))
        with pytest.raises(CacheNotSynced) as caught:
            await manager.get("shop", "db")
        assert caught.value.__cause__ is FORBIDDEN


async def test_new_pod_ends_the_pause_after_a_refusal(autojump_clock: trio.testing.MockClock) -> None:
    """The binding it comes with may be the relation that the authorizer was missing."""
    server = FakeServer()
    server.put("db", "v1")
    server.failure = FORBIDDEN
    async with running(server) as manager:
        manager.register_pod(pod("1", "db"))
        await trio.sleep(300)  # pauses of 30 s by now
        server.failure = None
        manager.register_pod(pod("1", "db"))  # nothing new
        await settled()
        assert manager.peek("shop", "db") is None
        manager.register_pod(pod("2", "db"))
        await settled()
        assert value(manager.peek("shop", "db")) == b"v1"


async def test_two_pods_share_one_stream_and_the_last_one_ends_it() -> None:
    server = FakeServer()
    server.put("db")
    async with running(server) as manager:
        manager.register_pod(pod("1", "db"))
        manager.register_pod(pod("2", "db", "db"))
        manager.register_pod(pod("2", "db"))
        await settled()
        assert server.requests == ["stream db"]
        assert manager.users("shop", "db") == {"1", "2"}
        manager.unregister_pod(pod("1").metadata.uid)  # type: ignore[arg-type]
        await settled()
        assert len(server.watches) == 1
        manager.unregister_pod(pod("2").metadata.uid)  # type: ignore[arg-type]
        manager.unregister_pod(pod("2").metadata.uid)  # type: ignore[arg-type]
        await settled()
        assert server.watches == []
        with pytest.raises(SetUpError, match="not registered"):
            await manager.get("shop", "db")


async def test_reregistered_pod_drops_what_it_no_longer_refers_to() -> None:
    server = FakeServer()
    async with running(server) as manager:
        manager.register_pod(pod("1", "a", "b"))
        await settled()
        manager.register_pod(pod("1", "b", "c"))
        await settled()
        assert sorted(watch.name for watch in server.watches) == ["b", "c"]
        assert sorted(server.requests) == ["stream a", "stream b", "stream c"]


async def test_same_name_in_two_namespaces_is_two_objects() -> None:
    server = FakeServer()
    async with running(server) as manager:
        manager.register_pod(pod("1", "db"))
        manager.register_pod(pod("2", "db", namespace="other"))
        assert manager.users("shop", "db") == {"1"}
        assert manager.users("other", "db") == {"2"}


async def test_get_racing_with_the_last_unregistration_is_not_registered() -> None:
    server = FakeServer()
    server.hangs = True
    async with running(server) as manager:
        manager.register_pod(pod("1", "db"))
        async with trio.open_nursery() as nursery:

            async def get() -> None:
                with pytest.raises(SetUpError, match="not registered"):
                    await manager.get("shop", "db")

            nursery.start_soon(get)
            await settled()
            manager.unregister_pod(pod("1").metadata.uid)  # type: ignore[arg-type]


async def test_immutable_object_is_watched_no_longer_and_served_until_its_last_user_goes() -> None:
    server = FakeServer()
    server.put("db", "v1", immutable=True)
    async with running(server) as manager:
        manager.register_pod(pod("1", "db"))
        assert value(await manager.get("shop", "db")) == b"v1"
        await settled()
        assert server.watches == []
        server.remove("db")
        server.put("db", "recreated", uid="another")
        manager.register_pod(pod("2", "db"))
        manager.unregister_pod(pod("1").metadata.uid)  # type: ignore[arg-type]
        await settled()
        assert value(await manager.get("shop", "db")) == b"v1"
        assert server.requests == ["stream db"]
        # All references dropped: the next pod sees what is there now.
        manager.unregister_pod(pod("2").metadata.uid)  # type: ignore[arg-type]
        manager.register_pod(pod("3", "db"))
        assert value(await manager.get("shop", "db")) == b"recreated"


async def test_object_that_becomes_immutable_is_watched_no_longer() -> None:
    server = FakeServer()
    server.put("db", "v1")
    async with running(server) as manager:
        manager.register_pod(pod("1", "db"))
        await settled()
        assert len(server.watches) == 1
        server.put("db", "v2", immutable=True)
        await settled()
        assert server.watches == []
        assert value(await manager.get("shop", "db")) == b"v2"


@pytest.mark.parametrize("has_streaming", [True, False])
async def test_server_away_leaves_the_last_known_value_and_comes_back_by_itself(
    autojump_clock: trio.testing.MockClock, has_streaming: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = FakeServer(has_streaming=has_streaming)
    for name in ("a", "b", "c"):
        server.put(name, "v1")
    async with running(server) as manager:
        manager.register_pod(pod("1", "a", "b", "c"))
        await settled()
        server.failure = UNREACHABLE
        server.cut(UNREACHABLE)
        await trio.sleep(200)
        assert [value(await manager.get("shop", name)) for name in ("a", "b", "c")] == [b"v1"] * 3
        assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1  # for the outage
        server.failure = None
        for name in ("a", "b", "c"):
            server.put(name, "v2")
        await trio.sleep(60)
        assert [value(await manager.get("shop", name)) for name in ("a", "b", "c")] == [b"v2"] * 3


async def test_first_one_back_wakes_the_others(autojump_clock: trio.testing.MockClock) -> None:
    server = FakeServer()
    jitter = iter(range(1000))
    async with trio.open_nursery() as nursery:
        manager = ObjectManager(server, SECRET_KIND, random=lambda: (next(jitter) % 10) / 10)
        await nursery.start(manager.run)
        server.failure = UNREACHABLE
        names = [f"s{number}" for number in range(10)]
        manager.register_pod(pod("1", *names))
        await trio.sleep(600)
        server.failure = None
        server.requests.clear()
        while not server.requests:  # noqa: ASYNC110
            await trio.sleep(0.1)
        await trio.sleep(0.1)
        assert len(server.watches) == 10
        nursery.cancel_scope.cancel()


async def test_end_of_an_outage_is_the_end_of_every_pause(autojump_clock: trio.testing.MockClock) -> None:
    """After an hour the pauses are up to a minute long. A server that is not quite ready does not bring that length back."""
    server = FakeServer()
    async with trio.open_nursery() as nursery:
        manager = ObjectManager(server, SECRET_KIND, random=lambda: 0.9)
        await nursery.start(manager.run)
        names = [f"s{number}" for number in range(10)]
        for name in names:
            server.put(name, "before")
        manager.register_pod(pod("1", *names))
        await trio.sleep(1)
        server.failure = UNREACHABLE
        server.cut(UNREACHABLE)
        await trio.sleep(3600)
        assert [value(manager.peek("shop", name)) for name in names] == [b"before"] * 10
        asked = len(server.requests)
        for name in names:
            server.put(name, "after")
        server.failures.extend([INTERNAL] * 20)  # two more refusals for each
        server.failure = None
        manager.nudge(after_outage=True)
        await trio.sleep(6)
        assert [value(manager.peek("shop", name)) for name in names] == [b"after"] * 10
        assert len(server.requests) - asked <= 50  # and it is not hammered
        nursery.cancel_scope.cancel()


async def test_shutdown_ends_every_watch_and_keeps_the_values() -> None:
    server = FakeServer()
    server.put("a")
    async with running(server) as manager:
        manager.register_pod(pod("1", "a", "b"))
        await settled()
        assert len(server.watches) == 2
    assert server.watches == []
    assert manager.peek("shop", "a") is not None


@pytest.mark.parametrize("checkpoint", range(12))
async def test_cancelled_anywhere_no_watch_stays_open(checkpoint: int) -> None:
    server = FakeServer(has_streaming=checkpoint % 2 == 0)
    server.put("a")
    async with running(server) as manager:
        manager.register_pod(pod("1", "a"))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(manager.get, "shop", "a")
                for _ in range(checkpoint // 2):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert value(await manager.get("shop", "a")) == b"v101"  # a cancelled get harms nobody
    assert server.watches == []


async def test_changes_hold_one_entry_per_object_and_the_latest_state() -> None:
    server = FakeServer()
    server.put("a")
    async with running(server) as manager:
        manager.register_pod(pod("1", "a", "b"))
        await settled()
        for number in range(50):
            server.put("a", f"v{number}")
            await settled()
        got = {await manager.changes.receive(), await manager.changes.receive()}
        assert got == {ObjectRef("shop", "a"), ObjectRef("shop", "b")}
        assert value(manager.peek("shop", "a")) == b"v49"
        with pytest.raises(trio.WouldBlock):
            manager.changes.receive_nowait()


async def test_relist_without_a_change_is_none() -> None:
    server = FakeServer()
    server.put("a", "v1")
    async with running(server) as manager:
        manager.register_pod(pod("1", "a"))
        assert await manager.changes.receive() == ObjectRef("shop", "a")
        server.cut()
        await settled()
        assert repr(manager.changes) == "<ChangeQueue, 0 pending>"


async def test_no_value_in_logs_or_reprs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    server = FakeServer()
    server.put("db", "canary")
    async with running(server) as manager:
        manager.register_pod(pod("1", "db"))
        found = await manager.get("shop", "db")
    assert "received secret shop/db: 1 keys, 6 bytes" in caplog.text
    assert "canary" not in caplog.text + repr(found) + repr(manager)


# --- Cache ---


async def test_cached_object_is_read_again_after_its_ttl(autojump_clock: trio.testing.MockClock) -> None:
    server = FakeServer()
    server.put("db", "v1")
    async with running(server, strategy=Strategy.CACHE, ttl_s=lambda: 10.0) as manager:
        manager.register_pod(pod("1", "db"))
        assert value(await manager.get("shop", "db")) == b"v1"
        server.put("db", "v2")
        await trio.sleep(9)
        assert value(await manager.get("shop", "db")) == b"v1"
        await trio.sleep(2)
        assert value(await manager.get("shop", "db")) == b"v2"
        assert server.requests == ["get db", "get db 0"]


async def test_default_ttl_is_a_minute(autojump_clock: trio.testing.MockClock) -> None:
    server = FakeServer()
    server.put("db", "v1")
    async with running(server, strategy=Strategy.CACHE) as manager:
        manager.register_pod(pod("1", "db"))
        for wait_s, requests in ((59, 1), (2, 2)):
            await manager.get("shop", "db")
            await trio.sleep(wait_s)
            await manager.get("shop", "db")
            assert len(server.requests) == requests


async def test_registration_makes_the_next_read_ask_for_the_latest() -> None:
    server = FakeServer()
    server.put("db", "v1")
    async with running(server, strategy=Strategy.CACHE) as manager:
        manager.register_pod(pod("1", "db"))
        await manager.get("shop", "db")
        server.put("db", "v2")
        manager.register_pod(pod("2", "db"))
        assert value(await manager.get("shop", "db")) == b"v2"
        assert server.requests == ["get db", "get db"]


async def test_cached_missing_object_has_the_servers_text_and_is_asked_for_again() -> None:
    server = FakeServer()
    async with running(server, strategy=Strategy.CACHE) as manager:
        manager.register_pod(pod("1", "db"))
        for _ in range(2):
            with pytest.raises(MissingObject) as caught:
                await manager.get("shop", "db")
            assert str(caught.value) == 'secrets "db" not found'
        server.put("db", "v1")
        assert value(await manager.get("shop", "db")) == b"v1"
        assert server.requests == ["get db"] * 3


async def test_cached_object_outlives_the_server(autojump_clock: trio.testing.MockClock) -> None:
    server = FakeServer()
    server.put("db", "v1")
    async with running(server, strategy=Strategy.CACHE) as manager:
        manager.register_pod(pod("1", "db", "other"))
        await manager.get("shop", "db")
        server.failure = UNREACHABLE
        await trio.sleep(1000)
        assert value(await manager.get("shop", "db")) == b"v1"
        with pytest.raises(SetUpError, match="connection refused"):
            await manager.get("shop", "other")


async def test_cached_object_deleted_on_the_server_is_missing(autojump_clock: trio.testing.MockClock) -> None:
    server = FakeServer()
    server.put("db", "v1")
    async with running(server, strategy=Strategy.CACHE) as manager:
        manager.register_pod(pod("1", "db"))
        await manager.get("shop", "db")
        server.remove("db")
        await trio.sleep(61)
        with pytest.raises(MissingObject):
            await manager.get("shop", "db")


async def test_older_version_from_a_lagging_server_is_ignored(autojump_clock: trio.testing.MockClock) -> None:
    server = FakeServer()
    server.put("db", "v1")
    async with running(server, strategy=Strategy.CACHE) as manager:
        manager.register_pod(pod("1", "db"))
        await manager.get("shop", "db")
        server.objects["db"] = secret("db", 3, "stale")
        await trio.sleep(61)
        assert value(await manager.get("shop", "db")) == b"v1"


async def test_parallel_reads_make_one_request() -> None:
    server = FakeServer()
    server.put("db", "v1")
    async with running(server, strategy=Strategy.CACHE) as manager:
        manager.register_pod(pod("1", "db"))
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(manager.get, "shop", "db")
        assert server.requests == ["get db"]
        manager.unregister_pod(pod("1").metadata.uid)  # type: ignore[arg-type]
        with pytest.raises(SetUpError, match="not registered"):
            await manager.get("shop", "db")


# --- Get ---


async def test_get_strategy_asks_every_time_and_needs_no_registration() -> None:
    server = FakeServer()
    server.put("db", "v1")
    async with running(server, strategy=Strategy.GET) as manager:
        manager.register_pod(pod("1", "db"))
        assert value(await manager.get("shop", "db")) == b"v1"
        server.put("db", "v2")
        assert value(await manager.get("shop", "db")) == b"v2"
        with pytest.raises(MissingObject) as caught:
            await manager.get("shop", "other")
        assert str(caught.value) == 'secrets "other" not found'
        server.failure = FORBIDDEN
        with pytest.raises(SetUpError) as refused:
            await manager.get("shop", "db")
        assert str(refused.value) == str(FORBIDDEN)


@pytest.mark.parametrize(
    ("annotations", "ttl_s"),
    [
        ({}, None),
        ({"other": "60"}, None),
        ({"node.alpha.kubernetes.io/ttl": "bad"}, None),
        ({"node.alpha.kubernetes.io/ttl": ""}, None),
        ({"node.alpha.kubernetes.io/ttl": "1.5"}, None),
        ({"node.alpha.kubernetes.io/ttl": "0"}, 0),
        ({"node.alpha.kubernetes.io/ttl": "60"}, 60),
    ],
)
def test_ttl_annotation(annotations: dict[str, str], ttl_s: float | None) -> None:
    """Source: TestParseNodeAnnotation; semantics §7.6."""
    assert ttl_from_annotations(annotations) == ttl_s


# --- the queue ---


async def test_cancelled_receive_takes_nothing() -> None:
    queue = ChangeQueue()
    with trio.move_on_after(0):
        await queue.receive()
    queue.put(DB)
    with trio.CancelScope() as scope:
        scope.cancel()
        await queue.receive()
    assert await queue.receive() == DB


async def test_closed_queue_ends_after_its_entries() -> None:
    queue = ChangeQueue()
    queue.put(DB)
    await queue.aclose()
    assert [ref async for ref in queue] == [DB]


def test_values_stay_wrapped() -> None:
    assert secret("db", 1, "x").data == {"k": SensitiveBytes(b"x")}

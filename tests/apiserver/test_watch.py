"""Watches: over HTTP/2 as clients see them, and the hub alone where HTTP would hide what happens."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from kubelet_secrets.api import meta
from kubelet_secrets.apiserver import codec
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.process import ServerHandle
from kubelet_secrets.apiserver.resources import served
from kubelet_secrets.apiserver.selection import Selection, select
from kubelet_secrets.apiserver.storage import ABSENT, Compacted, Storage
from kubelet_secrets.apiserver.watch import (
    BOOKMARK,
    BOOKMARK_INTERVAL_S,
    BUFFER_LIMIT,
    Watcher,
    WatchHub,
    WatchOptions,
)
from tests.apiserver.harness import PODS, SECRETS, TABLE, Http, http_client, pod, secret

ROW = served(meta.SECRETS)
STREAMING_LIST = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"


# --- over HTTP/2 -----------------------------------------------------------------------------------------------------


async def test_watch_without_version_begins_with_the_state(admin: Http) -> None:
    await admin.post(SECRETS, secret("a"))
    async with admin.watch(f"{SECRETS}?watch=1") as watch:
        assert await watch.next_names(1) == [("ADDED", "a")]
        await admin.put(f"{SECRETS}/a", secret("a", k="v"))
        await admin.delete(f"{SECRETS}/a")
        assert await watch.next_names(2) == [("MODIFIED", "a"), ("DELETED", "a")]


async def test_watch_from_a_version_replays_what_came_after(admin: Http) -> None:
    first = (await admin.post(SECRETS, secret("a"))).json["metadata"]["resourceVersion"]
    await admin.post(SECRETS, secret("b"))
    await admin.put(f"{SECRETS}/a", secret("a", k="v"))
    await admin.delete(f"{SECRETS}/b")
    async with admin.watch(f"{SECRETS}?watch=1&resourceVersion={first}") as watch:
        assert await watch.next_names(3) == [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]


async def test_deletion_carries_the_last_state_at_the_revision_of_the_deletion(admin: Http) -> None:
    created = (await admin.post(SECRETS, secret("a", k="v"))).json
    async with admin.watch(f"{SECRETS}?watch=1") as watch:
        await watch.next()
        await admin.delete(f"{SECRETS}/a")
        kind, obj = await watch.next()
    assert (kind, obj["data"]) == ("DELETED", created["data"])
    assert int(obj["metadata"]["resourceVersion"]) > int(created["metadata"]["resourceVersion"])


async def test_streaming_list_of_one_object_marks_the_end_of_the_state(admin: Http) -> None:
    """The node's first request for a Secret (WatchListClient)."""
    await admin.post(SECRETS, secret("other"))
    name = "fieldSelector=metadata.name%3Dmine"
    async with admin.watch(f"{SECRETS}?{STREAMING_LIST}&{name}") as absent:
        kind, mark = await absent.next()
        assert kind == "BOOKMARK"
        assert mark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert mark["kind"] == "Secret"
        await admin.post(SECRETS, secret("mine"))
        assert await absent.next_names(1) == [("ADDED", "mine")]
    async with admin.watch(f"{SECRETS}?{STREAMING_LIST}&{name}") as present:
        assert await present.next_names(1) == [("ADDED", "mine")]
        kind, mark = await present.next()
        assert (kind, int(mark["metadata"]["resourceVersion"])) >= ("BOOKMARK", 1)


async def test_field_selector_turns_changes_into_arrivals_and_departures(admin: Http) -> None:
    """How a node learns of pods bound to it: the binding is an ADDED."""
    async with admin.watch("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn1") as watch:
        await admin.post(PODS, pod("p"))
        await admin.post(PODS, pod("other", node="n2"))
        binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}
        assert (await admin.post(f"{PODS}/p/binding", binding)).status == 201
        kind, obj = await watch.next()
        assert (kind, obj["metadata"]["name"], obj["spec"]["nodeName"]) == ("ADDED", "p", "n1")
        await admin.delete(f"{PODS}/p", {"gracePeriodSeconds": 0})
        assert await watch.next_names(2) == [("MODIFIED", "p"), ("DELETED", "p")]


async def test_label_selector_departure_is_a_deletion_with_the_last_matching_state(admin: Http) -> None:
    body = secret("a")
    body["metadata"]["labels"] = {"l": "in"}
    async with admin.watch(f"{SECRETS}?watch=1&labelSelector=l%3Din") as watch:
        await admin.post(SECRETS, body)
        await admin.patch(f"{SECRETS}/a", {"metadata": {"labels": {"l": "out"}}})
        await admin.patch(f"{SECRETS}/a", {"metadata": {"labels": {"l": "in"}}})
        events = [await watch.next() for _ in range(3)]
    assert [(kind, obj["metadata"]["labels"]["l"]) for kind, obj in events] == [
        ("ADDED", "in"),
        ("DELETED", "in"),
        ("ADDED", "in"),
    ]


async def test_watch_ends_cleanly_when_its_time_is_up(admin: Http) -> None:
    async with admin.watch(f"{SECRETS}?watch=1&timeoutSeconds=1") as watch:
        assert await watch.rest() == []


@pytest.mark.parametrize("version", ["1", "99999999999999999"], ids=["forgotten", "of-another-store"])
async def test_version_outside_the_history_is_an_expired_event(admin: Http, version: str) -> None:
    async with admin.watch(f"{SECRETS}?watch=1&resourceVersion={version}") as watch:
        [event] = await watch.rest()
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("resourceVersion=x", 400),
        ("timeoutSeconds=x", 400),
        ("sendInitialEvents=true", 422),
        ("resourceVersionMatch=NotOlderThan&resourceVersion=1", 422),
        ("fieldSelector=nonsense%3D1", 400),
    ],
)
async def test_malformed_options_are_refused(admin: Http, query: str, status: int) -> None:
    assert (await admin.get(f"{SECRETS}?watch=1&{query}")).status == status


async def test_watch_of_tables_sends_the_columns_once(admin: Http) -> None:
    await admin.post(SECRETS, secret("a", k="v"))
    async with admin.watch(f"{SECRETS}?watch=1", accept=TABLE) as watch:
        _, first = await watch.next()
        await admin.put(f"{SECRETS}/a", secret("a", k="w", l="x"))
        _, second = await watch.next()
    assert first["columnDefinitions"][0]["name"] == "Name"
    assert first["rows"][0]["cells"][0] == second["rows"][0]["cells"][0] == "a"
    assert not second["columnDefinitions"]


def _set(key: str, text: str, live: Object) -> Object:
    live["stringData"] = {key: text}
    return live


async def test_reader_that_stops_is_cut_off_and_catches_up(server: ServerHandle, admin: Http) -> None:
    """Nobody waits for it, its buffer is bounded, and with the last version it saw it misses nothing."""
    big = "x" * 20_000
    async with http_client(server, server.authority.issue_admin()) as slow:
        async with slow.watch(f"{SECRETS}?watch=1") as watch:
            await admin.post(SECRETS, secret("s", n="0", pad=big))
            _, seen = await watch.next()
            for number in range(BUFFER_LIMIT + 200):
                await server.registry.update(ROW, "default", "s", partial(_set, "n", str(number)))
            with trio.fail_after(60):
                rest = await watch.rest()
            versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in rest]
            assert len(versions) < BUFFER_LIMIT
            assert versions == sorted(versions)
        last = versions[-1] if versions else int(seen["metadata"]["resourceVersion"])
        async with slow.watch(f"{SECRETS}?watch=1&resourceVersion={last}") as watch:
            _, obj = await watch.next()
            assert int(obj["metadata"]["resourceVersion"]) == last + 1


# --- the hub alone ---------------------------------------------------------------------------------------------------


def _value(name: str, **labels: str) -> bytes:
    return codec.encode({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": name, "labels": labels}})


async def test_event_is_there_when_the_write_returns() -> None:
    storage = Storage()
    hub = WatchHub(storage)
    with Watcher(storage, hub, Selection(ROW, "ns", "a"), WatchOptions()) as watcher:
        await storage.write("/registry/secrets/ns/a", _value("a"), expected=ABSENT)
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time()  # no time to wait for anything
            [event] = await watcher.wait_events()
    assert event.type == "ADDED"
    assert not scope.cancelled_caught


async def test_change_between_state_and_stream_is_seen_once() -> None:
    storage = Storage()
    hub = WatchHub(storage)
    await storage.write("/registry/secrets/ns/a", _value("a"), expected=ABSENT)
    with Watcher(storage, hub, Selection(ROW), WatchOptions(marks_initial_end=True, sends_bookmarks=True)) as watcher:
        await storage.write("/registry/secrets/ns/b", _value("b"), expected=ABSENT)
        first = await watcher.wait_events()
        second = await watcher.wait_events()
    assert [(event.type, event.revision) for event in first] == [("ADDED", 1), (BOOKMARK, 1)]
    assert [(event.type, event.revision) for event in second] == [("ADDED", 2)]


async def test_overflow_ends_the_watch_and_drops_the_buffer() -> None:
    storage = Storage(history_limit=10 * BUFFER_LIMIT)
    hub = WatchHub(storage)
    with Watcher(storage, hub, Selection(ROW), WatchOptions()) as watcher:
        for number in range(BUFFER_LIMIT + 1):
            await storage.write(f"/registry/secrets/ns/{number}", _value(str(number)), expected=ABSENT)
        assert await watcher.wait_events() == []
    with Watcher(storage, hub, Selection(ROW), WatchOptions(since=0)) as watcher:
        assert len(await watcher.wait_events()) == BUFFER_LIMIT + 1


async def test_idle_watch_bookmarks_the_current_revision(autojump_clock: trio.testing.MockClock) -> None:
    """Writes elsewhere move the bookmark: that is what keeps a quiet watch's version from expiring."""
    storage = Storage()
    hub = WatchHub(storage)
    with Watcher(storage, hub, Selection(ROW, "ns", "a"), WatchOptions(sends_bookmarks=True)) as watcher:
        await storage.write("/registry/secrets/ns/b", _value("b"), expected=ABSENT)
        start = trio.current_time()
        [event] = await watcher.wait_events()
    assert (event.type, event.revision) == (BOOKMARK, 1)
    assert trio.current_time() - start == pytest.approx(BOOKMARK_INTERVAL_S)


async def test_closed_hub_hands_out_what_is_buffered_then_ends() -> None:
    storage = Storage()
    hub = WatchHub(storage)
    with Watcher(storage, hub, Selection(ROW), WatchOptions()) as watcher:
        await storage.write("/registry/secrets/ns/a", _value("a"), expected=ABSENT)
        hub.close()
        assert len(await watcher.wait_events()) == 1
        assert await watcher.wait_events() == []
    with Watcher(storage, hub, Selection(ROW), WatchOptions(sends_initial_events=False)) as late:
        assert await late.wait_events() == []


async def test_cancelled_wait_loses_no_event() -> None:
    storage = Storage()
    hub = WatchHub(storage)
    with Watcher(storage, hub, Selection(ROW), WatchOptions()) as watcher:
        with trio.move_on_after(0):
            await watcher.wait_events()
        await storage.write("/registry/secrets/ns/a", _value("a"), expected=ABSENT)
        assert [event.revision for event in await watcher.wait_events()] == [1]


async def test_watch_of_a_compacted_version_is_refused() -> None:
    storage = Storage()
    hub = WatchHub(storage)
    for number in range(3):
        await storage.write(f"/registry/secrets/ns/{number}", _value(str(number)), expected=ABSENT)
    storage.compact(2)
    with pytest.raises(Compacted):
        Watcher(storage, hub, Selection(ROW), WatchOptions(since=1)).__enter__()
    assert repr(hub) == "<WatchHub subscriptions=0>"


steps = st.lists(
    st.tuples(st.sampled_from(["x/a", "x/b", "y/a"]), st.sampled_from([None, "in", "out"])), min_size=1, max_size=30
)


@settings(max_examples=80, deadline=None)
@given(steps, st.integers(0, 30), st.sampled_from(["", "l=in"]), st.sampled_from(["", "x"]))
async def test_a_client_that_applies_the_events_has_the_state(
    changes: list[tuple[str, str | None]], join_at: int, labels: str, namespace: str
) -> None:
    """Model: whoever joins at any time, and replays or streams from there, ends with what a list shows."""
    storage = Storage()
    hub = WatchHub(storage)
    selection = select(ROW, namespace, labels, "")
    known: dict[str, Any] = {}
    since: int | None = None

    async def apply(watcher: Watcher) -> None:
        hub.close()
        while events := await watcher.wait_events():
            for event in events:
                metadata = event.object["metadata"]
                key = f"{metadata['annotations']['ns']}/{metadata['name']}"
                if event.type == "DELETED":
                    del known[key]  # a KeyError here would be a departure of something that never arrived
                else:
                    assert (key in known) is (event.type == "MODIFIED")
                    known[key] = event.revision

    async def write(name: str, label: str | None) -> None:
        record = storage.get(f"/registry/secrets/{name}")
        if label is None and record is None:
            return
        value = None
        if label is not None:
            ns, _, short = name.partition("/")
            meta_ = {"name": short, "labels": {"l": label}, "annotations": {"ns": ns}}
            value = codec.encode({"kind": "Secret", "apiVersion": "v1", "metadata": meta_})
        previous = record.stored if record else None
        expected = record.revision if record else ABSENT
        await storage.write(f"/registry/secrets/{name}", value, expected=expected, previous=previous)

    for name, label in changes[:join_at]:
        await write(name, label)
    first, second = changes[join_at : join_at + 5], changes[join_at + 5 :]
    with Watcher(storage, hub, selection, WatchOptions()) as watcher:
        for name, label in first:
            await write(name, label)
        await apply(watcher)
        since = storage.revision
    for name, label in second:
        await write(name, label)
    with Watcher(storage, hub, selection, WatchOptions(since=since)) as watcher:
        await apply(watcher)
    listed = {}
    for record in storage.records(selection.prefix):
        obj = codec.decode((await storage.open(record)).value, record.revision)
        if selection.matches(obj):
            listed[record.key.removeprefix("/registry/secrets/")] = record.revision
    assert known == listed

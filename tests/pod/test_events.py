"""Events as they reach the API server. Semantics §8.2, §8.3."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import trio
import trio.testing
from msgspec import structs

from kubelet_secrets.api.core import Event
from kubelet_secrets.api.meta import EVENTS
from kubelet_secrets.client.answers import EventType
from kubelet_secrets.errors import ApiUnavailable
from kubelet_secrets.pod.events import QUEUE_LENGTH, WARNING, EventRecorder, node_reference, pod_reference
from kubelet_secrets.pod.parts import wall_clock
from kubelet_secrets.pod.state import ContainerKind
from tests.pod.builders import make_pod
from tests.pod.cluster import NODE, Cluster


@asynccontextmanager
async def recorder(lab: Cluster) -> AsyncIterator[EventRecorder]:
    async with trio.open_nursery() as nursery:
        made = EventRecorder(lab.node, node_name=NODE, clock=wall_clock)
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


async def wait_count(lab: Cluster, count: int) -> Event:
    async with lab.admin.watch(EVENTS, "default", Event, send_initial_events=True) as events:
        async for event in events:
            if event.type is not EventType.DELETED and isinstance(event.object, Event) and event.object.count == count:
                return event.object
    raise AssertionError("the watch ended")


async def test_event_about_a_container(lab: Cluster) -> None:
    pod = make_pod("app")
    async with recorder(lab) as events:
        about = pod_reference(pod, ContainerKind.REGULAR, pod.spec.containers[0])
        events.record(about, WARNING, "BackOff", "Back-off restarting failed container app")
        found = await wait_count(lab, 1)
    assert found.metadata.name.startswith("web.")
    assert found.metadata.namespace == "default"
    assert found.involved_object.field_path == "spec.containers{app}"
    assert (found.involved_object.kind, found.involved_object.uid) == ("Pod", "uid-1")
    assert (found.source.component, found.source.host) == ("kubelet", NODE)
    assert (found.type, found.reason) == ("Warning", "BackOff")
    assert found.first_timestamp == found.last_timestamp


async def test_same_event_is_counted_on_one_object(lab: Cluster) -> None:
    async with recorder(lab) as events:
        for _ in range(3):
            events.record(pod_reference(make_pod()), WARNING, "FailedMount", "no")
        found = await wait_count(lab, 3)
        assert [each.metadata.name for each in await lab.admin.list(EVENTS, "default", Event)] == [found.metadata.name]


async def test_event_that_expired_is_written_anew_with_its_count(lab: Cluster) -> None:
    async with recorder(lab) as events:
        events.record(pod_reference(make_pod()), WARNING, "FailedMount", "no")
        first = await wait_count(lab, 1)
        await lab.admin.delete(EVENTS, "default", first.metadata.name)
        events.record(pod_reference(make_pod()), WARNING, "FailedMount", "no")
        second = await wait_count(lab, 2)
        assert second.metadata.name == first.metadata.name


async def test_node_events_go_to_the_default_namespace(lab: Cluster) -> None:
    async with recorder(lab) as events:
        events.record(node_reference(NODE), "Normal", "Starting", "Starting kubelet.")
        found = await wait_count(lab, 1)
    assert (found.metadata.namespace, found.involved_object.uid) == ("default", NODE)


async def test_queue_is_bounded_and_never_waits(lab: Cluster) -> None:
    events = EventRecorder(lab.node, node_name=NODE, clock=wall_clock)
    for index in range(QUEUE_LENGTH + 3):
        events.record(pod_reference(make_pod()), WARNING, "FailedMount", f"m{index}")
    assert events.dropped == 3


async def test_event_that_waits_for_the_api_server_is_sent_at_its_return(lab: Cluster) -> None:
    async with recorder(lab) as events:
        with lab.api_away():
            events.record(pod_reference(make_pod()), WARNING, "FailedMount", "while it was away")
            await trio.testing.wait_all_tasks_blocked(0.05)
        while True:  # rung for as long as the first attempt may still be failing
            events.nudge()
            with trio.move_on_after(0.2):
                await wait_count(lab, 1)
                break
    assert events.dropped == 0


async def test_events_of_a_long_outage_are_given_up_in_order(autojump_clock: trio.testing.MockClock) -> None:
    """The oldest is tried for two minutes, then the next: what happened last is what is still known an hour later."""

    class Away:
        tried: ClassVar[list[str]] = []

        async def create(self, resource: object, namespace: str, event: Event) -> Event:
            self.tried.append(event.message)
            raise ApiUnavailable("connection refused")

    events = EventRecorder(Away(), node_name=NODE, clock=wall_clock)  # type: ignore[arg-type]  # what of a client is used
    async with trio.open_nursery() as nursery:
        await nursery.start(events.run)
        for index in range(3):
            events.record(pod_reference(make_pod()), WARNING, "FailedMount", f"m{index}")
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()
    assert [Away.tried.count(f"m{index}") for index in range(3)] == [12, 12, 12]
    assert events.dropped == 3


async def test_events_about_one_object_do_not_wait_for_anothers() -> None:
    """The API server is slow about one pod; the events of others pass it, each object's own in order."""
    done: list[str] = []
    slow, all_others = trio.Event(), trio.Event()

    class Slow:
        async def create(self, resource: object, namespace: str, event: Event) -> Event:
            if event.involved_object.uid == "uid-0":
                await slow.wait()
            done.append(event.message)
            if len(done) == 6:
                all_others.set()
            return event

    events = EventRecorder(Slow(), node_name=NODE, clock=wall_clock)  # type: ignore[arg-type]  # what of a client is used
    pods = [
        structs.replace(make_pod(), metadata=structs.replace(make_pod().metadata, uid=f"uid-{index}"))
        for index in range(4)
    ]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(events.run)
            for pod in pods:
                for what in ("a", "b"):
                    events.record(pod_reference(pod), WARNING, f"Failed{what}", f"{pod.metadata.uid} {what}")
            await all_others.wait()
            assert not any(message.startswith("uid-0") for message in done)
            slow.set()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert len(done) == 8
    for pod in pods:
        assert [each[-1] for each in done if each.startswith(pod.metadata.uid)] == ["a", "b"]

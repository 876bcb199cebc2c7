"""What ``up`` shows while it runs: pods and their events, followed through the API like any client would."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import click
import trio

from kubelet_secrets.api.core import ContainerStatus, Event, Pod
from kubelet_secrets.api.meta import EVENTS, PODS, Resource
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.errors import ApiError, ApiUnavailable

RECENT_EVENTS = 8
RETRY_S = 1.0

K = TypeVar("K", Pod, Event)


async def _follow(client: ApiClient, resource: Resource, kind: type[K], tell: Callable[[str, K], None]) -> None:
    """Call *tell* with each change of every object, from the beginning; starts over when the server goes away."""
    while True:
        try:
            async with client.watch(resource, "", kind, send_initial_events=True) as events:
                async for event in events:
                    if event.type in ("ADDED", "MODIFIED", "DELETED") and event.object is not None:
                        tell(event.type, event.object)
        except (ApiError, ApiUnavailable):
            pass  # an expired watch, or a server that is away: nothing to show until it is back
        await trio.sleep(RETRY_S)


def pod_state(pod: Pod) -> str:
    """The word in kubectl's STATUS column: the phase, or the most telling reason of a container."""
    if pod.metadata.deletion_timestamp:
        return "Terminating"
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        reason = _container_reason(status)
        if reason:
            return reason
    return pod.status.phase or "Pending"


def _container_reason(status: ContainerStatus) -> str:
    if status.state.waiting is not None and status.state.waiting.reason:
        return status.state.waiting.reason
    if status.state.terminated is not None and status.state.terminated.reason not in ("", "Completed"):
        return status.state.terminated.reason
    return ""


async def watch_lines(client: ApiClient) -> None:
    """Print one line per change of a pod's state and per event, until cancelled."""
    states: dict[str, str] = {}

    def tell_pod(change: str, pod: Pod) -> None:
        name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        state = "gone" if change == "DELETED" else pod_state(pod)
        if states.get(name) != state:
            states[name] = state
            click.echo(f"{time.strftime('%H:%M:%S')}  {name}  {state}")

    def tell_event(change: str, event: Event) -> None:
        if change != "DELETED":
            click.echo(f"{time.strftime('%H:%M:%S')}  {_event_line(event)}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_follow, client, PODS, Pod, tell_pod)
        nursery.start_soon(_follow, client, EVENTS, Event, tell_event)


async def watch_table(client: ApiClient) -> None:
    """Keep a table of the pods and the latest events on the terminal, until cancelled."""
    from rich.console import Group
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    pods: dict[str, Pod] = {}
    recent: deque[str] = deque(maxlen=RECENT_EVENTS)
    changed = trio.Event()

    def render() -> Group:
        table = Table(box=None, pad_edge=False)
        for heading in ("POD", "STATUS", "READY", "RESTARTS"):
            table.add_column(heading, no_wrap=True)
        for name, pod in sorted(pods.items()):
            statuses = pod.status.container_statuses
            state = pod_state(pod)
            colour = {"Running": "green", "Succeeded": "green", "Pending": "yellow", "ContainerCreating": "yellow"}
            table.add_row(
                name,
                Text(state, style=colour.get(state, "red")),
                f"{sum(status.ready for status in statuses)}/{len(pod.spec.containers)}",
                str(sum(status.restart_count for status in statuses)),
            )
        lines = Text("\n".join(recent), style="dim", no_wrap=True, overflow="ellipsis")
        return Group(table, Text(), lines, Text("Ctrl-C stops everything", style="dim"))

    def wake() -> None:
        nonlocal changed
        changed.set()
        changed = trio.Event()

    def tell_pod(change: str, pod: Pod) -> None:
        name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        if change == "DELETED":
            pods.pop(name, None)
        else:
            pods[name] = pod
        wake()

    def tell_event(change: str, event: Event) -> None:
        if change != "DELETED":
            recent.append(f"{time.strftime('%H:%M:%S')}  {_event_line(event)}")
            wake()

    with Live(render(), auto_refresh=False) as live:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_follow, client, PODS, Pod, tell_pod)
            nursery.start_soon(_follow, client, EVENTS, Event, tell_event)
            while True:
                await changed.wait()
                await trio.sleep(0.05)  # fold a burst of changes into one redraw
                live.update(render(), refresh=True)


def _event_line(event: Event) -> str:
    regarding = event.involved_object
    count = f" (x{event.count})" if event.count > 1 else ""
    return f"{regarding.namespace}/{regarding.name}  {event.type} {event.reason}: {event.message}{count}"

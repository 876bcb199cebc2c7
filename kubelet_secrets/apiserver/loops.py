"""What every controller of this server is made of: a loop over a watch of the registry, and a sweep at intervals.

A loop begins with what there is and goes on with what changes, so that it heals whatever happened before it ran.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.encryption import TransformError
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.resources import ServedResource
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.apiserver.watch import Event, WatchOptions
from kubelet_secrets.errors import ApiError

log = logging.getLogger(__name__)

Handle = Callable[[str, Object], Awaitable[None]]
_REWATCH_DELAY_S = 0.1
_UNREADABLE_DELAY_S = 10.0


async def follow(
    registry: Registry,
    row: ServedResource,
    handle: Handle,
    namespace: str = "",
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Give every object of *row*, now and as it changes, to *handle* with the event's type, until cancelled.

    Started once it watches: nothing that happens from then on is missed.
    """
    is_started, told = False, ""
    while True:
        with registry.watch(Selection(row, namespace), WatchOptions()) as watcher:
            if not is_started:
                task_status.started()
                is_started = True
            try:
                while events := await watcher.wait_events():
                    for event in events:
                        await _handle(row, handle, event)
            except TransformError as error:
                if str(error) != told:  # once each, or it would fill the log
                    told = str(error)
                    log.warning("%s controller: %s", row.plural, told)
                await trio.sleep(_UNREADABLE_DELAY_S)  # until the key or its service is back
        await trio.sleep(_REWATCH_DELAY_S)  # ended by overflow or shutdown: begin again with the state


async def _handle(row: ServedResource, handle: Handle, event: Event) -> None:
    with contained(f"{row.plural} controller"):  # its next change tries again
        await handle(event.type, event.object)


async def sweep_every(interval_s: float, sweep: Callable[[], Awaitable[None]]) -> None:
    """Call *sweep* at intervals, until cancelled."""
    while True:
        await trio.sleep(interval_s)
        with contained("sweep"):  # the next one tries again
            await sweep()


@contextmanager
def contained(what: str) -> Iterator[None]:
    """A loop's border: what one object runs into is logged, and neither stops the others nor ends the server for everybody.

    A bug is told by its type and place: its text may quote data.
    """
    try:
        yield
    except ApiError as error:
        log.warning("%s: %s", what, error)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        log.error("%s: %s in %s:%s", what, type(error).__name__, place.filename, place.lineno)

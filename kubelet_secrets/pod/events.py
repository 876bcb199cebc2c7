"""``EventRecorder``: tell the API server what happened to a pod or to the node.

:meth:`EventRecorder.record` never waits and never fails, so every part may call it anywhere. What the correlator lets pass is
created, or patched onto the event that stands for it already, by a few tasks: those about one object by the same, in order.
Source: client-go tools/record/event.go (recordToSink, recordEvent); semantics §8.2. Differs: one task sends there, so that a
slow API server learns of a node's hundredth pod when it has answered about ninety-nine.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import trio

from kubelet_secrets.api.core import Container, Event, EventSource, Pod
from kubelet_secrets.api.meta import EVENTS, ObjectMeta, ObjectReference
from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.api.validation.names import dns1123_subdomain_errors
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.errors import ApiError, ApiUnavailable, NotFound
from kubelet_secrets.pod.correlator import Create, Drop, EventCorrelator, Recount
from kubelet_secrets.pod.state import ContainerKind
from kubelet_secrets.pod.tokenbucket import TokenBucket
from kubelet_secrets.pod.wake import Wake

logger = logging.getLogger(__name__)

QUEUE_LENGTH = 1000
SENDERS = 8
MAX_TRIES = 12
RETRY_S = 10.0
QPS = 50.0  # eventRecordQPS
BURST = 100  # eventBurst

NORMAL = "Normal"
WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class _Report:
    about: ObjectReference
    event_type: str
    reason: str
    message: str
    at: datetime


class EventRecorder:
    """The events of one node.

    Args:
        node_name: the reporting instance.
        clock: wall time, aware.

    Attributes:
        dropped: events lost because the API server was away for long: the queue was full, or it was tried too often.
    """

    def __init__(self, client: ApiClient, *, node_name: str, clock: Callable[[], datetime]) -> None:
        self.dropped = 0
        self._client = client
        self._source = EventSource(component="kubelet", host=node_name)
        self._clock = clock
        self._correlator = EventCorrelator()
        self._last_name_ns = 0
        self._wake = Wake()
        self._outage = trio.Lock()
        self._sending: dict[tuple[str, str], deque[Create | Recount]] = {}  # by what they are about: uid and name
        self._send, self._receive = trio.open_memory_channel[_Report](QUEUE_LENGTH)

    def record(
        self, about: ObjectReference, event_type: str, reason: str, message: str, *, quotes_container: bool = False
    ) -> None:
        """Report something.

        Never waits: when :data:`QUEUE_LENGTH` reports wait already (the API server has been away), this one is dropped and
        counted. *message* is published: no values in it.

        Args:
            quotes_container: *message* holds what a container has printed: it is kept out of this program's log.
        """
        logger.log(
            logging.INFO,  # also warnings: whoever runs pods reads them as events
            "%s %s/%s %s: %s",
            about.kind,
            about.namespace,
            about.name,
            reason,
            f"<{len(message)} characters>" if quotes_container else message,
        )
        try:
            self._send.send_nowait(_Report(about, event_type, reason, message, self._clock()))
        except trio.WouldBlock:
            self.dropped += 1

    def nudge(self) -> None:
        """The API server answers again: whatever waits is sent now."""
        self._wake.ring()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send what was recorded, of each object in order, until cancelled."""
        pace = TokenBucket(QPS, BURST)
        free = trio.Semaphore(SENDERS)
        async with trio.open_nursery() as nursery:
            task_status.started()
            async for report in self._receive:
                outcome = self._correlator.correlate(self._event(report), report.at)
                if isinstance(outcome, Drop):
                    continue
                await trio.sleep(pace.take(trio.current_time()))
                about = report.about.uid, report.about.name
                if about in self._sending:  # not many: the correlator lets few pass about one object
                    self._sending[about].append(outcome)
                    continue
                await free.acquire()
                self._sending[about] = deque([outcome])
                nursery.start_soon(self._send_all, about, free)

    async def _send_all(self, about: tuple[str, str], free: trio.Semaphore) -> None:
        waiting = self._sending[about]
        while waiting:
            await self._deliver(waiting.popleft())
        # No await since it was found empty: what comes from now on gets a task of its own.
        del self._sending[about]
        free.release()

    def _event(self, report: _Report) -> Event:
        # Unique even when two events fall into one tick of the clock.
        self._last_name_ns = max(self._last_name_ns + 1, int(report.at.timestamp() * 1e9))
        stamp = rfc3339(report.at)
        return Event(
            metadata=ObjectMeta(
                name=event_name(report.about.name, self._last_name_ns), namespace=report.about.namespace or "default"
            ),
            involved_object=report.about,
            reason=report.reason,
            message=report.message,
            source=self._source,
            first_timestamp=stamp,
            last_timestamp=stamp,
            count=1,
            type=report.event_type,
            reporting_component=self._source.component,
            reporting_instance=self._source.host,
        )

    async def _deliver(self, outcome: Create | Recount) -> None:
        if await self._is_settled(outcome):
            return
        # While the API server is away one event after the other is given up: what happened last is what matters at its return.
        has_waited = self._outage.locked()
        async with self._outage:
            if has_waited and await self._is_settled(outcome):
                return
            for attempt in range(1, MAX_TRIES):
                # The first pause is random, so that the nodes of a cluster do not come back all at once.
                await self._wake.wait(timeout_s=RETRY_S * random.random() if attempt == 1 else RETRY_S)
                self._wake.clear()
                if await self._is_settled(outcome):
                    return
        self.dropped += 1
        logger.warning(
            "event %s %s: gave up after %d tries", outcome.event.reason, outcome.event.metadata.name, MAX_TRIES
        )

    async def _is_settled(self, outcome: Create | Recount) -> bool:
        """Try once; False: worth another try."""
        try:
            await self._deliver_once(outcome)
        except ApiUnavailable:
            return False
        except ApiError as error:
            if error.code in (429, 500, 502, 503, 504):
                return False
            # Refused for good: a namespace that is being deleted, an event that exists already.
            logger.info("event %s %s was refused: %s", outcome.event.reason, outcome.event.metadata.name, error)
        return True

    async def _deliver_once(self, outcome: Create | Recount) -> None:
        namespace, name = outcome.event.metadata.namespace, outcome.event.metadata.name
        if isinstance(outcome, Recount):
            try:
                await self._client.patch(EVENTS, namespace, name, outcome.patch)
                return
            except NotFound:
                pass  # it has expired: write it anew, with the count so far
        await self._client.create(EVENTS, namespace, outcome.event)


def event_name(about: str, unix_ns: int) -> str:
    """What an event is called; where the name of what it is about leaves no room for more, it gets one of its own.

    Source: client-go tools/internal/events, GenerateEventName.
    """
    name = f"{about}.{unix_ns:x}"
    return name if not dns1123_subdomain_errors(name) else str(uuid.uuid4())


def pod_reference(pod: Pod, kind: ContainerKind | None = None, container: Container | None = None) -> ObjectReference:
    """What an event about *pod*, or about one container of it, refers to."""
    field_path = f"{kind.value}{{{container.name}}}" if kind is not None and container is not None else ""
    return ObjectReference(
        kind="Pod",
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        api_version="v1",
        resource_version=pod.metadata.resource_version,
        field_path=field_path,
    )


def node_reference(node_name: str) -> ObjectReference:
    """What an event about the node refers to. Source: the kubelet's nodeRef, whose uid is the name."""
    return ObjectReference(kind="Node", name=node_name, uid=node_name)

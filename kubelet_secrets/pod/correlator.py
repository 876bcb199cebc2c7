"""Events thinned out before they are sent: aggregation, counting, and the spam filter. No clock: *now* is an argument.

Used by ``pod/events.py``, which sends what this decides. Source: client-go tools/record/events_cache.go, EventCorrelator with
its defaults; semantics §8.2.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from kubelet_secrets.api.core import Event
from kubelet_secrets.api.times import rfc3339

MAX_CACHE_ENTRIES = 4096
MAX_SIMILAR_EVENTS = 10
MAX_INTERVAL_S = 600.0
SPAM_BURST = 25
SPAM_REFILL_S = 300.0  # one token in this time
COMBINED_PREFIX = "(combined from similar events): "

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Create:
    """Send *event* as a new object."""

    event: Event


@dataclass(frozen=True, slots=True)
class Recount:
    """PATCH the event that stands for *event* already; when it has expired (404), create *event*."""

    event: Event  # name of the existing object, new count and lastTimestamp
    patch: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Drop:
    """The source's budget for this object is used up."""


@dataclass(slots=True)
class _Similar:
    messages: list[str]
    last_at: datetime


@dataclass(frozen=True, slots=True)
class _Seen:
    name: str
    first_timestamp: str | None
    count: int


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: datetime


class EventCorrelator:
    """What was sent before, and from it what to do with the next event."""

    def __init__(self) -> None:
        self._similar: _Lru[_Similar] = _Lru()
        self._seen: _Lru[_Seen] = _Lru()
        self._buckets: _Lru[_Bucket] = _Lru()

    def correlate(self, event: Event, now: datetime) -> Create | Recount | Drop:
        """Decide what becomes of *event*, and remember it.

        Args:
            event: complete, count 1, named as it shall be called if it is sent as a new object.
        """
        aggregated, key = self._aggregate(event, now)
        outcome = self._count(aggregated, key)
        # The filter comes last, so that dropped events still count: the next PATCH makes up for them.
        return outcome if self._take_token(event, now) else Drop()

    def _aggregate(self, event: Event, now: datetime) -> tuple[Event, tuple[str, ...]]:
        """Fold the tenth and every further distinct message of one kind into one event."""
        key = _aggregate_key(event)
        record = self._similar.get(key)
        if record is None or (now - record.last_at).total_seconds() > MAX_INTERVAL_S:
            record = _Similar([], now)
        if event.message not in record.messages:
            record.messages.append(event.message)
        record.last_at = now
        self._similar.put(key, record)
        if len(record.messages) < MAX_SIMILAR_EVENTS:
            return event, _event_key(event)
        record.messages.pop(0)
        stamp = rfc3339(now)
        combined = msgspec.structs.replace(
            event, message=COMBINED_PREFIX + event.message, first_timestamp=stamp, last_timestamp=stamp, count=1
        )
        return combined, key

    def _count(self, event: Event, key: tuple[str, ...]) -> Create | Recount:
        seen = self._seen.get(key)
        if seen is None:
            self._seen.put(key, _Seen(event.metadata.name, event.first_timestamp, event.count))
            return Create(event)
        recounted = msgspec.structs.replace(
            event,
            metadata=msgspec.structs.replace(event.metadata, name=seen.name),
            first_timestamp=seen.first_timestamp,
            count=seen.count + 1,
        )
        self._seen.put(key, _Seen(seen.name, seen.first_timestamp, seen.count + 1))
        patch = {"count": recounted.count, "lastTimestamp": event.last_timestamp, "message": event.message}
        return Recount(recounted, patch)

    def _take_token(self, event: Event, now: datetime) -> bool:
        key = _spam_key(event)
        bucket = self._buckets.get(key) or _Bucket(SPAM_BURST, now)
        refill = (now - bucket.filled_at).total_seconds() / SPAM_REFILL_S
        bucket.tokens = min(float(SPAM_BURST), bucket.tokens + max(0.0, refill))
        bucket.filled_at = now
        self._buckets.put(key, bucket)
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True


@dataclass(slots=True)
class _Lru(Generic[V]):
    entries: OrderedDict[tuple[str, ...], V] = field(default_factory=OrderedDict)

    def get(self, key: tuple[str, ...]) -> V | None:
        if key in self.entries:
            self.entries.move_to_end(key)
        return self.entries.get(key)

    def put(self, key: tuple[str, ...], value: V) -> None:
        self.entries[key] = value
        self.entries.move_to_end(key)
        if len(self.entries) > MAX_CACHE_ENTRIES:
            self.entries.popitem(last=False)


def _spam_key(event: Event) -> tuple[str, ...]:
    involved = event.involved_object
    return (
        event.source.component,
        event.source.host,
        involved.kind,
        involved.namespace,
        involved.name,
        involved.uid,
        involved.api_version,
    )


def _aggregate_key(event: Event) -> tuple[str, ...]:
    """Source: EventAggregatorByReasonFunc."""
    return (*_spam_key(event), event.type, event.reason, event.reporting_component, event.reporting_instance)


def _event_key(event: Event) -> tuple[str, ...]:
    """Source: getEventKey; unlike the aggregate key it tells containers (fieldPath) and messages apart."""
    return (*_aggregate_key(event), event.involved_object.field_path, event.message)

"""The list-watch protocol as a machine: what happened goes in, what to do next comes out.

Pure: no I/O, no clock, no randomness of its own. ``reflector.py`` runs it; the tests hold dialogues with it.

::

    start ─► StreamList ─ bookmark ─► Replace ─► (the same watch goes on) ─► Upsert/Remove …
               │ refused or silent                      ▲      │ ended: Watch from the last version
               └─► List ─► Replace ─► Watch ────────────┘      │ unreachable: Wait, then the same
                    ▲                                          │ expired: from the start, objects kept meanwhile
                    └──────────────────────────────────────────┘

Source: k8s.io/client-go/tools/cache/reflector.go (v0.36): list, watchList, watch, handleAnyWatch; KEP-3157 (streaming
lists), KEP-956 (bookmarks). Differs: the first state is always read consistently (resourceVersion unset, not "0"); a watch
that breaks for want of an answer is resumed where it was, where client-go lists again; 403 is first retried after 50 ms
(right after a binding the node authorizer's graph lags by moments), where client-go takes 800 ms.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from kubelet_secrets.api.decode import DecodeError
from kubelet_secrets.client.answers import EventType, K, WatchEvent
from kubelet_secrets.errors import ApiError, ApiUnavailable, Expired, Forbidden, Invalid, TooManyRequests

Failure = ApiError | ApiUnavailable | DecodeError

_SHORT_WATCH_S = 1.0  # a watch that ends sooner, having brought nothing, counts as a failure


# --- What happened ---


@dataclass(frozen=True, slots=True)
class Listed(Generic[K]):
    objects: tuple[K, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The server has accepted the watch."""


@dataclass(frozen=True, slots=True)
class Observed(Generic[K]):
    event: WatchEvent[K]


@dataclass(frozen=True, slots=True)
class Ended:
    """The server has ended the watch, as it does after its timeout."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The list or watch that was asked for failed, at any point."""

    error: Failure


@dataclass(frozen=True, slots=True)
class Overdue:
    """A streaming list has brought nothing for long: the server may not know what one is."""


@dataclass(frozen=True, slots=True)
class Waited:
    pass


Event = Listed[K] | Opened | Observed[K] | Ended | Failed | Overdue | Waited


# --- What to do ---


@dataclass(frozen=True, slots=True)
class StreamList:
    """Open a watch that begins with the existing objects; abandon a watch that is open."""

    timeout_s: int


@dataclass(frozen=True, slots=True)
class List:
    """List everything; abandon a watch that is open."""


@dataclass(frozen=True, slots=True)
class Watch:
    resource_version: str
    timeout_s: int


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Abandon everything; there is nothing more to learn."""


@dataclass(frozen=True, slots=True)
class Replace(Generic[K]):
    """These are all objects there are."""

    objects: tuple[K, ...]


@dataclass(frozen=True, slots=True)
class Upsert(Generic[K]):
    object: K


@dataclass(frozen=True, slots=True)
class Remove(Generic[K]):
    object: K


@dataclass(frozen=True, slots=True)
class Report:
    """Health has changed: in touch with the server (None), or not, because of *error*. Objects stay what they were."""

    error: Failure | None


StoreCommand = Replace[K] | Upsert[K] | Remove[K] | Report
Command = StreamList | List | Watch | Wait | Stop | Replace[K] | Upsert[K] | Remove[K] | Report


class Backoff:
    """Growing, jittered pauses. After a quiet time it starts again from the smallest.

    Args:
        first_s, cap_s: the pause doubles from one to the other, before jitter, which adds up to as much again.
        reset_s: failures further apart than this are not one outage.
        random: uniform in [0, 1).

    Source: client-go reflector.go, NewExponentialBackoffManager(800ms, 30s, 2min, 2.0, 1.0).
    """

    def __init__(self, random: Callable[[], float], *, first_s: float, cap_s: float = 30, reset_s: float = 120) -> None:
        self._random = random
        self._first_s = first_s
        self._cap_s = cap_s
        self._reset_s = reset_s
        self._next_s = first_s
        self._last_at_s = float("-inf")

    def reset(self) -> None:
        self._next_s = self._first_s

    def next(self, now_s: float) -> float:
        if now_s > self._last_at_s + self._reset_s:
            self._next_s = self._first_s
        self._last_at_s = now_s
        pause = self._next_s
        self._next_s = min(self._next_s * 2, self._cap_s)
        return pause * (1 + self._random())


class Phase(enum.Enum):
    IDLE = "idle"
    STREAMING = "streaming the initial objects"
    LISTING = "listing"
    WATCHING = "watching"
    WAITING = "waiting to try again"
    STOPPED = "stopped"


class ListWatch(Generic[K]):
    """One list-watch, from start to stop.

    Args:
        random: uniform in [0, 1); spreads pauses and watch timeouts over many reflectors.
        streams: try a streaming list first.
        watch_timeout_s: a watch asks to be ended after one to two of these. The kubelet's managers use 30 minutes.
        is_final: an object that will never change again; when one has been stored the machine stops. For list-watches of
            a single object.

    Attributes:
        phase: what it waits for.
        resource_version: where it would resume; "" when only a fresh list will do.
    """

    def __init__(
        self,
        random: Callable[[], float],
        *,
        streams: bool = True,
        watch_timeout_s: int = 1800,
        is_final: Callable[[K], bool] = lambda _: False,
    ) -> None:
        self.phase = Phase.IDLE
        self.resource_version = ""
        self._random = random
        self._streams = streams
        self._watch_timeout_s = watch_timeout_s
        self._is_final = is_final
        self._backoff = Backoff(random, first_s=0.8)
        self._forbidden_backoff = Backoff(random, first_s=0.05)
        self._initial: dict[tuple[str, str], K] = {}  # of a streaming list that is not complete yet
        self._opened_at_s = math.inf  # the current watch; it has not begun
        self._has_observed = False  # anything, on the current watch
        self._is_fresh = False  # resource_version comes from a list, and no watch has lasted from there
        self._is_healthy = True

    def forget_failures(self) -> None:
        """Whatever failed until now says nothing about the next try: pauses start from the smallest again."""
        self._backoff.reset()
        self._forbidden_backoff.reset()

    def start(self) -> tuple[Command[K], ...]:
        assert self.phase is Phase.IDLE
        return self._relist()

    def step(self, event: Event[K], now_s: float) -> tuple[Command[K], ...]:
        """Take in what happened and say what to do, in order; 0..n commands.

        Args:
            now_s: a monotonic clock's reading.
        """
        if self.phase is Phase.STOPPED:
            return ()
        if isinstance(event, Listed):
            self.resource_version = event.resource_version
            self._is_fresh = True
            return (*self._healthy(), *self._store(Replace(event.objects), event.objects, then_watch=True))
        if isinstance(event, Opened):
            self._opened_at_s = now_s
            self._has_observed = False
            # A streaming list is healthy when it is complete: some servers accept it and stay silent.
            return self._healthy() if self.phase is Phase.WATCHING else ()
        if isinstance(event, Observed):
            self._has_observed = True
            self._is_fresh = False
            if self.phase is Phase.STREAMING:
                return self._observe_initial(event.event)
            return self._observe(event.event)
        if isinstance(event, Ended):
            return self._end(now_s)
        if isinstance(event, Failed):
            return self._fail(event.error, now_s)
        if isinstance(event, Overdue):
            self._streams = False
            return self._relist()
        return self._resume()

    def _relist(self) -> tuple[Command[K], ...]:
        self.resource_version = ""
        self._initial = {}
        if self._streams:
            self.phase = Phase.STREAMING
            return (StreamList(self._timeout_s()),)
        self.phase = Phase.LISTING
        return (List(),)

    def _resume(self) -> tuple[Command[K], ...]:
        if not self.resource_version:
            return self._relist()
        self.phase = Phase.WATCHING
        self._opened_at_s = math.inf
        return (Watch(self.resource_version, self._timeout_s()),)

    def _observe_initial(self, event: WatchEvent[K]) -> tuple[Command[K], ...]:
        metadata = event.object.metadata
        key = (metadata.namespace, metadata.name)
        if event.ends_initial_events:
            objects = tuple(self._initial.values())
            self._initial = {}
            self.resource_version = event.resource_version
            self.phase = Phase.WATCHING
            return (*self._healthy(), *self._store(Replace(objects), objects))
        if event.type is EventType.DELETED:
            self._initial.pop(key, None)
        elif event.type is not EventType.BOOKMARK:
            self._initial[key] = event.object
        return ()

    def _observe(self, event: WatchEvent[K]) -> tuple[Command[K], ...]:
        self.resource_version = event.resource_version
        if event.type is EventType.BOOKMARK:
            return ()
        if event.type is EventType.DELETED:
            return (Remove(event.object),)
        return self._store(Upsert(event.object), (event.object,))

    def _store(
        self, command: Replace[K] | Upsert[K], objects: tuple[K, ...], *, then_watch: bool = False
    ) -> tuple[Command[K], ...]:
        if any(self._is_final(obj) for obj in objects):
            self.phase = Phase.STOPPED
            return (command, Stop())
        return (command, *(self._resume() if then_watch else ()))

    def _end(self, now_s: float) -> tuple[Command[K], ...]:
        if self.phase is Phase.WATCHING and (self._has_observed or self._has_lasted(now_s)):
            self._is_fresh = False
            return self._resume()
        # Not healthy, nor worth a report: nobody has said anything.
        self.phase = Phase.WAITING
        return (Wait(self._backoff.next(now_s)),)

    def _has_lasted(self, now_s: float) -> bool:
        return now_s >= self._opened_at_s + _SHORT_WATCH_S

    def _fail(self, error: Failure, now_s: float) -> tuple[Command[K], ...]:
        if self._has_lasted(now_s):
            self._is_fresh = False  # it was good for a while, quiet as it may have been
        if isinstance(error, Expired):
            # Nothing is wrong: we were away for long. But a server that says so of a fresh version is waited for.
            is_stale, self._is_fresh = bool(self.resource_version) and not self._is_fresh, False
            self.resource_version = ""
            if is_stale:
                return self._relist()
        elif self.phase is Phase.STREAMING and isinstance(error, Invalid):
            self._streams = (
                False  # "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
            )
            return self._relist()
        elif isinstance(error, DecodeError) or (isinstance(error, ApiError) and not _is_passing(error)):
            self.resource_version = ""
        self._initial = {}
        self.phase = Phase.WAITING
        backoff = self._forbidden_backoff if isinstance(error, Forbidden) else self._backoff
        pause_s = backoff.next(now_s)
        if isinstance(error, ApiError) and error.retry_after_s is not None:
            pause_s = max(pause_s, error.retry_after_s)
        report: tuple[Command[K], ...] = (Report(error),) if self._is_healthy else ()
        self._is_healthy = False
        return (*report, Wait(pause_s))

    def _healthy(self) -> tuple[Command[K], ...]:
        if self._is_healthy:
            return ()
        self._is_healthy = True
        return (Report(None),)

    def _timeout_s(self) -> int:
        return int(self._watch_timeout_s * (1 + self._random()))


def _is_passing(error: ApiError) -> bool:
    """Whether the server is just busy or broken, so that what we have seen is still the place to go on from."""
    return isinstance(error, TooManyRequests) or error.code >= 500

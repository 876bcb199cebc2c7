"""How long to wait before trying again: container restarts, image pulls, volume mounts. No clock is read here.

Used by ``pod/plan.py`` (reads) and ``pod/worker.py`` (writes, when it starts a container or pulls an image), and per
volume by ``pod/volumes.py``. Source: client-go util/flowcontrol/backoff.go; kubelet doBackOff; semantics §8.1, §8.7, §9.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

CONTAINER_INITIAL_S = 10.0
CONTAINER_CAP_S = 300.0
IMAGE_INITIAL_S = 10.0
IMAGE_CAP_S = 300.0

MOUNT_INITIAL_S = 0.5
MOUNT_CAP_S = 122.0


@dataclass(frozen=True, slots=True)
class _Entry:
    delay_s: float
    updated_at: datetime


class BackOff:
    """Delays by key, doubling from *initial_s* to *cap_s*; a key that was quiet for twice the cap starts over.

    The keys are the caller's: ``<pod uid>_<container>_<spec hash>`` for restarts, ``<pod uid>_<image>`` for pulls.
    """

    def __init__(self, *, initial_s: float = CONTAINER_INITIAL_S, cap_s: float = CONTAINER_CAP_S) -> None:
        self.initial_s = initial_s
        self.cap_s = cap_s
        self._entries: dict[str, _Entry] = {}

    def __repr__(self) -> str:
        return f"BackOff({ {key: entry.delay_s for key, entry in self._entries.items()} })"

    def delay_s(self, key: str) -> float:
        """The present delay of *key*; 0.0 when it has none."""
        entry = self._entries.get(key)
        return entry.delay_s if entry else 0.0

    def retry_at(self, key: str, event_at: datetime, now: datetime) -> datetime | None:
        """Until when *key* is held back, measured from *event_at*; None when it may go on now.

        Args:
            event_at: for a restart, the instant the container finished. (A pull counts from the last failure instead:
                :meth:`retry_at_since_update`.)

        Source: Backoff.IsInBackOffSince.
        """
        entry = self._entries.get(key)
        if entry is None or self._is_stale(entry, event_at):
            return None
        until = event_at + timedelta(seconds=entry.delay_s)
        return until if now < until else None

    def retry_at_since_update(self, key: str, now: datetime) -> datetime | None:
        """Until when *key* is held back, measured from its last :meth:`advance`. Source: IsInBackOffSinceUpdate."""
        entry = self._entries.get(key)
        if entry is None or self._is_stale(entry, now):
            return None
        until = entry.updated_at + timedelta(seconds=entry.delay_s)
        return until if now < until else None

    def advance(self, key: str, event_at: datetime, now: datetime) -> None:
        """Take the next step for *key*: the first delay, or twice the last one. Source: Backoff.Next."""
        entry = self._entries.get(key)
        is_first = entry is None or self._is_stale(entry, event_at)
        delay_s = self.initial_s if is_first or entry is None else min(entry.delay_s * 2, self.cap_s)
        self._entries[key] = _Entry(delay_s, now)

    def forget(self, prefix: str) -> None:
        """Drop every key that begins with *prefix*: a pod has gone."""
        self._entries = {key: entry for key, entry in self._entries.items() if not key.startswith(prefix)}

    def _is_stale(self, entry: _Entry, event_at: datetime) -> bool:
        return event_at - entry.updated_at > timedelta(seconds=2 * self.cap_s)


def mount_delay_s(failures: int) -> float:
    """Seconds to wait after the *failures*-th failure in a row of one volume (1 → 0.5, 2 → 1, … cap 122).

    Source: pkg/util/goroutinemap/exponentialbackoff; semantics §7.4 (4), §8.1.
    """
    return min(MOUNT_INITIAL_S * 2.0 ** min(failures - 1, 16), MOUNT_CAP_S)

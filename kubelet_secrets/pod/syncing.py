"""When a pod's volumes are made anew: at once when something changes, or as late as the kubelet's own loops.

The kubelet re-projects volumes when it syncs the pod: 60 to 90 seconds after the last sync, or earlier because the pod changed
in the API or a container started or ended; then a 100 ms populator and a 100 ms reconciler get round to it. Here a change
reaches the containers within milliseconds. ``--emulate-kubelet-delays`` brings the kubelet's timing back, for tests of
applications that must bear it; with objects that are polled (strategies Cache and Get) the period is needed as well, because
nobody tells when they change.

:class:`SyncTimer` is pure: it is told the time and draws its jitter from what it is given. Used by ``pod/volumes.py``.
Source: pkg/kubelet/pod_workers.go (workerResyncIntervalJitterFactor), volumemanager; semantics §7.4, §7.5.
"""

from __future__ import annotations

import random as random_module
from collections.abc import Callable, Hashable
from dataclasses import dataclass

SYNC_S = 60.0  # syncFrequency
JITTER_FACTOR = 0.5
LOOP_S = 0.1  # the populator's and the reconciler's period


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncPolicy:
    """How news of objects reaches volumes.

    Attributes:
        emulates_delays: a change waits for the pod's next sync.
        polls: nobody tells of changes: look at every sync.
    """

    emulates_delays: bool = False
    polls: bool = False

    @property
    def is_immediate(self) -> bool:
        """Whether a change that is told acts at once."""
        return not self.emulates_delays

    @property
    def is_periodic(self) -> bool:
        return self.emulates_delays or self.polls


AT_ONCE = SyncPolicy()


class SyncTimer:
    """When one pod is synced next.

    Args:
        random: uniform in [0, 1).
    """

    def __init__(self, now: float, *, random: Callable[[], float] = random_module.random) -> None:
        self._random = random
        self._due = now
        self._containers: Hashable = None
        self.synced(now)

    @property
    def due(self) -> float:
        return self._due

    def synced(self, now: float) -> None:
        """The pod has just been synced: the next time is 60 to 90 seconds off."""
        self._due = now + SYNC_S * (1 + JITTER_FACTOR * self._random())

    def hasten(self, now: float) -> None:
        """Something happened that the kubelet syncs a pod for at once."""
        self._due = min(self._due, now)

    def note_containers(self, state: Hashable, now: float) -> None:
        """The pod's containers are now like *state*; a difference is what the kubelet's PLEG tells."""
        if state != self._containers:
            self._containers = state
            self.hasten(now)

    def loop_delay_s(self) -> float:
        """How long populator and reconciler take to get round to it."""
        return LOOP_S * (self._random() + self._random())

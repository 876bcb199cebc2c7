"""Whether a process that says "I am well" from time to time has stopped doing so, or merely gets no processor. For the keeper.

Knows one process's clock and nothing of what it does. The rule: what counts is time in which the process *could* have spoken,
running, asleep or stopped. Time in the run queue does not count (a loaded machine), nor does time in which
nobody looked (a virtual machine that was paused, a keeper that was stopped): it might have spoken in that time as well.

Source: Linux Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

LONGEST_GAP_S = 2.0
"""Between two looks, more than this (or half of what is allowed) does not count. Look more often."""


def read_queued_s(pid: int) -> float:
    """Seconds that the main thread of *pid* has spent waiting for a processor; 0 where the kernel does not count them."""
    try:
        fields = Path(f"/proc/{pid}/schedstat").read_text().split()
    except OSError:
        return 0.0
    return int(fields[1]) / 1e9 if len(fields) > 1 else 0.0


class Watchdog:
    """Counts the silence of one process.

    Args:
        queued_s: how long it has waited for a processor so far, in seconds; never falls.
        start_allowance_s: silence allowed before the first word.
        allowance_s: silence allowed between two words.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        queued_s: Callable[[], float],
        *,
        start_allowance_s: float,
        allowance_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_queued_s = queued_s
        self._allowance_s = start_allowance_s
        self._allowance_between_s = allowance_s
        self._clock = clock
        self._silence_s = 0.0
        self._seen_s = clock()
        self._queued_s = queued_s()

    def fed(self) -> None:
        """It has said that it is well."""
        self._allowance_s = self._allowance_between_s
        self._silence_s = 0.0
        self._seen_s = self._clock()
        self._queued_s = self._read_queued_s()

    def is_overdue(self) -> bool:
        """Whether it was silent for longer than allowed. Hear what it has said before asking."""
        now_s, queued_s = self._clock(), self._read_queued_s()
        own_s = (now_s - self._seen_s) - (queued_s - self._queued_s)
        self._silence_s += min(max(own_s, 0.0), LONGEST_GAP_S, self._allowance_s / 2)
        self._seen_s, self._queued_s = now_s, queued_s
        return self._silence_s >= self._allowance_s

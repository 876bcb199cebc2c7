"""``Turns``: when many pods come at once, volumes first, then the containers, a few at a time.

A container's start keeps a processor busy for some fifty milliseconds, in programs that share the machine with the agent. Left
to themselves, a hundred pods that arrive together start their first containers while the volumes of the others still wait
for the agent's turn. So a start waits while volumes of any pod are being set up for the first time, as long as one after the
other gets done, and no more than a few starts are under way. Once there are more than that, the rest wait for a moment in which
no pod comes, too. What the API server is told of pods waits for volumes in the same way, but less long.

All of it is bounded: nothing waits here for longer than ``PATIENCE_S``. Alone, a pod waits for nobody.

One for the node, used by the pods' workers. Only what takes processor time belongs in a turn: no pulls, no hooks, no waits.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

PATIENCE_S = 10.0
"""A start waits no longer than this for the volumes of others,"""
STALLED_S = 1.0
"""and not after this long without one that was done: they may wait for an object that nobody has."""
QUIET_S = 0.2
"""After this long without a volume to set up, no more pods are coming for now."""
QUIET_PATIENCE_S = 2.0
"""A start waits no longer than this for such a moment; news for the API server neither, for anything."""
HELD_S = 5.0
"""After this long a turn counts as over: what hangs holds up nobody but itself."""


class _Waiter:
    def __init__(self, now: float) -> None:
        self.since = now
        self.is_admitted = False
        self.bell = trio.Event()  # replaced when it has rung


class Turns:
    """Who may go.

    Args:
        places: how many may have their turn at once; by default twice the number of processors, for a start also waits.
    """

    def __init__(self, *, places: int | None = None) -> None:
        self._places = places if places is not None else 2 * (os.cpu_count() or 1)
        self._volumes = 0  # being set up for the first time
        self._settled_at = float("-inf")  # when there was last less to do about them, or something after nothing
        self._idle = trio.Event()  # no volumes; replaced
        self._idle.set()
        self._ends: dict[_Waiter, float] = {}  # of those who have their turn
        # First those who have something begun already: a pod with a sandbox before one without.
        self._lines: tuple[deque[_Waiter], deque[_Waiter]] = (deque(), deque())

    def __repr__(self) -> str:
        waiting = sum(map(len, self._lines))
        return f"<Turns {self._volumes} volumes, {len(self._ends)} of {self._places} places taken, {waiting} wait>"

    @contextmanager
    def setting_up_volume(self) -> Iterator[None]:
        """A volume is being set up for the first time, and no failure of it is known: starts wait for that."""
        if not self._volumes:
            self._settled_at = trio.current_time()
            self._idle = trio.Event()
        self._volumes += 1
        try:
            yield
        finally:
            self._volumes -= 1
            self._settled_at = trio.current_time()
            if not self._volumes:
                self._idle.set()
            self._admit()

    async def wait_volumes(self) -> None:
        """Wait while volumes are being set up, for ``QUIET_PATIENCE_S`` at most."""
        limit = trio.current_time() + QUIET_PATIENCE_S
        while self._volumes and (until := min(limit, self._settled_at + STALLED_S)) > trio.current_time():
            with trio.move_on_at(until):
                await self._idle.wait()

    @asynccontextmanager
    async def turn(self, *, is_begun: bool) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the length of the block.

        Args:
            is_begun: there is something of the pod already; it goes before those of whom there is nothing.

        Cancellation: while waiting, the place in the line is given up.
        """
        waiter = _Waiter(trio.current_time())
        line = self._lines[0 if is_begun else 1]
        line.append(waiter)
        try:
            self._admit()
            while not waiter.is_admitted:
                waiter.bell = trio.Event()
                with trio.move_on_at(self._looks_again_at(waiter, line)) as scope:
                    await waiter.bell.wait()
                if scope.cancelled_caught:
                    self._admit()
            yield
        finally:
            if self._ends.pop(waiter, None) is None:
                line.remove(waiter)
            self._admit()

    def _admit(self) -> None:
        now = trio.current_time()
        for line in self._lines:
            while line and self._taken(now) < self._places and self._waits_until(line[0], now) <= now:
                waiter = line.popleft()
                self._ends[waiter] = now + HELD_S
                waiter.is_admitted = True
                waiter.bell.set()
            if line:
                line[0].bell.set()  # the first in a line looks at the clock for all behind it

    def _taken(self, now: float) -> int:
        return sum(1 for ends in self._ends.values() if ends > now)

    def _waits_until(self, waiter: _Waiter, now: float) -> float:
        """For volumes; that all places are taken is another matter."""
        if self._volumes:
            return min(waiter.since + PATIENCE_S, self._settled_at + STALLED_S)
        if self._taken(now) + sum(map(len, self._lines)) > self._places:
            return min(waiter.since + QUIET_PATIENCE_S, self._settled_at + QUIET_S)
        return now

    def _looks_again_at(self, waiter: _Waiter, line: deque[_Waiter]) -> float:
        """When something may have changed without anybody's doing."""
        if waiter is not line[0]:
            return float("inf")
        now = trio.current_time()
        times = (*self._ends.values(), self._waits_until(waiter, now))
        return min((each for each in times if each > now), default=float("inf"))

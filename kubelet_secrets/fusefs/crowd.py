"""Requests that were read and not answered yet: when many wait at once, each pod has its turn, and in it each container.

The kernel keeps one queue for the whole filesystem, first come, first served: a container with a thousand threads that open
in a loop would have a thousand places in it, and everybody else's open would wait for all of them. So a crowd is
read to its end and sorted here. The pod is that of the file that is asked for, which costs no system call; who in
the pod asks is looked up, at the expense of the pod, when it is its turn.

Waiting here changes nothing for the caller: it sits blocked in its system call, also when it is judged later.
Called by ``session``. Memory only; of ``/proc`` what *whose* reads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import NamedTuple

from kubelet_secrets.fusefs.fairqueue import FairQueue
from kubelet_secrets.fusefs.wire import Header

MAX_WAITING = 16_384
"""Requests held here; further ones wait in the kernel. Each is one blocked thread and less than a kilobyte."""

_CALLERS_KNOWN_S = 1.0
_SORTED_AT_ONCE = 32  # so that no turn takes long: looking up a caller takes some ten microseconds


class Waiting(NamedTuple):
    """A request, taken over from the buffer it was read into."""

    header: Header
    request: bytearray


class _Pod:
    """What waits for one pod's files; sorted by caller when it is the pod's turn."""

    __slots__ = ("callers", "unsorted")

    def __init__(self) -> None:
        self.unsorted: deque[Waiting] = deque()
        self.callers: FairQueue[Waiting] = FairQueue()


class Crowd:
    """The requests that wait for an answer.

    Args:
        pod_of: the pod that a node belongs to; must not wait.
        whose: the container that a thread is in; a few reads of ``/proc``. A wrong answer costs fairness, no access.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        pod_of: Callable[[int], Hashable],
        whose: Callable[[int], Hashable],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._pod_of = pod_of
        self._whose = whose
        self._clock = clock
        self._turns: FairQueue[None] = FairQueue()  # one item for each request, by pod
        self._pods: dict[Hashable, _Pod] = {}
        self._callers: dict[int, Hashable] = {}  # by thread, for a moment: numbers are used again
        self._callers_until_s = 0.0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, waiting: Waiting) -> None:
        """Take a request in."""
        key = self._pod_of(waiting.header.node)
        pod = self._pods.get(key)
        if pod is None:
            pod = self._pods[key] = _Pod()
        pod.unsorted.append(waiting)
        self._turns.put(key, None)
        self._size += 1

    def serve_next(self, serve: Callable[[Waiting], None]) -> None:
        """Have the request served whose turn it is, and charge pod and caller with the time that takes.

        Raises:
            ValueError: nobody waits.
        """
        began_s = self._clock()
        key, _ = self._turns.pop()
        pod = self._pods[key]
        if pod.unsorted:
            self._sort(pod)
        caller, waiting = pod.callers.pop()
        self._size -= 1
        sorted_s = self._clock()
        try:
            serve(waiting)
        finally:
            ended_s = self._clock()
            pod.callers.charge(caller, ended_s - sorted_s)
            self._turns.charge(key, ended_s - began_s)
            if not pod.callers and not pod.unsorted:
                del self._pods[key]

    def _sort(self, pod: _Pod) -> None:
        if self._clock() >= self._callers_until_s:
            self._callers.clear()
            self._callers_until_s = self._clock() + _CALLERS_KNOWN_S
        for _ in range(min(len(pod.unsorted), _SORTED_AT_ONCE)):
            waiting = pod.unsorted.popleft()
            tid = waiting.header.tid
            caller = self._callers.get(tid)
            if caller is None:
                caller = self._callers[tid] = self._whose(tid)
            pod.callers.put(caller, waiting)

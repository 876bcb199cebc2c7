"""Newer code in the keeper's place: what the one leaves and the other takes over, beside ``fusefs.kept``. For the keeper alone.

The process stays the same, so its children stay its own. The old agent serves until its successor has imported everything;
what containers notice is no more than after a crash with a spare agent.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from kubelet_secrets.children import AgentChild
from kubelet_secrets.notify import put_descriptors
from kubelet_secrets.supervisor import SIGNALS

logger = logging.getLogger(__name__)

_VARIABLE = "KS_PREDECESSORS"
_IMPORT_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 1.0
_TICK_S = 1.0


def replace_program(kept: Mapping[str, int], children: Sequence[int]) -> NoReturn:
    """Execute this process's own command line anew; what it imports is what is installed now.

    Signals wait until the next ``signal_pipe``. No way back once it has begun: ask ``preflight`` before.

    Args:
        kept: as ``NodeMounts.keep_for_next``.
        children: pids that the next program shall end when it can do without them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    environ = dict(os.environ)
    environ[_VARIABLE] = " ".join(map(str, children))
    put_descriptors(kept, environ)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)


def take_predecessors() -> list[int] | None:
    """The children that the program before left us; None when this process was no other one before."""
    left = os.environ.pop(_VARIABLE, None)
    return None if left is None else [int(pid) for pid in left.split()]


def end_predecessors(pids: Sequence[int], successor: AgentChild, tick: Callable[[], None]) -> list[int]:
    """Kill them, but not before *successor* waits for its turn, or has ended, or takes too long.

    Args:
        tick: called about once a second.

    Returns:
        Those that did not end: stuck on a request that the successor will answer. To be asked about by ``reap_if_ended``.
    """
    deadline_s = time.monotonic() + _IMPORT_TIMEOUT_S
    while not successor.is_waiting and time.monotonic() < deadline_s:
        poll = select.poll()
        for descriptor in (successor.pid_fd, successor.news_fd):
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
        readable = {descriptor for descriptor, _ in poll.poll(_TICK_S * 1000)}
        successor.hear()
        tick()
        if successor.pid_fd in readable:
            break
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    deadline_s = time.monotonic() + _END_TIMEOUT_S
    left = [pid for pid in pids if not reap_if_ended(pid)]
    while left and time.monotonic() < deadline_s:
        time.sleep(0.002)
        left = [pid for pid in left if not reap_if_ended(pid)]
    return left


def reap_if_ended(pid: int) -> bool:
    """Whether this child has ended; it is gone then."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True

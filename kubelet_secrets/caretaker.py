"""Who clears up after a keeper that was killed, where nobody keeps its descriptors (no systemd): a second, idle process.

A fork of the keeper that reads a pipe. What comes out of it are the pids of the keeper's children, and at last a farewell. An
end without farewell means that the keeper died. Its agent was told so by the kernel (SIGTERM, ``children``) and stops the
containers in order, for as long as the filesystem still answers. Then the caretaker takes away every mount, so that nobody
meets "Transport endpoint is not connected", and leaves a note for the next start. It holds the directory's lock until then.

If it dies itself, the keeper forks another. If both are killed at once, the next start cleans up. For ``keeper_loop`` alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

logger = logging.getLogger(__name__)

COMMAND_NAME = "ks-caretaker"
"""In ps: otherwise it looks like the keeper that it is a fork of."""

_FAREWELL = b"bye\n"
_KILL_TIMEOUT_S = 5.0


class Caretaker:
    """The keeper's end.

    Args:
        clear_up: called in the caretaker when the keeper's children have ended.
        lock_fd: stays open in the caretaker; everything else is closed there.
        patience_s: how long an agent may take to stop its containers.

    Attributes:
        pid_fd: readable when the caretaker has ended.
    """

    def __init__(self, clear_up: Callable[[], None], *, lock_fd: int, patience_s: float) -> None:
        self._clear_up = clear_up
        self._lock_fd = lock_fd
        self._patience_s = patience_s
        self._start(())

    def _start(self, pids: Iterable[int]) -> None:
        pipe_fd, self._tell_fd = os.pipe2(os.O_CLOEXEC)
        for pid in pids:
            self.watch(pid)
        keeper_pid = os.getpid()
        self._pid = os.fork()  # the keeper has one thread
        if self._pid == 0:
            _become_caretaker(self._clear_up, pipe_fd, self._lock_fd, self._patience_s, keeper_pid)
        os.close(pipe_fd)
        self.pid_fd = os.pidfd_open(self._pid)

    def watch(self, pid: int) -> None:
        """A child was started."""
        with contextlib.suppress(BrokenPipeError):  # noticed by pid_fd
            os.write(self._tell_fd, b"%d\n" % pid)

    def replace(self, pids: Iterable[int]) -> None:
        """It has ended: fork another, which watches *pids*."""
        logger.warning("the caretaker ended; starting another")
        self._forget()
        self._start(pids)

    def dismiss(self) -> None:
        """We end in order, or newer code brings its own."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._tell_fd, _FAREWELL)
        if not select.select([self.pid_fd], [], [], _KILL_TIMEOUT_S)[0]:
            os.kill(self._pid, signal.SIGKILL)
        self._forget()

    def _forget(self) -> None:
        os.waitpid(self._pid, 0)
        os.close(self.pid_fd)
        os.close(self._tell_fd)


def _become_caretaker(
    clear_up: Callable[[], None], pipe_fd: int, lock_fd: int, patience_s: float, keeper_pid: int
) -> NoReturn:
    status = 1
    try:
        Path("/proc/self/comm").write_text(COMMAND_NAME)
        os.setsid()  # what is sent to the keeper's group, Ctrl-C or worse, is not meant for us
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _close_all_but({0, 1, 2, pipe_fd, lock_fd})
        children = _listen(pipe_fd)
        if children is not None:
            # Readable or not, the terminal or journal behind it may have died with the keeper: that must not stop us.
            with contextlib.suppress(OSError):
                logger.error(
                    "the keeper (process %d) died: stopping its containers, taking its mounts away", keeper_pid
                )
            _wait_end(children, patience_s)
            clear_up()
        status = 0
    except BaseException:
        logger.exception("the caretaker failed")
    finally:
        os._exit(status)


def _close_all_but(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _listen(pipe_fd: int) -> set[int] | None:
    """Pidfds of the children that a dead keeper left behind, None when it said farewell.

    Opened as soon as a child is told of: its parent has not reaped it yet, so the pid is nobody else's.
    """
    told, children = b"", set[int]()
    while chunk := os.read(pipe_fd, 4096):
        *lines, told = (told + chunk).split(b"\n")
        if _FAREWELL.strip() in lines:
            return None
        for ended in _wait_any(children, 0.0):
            children.remove(ended)
            os.close(ended)
        for line in lines:
            with contextlib.suppress(ProcessLookupError):
                children.add(os.pidfd_open(int(line)))
    return children


def _wait_any(pid_fds: Iterable[int], timeout_s: float) -> list[int]:
    """Those that have ended, or do so in time."""
    poll = select.poll()
    for descriptor in pid_fds:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(timeout_s * 1000)]


def _wait_end(children: set[int], patience_s: float) -> None:
    """Wait until the keeper's children have ended; SIGKILL after *patience_s*."""
    deadline_s = time.monotonic() + patience_s
    is_killed = False
    while children:
        ended = _wait_any(children, max(0.0, deadline_s - time.monotonic()))
        for descriptor in ended:
            children.remove(descriptor)
            os.close(descriptor)
        if ended:
            continue
        if is_killed:
            return  # stuck on the filesystem; lets go when that is ended
        for descriptor in children:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        is_killed = True
        deadline_s = time.monotonic() + _KILL_TIMEOUT_S

"""The keeper towards whoever started it, systemd, ``up`` or a terminal: what they are told, keep for us, and want.

Not here: what the keeper does about it (``keeper``). The protocol itself is ``notify``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping

from kubelet_secrets.fusefs.kept import NAMES
from kubelet_secrets.notify import forget_descriptors, notify, store_descriptors, watchdog_interval_s

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
VARIABLES = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"),
    *("KS_PDEATHSIG", "KS_PREDECESSORS"),
)
"""What in the environment is for the keeper alone, and for no child of it."""


class Supervisor:
    """What is told to the supervisor, if there is one.

    Attributes:
        keeps_descriptors: whether it holds descriptors for us, and starts us again: then the mounts may outlive us. systemd
            says so itself by ``$FDSTORE`` since version 254; the unit that comes with this program says it for older ones.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        room = environ.get("FDSTORE", "")
        self.keeps_descriptors = bool(environ.get("NOTIFY_SOCKET")) and room.isdigit() and int(room) >= len(NAMES)
        interval_s = watchdog_interval_s(environ)
        self._ping_every_s = None if interval_s is None else interval_s / 4
        self._pinged_s = 0.0
        self._status = ""

    def keep(self, descriptors: Mapping[str, int]) -> None:
        """Have these kept, and none of those from before."""
        if not self.keeps_descriptors:
            return
        forget_descriptors(NAMES)
        if not store_descriptors(descriptors):
            logger.warning(
                "the service manager does not take descriptors: were this process killed, the mounts would end"
            )

    def forget(self) -> None:
        """Have nothing kept any more: there is nothing left to carry on with."""
        if self.keeps_descriptors:
            forget_descriptors(NAMES)

    def ready(self) -> None:
        """Also the end of a reload."""
        notify("READY=1")

    def reloading(self) -> None:
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notify(f"RELOADING=1\nMONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        notify("STOPPING=1")

    def say(self, status: str) -> None:
        """One line for ``systemctl status``."""
        if status != self._status:
            self._status = status
            notify(f"STATUS={status}", may_be_lost=True)

    def ping(self) -> None:
        """We are well; to be called at every tick."""
        if self._ping_every_s is not None and time.monotonic() - self._pinged_s >= self._ping_every_s:
            self._pinged_s = time.monotonic()
            notify("WATCHDOG=1", may_be_lost=True)


@contextlib.contextmanager
def signal_pipe() -> Iterator[int]:
    """A descriptor that becomes readable, one byte per signal (its number), at SIGTERM, SIGINT and SIGHUP."""
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    old_wakeup_fd = signal.set_wakeup_fd(write_fd)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # upgrade.replace_program blocks them
    try:
        yield read_fd
    finally:
        signal.set_wakeup_fd(old_wakeup_fd)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read_fd)
        os.close(write_fd)


def has_terminal() -> bool:
    """Whether SIGHUP means that our terminal went away. For a daemon it means: reload."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def watch_parent() -> int | None:
    """A descriptor that becomes readable when our parent dies, if it asked for that (``KS_PDEATHSIG``).

    Not PR_SET_PDEATHSIG, which fires when the parent's *thread* ends that started us.
    """
    if not os.environ.get("KS_PDEATHSIG"):
        return None
    return os.pidfd_open(os.getppid())

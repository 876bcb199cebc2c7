"""The keeper's child processes: how one is started, watched and told its turn. For ``keeper`` alone; stdlib only.

An agent is started *ahead of its turn*: it imports everything, and then waits in ``Handover.from_environ`` until the keeper
tells it to go. So there can be a spare one, and when the serving agent dies the pause that containers notice is
the spare's start without Python's imports.
"""

from __future__ import annotations

import os
import signal
import site
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import kubelet_secrets
from kubelet_secrets.fusefs.handover import Handover, News, Turn
from kubelet_secrets.fusefs.hardening import set_parent_death_signal, with_overwriting
from kubelet_secrets.watchdog import Watchdog, read_queued_s

_MAX_BACKOFF_S = 5.0  # 0s, 0.2s, 0.4s, 0.8s, … 5s
_FREE_DEATHS = 3  # in quick succession, before the back-off begins
_STUCK_S = 0.5  # threads of a killed process end within milliseconds of each other
_NEWS_BYTES = 1 << 16  # all that a pipe holds
_ABORT_S = 1.0


def restart_delay_s(quick_deaths: int, *, came_up: bool) -> float:
    """How long to wait before the next agent; containers' opens wait for as long.

    Args:
        quick_deaths: how many agents in a row died soon after they took over, this one included; 1..n.
        came_up: whether this one had said that it is ready. One that did deserves more patience than one that cannot start.
    """
    repeated = quick_deaths - (_FREE_DEATHS if came_up else 1)
    return 0.0 if repeated <= 0 else min(0.1 * 2**repeated, _MAX_BACKOFF_S)


def base_environ(*, without: Collection[str]) -> dict[str, str]:
    """The children's environment: ours *without* some variables, able to import this very package, freed memory overwritten."""
    environ = with_overwriting({name: value for name, value in os.environ.items() if name not in without})
    assert kubelet_secrets.__file__ is not None
    package_parent = str(Path(kubelet_secrets.__file__).parent.parent)
    if package_parent not in site.getsitepackages():  # a checkout; -P keeps the current directory out
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package_parent, environ.get("PYTHONPATH", "")]))
    return environ


class Child:
    """A running child and the descriptor that tells of its end.

    Args:
        death_signal: what the kernel sends it when the keeper dies; 0 for nothing.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        environ: Mapping[str, str],
        pass_fds: tuple[int, ...],
        *,
        death_signal: int = signal.SIGKILL,
    ) -> None:
        keeper_pid = os.getpid()

        def die_with_keeper() -> None:
            # Between fork and exec; safe because the keeper has one thread.
            set_parent_death_signal(death_signal)
            if os.getppid() != keeper_pid:
                os._exit(1)

        self.process = subprocess.Popen(
            command,
            env=dict(environ),
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_keeper,
            start_new_session=True,  # Ctrl-C in a terminal is the keeper's to pass on, in order
        )
        self.pid_fd = os.pidfd_open(self.process.pid)
        self._zombie_since_s: float | None = None

    def is_stuck_dead(self) -> bool:
        """Whether the main thread ended a while ago but another waits for an answer that only a successor can give."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return False
        if stat.rpartition(")")[2].split()[0] != "Z":
            return False
        now_s = time.monotonic()
        if self._zombie_since_s is None:
            self._zombie_since_s = now_s
        return now_s - self._zombie_since_s >= _STUCK_S

    def reap(self, timeout_s: float) -> int | None:
        """Exit status as subprocess has it (negative for a signal), or None when it does not end in time."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Close what the keeper holds of it; does not end it."""
        os.close(self.pid_fd)


class AgentChild(Child):
    """An agent, spare until :meth:`go`.

    Attributes:
        news_fd: readable when the agent has something to say, or has ended; None when its end was seen.
        was_ready: whether it has said that it is ready.
        is_waiting: whether it has imported everything and said that it waits for its turn.
        started_s: when it was told to go, by the monotonic clock.

    Args:
        silence_s: how long it may say nothing, once it has said something, before it counts as wedged.
        start_silence_s: how long it may say nothing when told to go.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        environ: Mapping[str, str],
        handover: Handover,
        *,
        silence_s: float,
        start_silence_s: float,
        death_signal: int = signal.SIGKILL,
    ) -> None:
        news_fd, told_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        wait_fd, self._go_fd = os.pipe2(os.O_CLOEXEC)
        descriptors = {"KS_NEWS_FD": told_fd, "KS_TURN_FD": wait_fd}
        try:
            super().__init__(
                command,
                {**environ, **handover.to_environ(), **{name: str(fd) for name, fd in descriptors.items()}},
                (handover.fuse_fd, handover.store_fd, handover.writer_fd, *descriptors.values()),
                death_signal=death_signal,
            )
        except BaseException:
            os.close(news_fd)
            os.close(self._go_fd)
            raise
        finally:
            for fd in descriptors.values():
                os.close(fd)
        self.news_fd: int | None = news_fd
        self.was_ready = False
        self.is_waiting = False
        self.started_s = time.monotonic()
        self._silence_s = silence_s
        self._start_silence_s = start_silence_s
        self._watchdog: Watchdog | None = None
        self._kill_at_s: float | None = None

    def go(self, turn: Turn) -> None:
        """Tell it to take over. One that has died meanwhile is noticed by its ``pid_fd``."""
        self.started_s = time.monotonic()
        self._watchdog = Watchdog(
            lambda: read_queued_s(self.process.pid),
            start_allowance_s=self._start_silence_s,
            allowance_s=self._silence_s,
        )
        try:
            os.write(self._go_fd, turn.to_line())
        except BrokenPipeError:
            pass

    def hear(self) -> bool:
        """Read what ``news_fd`` has, if anything; True when the agent has just said that it is ready."""
        if self.news_fd is None:
            return False
        try:
            told = os.read(self.news_fd, _NEWS_BYTES)
        except BlockingIOError:
            return False
        if not told:
            os.close(self.news_fd)
            self.news_fd = None
            return False
        if self._watchdog is not None:
            self._watchdog.fed()
        self.is_waiting = self.is_waiting or News.WAITING.value in told
        is_news = News.READY.value in told
        self.was_ready = self.was_ready or is_news
        return is_news

    def end_if_wedged(self) -> bool:
        """Ask at every tick, after :meth:`hear`: an agent that was silent for too long is killed.

        First by SIGABRT, at which it prints where it hangs; a moment later by SIGKILL, which no process ignores.

        Returns:
            Whether it has just been found to be wedged.
        """
        now_s = time.monotonic()
        if self._kill_at_s is not None:
            if now_s >= self._kill_at_s:
                self.process.kill()
            return False
        if self._watchdog is None or not self._watchdog.is_overdue():
            return False
        self.process.send_signal(signal.SIGABRT)
        self._kill_at_s = now_s + _ABORT_S
        return True

    def close(self) -> None:
        super().close()
        os.close(self._go_fd)
        if self.news_fd is not None:
            os.close(self.news_fd)
            self.news_fd = None

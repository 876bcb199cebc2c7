"""The keeper's loop: starts agent and writer, hears them, replaces them, and stops them. For ``keeper`` alone.

Single-threaded, on ``poll``; knows neither pods nor secrets. What it starts is in ``children``, what newer code has to do with
it in ``upgrade``.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Sequence

from kubelet_secrets.caretaker import Caretaker
from kubelet_secrets.children import AgentChild, Child, base_environ, restart_delay_s
from kubelet_secrets.fusefs.handover import Handover, Turn
from kubelet_secrets.fusefs.kept import FORMAT
from kubelet_secrets.fusefs.nodemounts import NodeMounts
from kubelet_secrets.keeper_options import KeeperOptions
from kubelet_secrets.stateformat import EXIT_OTHER_VERSION
from kubelet_secrets.supervisor import VARIABLES, Supervisor, has_terminal, watch_parent
from kubelet_secrets.upgrade import end_predecessors, reap_if_ended

logger = logging.getLogger(__name__)

_TICK_S = 1.0
_KILL_TIMEOUT_S = 5.0
_WRITER_PAUSE_S = 0.2
_CONFIGURATION_ERRORS = (1, 2, EXIT_OTHER_VERSION)  # HostError, UsageError


class Keeper:
    """The loop.

    One agent and one writer at work; a spare agent that waits for its turn; *lingering* agents, dead but for a stuck thread.
    """

    def __init__(
        self, options: KeeperOptions, node: NodeMounts, supervisor: Supervisor, caretaker: Caretaker | None
    ) -> None:
        self._options = options
        self._node = node
        self._supervisor = supervisor
        self._caretaker = caretaker
        self._environ = base_environ(without=VARIABLES)
        # Both ends stay here: orders and answers under way survive the death of either process.
        self._agent_end, self._writer_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._writer: Child | None = None
        self._agent: AgentChild | None = None
        self._spare: AgentChild | None = None
        self._lingering: list[AgentChild] = []
        self._was_ready = False
        self._has_served = node.is_adopted  # some agent, this mount
        # There may be some; then an agent that cannot start is no reason to end them.
        self._serves_containers = node.is_adopted
        self._replaced = 0  # agents
        self._quick_deaths = 0
        self._restart_at_s: float | None = None
        self._writer_restart_at_s: float | None = None
        self._must_terminate = False  # told to stop while an agent was still starting
        self._stop_deadline_s: float | None = None
        self._stops_at_hangup = has_terminal()
        self._preflight: Child | None = None
        self._preflight_deadline_s = 0.0
        self._may_reload_itself = True  # not when that was just done, and no agent has come up since
        self._orphans: list[int] = []  # predecessors that did not end yet

    def run(self, signals: int, predecessors: Sequence[int] | None = None) -> int | None:
        """Supervise until told to stop.

        Args:
            signals: see ``signal_pipe``.
            predecessors: children of this very process, of the program it was before ``upgrade.replace_program``; None
                when it was none.

        Returns:
            Exit status; None when newer code shall take over, for which children and mounts are left as they are.
        """
        parent_fd = watch_parent()
        try:
            if predecessors is not None:
                self._may_reload_itself = False
                self._spare = self._make_agent()
                self._orphans = end_predecessors(predecessors, self._spare, self._supervisor.ping)
            self._start_writer()
            self._start_agent()
            while True:
                readable = self._wait([signals, *([parent_fd] if parent_fd is not None else [])])
                if signals in readable:
                    self._obey(os.read(signals, 64))
                if parent_fd is not None and parent_fd in readable and self._stop_deadline_s is None:
                    self._stop(at_once=False)
                self._hear_agent()
                if self._writer is not None and self._writer.pid_fd in readable:
                    self._replace_writer()
                if self._spare is not None and self._spare.pid_fd in readable:
                    self._note_spare_death()
                status = self._note_agent_death(readable)
                if status is not None:
                    return status
                if self._caretaker is not None and self._caretaker.pid_fd in readable:
                    self._caretaker.replace(self.child_pids())
                if self._preflight is not None and self._note_preflight(readable):
                    return None
                self._keep_time()
                self._supervisor.ping()
        finally:
            if parent_fd is not None:
                os.close(parent_fd)

    def child_pids(self) -> list[int]:
        """All children, for the one after us to end."""
        children = (self._agent, self._spare, self._writer, *self._lingering)
        return [child.process.pid for child in children if child is not None] + self._orphans

    def kill_children(self) -> None:
        """Leave no process behind, whatever happened."""
        self._drop_spare()
        self._drop_preflight()
        for child in (self._agent, self._writer):
            if child is not None:
                child.process.kill()
        self._node.abort_fuse()  # lets go of whoever waits for an answer
        for child in (self._agent, self._writer, *self._lingering):
            if child is not None:
                if child.reap(_KILL_TIMEOUT_S) is None:
                    logger.error("process %d does not end", child.process.pid)
                child.close()
        self._agent = self._writer = None
        self._agent_end.close()
        self._writer_end.close()

    def abandon_children(self) -> None:
        """Kill them and wait for none: what they serve is left to the keeper after this one."""
        for child in (self._spare, self._agent, self._writer, self._preflight):
            if child is not None:
                child.process.kill()

    # --- children ---------------------------------------------------------------------------------------------------

    def _start_writer(self) -> None:
        self._writer_restart_at_s = None
        environ = self._environ | {
            "KS_WRITER_FD": str(self._writer_end.fileno()),
            "KS_FUSE_FD": str(self._node.fuse.fuse_fd),
            "KS_FUSE_MOUNT": str(self._node.fuse_dir),
        }
        descriptors = (self._writer_end.fileno(), self._node.fuse.fuse_fd)
        # Left alone it ends with the agent, whose orders it may still have to carry out.
        number = signal.SIGKILL if self._caretaker is None else 0
        self._writer = Child(self._options.writer_command, environ, descriptors, death_signal=number)
        self._watch(self._writer)

    def _replace_writer(self) -> None:
        assert self._writer is not None
        status = self._writer.reap(_KILL_TIMEOUT_S)
        self._writer.close()
        self._writer = None
        if self._stop_deadline_s is None:
            logger.warning("the writer ended with status %s; starting it again", status)
            # Killed: at once. Failed by itself: not so fast, it may do so again.
            self._writer_restart_at_s = time.monotonic() + (_WRITER_PAUSE_S if status and status > 0 else 0.0)

    def _start_agent(self) -> None:
        """Start an agent; carry the mount over from its predecessor, make a new one if it was ended."""
        self._restart_at_s = None
        if self._has_served and not self._node.fuse.is_alive():
            logger.warning("the mount did not survive its agent: mounting anew, running containers lose their secrets")
            self._renew_mount()
        self._agent, self._spare = self._spare or self._make_agent(), None
        writer_pid = self._writer.process.pid if self._writer is not None else 0
        self._agent.go(Turn(resume=self._has_served, writer_pid=writer_pid))
        self._has_served = True

    def _make_agent(self) -> AgentChild:
        handover = Handover(
            fuse_fd=self._node.fuse.fuse_fd,
            store_fd=self._node.store_fd,
            writer_fd=self._agent_end.fileno(),
            init_request=self._node.fuse.init.raw,
            fuse_mount=self._node.fuse_dir,
            store_kind=self._node.store_kind.value,
        )
        environ = self._environ | {"KS_AGENT_OPTIONS": json.dumps(dict(self._options.agent_options))}
        agent = AgentChild(
            self._options.agent_command,
            environ,
            handover,
            silence_s=self._options.silence_s,
            start_silence_s=self._options.start_silence_s,
            # With nobody to carry on the node ends: in order, as when it is told to stop.
            death_signal=signal.SIGKILL if self._caretaker is None else signal.SIGTERM,
        )
        self._watch(agent)
        return agent

    def _watch(self, child: Child) -> None:
        if self._caretaker is not None:
            self._caretaker.watch(child.process.pid)

    def _make_spare(self) -> None:
        if self._options.has_spare and self._spare is None and self._stop_deadline_s is None:
            # At no lower priority: on a loaded machine it would never be ready, and there a start without one takes seconds.
            self._spare = self._make_agent()

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.process.kill()
            self._spare.reap(_KILL_TIMEOUT_S)
            self._spare.close()
            self._spare = None

    def _note_spare_death(self) -> None:
        assert self._spare is not None
        status = self._spare.reap(_KILL_TIMEOUT_S)
        hint = "; another version of this program is installed now: reload" if status == EXIT_OTHER_VERSION else ""
        logger.warning("the spare agent ended; the next one is started with the next serving agent%s", hint)
        self._drop_spare()

    def _renew_mount(self) -> None:
        self._drop_spare()  # it was given the mount that ended
        self._node.renew_fuse()
        self._supervisor.keep(self._node.keep_for_next())
        self._has_served = False
        if self._writer is not None:  # it stands in the mount that ended
            self._writer.process.kill()
            self._writer.reap(_KILL_TIMEOUT_S)
            self._writer.close()
        self._start_writer()

    def _hear_agent(self) -> None:
        if self._agent is None:
            return
        # Whatever poll said: were we stopped since, there is more to hear, and silence must not be counted before.
        if self._agent.hear():
            if not self._was_ready:
                self._was_ready = self._serves_containers = True
                self._may_reload_itself = True
                self._supervisor.ready()
            restarts = f", the {self._replaced + 1}. of this keeper" if self._replaced else ""
            self._supervisor.say(f"serving by agent {self._agent.process.pid}{restarts}")
            self._make_spare()
            if self._must_terminate:
                self._agent.process.terminate()
        if self._stop_deadline_s is None and self._agent.end_if_wedged():
            logger.error("the agent is alive but does not answer: replacing it")

    def _note_agent_death(self, readable: set[int]) -> int | None:
        """Plan the next start; returns the keeper's exit status when there is to be none."""
        agent = self._agent
        if agent is None:
            return None
        if agent.pid_fd in readable:
            status = agent.reap(_KILL_TIMEOUT_S)
            agent.close()
        elif agent.is_stuck_dead():
            # A thread of it waits for the filesystem that it served itself; only the next agent can let it go.
            status = None
            self._lingering.append(agent)
        else:
            return None
        self._agent = None
        if self._stop_deadline_s is not None:
            return 0
        if not self._serves_containers and status in _CONFIGURATION_ERRORS:
            return status
        if status == EXIT_OTHER_VERSION:
            # Again would be the same again. If the whole program was replaced, it may take over as a whole.
            logger.error("the agent that is installed now cannot carry on under this keeper; opens wait")
            if self._may_reload_itself:
                self._reload()
            else:
                self._say_held()
            return None
        lived_s = time.monotonic() - agent.started_s
        self._quick_deaths = 1 if lived_s >= self._options.healthy_after_s else self._quick_deaths + 1
        delay_s = restart_delay_s(self._quick_deaths, came_up=agent.was_ready)
        logger.warning("the agent ended with status %s; starting it again in %.1f s", status, delay_s)
        self._restart_at_s = time.monotonic() + delay_s
        self._replaced += 1
        self._supervisor.say(f"the agent ended with status {status}: starting it again")
        return None

    # --- newer code -------------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Ask the program that is installed now whether it can take over; the answer comes to ``_note_preflight``."""
        if self._preflight is not None or self._stop_deadline_s is not None:
            return
        self._supervisor.reloading()
        self._supervisor.say("asking the program that is installed now whether it can take over")
        checked = (str(FORMAT), str(self._node.run_dir), *self._options.arguments)
        self._preflight = Child((*self._options.preflight_command, *checked), self._environ, ())
        self._preflight_deadline_s = time.monotonic() + self._options.preflight_timeout_s

    def _note_preflight(self, readable: set[int]) -> bool:
        """Whether newer code takes over. If it cannot, all stays as it is."""
        assert self._preflight is not None
        if self._stop_deadline_s is not None:
            self._drop_preflight()
            return False
        if self._preflight.pid_fd in readable:
            status = self._preflight.reap(_KILL_TIMEOUT_S)
        elif time.monotonic() >= self._preflight_deadline_s:
            status = None
        else:
            return False
        self._drop_preflight()
        if status == 0:
            return True
        logger.error(
            "the program that is installed now cannot take over (status %s, reason above); going on as it is", status
        )
        self._supervisor.ready()
        if self._agent is None and self._restart_at_s is None:
            self._say_held()
        else:
            self._supervisor.say("reload refused, see the log; going on with the program that runs")
        return False

    def _say_held(self) -> None:
        self._supervisor.say(
            "no agent: the one that is installed cannot carry on, see the log. Put the version before back and reload, or stop"
        )

    def _drop_preflight(self) -> None:
        if self._preflight is not None:
            self._preflight.process.kill()
            self._preflight.reap(_KILL_TIMEOUT_S)
            self._preflight.close()
            self._preflight = None

    # --- time and stopping ------------------------------------------------------------------------------------------

    def _wait(self, extra: list[int]) -> set[int]:
        """Wait for a descriptor or the next thing that is due, at most a tick."""
        descriptors = list(extra)
        descriptors += [child.pid_fd for child in (self._agent, self._spare, self._writer) if child is not None]
        if self._preflight is not None:
            descriptors.append(self._preflight.pid_fd)
        if self._caretaker is not None:
            descriptors.append(self._caretaker.pid_fd)
        if self._agent is not None and self._agent.news_fd is not None:
            descriptors.append(self._agent.news_fd)
        now_s = time.monotonic()
        dates_s = (self._restart_at_s, self._writer_restart_at_s, self._stop_deadline_s)
        due_s = [now_s + _TICK_S, *(t for t in dates_s if t is not None)]
        timeout_s = max(0.0, min(due_s) - now_s)
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        return {descriptor for descriptor, _ in poll.poll(timeout_s * 1000)}

    def _keep_time(self) -> None:
        now_s = time.monotonic()
        for child in [c for c in self._lingering if c.process.poll() is not None]:
            self._lingering.remove(child)
            child.close()
        self._orphans = [pid for pid in self._orphans if not reap_if_ended(pid)]
        if self._restart_at_s is not None and now_s >= self._restart_at_s:
            self._start_agent()
        if self._writer_restart_at_s is not None and now_s >= self._writer_restart_at_s:
            self._start_writer()
        if self._stop_deadline_s is not None and now_s >= self._stop_deadline_s and self._agent is not None:
            logger.error("the agent did not stop in time: killing it")
            self._agent.process.kill()
            self._node.abort_fuse()
            self._stop_deadline_s = now_s + _KILL_TIMEOUT_S

    def _obey(self, numbers: bytes) -> None:
        """SIGHUP from a terminal that goes away stops; a daemon is told to reload by it. The others stop."""
        if signal.SIGHUP in numbers and not self._stops_at_hangup:
            self._reload()
            if not set(numbers) - {signal.SIGHUP}:
                return
        self._stop(at_once=self._stop_deadline_s is not None)

    def _stop(self, *, at_once: bool) -> None:
        """Have the agent stop its containers and end; *at_once* cuts that short.

        An agent that is still starting after a crash would die of SIGTERM and leave its predecessor's containers behind, so
        it is told when it says that it is ready.
        """
        self._supervisor.stopping()
        self._supervisor.say("stopping containers")
        if self._agent is None:
            self._start_agent()
        assert self._agent is not None
        if self._serves_containers and not self._agent.was_ready:
            self._must_terminate = True
        else:
            self._agent.process.terminate()
        self._stop_deadline_s = time.monotonic() + (0.0 if at_once else self._options.stop_timeout_s)

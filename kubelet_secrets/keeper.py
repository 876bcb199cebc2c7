"""The keeper: the process of ``kubelet-secrets agent``. Small, boring, single-threaded, without a secret in its memory.

It mounts (``fusefs.nodemounts``), keeps the descriptors that must outlive the agent, starts agent and writer, and
starts them again when they die (``keeper_loop``). Told to stop, it lets the agent stop its containers, then takes every mount
away.

Not here: anything that reads the API, a pod or a secret. No trio: a loop over ``poll`` that a reader can hold in their head.
Called by ``cli.agent``; children are ``kubelet_secrets.agent_process`` and ``kubelet_secrets.fusefs.writer``.
"""

from __future__ import annotations

import logging
from pathlib import Path

from kubelet_secrets.caretaker import Caretaker
from kubelet_secrets.fusefs.hardening import harden_process
from kubelet_secrets.fusefs.nodemounts import NodeMounts
from kubelet_secrets.keeper_loop import Keeper
from kubelet_secrets.keeper_options import KeeperOptions
from kubelet_secrets.notify import take_descriptors
from kubelet_secrets.runtime.cgroups import CgroupTree, parse_mountinfo
from kubelet_secrets.supervisor import Supervisor, signal_pipe
from kubelet_secrets.upgrade import replace_program, take_predecessors

__all__ = ["KeeperOptions", "run_keeper"]

logger = logging.getLogger(__name__)


def run_keeper(options: KeeperOptions) -> int:
    """Run the node until SIGTERM, SIGINT, a terminal's SIGHUP, the parent's death, or an agent that cannot start.

    A second signal cuts the agent's time to stop short. Under a supervisor that keeps descriptors (``Supervisor``) a keeper
    that fails, or is killed, leaves mounts and containers as they are: the one after it carries on with them.

    SIGHUP without a terminal reloads: when the program that is installed now says that it can take over (``preflight``), this
    process executes it in its own place, and it carries on in the same way.

    Returns:
        Exit status: 0 when told to stop, else the agent's, which has printed why.

    Raises:
        HostError: this machine lacks something, or the root directory is in use.
    """
    harden_process()
    supervisor = Supervisor()
    kept = take_descriptors()
    with signal_pipe() as signals:
        with NodeMounts(
            options.root_dir,
            keep=options.image_dir,
            store_size_bytes=options.store_size_bytes,
            store_files=options.store_files,
            run_size_bytes=options.run_size_bytes,
            scratch_size_bytes=options.scratch_size_bytes,
            logs_size_bytes=options.logs_size_bytes,
            fallback=options.noswap_fallback,
            kept=kept,
            has_caretaker=not supervisor.keeps_descriptors,
        ) as node:
            if node.is_adopted:
                logger.warning("carrying on with the mounts and containers of the keeper before")
            else:
                _sweep_containers(options.cgroup_instance)
                supervisor.keep(node.keep_for_next())
            caretaker = None
            if not supervisor.keeps_descriptors:

                def clear_up() -> None:
                    node.abort_fuse()  # lets go of whoever waits for an answer
                    _sweep_containers(options.cgroup_instance)
                    node.clean_up_after()

                caretaker = Caretaker(clear_up, lock_fd=node.lock_fd, patience_s=options.stop_timeout_s)
            keeper = Keeper(options, node, supervisor, caretaker)
            try:
                status = keeper.run(signals, take_predecessors())
                if status is None:
                    logger.warning("giving way to the program that is installed now")
                    if caretaker is not None:
                        caretaker.dismiss()
                    replace_program(node.keep_for_next(), keeper.child_pids())
            except BaseException:
                if supervisor.keeps_descriptors:
                    node.leave()
                    keeper.abandon_children()
                else:
                    # The caretaker would do no more than this, and it would do it after us.
                    keeper.kill_children()
                    _sweep_containers(options.cgroup_instance)
                    if caretaker is not None:
                        caretaker.dismiss()
                raise
            keeper.kill_children()
            _sweep_containers(options.cgroup_instance)
        supervisor.forget()
        if caretaker is not None:
            caretaker.dismiss()
    return status


def _sweep_containers(instance: str) -> None:
    """Kill the containers that no agent will stop any more: those of a killed keeper, or of an agent that could not stop.

    With their mounts gone they could not read their secrets again, and nobody would know of them.
    """
    if not instance:
        return
    layout = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    killed = CgroupTree(instance, layout).sweep()
    if killed:
        logger.warning("killed %d processes of containers that no agent had stopped", killed)

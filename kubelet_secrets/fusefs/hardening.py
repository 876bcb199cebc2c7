"""What a process that holds secrets does about its own memory: no core dumps, no ptrace by others, no swap.

Called first thing by every process of ours that holds values - agent, writer, API server, ``up`` and ``demo``, the commands
that print values - and by the keeper (whose descriptors lead to the store). Locked pages and the dumpable bit do not survive
exec, so each process does it for itself. The core limit does, so the programs that these processes run (conmon, the OCI
runtime, skopeo) dump no core either. What this cannot do: docs/threat-model.md.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kubelet_secrets import linux

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_MCL_CURRENT = 1
_MCL_FUTURE = 2
_MCL_ONFAULT = 4
_PERTURB = "glibc.malloc.perturb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardening:
    """What was achieved; ``verify`` grades it."""

    not_dumpable: bool  # no core dump, and /proc/<pid> closed to processes without CAP_SYS_PTRACE
    no_core: bool  # by RLIMIT_CORE, which children inherit
    memory_locked: bool  # every page stays in RAM


def harden_process() -> Hardening:
    """Harden the calling process as far as its privileges allow. Never raises: the answer says what did not work.

    Pages are locked as they are touched (MCL_ONFAULT): locking untouched thread stacks would cost 8 MiB per thread.
    """
    return Hardening(
        not_dumpable=_attempt(lambda: linux.prctl(_PR_SET_DUMPABLE, 0)),
        no_core=_attempt(_limit_cores),
        memory_locked=_attempt(lambda: linux.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)),
    )


def with_overwriting(environ: Mapping[str, str]) -> dict[str, str]:
    """*environ* for a process whose freed memory shall not keep what was in it; to be set before it starts.

    Python asks glibc for each object instead of keeping pools of its own, and glibc fills what is given back. What glibc has
    at hand for the next request of that size (seven pieces a size and thread) is filled when it is handed out. Costs a tenth
    of the processor time, and no memory. Another C library ignores the second. Source: mallopt(3), M_PERTURB.
    """
    tunables = [each for each in environ.get("GLIBC_TUNABLES", "").split(":") if each and not each.startswith(_PERTURB)]
    return {
        **environ,
        "PYTHONMALLOC": environ.get("PYTHONMALLOC", "malloc"),  # a developer's "debug" overwrites too
        "GLIBC_TUNABLES": ":".join([*tunables, f"{_PERTURB}=165"]),
    }


def _limit_cores() -> None:
    """Forbid core dumps to this process and to what it runs.

    One byte instead of none: no core fits into either, but where ``core_pattern`` names a program the kernel looks at no
    limit but this one, and does not start it. Source: fs/coredump.c, do_coredump; core(5).
    The hard limit stays: containers have a right to theirs (``runtime.spec``), and nobody could raise it for them again.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0 if hard == 0 else 1, hard))


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send signal *number* to this process when the *thread* that started it ends. Survives exec."""
    linux.prctl(_PR_SET_PDEATHSIG, number)


def _attempt(action: Callable[[], None]) -> bool:
    try:
        action()
    except (OSError, ValueError):
        return False
    return True

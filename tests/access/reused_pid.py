"""The guard in a pid namespace with hardly any numbers, where a number soon comes to mean another process.

Run as the first process of a pid namespace with a /proc of its own: ``reused_pid.py CGROUP_DIRECTORY CGROUP_PATH``. Prints
the audit trail of: a container's process opens, and opens again; it ends; a process that is in no container gets its number,
and opens.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

from kubelet_secrets.access.audit import AuditLog
from kubelet_secrets.access.guard import ContainerGuard
from kubelet_secrets.access.procfs import mount_namespace
from kubelet_secrets.access.registry import ContainerIdentity, ContainerRegistry

_RESERVED = 300  # RESERVED_PIDS, kernel/pid.c: numbers below it are given once, those from it on again and again
_PID_MAX = _RESERVED + 8
_FORKS = 2 * _PID_MAX


class Context(NamedTuple):
    tid: int
    uid: int = 0
    gid: int = 0


def fork_sleeper() -> int:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def main(cgroup: Path, cgroup_path: str) -> None:
    assert os.getpid() == 1, "only in a pid namespace of its own: pid_max is the namespace's"
    Path("/proc/sys/kernel/pid_max").write_text(str(_PID_MAX))
    registry, audit = ContainerRegistry(), AuditLog()
    registry.register(
        ContainerIdentity(
            pod_uid="pod",
            namespace="default",
            pod="web",
            container="app",
            container_id="id",
            cgroup_path=cgroup_path,
            mnt_ns=mount_namespace(os.getpid()),
            mounts=frozenset({("db", "")}),
        )
    )
    guard = ContainerGuard(registry, audit)
    while (permitted := fork_sleeper()) < _RESERVED:
        end(permitted)
    (cgroup / "cgroup.procs").write_text(str(permitted))
    for _ in range(2):  # the second time it is recognised
        guard.may_open("pod", "db", "..v/password", Context(permitted), "open")
    end(permitted)
    for _ in range(_FORKS):
        stranger = fork_sleeper()
        if stranger == permitted:
            guard.may_open("pod", "db", "..v/password", Context(stranger), "open")
            end(stranger)
            break
        end(stranger)
    guard.close()
    sys.stdout.buffer.write(msgspec.json.encode(audit.records()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

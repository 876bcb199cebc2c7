"""How a container is: read off its bundle, its processes and its cgroup. Changes nothing but one mark (*lost*).

The answers are values: they say what was true when they were read. Used by ``oci``; the types also by ``pod``.
"""

from __future__ import annotations

import enum
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from kubelet_secrets.runtime import bundle as bundles
from kubelet_secrets.runtime.bundle import Bundle, ContainerRecord
from kubelet_secrets.runtime.cgroups import CgroupTree
from kubelet_secrets.runtime.conmon import open_conmon, open_container

UNKNOWN_EXIT_CODE = 137  # the kubelet's for a container whose end nobody saw: ContainerStatusUnknown
START_FAILED_EXIT_CODE = 128  # CRI's for a process that never came to be: StartError


class ContainerState(enum.Enum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    code: int  # 0..255; 128 + n for a process that signal n ended
    oom: bool
    finished_at: datetime
    known: bool = True  # False: nobody collected the status; code is 137
    failure: str = ""  # why the process could not be started; code is 128

    @property
    def signal(self) -> int:
        """The signal that ended it, or 0, as far as the code tells."""
        return self.code - 128 if self.known and 128 < self.code < 128 + signal.NSIG else 0

    @property
    def reason(self) -> str:
        """The terminated reason: OOMKilled, Completed, Error, StartError or ContainerStatusUnknown."""
        if self.failure:
            return "StartError"
        if not self.known:
            return "ContainerStatusUnknown"
        if self.oom:
            return "OOMKilled"
        return "Error" if self.code else "Completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerHandle:
    """One container as it is at this moment."""

    record: ContainerRecord
    state: ContainerState
    pid: int | None  # of the first process, on the host; None once it has gone
    started_at: datetime | None
    exit: ExitStatus | None  # set when state is EXITED

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def cgroup_path(self) -> str:
        return self.record.cgroup_path


def read_container(bundle: Bundle, record: ContainerRecord, cgroups: CgroupTree) -> ContainerHandle:
    """The container of *bundle* at this moment."""
    started_at = bundles.read_time(bundle.started)
    status: ExitStatus | None = None
    pid: int | None = None
    if not bundle.conmon_pid_file.exists() and not bundle.failure.exists():
        state = ContainerState.CREATED  # still being made, perhaps by an agent that is gone
    elif bundle.exit_file.exists() or bundle.failure.exists() or not _is_alive(bundle):
        status = read_exit_status(bundle, record, cgroups)
        state = ContainerState.EXITED
    else:
        pid = bundles.read_pid(bundle.pid_file)
        state = ContainerState.RUNNING if started_at else ContainerState.CREATED
    return ContainerHandle(record=record, state=state, pid=pid, started_at=started_at, exit=status)


def read_exit_status(bundle: Bundle, record: ContainerRecord, cgroups: CgroupTree) -> ExitStatus:
    """How a container ended that is known to have ended."""
    failure = bundles.read_failure(bundle)
    if failure is not None:
        failed_at = bundles.read_time(bundle.failure) or datetime.now(UTC)
        return ExitStatus(code=START_FAILED_EXIT_CODE, oom=False, finished_at=failed_at, failure=failure)
    oom = bundle.oom_file.exists() or cgroups.oom_kills(record.cgroup_path) > 0
    code = bundles.read_pid(bundle.exit_file)
    finished_at = bundles.read_time(bundle.exit_file)
    if code is None or finished_at is None:
        with suppress(FileNotFoundError):  # deleted meanwhile
            if not bundle.lost.exists():
                bundle.lost.touch(mode=0o600)  # remembers when the loss was found
        finished_at = bundles.read_time(bundle.lost) or datetime.now(UTC)
        return ExitStatus(code=UNKNOWN_EXIT_CODE, oom=oom, finished_at=finished_at, known=False)
    return ExitStatus(code=code, oom=oom, finished_at=finished_at)


def _is_alive(bundle: Bundle) -> bool:
    """Whether the container's process or the conmon that will tell about its end is there."""
    for opener in (open_conmon, open_container):
        fd = opener(bundle)
        if fd is not None:
            os.close(fd)
            return True
    return False


def signal_by_name(name: str) -> int:
    """``SIGTERM``, ``TERM`` or ``15``, as image configurations spell it; SIGTERM for what cannot be read."""
    if name.isdigit():
        return int(name)
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"].value
    except KeyError:
        pass
    base, sign, offset = name.removeprefix("SIG").partition("+")
    if base == "RTMIN" and sign and offset.isdigit():
        return int(signal.SIGRTMIN) + int(offset)
    return int(signal.SIGTERM)

"""What was found, and whether every promise holds. Pure data: the command prints it, ``-o json`` is its fields.

Promises are in docs/threat-model.md. What is measured without being promised (copies of values in the memory of processes, the
memory of conmon) is reported and does not decide.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kubelet_secrets.verify.canaries import DECOY
from kubelet_secrets.verify.grades import Grade


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that was done to the values."""

    what: str  # a sentence: "a rotation reached the container"
    held: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountReport:
    """A place where values lie while they are in use."""

    holds: str  # "files of Secrets"
    path: str  # "" for what has none
    filesystem: str  # "tmpfs (noswap)"
    grade: Grade
    why: str
    promised: bool = True  # False: reported, does not decide


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReport:
    """A process that values pass through."""

    role: str  # "agent"
    pid: int
    grade: Grade
    why: str
    resident_bytes: int
    copies_running: int | None  # of planted values in its memory, while they were in use; None: not counted
    copies_after: int | None = None  # after everything was deleted; None: it has ended by then, or not counted
    counted: bool = True  # False: the time was up before its memory was read to the end
    promised: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A value where it must not be."""

    where: str  # path, or area
    canary: str  # which value; "" when it was cut off
    form: str  # "plain", "base64", …
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaReport:
    """Something that was read from end to end."""

    name: str  # "files changed since the start"
    when: str  # "in use" or "afterwards"
    files: int
    size_bytes: int
    took_s: float
    complete: bool = True  # False: the time was up before the end was reached
    note: str = ""
    leaks: tuple[Leak, ...] = ()

    @property
    def real_leaks(self) -> tuple[Leak, ...]:
        """Without what was planted to be found."""
        return tuple(leak for leak in self.leaks if leak.canary != DECOY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Something planted to be found, and whether it was: a scan that finds nothing has to show that it can."""

    what: str
    found: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Something kernels have or lack."""

    name: str
    available: bool
    effect: str  # what follows here: "requests in flight survive a crash", or the fallback in use


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFact:
    """A setting of the machine that decides where memory may go. No promise: it is the owner's."""

    name: str  # "swap"
    state: str  # "none"
    warning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything, in the order in which it is printed."""

    node: str
    kernel: str  # uname -r
    canaries: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    mounts: tuple[MountReport, ...] = ()
    processes: tuple[ProcessReport, ...] = ()
    controls: tuple[Control, ...] = ()
    areas: tuple[AreaReport, ...] = ()
    features: tuple[Feature, ...] = ()
    machine: tuple[MachineFact, ...] = ()
    not_covered: tuple[str, ...] = field(
        default=(
            "compressed, encrypted, and twice base64-encoded copies",
            "memory of the kernel itself, and what root or a hypervisor reads out of memory",
            "what applications do with their values",
        )
    )
    took_s: float = 0.0

    def broken_promises(self) -> list[str]:
        """One sentence for each promise that does not hold; empty: all of them do."""
        broken = [f"{step.what}: {step.detail or 'it did not'}" for step in self.steps if not step.held]
        broken += [
            f"{mount.holds}{_at(mount.path)}: {mount.grade.value}, {mount.why}"
            for mount in self.mounts
            if mount.promised and mount.grade is not Grade.SECURE
        ]
        broken += [
            f"memory of the {process.role} (pid {process.pid}): {process.grade.value}, {process.why}"
            for process in self.processes
            if process.promised and process.grade is not Grade.SECURE
        ]
        broken += [
            f"memory of the {process.role} (pid {process.pid}): not read to the end, so its copies are not counted"
            for process in self.processes
            if not process.counted
        ]
        broken += [f"{each.what} was not found: the search proves nothing" for each in self.controls if not each.found]
        for area in self.areas:
            for leak in area.real_leaks:
                value = f"the value of the {leak.canary}" if leak.canary else "a part of a value"
                broken.append(f"{value} is in {leak.where}: {leak.form}, {leak.count} times ({area.when})")
            if not area.complete:
                broken.append(f"{area.name} ({area.when}): not read to the end, so nothing is proven of the rest")
        return broken


def _at(path: str) -> str:
    return f" at {path}" if path else ""

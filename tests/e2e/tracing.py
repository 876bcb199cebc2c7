"""What files a whole node of processes made or opened for writing, out of ``strace``, and what filesystem each lies on.

Only processes outside containers count: what a container writes is its own, and its root filesystem is an overlay whose upper
directory is in memory. A process is inside from ``pivot_root``, or from ``setns`` into a mount namespace, on, and so are its
children.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_NO_DISK = {"ramfs", "proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "mqueue", "nsfs", "securityfs"}
_MAKING = (
    *("mkdir", "mkdirat", "mknod", "mknodat", "rename", "renameat", "renameat2", "link", "linkat", "symlink"),
    *("symlinkat", "truncate", "creat"),
)
_OPENING = ("open", "openat", "openat2")
_TREE = ("clone", "clone3", "fork", "vfork")
_OTHER = ("execve", "pivot_root", "setns", "memfd_create", "open_by_handle_at")
_WRITING = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)")
_CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?(?:\(deleted\))?(?: .*)?$")
_UNFINISHED = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>(?:\(deleted\))?, )?"((?:[^"\\]|\\.)*)"')
_NAMESPACE_PID = re.compile(r"/\* (\d+) in strace's PID NS \*/")


def strace_command(output: Path) -> tuple[str, ...]:
    """What to put in front of a command, so that it and all its children are traced into *output*."""
    calls = ",".join((*_MAKING, *_OPENING, *_TREE, *_OTHER))
    # seccomp: only these calls stop their process; everything else runs at full speed.
    options = ("-f", "--seccomp-bpf", "--pidns-translation", "-y", "-qq", "-e", "signal=none")
    return ("strace", *options, "-e", f"trace={calls}", "-o", str(output))


@dataclass(frozen=True, slots=True)
class Touch:
    """A file that was made, or opened for writing."""

    program: str  # base name of what the process ran
    call: str
    path: str


@dataclass(frozen=True, slots=True)
class _Call:
    line: int  # where it began
    pid: int
    name: str
    arguments: str
    result: str
    path: str  # of a returned descriptor


@dataclass
class Trace:
    """What a trace holds.

    Attributes:
        touches: in order; failed calls left out.
        programs: base names of everything that was executed outside containers.
        memfds: names of the memory files that were made.
    """

    touches: list[Touch] = field(default_factory=list)
    programs: set[str] = field(default_factory=set)
    memfds: set[str] = field(default_factory=set)


def read_trace(output: Path) -> Trace:
    calls = sorted(_read_calls(output.read_text(errors="replace").splitlines()), key=lambda call: call.line)
    inside = _find_inside(calls)
    trace, programs = Trace(), {}
    for call in calls:
        if call.name in _TREE:
            programs.setdefault(_child(call), programs.get(call.pid, "?"))
        if call.line >= inside.get(call.pid, 1 << 62):
            continue
        if call.name == "execve":
            words = re.findall(r'"([^"]*)"', call.arguments)
            programs[call.pid] = os.path.basename(words[1] if words[0] == "/proc/self/exe" else words[0])
            trace.programs.add(programs[call.pid])
        elif call.name == "memfd_create":
            trace.memfds.add(call.arguments.split('"')[1])
        else:
            program = programs.get(call.pid, "?")
            trace.touches += [Touch(program, call.name, path) for path in _touched(call)]
    return trace


def _read_calls(lines: Iterable[str]) -> Iterator[_Call]:
    """Whole calls, those put together that another process interrupted."""
    begun: dict[tuple[int, str], tuple[int, str]] = {}
    for number, line in enumerate(lines):
        at = number
        if match := _UNFINISHED.match(line):
            begun[int(match[1]), match[2]] = number, match[3]
            continue
        if match := _RESUMED.match(line):
            at, front = begun.pop((int(match[1]), match[2]), (number, ""))
            line = f"{match[1]} {match[2]}({front}{match[3]}"
        if (match := _CALL.match(line)) and not match[4].startswith("-"):
            translated = _NAMESPACE_PID.search(line)
            result = translated[1] if translated else match[4]
            yield _Call(at, int(match[1]), match[2], match[3], result, match[5] or "")


def _child(call: _Call) -> int:
    return int(call.result)


def _find_inside(calls: Iterable[_Call]) -> dict[int, int]:
    """From which line on a process is in a container."""
    inside: dict[int, int] = {}
    for call in calls:
        enters = call.name == "pivot_root" or (call.name == "setns" and "CLONE_NEWNS" in call.arguments)
        if enters:
            inside.setdefault(call.pid, call.line)
        elif call.name in _TREE and inside.get(call.pid, 1 << 62) <= call.line:
            inside.setdefault(_child(call), call.line)
    return inside


def _touched(call: _Call) -> list[str]:
    if call.name in _OPENING:
        return [call.path] if _WRITING.search(call.arguments) else []
    if call.name not in _MAKING:
        return []
    paths = [os.path.normpath(os.path.join(match[1] or "", match[2])) for match in _PATH.finditer(call.arguments)]
    # The last one is what is made; what a symbolic link says comes before it.
    return paths[-1:]


class Filesystems:
    """What is mounted in this mount namespace, now and at earlier looks."""

    def __init__(self) -> None:
        self._mounts: dict[str, tuple[str, str]] = {}  # mount point → type, options of the superblock
        self.look()

    def look(self) -> None:
        """Remember what is mounted now."""
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            kind, _, options = after.split(" ", 2)
            point = before.split(" ")[4].encode().decode("unicode_escape")
            root = before.split(" ")[3]
            if root != "/" and self._mounts.get(point, ("", ""))[0] == kind:
                continue
            self._mounts[point] = kind, options

    def kind(self, path: str) -> str:
        """Type of the filesystem that *path* is, or was, on; of an overlay that of its upper directory.

        A tmpfs is ``ramfs`` here when it cannot be swapped: its pages do not reach a disk either.
        """
        point = path
        while point not in self._mounts:
            point = os.path.dirname(point)
        kind, options = self._mounts[point]
        if kind == "overlay":
            upper = next((each[9:] for each in options.split(",") if each.startswith("upperdir=")), "")
            return self.kind(upper) if upper.startswith("/") and not upper.startswith(f"{point}/") else kind
        return "ramfs" if kind == "tmpfs" and "noswap" in options.split(",") else kind

    def is_memory(self, path: str) -> bool:
        """Whether nothing written to *path* can reach a disk. Pipes and sockets have no path; memfds have one of their own."""
        if not path.startswith("/") or path.startswith(("/memfd:", "/dev/")):
            return True  # what is opened below /dev is a device, also where /dev itself is a tmpfs
        return self.kind(path) in _NO_DISK

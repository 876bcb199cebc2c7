"""What happens on this machine to the core of a process that protects nothing, shown with a decoy.

Without that the absence of a core of the agent would mean nothing. Also here: where cores would lie.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_PROGRAM = "import os, sys; kept = sys.stdin.buffer.read(); os.abort()"


@dataclass(frozen=True, slots=True)
class Unprotected:
    """How a process without any protection ended."""

    dumped: bool  # the kernel wrote its core, or handed it to the program of a piped core_pattern
    pid: int


def allow_cores() -> None:
    """Let this process's children dump cores as large as this machine allows: the promise has to hold there too.

    Does not make this process dumpable if it is not.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def abort_unprotected(decoy: bytes, directory: Path) -> Unprotected:
    """Have a process that holds *decoy* abort in *directory*; returns when it has ended."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=directory,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(decoy)
        process.stdin.close()
        # Leaves the zombie for Popen, which would not tell whether a core was dumped.
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        return Unprotected(ended.si_code == os.CLD_DUMPED, process.pid)


def core_roots(pattern: str, working_directories: set[Path]) -> list[Path]:
    """Where core files may have been written: directories to look through, and single files of working directories.

    Args:
        pattern: /proc/sys/kernel/core_pattern.
        working_directories: of the processes that crashed. They may hold anything: only files directly in them are named.
    """
    roots = [Path("/var/lib/systemd/coredump"), Path("/var/crash"), Path("/var/lib/apport/coredump")]
    if pattern.startswith("/"):
        roots.append(Path(pattern).parent)
    for directory in working_directories:
        try:
            roots += [Path(entry.path) for entry in os.scandir(directory) if entry.is_file(follow_symlinks=False)]
        except OSError:
            continue
    return roots

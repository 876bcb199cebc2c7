"""Running the command as a user does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "kubelet_secrets.cli.main")


def environment(**extra: str) -> dict[str, str]:
    """The caller's environment and this checkout."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", **extra}


def run_cli(
    *arguments: str | Path, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run ``kubelet-secrets`` to its end."""
    return subprocess.run(
        [*prefix, *COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=environment(**(env or {})),
    )


def the_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that failed has said: one line, on standard error, and no traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert done.stdout == "", done.stdout
    return lines[0]

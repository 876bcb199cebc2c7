"""What the guest checks. Each check is a function that returns an :class:`Outcome`; what it prints goes to the log.

Run inside the guest only (``guest``): a check may use up memory, fill swap and start services.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_TEST_TIMEOUT_S = 120
_STEP_LIMIT_S = 120
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Outcome:
    held: bool
    detail: str


def patience() -> float:
    """How many times longer than on a machine of its own things may take in this guest."""
    return float(os.environ.get("VM_TEST_PATIENCE", "1"))


def _run(*command: str, **environ: str) -> tuple[int, str]:
    """Run a command; its output goes to the log as it comes, and is returned."""
    process = subprocess.Popen(
        command, cwd=CHECKOUT, env=os.environ | environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = ""
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        output += line
    return process.wait(), output


def facts() -> Outcome:
    """The guest is what it should be: its own kernel, cgroup v2 and nothing else, swap on."""
    cgroup_types = {
        line.split()[2]
        for line in Path("/proc/mounts").read_text().splitlines()
        if line.split()[2].startswith("cgroup")
    }
    swaps = Path("/proc/swaps").read_text().splitlines()[1:]
    init = Path("/proc/1/comm").read_text().strip()
    held = cgroup_types == {"cgroup2"} and len(swaps) == 1 and init == "systemd"
    return Outcome(
        held, f"Linux {platform.release()}, {init}, {'+'.join(sorted(cgroup_types))}, {len(swaps)} swap disk"
    )


def demo() -> Outcome:
    """The guided tour, to its end."""
    status, output = _run("scripts/demo")
    return Outcome(status == 0, f"{output.count('✓')} steps" if status == 0 else f"exit status {status}")


def verify() -> Outcome:
    """The proof that users run, with swap on."""
    status, output = _run(".venv/bin/kubelet-secrets", "verify", "--step-limit", f"{_STEP_LIMIT_S * patience():.0f}")
    return verdict_of_verify(status, output)


def verdict_of_verify(status: int, output: str) -> Outcome:
    """Its exit status, which kernel features were missing, and what did not hold."""
    features = output.partition("\nThis kernel\n")[2].partition("\n\n")[0]
    rows = [re.split(r" {2,}", line) for line in features.splitlines()]
    missing = [name for name, here, effect in rows if here == "no" and not effect.startswith("not needed")]
    fallbacks = f"instead of {', '.join(missing)} the fallbacks" if missing else "no fallback"
    broken = dict.fromkeys(re.findall(r"^✗ (.*)", output, re.MULTILINE))  # a step is told of twice
    if status != 0:
        return Outcome(False, "; ".join(broken) or f"exit status {status}")
    return Outcome(True, f"every promise holds; {fallbacks}")


def _pytest(*arguments: str, **environ: str) -> Outcome:
    command = [sys.executable, "-m", "pytest", "-v", "-rsfE", "-m", "not slow", "-p", "no:cacheprovider"]
    # The plugin stretches what tests wait for, this what one of them may take.
    command += ["-p", "scripts.vmtest.patience", f"--timeout={_TEST_TIMEOUT_S * patience():.0f}"]
    status, output = _run(*command, *arguments, **environ)
    return verdict_of_pytest(status, output)


def verdict_of_pytest(status: int, output: str) -> Outcome:
    """pytest's own count, and the names of the tests that failed."""
    summary = re.sub(r"^=+ | in [\d.]+s.*$", "", output.rstrip().rpartition("\n")[2]).strip("= ")
    failed = re.findall(r"^(?:FAILED|ERROR) \S*?::(\S+)", output, re.MULTILINE)
    named = f": {', '.join(dict.fromkeys(failed))}" if failed else ""
    return Outcome(status == 0, (summary or f"exit status {status}") + named)


def _end_to_end(**environ: str) -> Outcome:
    names = ("volumes", "rotation", "access", "canary", "crashes")
    return _pytest(*(f"tests/e2e/test_{name}.py" for name in names), **environ)


def canary() -> Outcome:
    """Values through a node that is short of memory and killed. The host searches the disks afterwards, and judges."""
    for runtime in ("runc", "crun"):
        status, _ = _run(sys.executable, "-m", "scripts.vmtest.canary", runtime)
        if status != 0:
            return Outcome(False, f"with {runtime}: exit status {status}")
    swapped_kib = sum(int(line.split()[3]) for line in Path("/proc/swaps").read_text().splitlines()[1:])
    return Outcome(
        swapped_kib > 0, f"{swapped_kib >> 10} MiB in swap; the host looks at the disks when the guest is down"
    )


def service() -> Outcome:
    """The node as a service of systemd, whose main process may die."""
    status, output = _run(sys.executable, "-m", "scripts.vmtest.service")
    return Outcome(status == 0, output.rstrip().rpartition("\n")[2])


CHECKS: Mapping[str, Callable[[], Outcome]] = {
    "facts": facts,
    "demo": demo,
    "verify": verify,
    "canary": canary,
    "service": service,
    "crashes": lambda: _pytest(
        "tests/fusefs/test_unanswered.py", "tests/test_keeper.py", "tests/test_keeper_supervised.py"
    ),
    "fusefs": lambda: _pytest("tests/fusefs", "--ignore=tests/fusefs/test_unanswered.py"),
    "volume": lambda: _pytest("tests/volume"),
    "access": lambda: _pytest("tests/access"),
    "runtime": lambda: _pytest("tests/runtime"),
    "runtime-crun": lambda: _pytest("tests/runtime", KS_TEST_RUNTIME="crun"),
    "e2e": _end_to_end,
    "e2e-crun": lambda: _end_to_end(KS_TEST_RUNTIME="crun"),
}
"""In the order in which they are run: what says most comes first."""


def run(name: str) -> Outcome:
    """Run a check, or the tests of a path (``tests/fusefs/test_mounted.py``) or id, or of several joined by ``+``."""
    return CHECKS[name]() if name in CHECKS else _pytest(*name.split("+"))

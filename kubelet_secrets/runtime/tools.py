"""Find the programs this room runs, and run them. Knows their Debian packages; knows nothing about containers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from kubelet_secrets.errors import HostError

_PACKAGES = {"runc": "runc", "crun": "crun", "conmon": "conmon", "skopeo": "skopeo", "umoci": "umoci"}
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Absolute paths: conmon wants one for its runtime, and none of these may depend on a caller's PATH."""

    runtime: Path  # runc or crun
    conmon: Path
    skopeo: Path
    umoci: Path


def find_tools(runtime: str = "runc") -> Tools:
    """Locate every program.

    Args:
        runtime: ``runc``, ``crun``, or the absolute path of a program with the same command line.

    Raises:
        HostError: one is missing; one line that names the Debian package.
    """
    return Tools(
        runtime=find_tool(runtime), conmon=find_tool("conmon"), skopeo=find_tool("skopeo"), umoci=find_tool("umoci")
    )


def find_tool(name: str) -> Path:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":" + SEARCH_PATH)
    if found is None:
        package = _PACKAGES.get(name)
        advice = f"install the Debian package {package}" if package else "install it or name another"
        raise HostError(f"{name} not found: {advice}")
    return Path(found).resolve()


def tool_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment our programs get: a search path and what *extra* says; nothing of ours leaks into them.

    Proxies are passed on, because pulling an image may need them.
    """
    kept = {
        k: v for k, v in os.environ.items() if k.lower() in {"http_proxy", "https_proxy", "no_proxy", "ssl_cert_file"}
    }
    return {"PATH": SEARCH_PATH, "LC_ALL": "C", **kept, **(extra or {})}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended. Not printed anywhere as a whole: output may quote what a container wrote."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def last_line(self) -> str:
        """The last non-empty line of standard error, where these programs put their verdict."""
        lines = [line for line in self.stderr.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"exit status {self.code}"


async def run_tool(
    argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
) -> Outcome:
    """Run one program to its end with no standard input.

    Cancellation: the program gets SIGTERM, then SIGKILL after five seconds (trio's own rule), and is reaped.
    """
    done = await trio.run_process(
        [str(part) for part in argv],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=tool_environment(env),
        pass_fds=pass_fds,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


async def read_version(runtime: Path) -> str:
    """What an OCI runtime says of itself: ``1.1.5+ds1``. Empty when it says nothing that can be read."""
    outcome = await run_tool([runtime, "--version"])
    words = outcome.stdout.decode(errors="replace").split()
    return words[2] if outcome.code == 0 and words[1:2] == ["version"] and len(words) > 2 else ""

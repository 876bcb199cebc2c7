"""The benchmarks behind docs/benchmarks.md; run them by ``scripts/bench``, all or those that are named.

Not a test: it prints what it measured. A section that sees a promise broken raises, which ends the run.
"""

from __future__ import annotations

import importlib
import os
import platform
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import trio
from harness import IMAGE_DIR, Place

from kubelet_secrets.stack import StackOptions

SECTIONS = {
    "propagation": "half a minute",
    "filesystem": "half a minute",
    "density": "a minute",
    "node-scale": "four minutes, at most twenty",
    "revocation": "half a minute",
    "crash": "four minutes",
    "limits": "four minutes",
    "apiserver": "two minutes",
    "kubelet": "four minutes, with a kubelet in KUBELET_ASSETS; else nothing",
    "vm": "some minutes for each kernel with KVM, an hour without; only by name",
}
"""Modules of this folder, in the order of a whole run, and how long each takes on two idle cores."""
_BY_NAME = {"vm"}


def main(chosen: list[str]) -> None:
    if {"-h", "--help"} & set(chosen):
        print("usage: scripts/bench [SECTION…]    without one: all\n")
        for name, duration in SECTIONS.items():
            print(f"  {name:<12} {duration}")
        return
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        sys.exit(f"bench: no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was begun is taken away again
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for section in chosen or [each for each in SECTIONS if each not in _BY_NAME]:
        run = importlib.import_module(section.replace("-", "_")).run
        with tempfile.TemporaryDirectory(prefix="kubelet-secrets-bench-") as name:
            trio.run(run, make_place(Path(name)))
        sys.stdout.flush()


def make_place(directory: Path) -> Place:
    probe_dir = directory / "probe"
    probe_dir.mkdir()
    source = Path(__file__).with_name("probe.c")
    subprocess.run(["gcc", "-O2", "-static", str(source), "-o", str(probe_dir / "probe")], check=True)
    options = StackOptions(
        node_name=f"bench-{secrets.token_hex(3)}",
        root_dir=directory / "node",
        image_dir=IMAGE_DIR,
        socket=directory / "agent.sock",
        port=0,
    )
    return Place(directory=directory, probe_dir=probe_dir, options=options)


if __name__ == "__main__":
    main(sys.argv[1:])

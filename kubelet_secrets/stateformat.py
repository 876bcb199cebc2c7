"""The format of what an agent leaves in the node's ``run/`` for the next one, and whether this program reads it. Ground.

One number for all of it: container records, sandboxes, the registry of the guard, how the store is laid out. It changes when an
agent of this program could misread what an older one left, or the other way round. Checked by every agent before it
touches anything, and by ``preflight`` before an upgrade.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from kubelet_secrets.errors import HostError

FORMAT = 1
READABLE = frozenset({FORMAT})
"""Formats that an agent of this program goes on with."""

EXIT_OTHER_VERSION = 3
"""Exit status of an agent that does not fit what it found: another version's state, or another version's keeper."""


class OtherVersion(HostError):
    """What runs on this node was started by a version of this program that this one cannot carry on from."""


def check_format(run_dir: Path) -> bool:
    """Whether *run_dir* has a format; one that is not READABLE is an error.

    Raises:
        OtherVersion: with what to do.
    """
    path = run_dir / "format"
    try:
        found = path.read_text().strip()
    except FileNotFoundError:
        return False
    if not found.isdigit() or int(found) not in READABLE:
        readable = ", ".join(map(str, sorted(READABLE)))
        raise OtherVersion(
            f"the node's state in {run_dir} has format {found[:20]!r}, this program reads {readable}: go back to the version "
            "that wrote it, or stop the node, which ends its containers, and start it with this one"
        )
    return True


def claim_format(run_dir: Path) -> None:
    """Check the format, and note ours in a directory that has none.

    Raises:
        OtherVersion: as check_format.
    """
    if not check_format(run_dir):
        unfinished = run_dir / "format.new"
        unfinished.write_text(f"{FORMAT}\n")
        with contextlib.suppress(FileNotFoundError):
            unfinished.rename(run_dir / "format")

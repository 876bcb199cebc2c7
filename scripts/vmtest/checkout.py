"""The checkout as the guest gets it, and a name for its content. Called by ``__main__``."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from scripts.debian import run
from scripts.vmtest.image import CHECKOUT


def pack_checkout(target: Path) -> str:
    """Write what git knows of the checkout to a tar archive, as it is now: changes that are not committed are tested too.

    Returns:
        A name for this content: the same files give the same name.
    """
    command = ["git", "-C", CHECKOUT, "-c", "safe.directory=*", "ls-files", "-z"]
    names = run([*command, "--cached", "--others", "--exclude-standard"])
    existing = sorted(name for name in names.split("\0") if name and (CHECKOUT / name).is_file())
    listing = target.with_suffix(".names")
    listing.write_text("\0".join(existing))
    # Sorted, with the times left out, so that its digest tells of the content alone.
    plain = ["--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]
    run(["tar", "-C", CHECKOUT, *plain, "--null", "-T", listing, "-cf", target])
    listing.unlink()
    # A disk has whole sectors; tar ends in zeros, so that more of them do no harm.
    os.truncate(target, -(-target.stat().st_size // 4096) * 4096)
    return hashlib.sha256(target.read_bytes()).hexdigest()[:16]

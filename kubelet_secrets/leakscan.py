"""Look for a value where it must not be: files on disk filesystems, in the forms in which values travel.

Used by the demo, and by tests. Reads every byte it judges; follows no link, enters no other filesystem, and skips what
is memory anyway (tmpfs, ramfs, proc, FUSE). It never prints what it looks for.
"""

from __future__ import annotations

import base64
import json
import os
import stat
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 4 * 1024 * 1024
MEMORY_FILESYSTEMS = frozenset(
    {
        "tmpfs",
        "ramfs",
        "proc",
        "sysfs",
        "devtmpfs",
        "devpts",
        "cgroup",
        "cgroup2",
        "mqueue",
        "nsfs",
        "securityfs",
        "debugfs",
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    path: Path
    form: str  # "plain", "base64", …


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanResult:
    files: int
    size_bytes: int
    findings: tuple[Finding, ...]


def spellings(value: bytes) -> dict[str, bytes]:
    """The forms in which *value* may lie somewhere, by name; forms that equal another are left out.

    base64 has three alignments: a value inside a larger encoded text starts at any of them, so the part that does not
    depend on its neighbours is what is looked for.
    """
    text = value.decode("utf-8", "replace")
    forms = {
        "plain": value,
        "hex": value.hex().encode(),
        "URL-encoded": urllib.parse.quote_from_bytes(value, safe="").encode(),
        "JSON": json.dumps(text)[1:-1].encode(),
        "UTF-16": text.encode("utf-16-le"),
    }
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + value)
        start = -(-shift * 8 // 6)  # the first character that no foreign bit is part of
        end = (shift + len(value)) * 8 // 6  # and the last
        forms[f"base64 (offset {shift})"] = encoded[start:end]
    distinct: dict[bytes, str] = {}
    for name, form in forms.items():
        distinct.setdefault(form, name)
    return {name: form for form, name in distinct.items()}


def scan(roots: Iterable[Path], values: Sequence[bytes], *, changed_since: float = 0.0) -> ScanResult:
    """Search regular files below *roots* for each of *values* in each of its forms.

    Args:
        roots: directories or files; those that do not exist are skipped.
        values: what to look for; at least 8 bytes each, or the result is noise.
        changed_since: Unix time; files whose content and inode are older are skipped. 0 reads all.
    """
    forms = [(name, form) for value in values for name, form in spellings(value).items()]
    overlap = max(len(form) for _, form in forms) - 1
    findings: dict[Finding, None] = {}
    files = size = 0
    for path in _disk_files(roots, changed_since):
        try:
            with open(path, "rb", buffering=0) as file:
                files += 1
                tail = b""
                while chunk := file.read(CHUNK_BYTES):
                    size += len(chunk)
                    window = tail + chunk
                    for name, form in forms:
                        if form in window:
                            findings[Finding(path, name)] = None
                    tail = window[-overlap:]
        except OSError:
            continue  # vanished, or refused to us as to everybody (the guarded filesystem)
    return ScanResult(files=files, size_bytes=size, findings=tuple(findings))


def _disk_files(roots: Iterable[Path], changed_since: float) -> Iterator[Path]:
    memory = _memory_mounts()
    seen: set[tuple[int, int]] = set()
    for root in roots:
        for directory, subdirectories, names in os.walk(root):
            # A mount of a memory filesystem below us is not disk; anything else that is mounted here is looked into.
            subdirectories[:] = [name for name in subdirectories if os.path.join(directory, name) not in memory]
            if directory in memory:
                subdirectories.clear()
                continue
            for name in names:
                path = Path(directory, name)
                try:
                    status = path.lstat()
                except OSError:
                    continue
                identity = (status.st_dev, status.st_ino)
                if (
                    stat.S_ISREG(status.st_mode)
                    and identity not in seen
                    and max(status.st_mtime, status.st_ctime) >= changed_since
                ):
                    seen.add(identity)
                    yield path


def _memory_mounts() -> frozenset[str]:
    """Mount points of memory filesystems in this mount namespace. Source: proc_pid_mountinfo(5)."""
    found = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind = after.split(" ", 1)[0]
        if kind in MEMORY_FILESYSTEMS or kind.startswith("fuse"):
            found.add(before.split(" ")[4].replace("\\040", " "))
    return frozenset(found)

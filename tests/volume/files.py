"""What the tests of the volume room share: a payload's file, and a look at a directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kubelet_secrets.sensitive import SensitiveBytes


@dataclass(frozen=True, slots=True)
class File:
    data: SensitiveBytes
    mode: int = 0o644
    fs_user: int | None = None


def file(text: str | bytes, mode: int = 0o644, fs_user: int | None = None) -> File:
    return File(SensitiveBytes(text.encode() if isinstance(text, str) else text), mode, fs_user)


def files(contents: Mapping[str, str]) -> dict[str, File]:
    return {path: file(text) for path, text in contents.items()}


def shown(root: Path | str) -> dict[str, bytes]:
    """Regular files as a user of the volume sees them, by path: through the links, the machinery left out."""
    found: dict[str, bytes] = {}
    for top in sorted(os.listdir(root)):
        if top.startswith(".."):
            continue
        path = Path(root, top)
        for each in [path] if not path.is_dir() else sorted(path.rglob("*")):
            if each.is_file():
                found[str(each.relative_to(root))] = each.read_bytes()
    return found


def mode_of(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path, follow_symlinks=False).st_mode)

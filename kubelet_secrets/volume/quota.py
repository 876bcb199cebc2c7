"""How much memory volumes take up, and how much they may. Pure; ``store`` measures and enforces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from mmap import PAGESIZE

from kubelet_secrets.errors import StoreFull
from kubelet_secrets.volume.atomicwriter import DATA_DIR, FileLike


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """Quotas. None means no quota of ours; the filesystem's own size holds all the same."""

    node_bytes: int | None = None  # everything, both versions of a volume during a switch included
    node_inodes: int | None = None
    pod_bytes: int | None = None  # one pod's volumes, one version each
    pod_inodes: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory in use, in whole pages, and entries of any kind."""

    size_bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.size_bytes + other.size_bytes, self.inodes + other.inodes)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.size_bytes - other.size_bytes, self.inodes - other.inodes)


NO_LIMITS = StoreLimits()
NOTHING = Usage()


def payload_usage(payload: Mapping[str, FileLike]) -> Usage:
    """What one version of *payload* takes up, with its directories and links."""
    directories, links = {""}, {DATA_DIR}
    for path in payload:
        links.add(path.split("/", 1)[0])
        while "/" in path:
            path = path.rsplit("/", 1)[0]
            directories.add(path)
    size_bytes = sum(-(-len(file.data) // PAGESIZE) * PAGESIZE for file in payload.values())
    return Usage(size_bytes, len(payload) + len(directories) + len(links))


def check_limits(what: str, usage: Usage, max_bytes: int | None, max_inodes: int | None) -> None:
    """Raises: StoreFull: naming the quota, what it allows and what would be used."""
    if max_bytes is not None and usage.size_bytes > max_bytes:
        raise StoreFull(
            f"secret volumes of {what} would take {usage.size_bytes} bytes of memory, {max_bytes} are allowed"
        )
    if max_inodes is not None and usage.inodes > max_inodes:
        raise StoreFull(f"secret volumes of {what} would take {usage.inodes} files, {max_inodes} are allowed")

"""How much memory volumes take up, and how much they may. No I/O; ``store`` measures and enforces."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
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


@dataclass(frozen=True, slots=True, order=True)
class VolumeRef:
    """A volume directory in the store."""

    pod_uid: str
    volume: str


@dataclass(frozen=True, slots=True)
class Sums:
    """What there would be with a new version."""

    pod: Usage  # one version of each of the pod's volumes
    node: Usage  # both versions of what is being switched


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


class Ledger:
    """What each volume takes up, and what is being written: the sums that quotas are held against.

    A volume is measured when its size is first asked for after it changed. What is being written counts from before its first
    byte, so that two volumes set up at the same time cannot both take the last room. Any thread may call.

    Args:
        measure: what a volume takes up now; a walk over its entries.
    """

    def __init__(self, measure: Callable[[VolumeRef], Usage]) -> None:
        self._measure = measure
        self._measured: dict[VolumeRef, Usage] = {}
        self._incoming: dict[VolumeRef, Usage] = {}
        self._lock = threading.Lock()

    @contextmanager
    def reserve(
        self, ref: VolumeRef, new: Usage, *, existing: Callable[[], Iterable[VolumeRef]], check: Callable[[Sums], None]
    ) -> Iterator[None]:
        """Count *new* as a version of *ref* for the length of the block, which writes it.

        Args:
            existing: the volumes there are; asked under the lock.
            check: raises if the sums, with *new*, are too large. Then nothing is reserved.
        """
        with self._lock:
            check(self._sum(ref, new, {*existing(), *list(self._incoming)}))
            self._incoming[ref] = new
        try:
            yield
        finally:
            # Without the lock, under which another thread may be measuring for a while: this may be the event loop.
            self._measured.pop(ref, None)
            del self._incoming[ref]

    def forget(self, ref: VolumeRef) -> None:
        """The volume is another one now: measure it again."""
        self._measured.pop(ref, None)

    def _sum(self, ref: VolumeRef, new: Usage, refs: Iterable[VolumeRef]) -> Sums:
        pod, node = new, new
        for each in refs:
            incoming = self._incoming.get(each)
            standing = self._standing(each)
            node += standing if incoming is None else standing + incoming
            if each.pod_uid == ref.pod_uid and each != ref:
                pod += standing if incoming is None else incoming
        return Sums(pod, node)

    def _standing(self, ref: VolumeRef) -> Usage:
        usage = self._measured.get(ref)
        if usage is None:
            is_changing = ref in self._incoming
            usage = self._measure(ref)
            if not is_changing:
                self._measured[ref] = usage
        return usage

"""``ImageGarbageCollector``: give disk space back by removing images that nobody has used for longest.

When the filesystem of the image store is fuller than the high threshold, unused images go, the one that was used longest ago
first, until it is below the low threshold. Images that were imported stay: no registry would give them back. Run by the
composition root; the files are ``imagedir``'s.

Source: pkg/kubelet/images/image_gc_manager.go, GarbageCollect, freeSpace.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from kubelet_secrets.errors import ImageError
from kubelet_secrets.runtime.imagedir import ImageDirectory

logger = logging.getLogger(__name__)

PERIOD_S = 300.0  # ImageGCPeriod

Report = Callable[[str, str], None]
"""(reason, message) of a warning about the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGcPolicy:
    """The kubelet's settings of these names, with its defaults."""

    high_threshold_percent: int = 85  # imageGCHighThresholdPercent; 100 switches the collection off
    low_threshold_percent: int = 80
    minimum_age_s: float = 120.0  # imageMinimumGCAge: since it was pulled or used last


@dataclass(frozen=True, slots=True)
class DiskSpace:
    capacity_bytes: int
    available_bytes: int

    @property
    def usage_percent(self) -> int:
        return 100 - self.available_bytes * 100 // self.capacity_bytes if self.capacity_bytes else 0


def bytes_to_free(space: DiskSpace, policy: ImageGcPolicy) -> int:
    """How much has to go; 0 below the high threshold, which is then nobody's business."""
    if policy.high_threshold_percent >= 100 or space.usage_percent < policy.high_threshold_percent:
        return 0
    wanted = space.capacity_bytes * (100 - policy.low_threshold_percent) // 100
    return max(0, wanted - space.available_bytes)


class ImageGarbageCollector:
    """The collector of one image store.

    Args:
        report: called when not enough could be freed, as the kubelet's events are; must not wait.
        disk_space: of the filesystem that the images lie on; asked anew before each removal.
        clock: seconds since the epoch, as of file times.
    """

    def __init__(
        self,
        files: ImageDirectory,
        policy: ImageGcPolicy,
        *,
        report: Report,
        disk_space: Callable[[], DiskSpace] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = files
        self._policy = policy
        self._report = report
        self._disk_space = disk_space or self._stat
        self._clock = clock

    async def run(self) -> None:
        """Look every five minutes until cancelled."""
        while True:
            await trio.sleep(PERIOD_S)
            await trio.to_thread.run_sync(self.collect)

    def collect(self) -> int:
        """Free what the policy asks for. Returns the number of images removed."""
        space = self._disk_space()
        wanted = bytes_to_free(space, self._policy)
        if not wanted:
            return 0
        logger.info(
            "disk usage on image filesystem is over the high threshold (%d%%, %d%%): trying to free %d bytes",
            space.usage_percent,
            self._policy.high_threshold_percent,
            wanted,
        )
        removed, freed = self._remove(space, wanted)
        if freed < wanted:
            message = (
                "Failed to garbage collect required amount of images. "
                f"Attempted to free {wanted} bytes, but only found {max(0, freed)} bytes eligible to free."
            )
            self._report("FreeDiskSpaceFailed", message)
        return removed

    def collect_all(self) -> int:
        """Remove every image that nobody uses and that is old enough: the node is short of disk. Returns how many."""
        removed, _ = self._remove(self._disk_space(), None)
        return removed

    def _remove(self, space: DiskSpace, wanted: int | None) -> tuple[int, int]:
        """Remove images until *wanted* bytes are free. Returns how many, and the bytes."""
        removed = freed = 0
        for used_at, image in self._files.pulled_images():
            if (wanted is not None and freed >= wanted) or self._clock() - used_at < self._policy.minimum_age_s:
                break
            try:
                self._files.remove_unused(image, used_at=used_at)
            except ImageError:
                continue  # a container stands on it, or somebody has just begun to use it
            removed += 1
            freed = self._disk_space().available_bytes - space.available_bytes
            logger.info("removed image %s to free disk space", image.image_id)
        return removed, freed

    def _stat(self) -> DiskSpace:
        status = os.statvfs(self._files.scratch)
        return DiskSpace(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)

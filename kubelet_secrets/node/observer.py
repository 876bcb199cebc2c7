"""Looks at the machine for the Node's status: what runs short, what keeps pods from running, which images are there.

Made by the composition root, asked by ``node/registration.py`` every ten seconds. Blocking reads of small files, a few
milliseconds in all. Decides nothing: that is ``pressure.py``'s and ``status.py``'s.

Source: pkg/kubelet/kubelet_node_status.go (defaultNodeStatusFuncs), pkg/kubelet/images/image_gc_manager.go (imageCache).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from kubelet_secrets.api.core import ContainerImage
from kubelet_secrets.api.evictionsignals import DEFAULT_THRESHOLDS, Threshold
from kubelet_secrets.node.pressure import PressureTracker, read_signals
from kubelet_secrets.node.status import Observations, describe_images

logger = logging.getLogger(__name__)

IMAGES_EVERY = timedelta(seconds=30)


class NodeObserver:
    """See the module's text.

    Args:
        list_images: (names, size in bytes) of each image.
        problems: why pods cannot run here now; empty means ready.
        thresholds: below which the node is under pressure.
    """

    def __init__(
        self,
        root_dir: Path,
        image_dir: Path,
        *,
        list_images: Callable[[], Iterable[tuple[Sequence[str], int]]],
        problems: Callable[[], Sequence[str]],
        clock: Callable[[], datetime],
        thresholds: Sequence[Threshold] = DEFAULT_THRESHOLDS,
    ) -> None:
        self._root_dir = root_dir
        self._image_dir = image_dir
        self._list_images = list_images
        self._problems = problems
        self._clock = clock
        self._tracker = PressureTracker(thresholds)
        self._pressures: frozenset[str] = frozenset()
        self._images: tuple[ContainerImage, ...] = ()
        self._images_at: datetime | None = None

    @property
    def pressures(self) -> frozenset[str]:
        """The conditions that held at the last look."""
        return self._pressures

    def __call__(self) -> Observations:
        now = self._clock()
        active = self._tracker.update(read_signals(self._root_dir, self._image_dir), now)
        if active != self._pressures:
            logger.warning("the node's pressure conditions are now: %s", ", ".join(sorted(active)) or "none")
            self._pressures = active
        if self._images_at is None or now >= self._images_at + IMAGES_EVERY:
            try:
                self._images = describe_images(self._list_images())
            except OSError as error:
                logger.warning("the node's images cannot be listed: %s", error.strerror)
            self._images_at = now
        return Observations(problems=tuple(self._problems()), pressures=active, images=self._images)

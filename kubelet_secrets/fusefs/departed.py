"""``DepartedVersions``: the names of version directories that have just been removed.

A path through ``..data`` is walked in steps: the link is read, then the directory it named is looked up. When a rotation
comes in between, that directory is gone and the walk would fail, although a file of that name was there all the time. A lookup
of such a name is answered with ESTALE instead: the kernel then walks the whole path once more, asks about each step, and
arrives in the new version (path_lookupat and path_openat with LOOKUP_REVAL). On a kubelet's tmpfs the same walk fails with
ENOENT, though rarely: there is less time in between. The same goes for a file within a version that is being removed. Who asks
for the same name again has not come through the link, and is told that it does not exist.

Used by ``operations`` alone.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

MOST = 1024
STALE_FOR_S = 2.0  # afterwards it is a name like any other that is not there
EVERY_NAME = b""
"""In a directory of a version from which files have been removed."""


class DepartedVersions:
    """A short memory.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._names: OrderedDict[tuple[int, bytes], float] = OrderedDict()
        self._sent_back: OrderedDict[int, tuple[int, bytes]] = OrderedDict()  # thread → what it was sent back for last

    def add(self, volume: int, name: bytes) -> None:
        """The directory *name* has been removed from the volume with that number."""
        self._names[volume, name] = self._clock() + STALE_FOR_S
        while len(self._names) > MOST:
            self._names.popitem(last=False)

    def sends_back(self, tid: int, directory: int, name: bytes) -> bool:
        """Whether a thread that looks *name* up in vain is to walk its path again: once for each."""
        if not self.has(directory, name) and not self.has(directory, EVERY_NAME):
            return False
        if self._sent_back.pop(tid, None) == (directory, name):
            return False
        self._sent_back[tid] = directory, name
        while len(self._sent_back) > MOST:
            self._sent_back.popitem(last=False)
        return True

    def has(self, volume: int, name: bytes) -> bool:
        """Whether that was within the last two seconds."""
        return self._names.get((volume, name), 0.0) > self._clock()

"""``DirectoryWatch``: wait until something changes in a directory. What it was is for the waiter to see. inotify(7)."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from kubelet_secrets.linux import (
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_MODIFY,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    inotify_open,
    inotify_watch,
)

FILES_GROW = IN_MODIFY | IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF
FILES_ARE_REPLACED = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_DELETE_SELF


class DirectoryWatch:
    """A context manager around one watched directory.

    Args:
        mask: :data:`FILES_GROW`, :data:`FILES_ARE_REPLACED`, or other ``IN_…`` bits.

    Raises:
        OSError: the directory cannot be watched.
    """

    def __init__(self, directory: Path, mask: int) -> None:
        self._fd = inotify_open()
        try:
            inotify_watch(self._fd, directory, mask)
        except OSError:
            os.close(self._fd)
            raise

    def __enter__(self) -> DirectoryWatch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    async def wait(self) -> None:
        """Wait until something has changed since the watch began, or since the last return of this."""
        await trio.lowlevel.wait_readable(self._fd)
        try:
            while os.read(self._fd, 4096):
                pass
        except BlockingIOError:
            pass

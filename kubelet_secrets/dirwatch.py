"""``DirectoryWatch``: wait until something changes in a directory. What it was is for the waiter to see. inotify(7)."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

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

logger = logging.getLogger(__name__)

FILES_GROW = IN_MODIFY | IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF
FILES_ARE_REPLACED = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_DELETE_SELF
POLL_S = 0.5
_EXHAUSTED = (errno.EMFILE, errno.ENOSPC)


class Waiting(Protocol):
    """What can be waited for again and again."""

    async def wait(self) -> None: ...


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


class _Clock:
    async def wait(self) -> None:
        await trio.sleep(POLL_S)


def watch_or_poll(directory: Path, mask: int) -> AbstractContextManager[Waiting]:
    """A :class:`DirectoryWatch`; a clock, when all programs of this user together watch as much as they may.

    ``fs.inotify.max_user_instances`` is 128 on many machines, and every program of root's has its share in it.

    Raises:
        OSError: the directory cannot be watched for another reason.
    """
    try:
        return DirectoryWatch(directory, mask)
    except OSError as error:
        if error.errno not in _EXHAUSTED:
            raise
        logger.info("cannot watch %s, looking every %s s: %s", directory, POLL_S, error.strerror)
        return nullcontext(_Clock())

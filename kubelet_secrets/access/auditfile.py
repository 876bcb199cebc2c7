"""The durable copy of the audit trail: a file that somebody asked for, appended to line by line.

Made for logrotate and its like: whoever moves the file away gets the lines up to then, and the next ones begin a new file.
After an agent's restart, or the machine's, the chain goes on behind the file's last record. A file that holds something else
is never appended to. One agent writes to it at a time (``flock``).

Blocking: everything here may wait for a disk. Called by ``outlets`` in a worker thread, and once at the agent's start.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from kubelet_secrets.access.record import Entry, last_entry
from kubelet_secrets.access.trail import append_whole, end_last_line
from kubelet_secrets.errors import HostError

_TAIL_BYTES = 256 * 1024
_ROTATED_LOOKED_AT = 5


class AuditFile:
    """A path to append to.

    Args:
        path: absolute. Its directory must exist.
    """

    name = "file"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def open(self) -> Entry | None:
        """Open, lock and read the end of the file. Call once, before :meth:`write`.

        Returns:
            The last record in the file or, when it is new or empty, in the most recent of the files that begin with its name
            (``audit.log.1``): the one that was moved away just before.

        Raises:
            HostError: it cannot be opened, is in use, is no regular file, or holds something else.
        """
        try:
            found = self._reopen()
            return found if found is not None else self._last_of_rotated()
        except OSError as error:
            raise HostError(f"cannot write the audit trail to {self.path}: {error.strerror}") from None

    def write(self, entries: Sequence[Entry]) -> int:
        """Append *entries*, all or none of them, and wait until they are on the disk.

        Returns:
            How many were written: all.

        Raises:
            OSError: none was.
        """
        if self._is_moved():
            self._reopen()
        append_whole(self._fd, b"".join(entry.line + b"\n" for entry in entries))
        os.fdatasync(self._fd)
        return len(entries)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _is_moved(self) -> bool:
        if self._fd < 0:
            return True
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return True
        return not os.path.samestat(there, os.fstat(self._fd))

    def _reopen(self) -> Entry | None:
        """Open what the path leads to now, and lock it.

        Returns:
            Its last record; None when it is empty.

        Raises:
            OSError: that cannot be done, or the file is not for us.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(self.path, flags, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(errno.EBUSY, "another agent writes its own there") from None
            found = _read_last(fd)
            if found is None and os.fstat(fd).st_size:
                raise OSError(errno.EINVAL, "it holds something else")
            end_last_line(fd)
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._fd = fd
        return found

    def _last_of_rotated(self) -> Entry | None:
        siblings = []
        for path in self.path.parent.glob(f"{self.path.name}?*"):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                siblings.append((status.st_mtime_ns, path))
        for _, path in sorted(siblings, reverse=True)[:_ROTATED_LOOKED_AT]:
            try:
                with open(path, "rb") as file:
                    found = _read_last(file.fileno())
            except OSError:
                continue
            if found is not None:
                return found
        return None


def _read_last(fd: int) -> Entry | None:
    size = os.fstat(fd).st_size
    return last_entry(os.pread(fd, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).splitlines())

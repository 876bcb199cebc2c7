"""Where the audit trail outlives its agent: two files on the node's run tmpfs.

::

    <run>/audit/current     the latest records, one line each
                previous    the ones before; dropped when ``current`` is full
                delivered-<outlet>   the number of the last record that the outlet has taken

Whoever makes the agent crash must not erase what it recorded, and the chain of the next agent must begin where this one's
ended. It holds no values. It is not the durable copy that somebody asks for with ``--audit-file`` (``auditfile``): it goes
with the node's mounts.

Synchronous writes to memory, a few microseconds each: called by ``audit`` on the event loop.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from kubelet_secrets.access.record import Entry, NotARecord, read_line

logger = logging.getLogger(__name__)


def append_whole(fd: int, data: bytes) -> None:
    """Append all of *data* to a regular file, or nothing.

    Raises:
        OSError: nothing was appended.
    """
    size = os.fstat(fd).st_size
    try:
        if os.write(fd, data) < len(data):
            raise OSError(28, os.strerror(28))  # ENOSPC: what a short write to a file means
    except OSError:
        os.ftruncate(fd, size)
        raise


def end_last_line(fd: int) -> None:
    """Let what was cut off in the midst of a line stand alone.

    Args:
        fd: a regular file, open for reading and appending.
    """
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        os.write(fd, b"\n")


class Trail:
    """The two files.

    Args:
        directory: made if it is not there; 0700, on a memory filesystem.
        segment_records: how many records a file takes. Between one and two times as many are kept.

    Raises:
        OSError: the directory cannot be made, or the file not be opened.
    """

    def __init__(self, directory: Path, *, segment_records: int = 5000) -> None:
        self._directory = directory
        self._segment_records = segment_records
        directory.mkdir(mode=0o700, exist_ok=True)
        self._has_failed = False
        self._fd = -1
        self._count = len(_read_lines(directory / "current"))
        self._open()

    def load(self) -> list[Entry]:
        """What is kept, oldest first: as much as hangs together, counted from the end."""
        lines = _read_lines(self._directory / "previous") + _read_lines(self._directory / "current")
        return list(reversed(list(_linked_from_end(lines))))

    def append(self, entry: Entry) -> None:
        """Note a record. One that does not fit is lost to the next agent, and is reported once."""
        if self._count >= self._segment_records:
            self._begin_segment()
        try:
            append_whole(self._fd, entry.line + b"\n")
        except OSError as error:
            if not self._has_failed:
                logger.warning("cannot note audit records for the next agent: %s", error.strerror)
            self._has_failed = True
        else:
            self._count += 1
            self._has_failed = False

    def note_delivered(self, outlet: str, seq: int) -> None:
        """Remember how far an outlet has come, for the next agent. Best effort."""
        try:
            self._delivered(outlet).write_text(f"{seq}\n")
        except OSError:
            pass  # some records are delivered twice then

    def delivered(self, outlet: str) -> int:
        """How far an outlet had come; 0 when that is not known."""
        try:
            return int(self._delivered(outlet).read_text())
        except (OSError, ValueError):
            return 0

    def close(self) -> None:
        os.close(self._fd)

    def _delivered(self, outlet: str) -> Path:
        return self._directory / f"delivered-{outlet}"

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._directory / "current", flags, 0o600)
        end_last_line(self._fd)

    def _begin_segment(self) -> None:
        current = self._directory / "current"
        try:
            current.rename(self._directory / "previous")
            before = self._fd
            self._open()
            os.close(before)
        except OSError as error:
            logger.warning("cannot begin a new file of audit records: %s", error.strerror)
        self._count = 0


def _read_lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except OSError:
        return []


def _linked_from_end(lines: Sequence[bytes]) -> Iterator[Entry]:
    """The longest chain at the end of *lines*, last record first."""
    successor: Entry | None = None
    for line in reversed(lines):
        try:
            entry = read_line(line)
        except NotARecord:
            continue  # cut off by a kill in the midst of a write; if not, the link below is missing
        if successor is not None and successor.record.previous != entry.record.chain:
            return
        successor = entry
        yield entry

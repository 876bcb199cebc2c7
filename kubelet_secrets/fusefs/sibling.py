"""Another child of our parent, known by its pid and held on to: when it has ended, its number is nobody's.

For who the writer is. Its pid alone would do until it dies; from then on the next process to get the number would be let read
and change every volume. Used by ``writerclient``.
"""

from __future__ import annotations

import os
import select
from pathlib import Path


class Sibling:
    """The process *pid*, if our parent started it and it lives.

    Args:
        pid: 0 for nobody.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._poll = select.poll()
        self._pidfd: int | None = None
        if pid <= 0:
            return
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            return  # it has ended
        self._poll.register(self._pidfd, select.POLLIN)
        # After pidfd_open, and before it is found to live: what is read is about that process.
        if _parent_of(pid) != os.getppid() or not self.is_alive():
            self.close()

    def is_alive(self) -> bool:
        """Whether it has not ended; one that was killed lives while a request of its own holds it."""
        return self._pidfd is not None and not self._poll.poll(0)

    def close(self) -> None:
        """From now on it is nobody."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1

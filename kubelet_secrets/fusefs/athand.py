"""Which request is being answered, in memory that outlives the agent, and how many agents have died over it.

What an agent has read and not answered is the next one's (``session``). A request that kills whoever answers it - by a hang
that the keeper ends, a crash of the interpreter, all the memory there is - would go from one to the next without end, and
nobody of the node would be served any more. So the third agent that dies over one and the same request is the last; the fourth
refuses it.

A file of 24 bytes with numbers only. Called by ``session``.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

MAX_DEATHS = 3
"""Any agent may be killed in the midst of a request; three in a row in the midst of the same are no accident."""

_AGAIN = 1 << 63  # FUSE_UNIQUE_RESEND: in the number of a request that is delivered once more
_NUMBER = struct.Struct("<Q")
_ALL = struct.Struct("<QQQ")  # at hand, 0 for none; died over; how often


class AtHand:
    """The note.

    Args:
        path: on the node's memory filesystem; made if it is not there. Requests are numbered anew with each mount.
        resumed: the note is of an earlier agent on the same mount. Else it means nothing.
    """

    def __init__(self, path: Path, *, resumed: bool) -> None:
        file_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file_fd, _ALL.size)
            self._note = mmap.mmap(file_fd, _ALL.size, mmap.MAP_SHARED)
        finally:
            os.close(file_fd)
        number, before, deaths = _ALL.unpack_from(self._note)
        if not resumed or not number:
            number, deaths = 0, 0
        else:
            deaths = deaths + 1 if number == before else 1
        _ALL.pack_into(self._note, 0, 0, number, deaths)
        self._refused = number if deaths >= MAX_DEATHS else 0

    def begin(self, number: int) -> bool:
        """Note that this request is being answered; False when it must not be, and is to be refused."""
        number &= ~_AGAIN
        if self._refused and number == self._refused:
            self._refused = 0
            return False
        _NUMBER.pack_into(self._note, 0, number)
        return True

    def end(self) -> None:
        """It is answered."""
        _NUMBER.pack_into(self._note, 0, 0)

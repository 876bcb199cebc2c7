"""The request that is being answered, in memory that outlives the agent: for kernels that cannot deliver it again.

Since Linux 6.9 a restarted agent asks the kernel for what its predecessor had read and not answered (FUSE_NOTIFY_RESEND).
Before, such a request is nowhere but in the memory of the process that read it; with that gone its caller waits for ever.
So there the kernel's answer to read(2) is put straight into a file of the store, which the keeper holds: whatever was read
is in it, at whichever instruction the agent dies, and the next agent begins with it.

One request at a time, as ``session`` reads them. The file has a name in the store's root, which ``tree`` hides. It lies where
secrets lie because a request may be one of the writer's, with a file's content in it; that is wiped once it is answered.

Called by ``session``.
"""

from __future__ import annotations

import mmap
import os
import struct

from kubelet_secrets.fusefs.wire import NEVER_ANSWERED, Opcode, parse_header

NAME = b".unanswered"
"""Of the file, in the store's root."""

_LENGTH = struct.Struct("<I")  # a request begins with its length; zero: none is being answered
_CARRIES_DATA = frozenset({Opcode.WRITE, Opcode.SETXATTR})


class Unanswered:
    """The buffer to read requests into.

    Attributes:
        buffer: shared with the file. Read one request into it, answer it, call :meth:`done`, read the next.

    Args:
        store_fd: the detached store; not kept.
        size_bytes: of the buffer.

    Raises:
        OSError: ENOSPC when the store is full.
    """

    def __init__(self, store_fd: int, *, size_bytes: int) -> None:
        file_fd = os.open(NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=store_fd)
        try:
            if os.fstat(file_fd).st_size < size_bytes:
                # Written and not only made longer: a page that is missing when the kernel fills it would fail the request.
                os.pwrite(file_fd, bytes(size_bytes), 0)
            self.buffer = mmap.mmap(file_fd, size_bytes, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        finally:
            os.close(file_fd)

    def left_behind(self) -> int:
        """The length of the request in the buffer that an agent died over; 0 when there is none that is worth an answer.

        It may have been carried out, and even answered: between that and :meth:`done` are a few instructions. The kernel
        refuses a second answer, and the first change after a restart may be made twice (``operations``).
        """
        (length,) = _LENGTH.unpack_from(self.buffer)
        # What is never answered keeps nobody waiting, and a FORGET must not be counted twice.
        return 0 if not length or parse_header(self.buffer).opcode in NEVER_ANSWERED else int(length)

    def done(self) -> None:
        """The request in the buffer is answered."""
        (length,) = _LENGTH.unpack_from(self.buffer)
        carries_data = length and parse_header(self.buffer).opcode in _CARRIES_DATA
        _LENGTH.pack_into(self.buffer, 0, 0)
        if carries_data:
            self.buffer[_LENGTH.size : length] = bytes(length - _LENGTH.size)

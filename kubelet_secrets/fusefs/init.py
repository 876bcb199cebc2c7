"""FUSE_INIT as bytes: what the kernel offers, what the keeper answers, and the request to deliver again. Pure.

The keeper reads the kernel's one FUSE_INIT and answers it itself, because two flags that matter here cannot be asked for
through libfuse 3.14: CACHE_SYMLINKS and ALLOW_IDMAP. Every agent is then shown the same bytes (``fusefs.session``).

Source: Linux include/uapi/linux/fuse.h, structs fuse_in_header, fuse_init_in, fuse_out_header, fuse_init_out.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from kubelet_secrets.fusefs.wire import IN_HEADER, OUT_HEADER, Opcode

_INIT_IN = struct.Struct("<IIIII")  # major minor max_readahead flags flags2
# major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages map_alignment flags2
# max_stack_depth request_timeout unused[11]
_INIT_OUT = struct.Struct("<IIIIHHIIHHIIH22x")

_NOTIFY_RESEND = 7
_MAJOR = 7
_NEWEST_MINOR = 45  # the newest protocol whose init_out was checked against this layout
_OLDEST_MINOR = 36  # flags2 exists

READ_BUFFER_BYTES = 1 << 17
"""Large enough for reading FUSE_INIT; the kernel demands 8 KiB."""


class InitFlag(enum.IntFlag):
    """The FUSE_INIT flags this program speaks of; 32 and up are in ``flags2``."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    INIT_EXT = 1 << 30
    HAS_EXPIRE_ONLY = 1 << 35
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40


WANTED = (
    InitFlag.ASYNC_READ
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.BIG_WRITES
    | InitFlag.AUTO_INVAL_DATA
    | InitFlag.DO_READDIRPLUS  # pyfuse3 implements no other readdir
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.MAX_PAGES
    | InitFlag.CACHE_SYMLINKS  # readlink at memory speed; every path into a volume walks ``..data``
    | InitFlag.INIT_EXT
    | InitFlag.HAS_EXPIRE_ONLY
    | InitFlag.HAS_RESEND
    | InitFlag.ALLOW_IDMAP  # pods with user namespaces mount their volumes id-mapped
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRequest:
    """The kernel's offer.

    Attributes:
        raw: the request as read from /dev/fuse, to be replayed.
        unique: the request's number, to be answered.
        minor: the protocol's minor version, for example 45 on Linux 6.18.
        flags: everything the kernel offers, known here or not.
    """

    raw: bytes
    unique: int
    minor: int
    max_readahead_bytes: int
    flags: int

    @property
    def accepted(self) -> InitFlag:
        """What of WANTED this kernel can do."""
        return InitFlag(WANTED & (self.flags | InitFlag.INIT_EXT))

    @property
    def can_resend(self) -> bool:
        """Whether a restarted agent gets the requests its predecessor took with it (kernel 6.9)."""
        return bool(self.flags & InitFlag.HAS_RESEND)


def parse_init(request: bytes) -> InitRequest:
    """Parse a FUSE_INIT request.

    Raises:
        ValueError: not a FUSE_INIT of major version 7 with ``flags2`` (Linux 5.17 or later).
    """
    if len(request) < IN_HEADER.size + _INIT_IN.size:
        raise ValueError(f"FUSE_INIT of {len(request)} bytes is too short: Linux 5.17 or later is needed")
    length, opcode, unique, *_ = IN_HEADER.unpack_from(request)
    if opcode != Opcode.INIT or length != len(request):
        raise ValueError(f"expected FUSE_INIT, got opcode {opcode} with length {length} of {len(request)}")
    major, minor, max_readahead, flags, flags2 = _INIT_IN.unpack_from(request, IN_HEADER.size)
    if major != _MAJOR or minor < _OLDEST_MINOR or not flags & InitFlag.INIT_EXT:
        raise ValueError(f"FUSE protocol {major}.{minor} is too old: Linux 5.17 or later is needed")
    return InitRequest(
        raw=request, unique=unique, minor=minor, max_readahead_bytes=max_readahead, flags=flags | (flags2 << 32)
    )


def make_init_answer(request: InitRequest) -> bytes:
    """The reply that the keeper writes to /dev/fuse.

    ``max_write`` stays at 128 KiB: libfuse's read buffer, which it sizes from its own idea of the replayed INIT, must
    hold the largest request the kernel may send.
    """
    accepted = request.accepted
    body = _INIT_OUT.pack(
        _MAJOR,
        min(request.minor, _NEWEST_MINOR),
        min(request.max_readahead_bytes, 1 << 17),
        accepted & 0xFFFFFFFF,
        64,  # max_background: asynchronous requests in flight
        48,  # congestion_threshold
        1 << 17,  # max_write, bytes
        1,  # time_gran, nanoseconds
        256,  # max_pages: reads of up to 1 MiB, the largest Secret, in one request
        0,
        accepted >> 32,
        0,
        0,
    )
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), 0, request.unique) + body


def make_resend_notification() -> bytes:
    """FUSE_NOTIFY_RESEND: the kernel queues again what it handed to a process that died without answering."""
    return OUT_HEADER.pack(OUT_HEADER.size, _NOTIFY_RESEND, 0)

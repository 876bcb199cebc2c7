"""The FUSE protocol as bytes: the header of every request, and the few requests and answers this program packs itself. Pure.

Most of the protocol is pyfuse3's business (``library``); here is what ``frontdesk`` answers and ``session`` tells the kernel
on its own. FUSE_INIT has a module of its own (``init``).

Source: Linux include/uapi/linux/fuse.h, structs fuse_in_header, fuse_out_header, fuse_open_in, fuse_open_out, fuse_read_in,
fuse_entry_out, fuse_attr_out, fuse_attr, fuse_forget_in, fuse_batch_forget_in, fuse_notify_inval_inode_out.
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
from typing import NamedTuple

IN_HEADER = struct.Struct("<IIQQIIIHH")  # len opcode unique nodeid uid gid pid extlen padding
OUT_HEADER = struct.Struct("<IiQ")  # len error unique
_OPEN_IN = struct.Struct("<II")  # flags open_flags
_GETATTR_IN = struct.Struct("<II")  # getattr_flags dummy; fh follows
_OPEN_OUT = struct.Struct("<QII")  # fh open_flags backing_id
_READ_IN = struct.Struct("<QQI")  # fh offset size; more follows
_FORGET_IN = struct.Struct("<Q")  # nlookup
_BATCH_FORGET_IN = struct.Struct("<II")  # count dummy; pairs follow
_FORGET_ONE = struct.Struct("<QQ")  # nodeid nlookup
_ENTRY_OUT = struct.Struct("<QQQQII")  # nodeid generation entry_valid attr_valid and their nsecs; attributes follow
_ATTR_OUT = struct.Struct("<QII")  # attr_valid nsec dummy; attributes follow
# ino size blocks atime mtime ctime, their nsecs, mode nlink uid gid rdev blksize flags
_ATTR = struct.Struct("<QQQqqqIIIIIIIIII")  # times may lie before 1970
_NO_ATTR = bytes(_ATTR.size)
_NS = 1_000_000_000

_INVAL_INODE_OUT = struct.Struct("<Qqq")  # ino off len

_NOTIFY_INVAL_INODE = 2
_ATTRIBUTES_ONLY = -1
_TO_THE_END = 0
_GETATTR_FH = 1 << 0

Request = bytes | bytearray | memoryview | mmap.mmap
"""One request as read from /dev/fuse, header and all; a buffer may be longer than the request."""


class Opcode(enum.IntEnum):
    """The requests that this program knows."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    BATCH_FORGET = 42
    READDIRPLUS = 44
    RENAME2 = 45


NEVER_ANSWERED = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})
"""What keeps nobody waiting."""


class OpenFlag(enum.IntFlag):
    """What an answer to OPEN may say."""

    DIRECT_IO = 1 << 0  # reads and writes pass the page cache by
    KEEP_CACHE = 1 << 1


class Header(NamedTuple):
    """What every request begins with."""

    length: int
    opcode: int
    unique: int  # the request's number; its top bit says that it is delivered once more
    node: int
    uid: int  # 0xFFFFFFFF: not said
    gid: int
    tid: int  # of the thread that asks; 0 outside the mount's pid namespace
    extensions: int
    padding: int


def parse_header(request: Request) -> Header:
    """The request's first 40 bytes."""
    return Header._make(IN_HEADER.unpack_from(request))


def parse_open(request: Request) -> int:
    """The flags of an OPEN, as open(2) takes them."""
    flags, _ = _OPEN_IN.unpack_from(request, IN_HEADER.size)
    return int(flags)


def is_by_handle(request: Request) -> bool:
    """Whether a GETATTR comes from the use of an open file: from a read near the end of what the kernel takes for its size."""
    flags, _ = _GETATTR_IN.unpack_from(request, IN_HEADER.size)
    return bool(flags & _GETATTR_FH)


def parse_read(request: Request) -> tuple[int, int, int]:
    """Handle, offset and size, in bytes, of a READ, READDIR or READDIRPLUS."""
    fh, offset, size = _READ_IN.unpack_from(request, IN_HEADER.size)
    return fh, offset, size


def limit_read(request: bytearray | memoryview | mmap.mmap, size_bytes: int) -> None:
    """Make a READ, READDIR or READDIRPLUS ask for no more than *size_bytes*."""
    fh, offset, size = _READ_IN.unpack_from(request, IN_HEADER.size)
    _READ_IN.pack_into(request, IN_HEADER.size, fh, offset, min(size, size_bytes))


def make_error(unique: int, number: int) -> bytes:
    """The answer to any request: *number* is an errno; 0 is success with nothing to tell."""
    return OUT_HEADER.pack(OUT_HEADER.size, -number, unique)


def make_data(unique: int, data: bytes) -> bytes:
    """The answer to a READ; shorter than what was asked for at the end of the file."""
    return OUT_HEADER.pack(OUT_HEADER.size + len(data), 0, unique) + data


def make_open(unique: int, fh: int, flags: OpenFlag) -> bytes:
    """The answer to an OPEN or OPENDIR."""
    return OUT_HEADER.pack(OUT_HEADER.size + _OPEN_OUT.size, 0, unique) + _OPEN_OUT.pack(fh, flags, 0)


def make_entry(unique: int, node: int, result: os.stat_result, entry_s: int, attributes_s: int) -> bytes:
    """The answer to a LOOKUP: the node's number, what it looks like, and how long either may be kept."""
    entry = _ENTRY_OUT.pack(node, 0, entry_s, attributes_s, 0, 0) + _make_attr(node, result)
    return OUT_HEADER.pack(OUT_HEADER.size + len(entry), 0, unique) + entry


def make_missing(unique: int, entry_s: int) -> bytes:
    """The answer to a LOOKUP of a name that does not exist, which may be remembered: number 0."""
    entry = _ENTRY_OUT.pack(0, 0, entry_s, 0, 0, 0) + _NO_ATTR
    return OUT_HEADER.pack(OUT_HEADER.size + len(entry), 0, unique) + entry


def make_attributes(unique: int, node: int, result: os.stat_result, attributes_s: int) -> bytes:
    """The answer to a GETATTR."""
    body = _ATTR_OUT.pack(attributes_s, 0, 0) + _make_attr(node, result)
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), 0, unique) + body


def _make_attr(node: int, result: os.stat_result) -> bytes:
    times = [divmod(ns, _NS) for ns in (result.st_atime_ns, result.st_mtime_ns, result.st_ctime_ns)]
    return _ATTR.pack(
        node,
        result.st_size,
        result.st_blocks,
        *(seconds for seconds, _ in times),
        *(nanoseconds for _, nanoseconds in times),
        result.st_mode,
        result.st_nlink,
        result.st_uid,
        result.st_gid,
        0,
        result.st_blksize,
        0,
    )


def parse_forget(request: Request) -> int:
    """How many references a FORGET gives back."""
    (count,) = _FORGET_IN.unpack_from(request, IN_HEADER.size)
    return int(count)


def parse_batch_forget(request: Request) -> list[tuple[int, int]]:
    """(number, references) of each node in a BATCH_FORGET."""
    count, _ = _BATCH_FORGET_IN.unpack_from(request, IN_HEADER.size)
    start = IN_HEADER.size + _BATCH_FORGET_IN.size
    return [_FORGET_ONE.unpack_from(request, start + number * _FORGET_ONE.size) for number in range(count)]


def make_attribute_invalidation(node: int) -> bytes:
    """FUSE_NOTIFY_INVAL_INODE without pages: the kernel drops a node's attributes, or says ENOENT if it has no such node."""
    return _make_invalidation(node, _ATTRIBUTES_ONLY)


def make_page_invalidation(node: int) -> bytes:
    """FUSE_NOTIFY_INVAL_INODE: the kernel drops a node's attributes and all its pages, and takes them out of mappings.

    Writing this waits for pages that are just being read, thus for the answers to READs: not for a thread that gives them, nor
    for one of its process, which could not be killed while it waits. ENOENT as above.
    """
    return _make_invalidation(node, 0)


def _make_invalidation(node: int, offset: int) -> bytes:
    body = _INVAL_INODE_OUT.pack(node, offset, _TO_THE_END)
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), _NOTIFY_INVAL_INODE, 0) + body


def parse_name(request: Request, length: int) -> bytes:
    """The name in a LOOKUP of *length* bytes, header and all: what stands before the first NUL, as libfuse reads it too."""
    return bytes(memoryview(request)[IN_HEADER.size : length]).partition(b"\0")[0]

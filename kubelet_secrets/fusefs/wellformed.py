"""Whether a request is what the protocol says it is: lengths, names, numbers. Pure.

The kernel sends no others. But what reads them behind this is partly C (libfuse takes lengths on trust) and partly Python that
would end the loop for everybody over one message; so nothing gets there that is not whole, and no opcode that this
program has no handler for: those are answered ENOSYS, upon which the kernel does without.

Source: Linux include/uapi/linux/fuse.h, the structs ``fuse_*_in``. Called by ``session`` for every request.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kubelet_secrets.fusefs.wire import IN_HEADER, Header, Opcode

_MAX_READ_BYTES = 1 << 24  # max_pages of the largest page there is; a buffer of this size is made for a READ
_MAX_TID = (1 << 31) - 1
_MAX_OFFSET = (1 << 63) - 1

_READ_IN = struct.Struct("<QQI")  # fh offset size
_WRITE_IN = struct.Struct("<QQI")
_BATCH_FORGET_IN = struct.Struct("<II")  # count dummy
_FORGET_ONE_BYTES = 16


class _Form(NamedTuple):
    """What follows the header."""

    fixed_bytes: int  # the least, for a struct that has grown over the years
    names: int = 0  # NUL-terminated, behind it


_FORMS = {
    Opcode.LOOKUP.value: _Form(0, 1),
    Opcode.FORGET.value: _Form(8),
    Opcode.GETATTR.value: _Form(16),
    Opcode.SETATTR.value: _Form(88),
    Opcode.READLINK.value: _Form(0),
    Opcode.SYMLINK.value: _Form(0, 1),  # and the target, which is no name
    Opcode.MKNOD.value: _Form(16, 1),
    Opcode.MKDIR.value: _Form(8, 1),
    Opcode.UNLINK.value: _Form(0, 1),
    Opcode.RMDIR.value: _Form(0, 1),
    Opcode.RENAME.value: _Form(8, 2),
    Opcode.LINK.value: _Form(8, 1),
    Opcode.OPEN.value: _Form(8),
    Opcode.READ.value: _Form(40),
    Opcode.WRITE.value: _Form(40),
    Opcode.STATFS.value: _Form(0),
    Opcode.RELEASE.value: _Form(24),
    Opcode.FSYNC.value: _Form(16),
    Opcode.FLUSH.value: _Form(24),
    Opcode.OPENDIR.value: _Form(8),
    Opcode.READDIR.value: _Form(40),
    Opcode.RELEASEDIR.value: _Form(24),
    Opcode.FSYNCDIR.value: _Form(16),
    Opcode.CREATE.value: _Form(16, 1),
    Opcode.INTERRUPT.value: _Form(8),
    Opcode.BATCH_FORGET.value: _Form(8),
    Opcode.READDIRPLUS.value: _Form(40),
    Opcode.RENAME2.value: _Form(16, 2),
}


def is_known(header: Header) -> bool:
    """Whether anybody here answers requests of this kind."""
    return header.opcode in _FORMS


def is_well_formed(header: Header, request: bytes | bytearray | memoryview) -> bool:
    """Whether a request of a known kind is whole.

    Args:
        request: exactly what was read, header and all.
    """
    if header.length != len(request) or header.tid > _MAX_TID:
        return False
    form = _FORMS[header.opcode]
    body = memoryview(request)[IN_HEADER.size : len(request) - 8 * header.extensions]
    if len(body) < form.fixed_bytes:
        return False
    if form.names:
        return _are_names(bytes(body[form.fixed_bytes :]), form.names, has_target=header.opcode == Opcode.SYMLINK)
    if header.opcode in (Opcode.READ, Opcode.READDIR, Opcode.READDIRPLUS):
        _, offset, size = _READ_IN.unpack_from(body)
        return bool(offset <= _MAX_OFFSET and size <= _MAX_READ_BYTES)
    if header.opcode == Opcode.WRITE:
        _, offset, size = _WRITE_IN.unpack_from(body)
        return bool(offset <= _MAX_OFFSET and size == len(body) - form.fixed_bytes)
    if header.opcode == Opcode.BATCH_FORGET:
        count, _ = _BATCH_FORGET_IN.unpack_from(body)
        return bool(count * _FORGET_ONE_BYTES <= len(body) - form.fixed_bytes)
    return True


def _are_names(text: bytes, count: int, *, has_target: bool) -> bool:
    parts = text.split(b"\0")
    if len(parts) < count + has_target + 1:  # each is terminated
        return False
    return all(name not in (b"", b".", b"..") and b"/" not in name for name in parts[:count])

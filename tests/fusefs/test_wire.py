"""The protocol's bytes, laid out by hand. Source: Linux include/uapi/linux/fuse.h."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from kubelet_secrets.fusefs.wire import (
    Header,
    Opcode,
    OpenFlag,
    limit_read,
    make_attribute_invalidation,
    make_attributes,
    make_data,
    make_error,
    make_open,
    parse_header,
    parse_name,
    parse_open,
    parse_read,
)

AGAIN = 1 << 63
"""FUSE_UNIQUE_RESEND: the kernel delivers a request once more under this number, and wants it back in the answer."""

OPEN = bytes.fromhex(
    "30000000 0e000000 0201000000000000 e903000000000000 ffffffff ffffffff 11000000 0000 0000 00800100 00000000"
)


def make_request(
    opcode: int, body: bytes = b"", *, unique: int = 7, node: int = 1, tid: int = 0, uid: int = 0, gid: int = 0
) -> bytes:
    return struct.pack("<IIQQIIIHH", 40 + len(body), opcode, unique, node, uid, gid, tid, 0, 0) + body


def test_header_and_open() -> None:
    assert parse_header(OPEN) == Header(48, Opcode.OPEN, 0x102, 1001, 0xFFFFFFFF, 0xFFFFFFFF, 17, 0, 0)
    assert parse_open(OPEN) == 0x18000
    assert parse_header(bytearray(OPEN) + b"what was read before") == parse_header(OPEN)


def test_a_number_keeps_its_top_bit() -> None:
    assert parse_header(make_request(Opcode.OPEN, unique=AGAIN | 5)).unique == AGAIN | 5
    assert make_error(AGAIN | 5, 0) == bytes.fromhex("10000000 00000000 0500000000000080")


@pytest.mark.parametrize("behind", [b"\0", b"\0\0", b"\0\x01", b"\0other\0"])
def test_a_name_ends_at_its_nul(behind: bytes) -> None:
    request = make_request(Opcode.LOOKUP, b"key" + behind)
    assert parse_name(request + b"what was read before", len(request)) == b"key"


@pytest.mark.parametrize(("asked", "given"), [(4096, 4096), (65536, 65536), (1 << 20, 65536)])
def test_reads_are_limited(asked: int, given: int) -> None:
    rest = b"flags, lock owner, padding"
    request = bytearray(make_request(Opcode.READDIRPLUS, struct.pack("<QQI", 1001, 17, asked) + rest))
    limit_read(request, 65536)
    assert parse_read(request) == (1001, 17, given)
    assert request.endswith(rest)
    assert parse_header(request).length == len(request)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(make_error(7, 0), "10000000 00000000 0700000000000000", id="success"),
        pytest.param(make_error(7, errno.EACCES), "10000000 f3ffffff 0700000000000000", id="error"),
        pytest.param(make_data(7, b"ab"), "12000000 00000000 0700000000000000 6162", id="data"),
        pytest.param(make_data(7, b""), "10000000 00000000 0700000000000000", id="end-of-file"),
        pytest.param(
            make_open(7, 1001, OpenFlag.KEEP_CACHE),
            "20000000 00000000 0700000000000000 e903000000000000 02000000 00000000",
            id="open",
        ),
        pytest.param(
            make_attribute_invalidation(1001),
            "28000000 02000000 0000000000000000 e903000000000000 ffffffffffffffff 0000000000000000",
            id="invalidation",
        ),
    ],
)
def test_answers(answer: bytes, expected: str) -> None:
    assert answer == bytes.fromhex(expected)


def test_times_before_1970_are_told(tmp_path: Path) -> None:
    os.utime(tmp_path, ns=(-1, -5_000_000_000))
    answer = make_attributes(7, 1001, os.stat(tmp_path), 0)
    assert struct.unpack_from("<qq", answer, 16 + 16 + 24) == (-1, -5)
    assert struct.unpack_from("<II", answer, 16 + 16 + 48) == (999_999_999, 0)

"""FUSE_INIT by table: offers of real kernels in, answers out. Source: Linux include/uapi/linux/fuse.h."""

from __future__ import annotations

import struct

import pytest

from kubelet_secrets.fusefs.init import (
    WANTED,
    InitFlag,
    make_init_answer,
    make_resend_notification,
    parse_init,
)

KERNEL_6_1 = 0x73FFFFFB | (0x3 << 32)
KERNEL_6_12 = 0x73FFFFFB | (0x1DF << 32)
KERNEL_6_18 = 0x73FFFFFB | (0x7DF << 32)


def init_request(*, minor: int, flags: int, unique: int = 2, major: int = 7, opcode: int = 26) -> bytes:
    body = struct.pack("<IIIII44x", major, minor, 131072, flags & 0xFFFFFFFF, flags >> 32)
    return struct.pack("<IIQQIIIHH", 40 + len(body), opcode, unique, 0, 0, 0, 0, 0, 0) + body


@pytest.mark.parametrize(
    ("minor", "flags", "answered_minor", "can_resend", "idmap"),
    [
        pytest.param(38, KERNEL_6_1, 38, False, False, id="linux-6.1"),
        pytest.param(41, KERNEL_6_12, 41, True, True, id="linux-6.12"),
        pytest.param(45, KERNEL_6_18, 45, True, True, id="linux-6.18"),
        pytest.param(60, KERNEL_6_18, 45, True, True, id="a-later-kernel-is-answered-in-the-protocol-we-know"),
    ],
)
def test_answer_takes_what_is_wanted_and_offered(
    minor: int, flags: int, answered_minor: int, can_resend: bool, idmap: bool
) -> None:
    if can_resend:
        flags |= InitFlag.HAS_RESEND
    if idmap:
        flags |= InitFlag.ALLOW_IDMAP
    else:
        flags &= ~(InitFlag.ALLOW_IDMAP | InitFlag.HAS_RESEND)
    request = parse_init(init_request(minor=minor, flags=flags, unique=0x1122334455))
    assert request.can_resend is can_resend

    answer = make_init_answer(request)
    length, error, unique = struct.unpack_from("<IiQ", answer)
    assert (length, error, unique) == (len(answer), 0, 0x1122334455)
    assert len(answer) == 16 + 64  # struct fuse_init_out has been 64 bytes since 7.23
    out = struct.unpack_from("<IIIIHHIIHHI", answer, 16)
    assert out[:3] == (7, answered_minor, 131072)
    answered = out[3] | (out[10] << 32)
    assert answered & ~flags & ~InitFlag.INIT_EXT == 0, "asked for something that was not offered"
    assert answered & ~WANTED == 0
    assert bool(answered & InitFlag.CACHE_SYMLINKS)
    assert bool(answered & InitFlag.ALLOW_IDMAP) is idmap


def test_flags_that_were_not_offered_are_not_taken() -> None:
    request = parse_init(init_request(minor=38, flags=int(InitFlag.INIT_EXT)))
    assert request.accepted == InitFlag.INIT_EXT


@pytest.mark.parametrize(
    ("request_bytes", "message"),
    [
        pytest.param(b"", "too short", id="empty"),
        pytest.param(init_request(minor=45, flags=KERNEL_6_18)[:50], "too short", id="cut"),
        pytest.param(init_request(minor=45, flags=KERNEL_6_18)[:-4], "length", id="length-does-not-match"),
        pytest.param(init_request(minor=45, flags=KERNEL_6_18, opcode=1), "opcode 1", id="not-init"),
        pytest.param(init_request(minor=45, flags=KERNEL_6_18, major=8), "8.45", id="another-major"),
        pytest.param(init_request(minor=31, flags=0), "too old", id="before-flags2"),
    ],
)
def test_what_is_not_a_usable_init_is_refused(request_bytes: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_init(request_bytes)


def test_resend_notification_is_a_bare_header_with_notify_code_7() -> None:
    assert make_resend_notification() == struct.pack("<IiQ", 16, 7, 0)

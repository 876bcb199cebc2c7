"""SPDY/3.1 frames: what one side writes the other reads, however it is cut into pieces; garbage ends in SpdyError alone."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.kubeletapi.spdy import (
    DICTIONARY,
    LARGEST_FRAME_BYTES,
    Data,
    Frame,
    GoAway,
    PingFrame,
    Reset,
    SpdyError,
    SpdyMachine,
    SynReply,
    SynStream,
)


def read(machine: SpdyMachine, data: bytes, piece: int = 1 << 30) -> list[Frame]:
    return [frame for at in range(0, len(data), piece) for frame in machine.receive(data[at : at + piece])]


def test_dictionary_is_the_one_of_the_draft() -> None:
    """Its Adler-32 stands in every compressed header block that a SPDY/3 peer sends."""
    assert (len(DICTIONARY), zlib.adler32(DICTIONARY)) == (1423, 0xE3C6A7C2)
    assert SpdyMachine().syn_reply(1)[14:18] == bytes.fromhex("e3c6a7c2")


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_round_trip(piece: int) -> None:
    there = SpdyMachine()
    data = b"".join(
        (
            there.syn_stream(1, {"streamType": "stdin"}),
            there.syn_stream(3, {"streamtype": "error", "x": "y"}),
            there.syn_reply(2),
            there.data(1, b"hello"),
            there.data(1, b"", is_last=True),
            there.ping(7),
            there.reset(3, 5),
            there.go_away(3),
        )
    )
    assert read(SpdyMachine(), data, piece) == [
        SynStream(1, {"streamtype": "stdin"}),
        SynStream(3, {"streamtype": "error", "x": "y"}),
        SynReply(2, {}),
        Data(1, b"hello"),
        Data(1, b"", is_last=True),
        PingFrame(7),
        Reset(3),
        GoAway(3),
    ]


def test_large_data_is_cut_into_frames() -> None:
    data = bytes(2 * LARGEST_FRAME_BYTES + 1)
    frames = read(SpdyMachine(), SpdyMachine().data(5, data, is_last=True))
    assert [(type(each), each.is_last) for each in frames if isinstance(each, Data)] == [
        (Data, False),
        (Data, False),
        (Data, True),
    ]
    assert b"".join(each.data for each in frames if isinstance(each, Data)) == data


def test_frames_that_do_not_matter_are_passed_over() -> None:
    settings = struct.pack(">II", 0x80030004, 12) + struct.pack(">III", 1, 4, 100)
    window = struct.pack(">II", 0x80030009, 8) + struct.pack(">II", 1, 65536)
    assert read(SpdyMachine(), settings + window + SpdyMachine().ping(1)) == [PingFrame(1)]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(struct.pack(">II", 0x80020006, 4) + bytes(4), id="version-2"),
        pytest.param(struct.pack(">II", 1, LARGEST_FRAME_BYTES + 1), id="too-large"),
        pytest.param(struct.pack(">II", 0x80030001, 2) + bytes(2), id="cut-short"),
        pytest.param(struct.pack(">II", 0x80030001, 14) + bytes(14), id="no-zlib"),
        pytest.param(struct.pack(">II", 0x80030006, 0), id="empty-ping"),
    ],
)
def test_broken_frames(data: bytes) -> None:
    with pytest.raises(SpdyError):
        read(SpdyMachine(), data)


def test_headers_that_explode() -> None:
    deflate = zlib.compressobj(zdict=DICTIONARY)
    block = deflate.compress(struct.pack(">II", 1, 1 << 20) + bytes(1 << 20)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    payload = struct.pack(">IIH", 1, 0, 0) + block
    with pytest.raises(SpdyError, match="too large"):
        read(SpdyMachine(), struct.pack(">II", 0x80030001, len(payload)) + payload)


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_else(data: bytes) -> None:
    try:
        read(SpdyMachine(), data)
    except SpdyError:
        pass


@given(st.binary(max_size=60), st.sampled_from([1, 2, 8]))
def test_garbage_in_headers_raises_nothing_else(block: bytes, kind: int) -> None:
    deflate = zlib.compressobj(zdict=DICTIONARY)
    packed = deflate.compress(block) + deflate.flush(zlib.Z_SYNC_FLUSH)
    payload = (bytes(10) if kind == 1 else bytes(4)) + packed
    try:
        read(SpdyMachine(), struct.pack(">II", 0x80030000 | kind, len(payload)) + payload)
    except SpdyError:
        pass

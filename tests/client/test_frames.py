"""GOAWAY is found at every way of cutting the stream."""

from __future__ import annotations

import pytest
from h2.exceptions import FrameTooLargeError

from kubelet_secrets.client.frames import GoAway, GoAwayFilter


def frame(kind: int, payload: bytes, stream_id: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + stream_id.to_bytes(4, "big") + payload


GOAWAY = frame(7, (5).to_bytes(4, "big") + (2).to_bytes(4, "big") + b"why")
STREAM = frame(4, b"settin") + frame(0, b"d" * 300, 1) + GOAWAY + frame(0, b"", 3) + frame(6, b"12345678") + GOAWAY


@pytest.mark.parametrize("size", [1, 2, 8, 9, 10, 17, 100, 319, 10_000])
def test_any_cut_gives_the_same(size: int) -> None:
    goaways = GoAwayFilter()
    pieces = [piece for start in range(0, len(STREAM), size) for piece in goaways.feed(STREAM[start : start + size])]
    joined: list[bytes | GoAway] = []
    for piece in pieces:
        if isinstance(piece, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += piece
        else:
            joined.append(piece)
    assert joined == [
        frame(4, b"settin") + frame(0, b"d" * 300, 1),
        GoAway(last_stream_id=5, error_code=2),
        frame(0, b"", 3) + frame(6, b"12345678"),
        GoAway(last_stream_id=5, error_code=2),
    ]


def test_malformed_goaway_is_left_to_h2() -> None:
    short = frame(7, b"1234567")
    assert GoAwayFilter().feed(short) == [short]


def test_reserved_bit_is_ignored() -> None:
    goaway = frame(7, b"\x80\x00\x00\x01" + bytes(4))
    assert GoAwayFilter().feed(goaway) == [GoAway(last_stream_id=1, error_code=0)]


def test_something_else_than_http2_is_refused_at_once() -> None:
    with pytest.raises(FrameTooLargeError):
        GoAwayFilter().feed(b"HTTP/1.1 400 Bad Request\r\n")

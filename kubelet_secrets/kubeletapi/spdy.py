"""SPDY/3.1 frames ⇄ bytes: what of it kubectl and the API server speak after ``Upgrade: SPDY/3.1``. Pure; no stream, no clock.

SPDY has been dead for years but for this use; no library is kept. Flow control is left out as the peer's library leaves it out
(moby/spdystream neither sends nor heeds window updates): TCP's own has to do.

Source: SPDY Protocol Draft 3.1 (sections 2.2, 2.6); k8s.io/apimachinery/pkg/util/httpstream/spdy.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

VERSION = 3
LARGEST_FRAME_BYTES = 1 << 20
LARGEST_HEADER_BYTES = 1 << 16
FLAG_FIN = 0x01


class FrameType(enum.IntEnum):
    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class SpdyError(Exception):
    """The peer does not speak SPDY/3.1 as we know it. The text quotes nothing of what it said."""


@dataclass(frozen=True, slots=True)
class SynStream:
    stream_id: int
    headers: Mapping[str, str]  # names in lower case
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class SynReply:
    stream_id: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Data:
    stream_id: int
    data: bytes = field(repr=False)
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    stream_id: int


@dataclass(frozen=True, slots=True)
class PingFrame:
    ping_id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    last_stream_id: int


Frame = SynStream | SynReply | Data | Reset | PingFrame | GoAway


class SpdyMachine:
    """One side of a connection: bytes in, frames out, and back. Header compression has a state in each direction."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def receive(self, data: bytes) -> Iterator[Frame]:
        """The frames that *data* completes; frames that do not matter here are passed over.

        Raises:
            SpdyError: the connection is lost: compression cannot be taken up again.
        """
        self._buffer += data
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from(">II", self._buffer)
            flags, length = second >> 24, second & 0xFFFFFF
            if length > LARGEST_FRAME_BYTES:
                raise SpdyError("a frame is too large")
            if len(self._buffer) < 8 + length:
                return
            payload = bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            if not first & 0x80000000:
                yield Data(first, payload, bool(flags & FLAG_FIN))
                continue
            if first >> 16 & 0x7FFF != VERSION:
                raise SpdyError("not version 3")
            frame = self._control(first & 0xFFFF, flags, payload)
            if frame is not None:
                yield frame

    def _control(self, kind: int, flags: int, payload: bytes) -> Frame | None:
        try:
            match kind:
                case FrameType.SYN_STREAM:
                    stream_id, _ = struct.unpack_from(">II", payload)
                    headers = self._read_headers(payload[10:])
                    return SynStream(stream_id & 0x7FFFFFFF, headers, bool(flags & FLAG_FIN))
                case FrameType.SYN_REPLY:
                    return SynReply(_number(payload), self._read_headers(payload[4:]))
                case FrameType.HEADERS:
                    self._read_headers(payload[4:])  # nobody sends any; the compression's state wants it read
                    return None
                case FrameType.RST_STREAM:
                    return Reset(_number(payload))
                case FrameType.PING:
                    return PingFrame(struct.unpack_from(">I", payload)[0])
                case FrameType.GOAWAY:
                    return GoAway(_number(payload))
                case _:
                    return None
        except struct.error:
            raise SpdyError("a frame is cut short") from None

    def _read_headers(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, LARGEST_HEADER_BYTES)
        except zlib.error:
            raise SpdyError("headers cannot be decompressed") from None
        if self._inflate.unconsumed_tail:
            raise SpdyError("headers are too large")
        (count,) = struct.unpack_from(">I", plain)
        at, headers = 4, {}
        for _ in range(count):
            name, at = _text(plain, at)
            value, at = _text(plain, at)
            headers[name.lower()] = value.replace("\0", ", ")
        return headers

    def syn_stream(self, stream_id: int, headers: Mapping[str, str]) -> bytes:
        return self._frame(FrameType.SYN_STREAM, struct.pack(">IIH", stream_id, 0, 0) + self._write_headers(headers))

    def syn_reply(self, stream_id: int) -> bytes:
        return self._frame(FrameType.SYN_REPLY, struct.pack(">I", stream_id) + self._write_headers({}))

    def data(self, stream_id: int, data: bytes, *, is_last: bool = False) -> bytes:
        """Data frames, as many as the size of one allows."""
        pieces = [data[at : at + LARGEST_FRAME_BYTES] for at in range(0, len(data), LARGEST_FRAME_BYTES)] or [b""]
        flags = [0] * (len(pieces) - 1) + [FLAG_FIN if is_last else 0]
        return b"".join(
            struct.pack(">II", stream_id, flag << 24 | len(piece)) + piece
            for piece, flag in zip(pieces, flags, strict=True)
        )

    def ping(self, ping_id: int) -> bytes:
        return self._frame(FrameType.PING, struct.pack(">I", ping_id))

    def reset(self, stream_id: int, status: int) -> bytes:
        return self._frame(FrameType.RST_STREAM, struct.pack(">II", stream_id, status))

    def go_away(self, last_stream_id: int) -> bytes:
        return self._frame(FrameType.GOAWAY, struct.pack(">II", last_stream_id, 0))

    def _write_headers(self, headers: Mapping[str, str]) -> bytes:
        plain = struct.pack(">I", len(headers))
        for name, value in headers.items():
            for text in (name.lower().encode("latin-1"), value.encode("latin-1")):
                plain += struct.pack(">I", len(text)) + text
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def _frame(self, kind: FrameType, payload: bytes) -> bytes:
        return struct.pack(">II", 0x80000000 | VERSION << 16 | kind, len(payload)) + payload


def _number(payload: bytes) -> int:
    (number,) = struct.unpack_from(">I", payload)
    return int(number) & 0x7FFFFFFF


def _text(plain: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">I", plain, at)
    text = plain[at + 4 : at + 4 + length]
    if len(text) != length:
        raise SpdyError("headers are cut short")
    return text.decode("latin-1"), at + 4 + length


# The dictionary of draft 3, section 2.6.10.1: words, each after its length, then what often follows as it stands.
_WORDS = """\
options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|accept-ranges|age|allow|
authorization|cache-control|connection|content-base|content-encoding|content-language|content-length|content-location|
content-md5|content-range|content-type|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|
if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|proxy-authenticate|proxy-authorization|range|
referer|retry-after|server|te|trailer|transfer-encoding|upgrade|user-agent|vary|via|warning|www-authenticate|method|get|
status|200 OK|version|HTTP/1.1|url|public|set-cookie|keep-alive|origin"""
_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = (
    b"".join(
        struct.pack(">I", len(word)) + word.encode() for line in _WORDS.splitlines() for word in line.split("|") if word
    )
    + _TEXT.encode()
)

"""Take GOAWAY out of a stream of HTTP/2 frames before h2 sees it. Pure; used by ``connection.py`` only.

h2 closes its connection state on GOAWAY: every later frame is then a protocol error, although RFC 9113 §6.8 lets the
streams up to ``last_stream_id`` finish. A server that shuts down gracefully would so cut the very answers it waits for.
The filter also looks at each frame's length before its body: h2 does so only when the whole frame is there, so that a peer
which speaks something else entirely would be waited for instead of refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from h2.exceptions import FrameTooLargeError

_HEADER_BYTES = 9
_TYPE_GOAWAY = 0x7
_MAX_FRAME_BYTES = 16384  # SETTINGS_MAX_FRAME_SIZE, which we leave at its default


@dataclass(frozen=True, slots=True)
class GoAway:
    last_stream_id: int
    error_code: int


class GoAwayFilter:
    """Splits what arrives into runs of bytes for h2 and the GOAWAY frames between them, in the order of arrival."""

    def __init__(self) -> None:
        self._held = b""  # an incomplete frame header, or an incomplete GOAWAY frame
        self._remaining = 0  # bytes of the current frame still to pass

    def feed(self, data: bytes) -> list[bytes | GoAway]:
        """Return what *data* completes; an empty list when all of it is held back.

        Raises:
            FrameTooLargeError: a frame is longer than we allow, or this is not HTTP/2.
        """
        data = self._held + data
        self._held = b""
        pieces: list[bytes | GoAway] = []
        start = 0  # of the run not yet in *pieces*
        position = min(self._remaining, len(data))
        self._remaining -= position
        while not self._remaining and position < len(data):
            header = data[position : position + _HEADER_BYTES]
            if len(header) < _HEADER_BYTES:
                break
            length = int.from_bytes(header[:3], "big")
            if length > _MAX_FRAME_BYTES:
                raise FrameTooLargeError(f"a frame of {length} bytes")
            end = position + _HEADER_BYTES + length
            if header[3] == _TYPE_GOAWAY and length >= 8:  # a shorter one is malformed: h2 says so
                if end > len(data):
                    break
                if position > start:
                    pieces.append(data[start:position])
                body = data[position + _HEADER_BYTES : end]
                last_stream_id = int.from_bytes(body[:4], "big") & 0x7FFFFFFF
                pieces.append(GoAway(last_stream_id, int.from_bytes(body[4:8], "big")))
                start = position = end
            else:
                position = min(end, len(data))
                self._remaining = end - position
        self._held = data[position:]
        if position > start:
            pieces.append(data[start:position])
        return pieces

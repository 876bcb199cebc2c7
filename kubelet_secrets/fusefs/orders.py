"""What agent and writer say to each other: orders and answers as msgpack, in chunks of one datagram each. No I/O.

They meet over a SOCK_SEQPACKET pair that the keeper holds, so both can die and return. A datagram arrives whole or not at
all; an order longer than one is cut into numbered chunks, and an order whose sender died half-way is
dropped when the next one begins. File contents travel only here, between two locked processes.

Imports little: the writer starts with it.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from kubelet_secrets.sensitive import SensitiveBytes

_CHUNK_HEADER = struct.Struct("<QII")  # order id, index of this chunk, number of chunks
_CHUNK_BYTES = 60 * 1024
DATAGRAM_BYTES = _CHUNK_HEADER.size + _CHUNK_BYTES


class FileEntry(msgspec.Struct, frozen=True, array_like=True):
    """One file of a payload: what the AtomicWriter needs, and nothing about where it came from."""

    path: str
    data: SensitiveBytes
    mode: int
    fs_user: int | None


class Update(msgspec.Struct, frozen=True, tag=True):
    """Write a version of an existing volume."""

    pod_uid: str
    volume: str
    files: list[FileEntry]
    fs_group: int | None


class RemoveVolume(msgspec.Struct, frozen=True, tag=True):
    """Remove a volume with everything in it; one that is not there is fine."""

    pod_uid: str
    volume: str


class MakeDirectory(msgspec.Struct, frozen=True, tag=True):
    """``mkdir -p`` inside a volume: a mount point for a volume nested in it, or a subPath that leads to nothing."""

    pod_uid: str
    volume: str
    path: str
    mode: int  # of each directory that is made


class Attach(msgspec.Struct, frozen=True, tag=True):
    """Attach a read-only clone of a volume, or of one path in it, at *target*, in place of an earlier clone there."""

    pod_uid: str
    volume: str
    path: str  # "" for the whole volume
    target: str


class DropPages(msgspec.Struct, frozen=True, tag=True):
    """Have the kernel drop what it holds of these nodes' contents; ones that it does not know are fine."""

    numbers: list[int]


class Synchronize(msgspec.Struct, frozen=True, tag=True):
    """Say who you are, when all before this is done. A new writer does nothing else before its first one."""


Order = Update | RemoveVolume | MakeDirectory | Attach | DropPages | Synchronize


class Hello(msgspec.Struct, frozen=True, tag=True):
    """A new writer; orders that its predecessor did not answer are lost."""

    pid: int


class Done(msgspec.Struct, frozen=True, tag=True):
    order_id: int
    version: str = ""  # Update
    changed: bool = False  # Update
    pid: int = 0  # Synchronize


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Attributes: errno: of an OSError, or 0 for a SetUpError, whose text *message* is."""

    order_id: int
    errno: int
    message: str


Answer = Hello | Done | Failed


def _encode_value(value: object) -> bytes:
    assert isinstance(value, SensitiveBytes)
    return value.reveal()


def _decode_value(kind: type, value: Any) -> SensitiveBytes:
    assert kind is SensitiveBytes
    return SensitiveBytes(value)


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_value)
_order_decoder: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order, dec_hook=_decode_value)
_answer_decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode_order(order_id: int, order: Order) -> list[bytes]:
    """Cut an order into datagrams, to be sent in this order with none of another's in between."""
    body = _encoder.encode(order)
    pieces = [body[start : start + _CHUNK_BYTES] for start in range(0, len(body), _CHUNK_BYTES)]
    return [_CHUNK_HEADER.pack(order_id, index, len(pieces)) + piece for index, piece in enumerate(pieces)]


def encode_answer(answer: Answer) -> bytes:
    return _encoder.encode(answer)


def decode_answer(datagram: bytes) -> Answer:
    return _answer_decoder.decode(datagram)


class OrderAssembler:
    """Puts datagrams together. Chunks of an order whose beginning was missed, or whose sender died, are dropped."""

    def __init__(self) -> None:
        self._order_id = 0
        self._pieces: list[bytes] = []

    def feed(self, datagram: bytes) -> tuple[int, Order] | None:
        """Take one datagram; returns (order id, order) when it was an order's last."""
        order_id, index, count = _CHUNK_HEADER.unpack_from(datagram)
        if index == 0:
            self._order_id, self._pieces = order_id, []
        elif order_id != self._order_id or index != len(self._pieces):
            self._order_id, self._pieces = 0, []
            return None
        self._pieces.append(datagram[_CHUNK_HEADER.size :])
        if index + 1 < count:
            return None
        body, self._pieces = b"".join(self._pieces), []
        return order_id, _order_decoder.decode(body)

"""Orders as bytes: in pieces, in order, or not at all."""

from __future__ import annotations

import pytest

from kubelet_secrets.fusefs.orders import (
    DATAGRAM_BYTES,
    Answer,
    Attach,
    Done,
    Failed,
    FileEntry,
    Hello,
    MakeDirectory,
    Order,
    OrderAssembler,
    RemoveVolume,
    Synchronize,
    Update,
    decode_answer,
    encode_answer,
    encode_order,
)
from kubelet_secrets.sensitive import SensitiveBytes

CANARY = b"cafe-canary-1234567890"
LARGE = Update("uid", "v", [FileEntry("a", SensitiveBytes(CANARY * 10_000), 0o644, None)], 2000)


def assemble(datagrams: list[bytes]) -> list[tuple[int, Order]]:
    assembler = OrderAssembler()
    return [received for datagram in datagrams if (received := assembler.feed(datagram)) is not None]


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(LARGE, id="update"),
        pytest.param(Update("uid", "v", [], None), id="empty-update"),
        pytest.param(RemoveVolume("uid", "v"), id="remove"),
        pytest.param(MakeDirectory("uid", "v", "a/b", 0o3777), id="make-directory"),
        pytest.param(Attach("uid", "v", "", "/target"), id="attach"),
        pytest.param(Synchronize(), id="synchronize"),
    ],
)
def test_order_arrives_as_it_was_given(order: Order) -> None:
    datagrams = encode_order(7, order)
    assert all(len(datagram) <= DATAGRAM_BYTES for datagram in datagrams)
    assert assemble(datagrams) == [(7, order)]


@pytest.mark.parametrize("answer", [Hello(12), Done(7, version="..v", changed=True), Failed(7, 28, "full")])
def test_answer_arrives_as_it_was_given(answer: Answer) -> None:
    assert decode_answer(encode_answer(answer)) == answer


def test_order_cut_off_by_its_senders_death_is_dropped() -> None:
    first, second = encode_order(1, LARGE), encode_order(2, Synchronize())
    assert len(first) > 2
    assert assemble([*first[:-1], *second]) == [(2, Synchronize())]


def test_order_whose_beginning_was_missed_is_dropped() -> None:
    first, second = encode_order(1, LARGE), encode_order(2, LARGE)
    assert assemble([*first[1:], *second]) == [(2, LARGE)]
    assert assemble([first[0], *second[1:], *second]) == [(2, LARGE)]


def test_values_do_not_show() -> None:
    assert CANARY.decode() not in repr(LARGE)
    assert "220000 bytes" in repr(LARGE)

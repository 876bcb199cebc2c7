"""pyfuse3 and libfuse as a function of bytes, with the handlers and a store behind."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Generator, Iterator

import pyfuse3
import pytest

from kubelet_secrets.fusefs.init import InitFlag
from kubelet_secrets.fusefs.library import Library
from kubelet_secrets.fusefs.operations import Operations
from kubelet_secrets.fusefs.tree import Tree
from tests.fusefs.test_init import KERNEL_6_18, init_request
from tests.fusefs.test_tree import TS, UID, find, write_directly
from tests.fusefs.test_wire import AGAIN, make_request

LOOKUP, FORGET, GETATTR, READLINK, MKDIR, WRITE, BATCH_FORGET, READDIRPLUS, TMPFILE = 1, 2, 3, 5, 9, 16, 42, 44, 51
WRITER = 4242
INIT = init_request(minor=45, flags=KERNEL_6_18 | InitFlag.HAS_RESEND)


class Network:
    def __await__(self) -> Generator[str, None, None]:
        yield "the network"


class Buggy(Operations):
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        await Network()
        raise AssertionError

    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        raise ZeroDivisionError


@pytest.fixture
def tree(store: int) -> Tree:
    write_directly(store, f"{UID}/v/{TS}/key", b"one")
    return Tree(store, resumed=False)


@pytest.fixture
def library(tree: Tree) -> Iterator[Library]:
    before = len(os.listdir("/proc/self/fd"))
    with Library(Operations(tree, lambda tid: tid == WRITER, resumed=False), INIT) as library:
        yield library
    assert len(os.listdir("/proc/self/fd")) == before


def only(answers: list[bytes]) -> tuple[int, int, bytes]:
    """Error, number and the rest of the one answer."""
    (answer,) = answers
    length, error, unique = struct.unpack_from("<IiQ", answer)
    assert length == len(answer)
    return error, unique, answer[16:]


def test_answer_comes_with_the_step(library: Library, tree: Tree) -> None:
    error, unique, entry = only(library.answer(make_request(LOOKUP, UID.encode() + b"\0", unique=12)))
    assert (error, unique) == (0, 12)
    assert struct.unpack_from("<Q", entry) == (find(tree, UID).number,)


def test_number_of_a_request_delivered_again_comes_back_whole(library: Library) -> None:
    request = make_request(LOOKUP, b"missing\0", unique=AGAIN | 6)
    assert only(library.answer(request)) == (-errno.ENOENT, AGAIN | 6, b"")


def test_requests_follow_each_other(library: Library, tree: Tree) -> None:
    parent = find(tree, f"{UID}/v").number
    body = struct.pack("<II", 0o750, 0) + b"made\0"
    assert only(library.answer(make_request(MKDIR, body, node=parent, tid=1)))[0] == -errno.EROFS
    assert only(library.answer(make_request(MKDIR, body, node=parent, tid=WRITER)))[0] == 0
    assert only(library.answer(make_request(MKDIR, body, node=parent, tid=WRITER)))[0] == -errno.EEXIST
    find(tree, f"{UID}/v/made")


def test_nothing_is_said_to_a_forget(library: Library, tree: Tree) -> None:
    only(library.answer(make_request(LOOKUP, UID.encode() + b"\0")))
    node = find(tree, UID)
    assert node.lookups == 1
    assert library.answer(make_request(FORGET, struct.pack("<Q", 1), node=node.number)) == []
    assert node.lookups == 0
    batch = struct.pack("<II", 1, 0) + struct.pack("<QQ", node.number, 3)
    assert library.answer(make_request(BATCH_FORGET, batch)) == []
    assert node.lookups == -3


def test_largest_write_passes(library: Library, tree: Tree, store: int) -> None:
    data = os.urandom(1 << 17)
    node = find(tree, f"{UID}/v/{TS}/key").number
    body = struct.pack("<QQIIQII", node, 0, len(data), 0, 0, 0, 0) + data
    error, _, written = only(library.answer(make_request(WRITE, body, node=node, tid=WRITER)))
    assert (error, struct.unpack_from("<I", written)) == (0, (len(data),))
    assert os.stat(f"{UID}/v/{TS}/key", dir_fd=store).st_size == len(data)


def test_longest_listing_passes(library: Library, tree: Tree, store: int) -> None:
    for number in range(400):
        write_directly(store, f"{UID}/v/{TS}/{number:03}-{'n' * 200}")
    node = find(tree, f"{UID}/v/{TS}").number
    body = struct.pack("<QQIIQII", node, 0, 1 << 16, 0, 0, 0, 0)
    error, _, entries = only(library.answer(make_request(READDIRPLUS, body, node=node)))
    assert error == 0
    assert 1 << 15 < len(entries) <= 1 << 16


def list_part(library: Library, node: int, offset: int, size: int) -> list[tuple[str, int, int]]:
    """One READDIRPLUS: (name, number of the node as a lookup would give it, position behind it) of each entry."""
    body = struct.pack("<QQIIQII", node, offset, size, 0, 0, 0, 0)
    error, _, rest = only(library.answer(make_request(READDIRPLUS, body, node=node)))
    assert error == 0
    assert len(rest) <= size
    entries, at = [], 0
    while at < len(rest):
        (number,) = struct.unpack_from("<Q", rest, at)
        _, position, length, _ = struct.unpack_from("<QQII", rest, at + 128)
        entries.append((rest[at + 152 : at + 152 + length].decode(), number, position))
        at += (152 + length + 7) // 8 * 8
    return entries


def test_listing_in_parts_gives_every_name_once(library: Library, tree: Tree, store: int) -> None:
    names = [f"name-{number}" for number in range(20)]
    for name in names:
        write_directly(store, f"{UID}/v/{TS}/{name}")
    node = find(tree, f"{UID}/v/{TS}")
    found: list[str] = []
    position = 0
    while part := list_part(library, node.number, position, 600):
        assert len(part) <= 3
        found += [name for name, _, _ in part]
        position = part[-1][2]
    assert found[:2] == [".", ".."]
    assert sorted(found[2:]) == sorted([*names, "key"])
    assert [find(tree, f"{UID}/v/{TS}/{name}").lookups for name in names] == [1] * 20, (
        "the kernel will forget each once"
    )
    assert find(tree, f"{UID}/v/{TS}").lookups == 0, "not for the dots"
    again = list_part(library, node.number, 0, 1 << 16)
    assert len(again) == 23


def test_listing_that_goes_on_after_a_removal_skips_what_is_gone(library: Library, tree: Tree, store: int) -> None:
    for name in ("a", "b", "c"):
        write_directly(store, f"{UID}/v/{TS}/{name}")
    node = find(tree, f"{UID}/v/{TS}").number
    order = [name for name, _, _ in list_part(library, node, 0, 1 << 16)][2:]
    first = list_part(library, node, 0, 500)
    assert [name for name, _, _ in first] == [".", "..", order[0]]
    os.unlink(f"{UID}/v/{TS}/{order[1]}", dir_fd=store)
    rest = list_part(library, node, first[-1][2], 1 << 16)
    assert [name for name, _, _ in rest] == order[2:]


def test_what_libfuse_does_not_know_is_enosys(library: Library) -> None:
    assert only(library.answer(make_request(TMPFILE, bytes(64))))[0] == -errno.ENOSYS
    assert only(library.answer(make_request(999)))[0] == -errno.ENOSYS


@pytest.mark.parametrize(
    ("opcode", "expected"),
    [(GETATTR, "RuntimeError: a handler waits for 'the network'"), (READLINK, "ZeroDivisionError: ")],
)
def test_bugs_of_handlers_are_raised(tree: Tree, opcode: int, expected: str) -> None:
    """And the session can be ended after that."""
    with Library(Buggy(tree, lambda tid: False, resumed=False), INIT) as library:
        with pytest.raises((RuntimeError, ZeroDivisionError)) as caught:
            library.answer(make_request(opcode, bytes(16)))
    assert f"{type(caught.value).__name__}: {caught.value}" == expected

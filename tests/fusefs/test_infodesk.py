"""The same answers, to the byte, that pyfuse3 and libfuse give."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator

import pytest

from kubelet_secrets.fusefs.infodesk import InfoDesk
from kubelet_secrets.fusefs.library import Library
from kubelet_secrets.fusefs.operations import Operations
from kubelet_secrets.fusefs.tree import Tree
from kubelet_secrets.fusefs.wire import Opcode, make_error, parse_header
from tests.fusefs.test_library import INIT, WRITER
from tests.fusefs.test_tree import TS, UID, find, write_directly
from tests.fusefs.test_wire import make_request

OTHER = 77


class Desks:
    """Both ways to an answer, over one tree."""

    def __init__(self, tree: Tree, library: Library, desk: InfoDesk) -> None:
        self.tree = tree
        self._library = library
        self._desk = desk

    def ask(self, opcode: int, body: bytes = b"", *, node: int, tid: int = OTHER) -> tuple[bytes | None, list[bytes]]:
        request = make_request(opcode, body, unique=6, node=node, tid=tid)
        return self._desk.answer(parse_header(request), request), self._library.answer(request)

    def agree(self, opcode: int, body: bytes = b"", *, node: int, tid: int = OTHER) -> bytes:
        """What both answer."""
        ours, (theirs,) = self.ask(opcode, body, node=node, tid=tid)
        assert ours == theirs
        assert ours is not None
        return ours


@pytest.fixture
def desks(store: int) -> Iterator[Desks]:
    write_directly(store, f"{UID}/v/{TS}/key", b"one")
    os.chmod(f"{UID}/v/{TS}/key", 0o4440, dir_fd=store)
    os.chown(f"{UID}/v/{TS}/key", 1000, 2000, dir_fd=store)
    os.utime(f"{UID}/v/{TS}/key", ns=(1_700_000_000_123_456_789, 1_600_000_000_987_654_321), dir_fd=store)
    os.symlink(TS, f"{UID}/v/..data", dir_fd=store)
    tree = Tree(store, resumed=False)
    operations = Operations(tree, lambda tid: tid == WRITER, resumed=False)
    with Library(operations, INIT) as library:
        yield Desks(tree, library, InfoDesk(operations))


PATHS = [UID, f"{UID}/v", f"{UID}/v/..data", f"{UID}/v/{TS}", f"{UID}/v/{TS}/key"]


@pytest.mark.parametrize("path", PATHS)
def test_names_and_attributes(desks: Desks, path: str) -> None:
    node = find(desks.tree, path)
    assert node.parent is not None
    entry = desks.agree(Opcode.LOOKUP, node.name + b"\0", node=node.parent.number)
    assert struct.unpack_from("<Q", entry, 16) == (node.number,)
    assert node.lookups == 2
    attributes = desks.agree(Opcode.GETATTR, struct.pack("<IIQ", 0, 0, 0), node=node.number)
    (mode,) = struct.unpack_from("<I", attributes, 16 + 16 + 60)
    assert stat.S_IFMT(mode) == {"..data": stat.S_IFLNK, "key": stat.S_IFREG}.get(os.path.basename(path), stat.S_IFDIR)


def test_the_root(desks: Desks) -> None:
    desks.agree(Opcode.GETATTR, struct.pack("<IIQ", 0, 0, 0), node=desks.tree.root.number)


def test_links(desks: Desks) -> None:
    link = find(desks.tree, f"{UID}/v/..data")
    assert desks.agree(Opcode.READLINK, node=link.number)[16:] == TS.encode()
    desks.agree(Opcode.READLINK, node=find(desks.tree, f"{UID}/v/{TS}/key").number)  # EINVAL


def test_what_is_not_there(desks: Desks) -> None:
    version = find(desks.tree, f"{UID}/v/{TS}").number
    ours, (theirs,) = desks.ask(Opcode.LOOKUP, b"absent\0", node=version)
    assert ours is not None
    # Number 0 and how long that may be remembered; the rest says nothing.
    assert ours[:40] == theirs[:40]
    assert len(ours) == len(theirs)
    for parent in (desks.tree.root.number, find(desks.tree, UID).number, find(desks.tree, f"{UID}/v").number):
        desks.agree(Opcode.LOOKUP, b"absent\0", node=parent)
    desks.agree(Opcode.LOOKUP, b"below-a-file\0", node=find(desks.tree, f"{UID}/v/{TS}/key").number)
    desks.agree(Opcode.LOOKUP, b".grave\0", node=desks.tree.root.number)
    for opcode, body in ((Opcode.LOOKUP, b"x\0"), (Opcode.GETATTR, bytes(16)), (Opcode.READLINK, b"")):
        desks.agree(opcode, body, node=987_654_321)


def test_a_version_that_has_just_gone(desks: Desks) -> None:
    volume = find(desks.tree, f"{UID}/v").number
    for name, opcode, parent in (
        (b"key", Opcode.UNLINK, find(desks.tree, f"{UID}/v/{TS}").number),
        (TS.encode(), Opcode.RMDIR, volume),
    ):
        desks.ask(opcode, name + b"\0", node=parent, tid=WRITER)
    desks.agree(Opcode.LOOKUP, TS.encode() + b"\0", node=volume, tid=WRITER)
    ours, (theirs,) = desks.ask(Opcode.LOOKUP, TS.encode() + b"\0", node=volume)
    assert ours == make_error(6, errno.ESTALE)
    assert theirs == make_error(6, errno.ENOENT)  # the same thread, asking again


def test_references_that_are_given_back(desks: Desks) -> None:
    node = find(desks.tree, f"{UID}/v/{TS}/key")
    node.lookups = 10
    assert desks.ask(Opcode.FORGET, struct.pack("<Q", 2), node=node.number) == (b"", [])
    assert node.lookups == 6
    batch = struct.pack("<IIQQQQ", 2, 0, node.number, 1, node.number, 1)
    assert desks.ask(Opcode.BATCH_FORGET, batch, node=0) == (b"", [])
    assert node.lookups == 2


def test_what_is_for_others(desks: Desks) -> None:
    request = make_request(Opcode.STATFS, b"", unique=6, node=1, tid=OTHER)
    assert InfoDesk(None).answer(parse_header(request), request) is None  # type: ignore[arg-type]

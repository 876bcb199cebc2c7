"""Opening, reading and closing as bytes, with a store behind and no kernel in front."""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass, field

import pytest

from kubelet_secrets.fusefs.frontdesk import CallerContext, FrontDesk
from kubelet_secrets.fusefs.tree import Tree
from kubelet_secrets.fusefs.wire import Opcode, parse_header
from tests.fusefs.test_tree import TS, UID, find, write_directly
from tests.fusefs.test_wire import make_request

WRITER = 4242
READER = 17


@dataclass
class Guard:
    allows: bool = True
    revoked: bool = False
    asked: list[tuple[object, ...]] = field(default_factory=list)

    def group(self, tid: int) -> str:
        return ""

    def may_open(self, pod_uid: str, volume: str, path: str, ctx: CallerContext, kind: str) -> bool:
        self.asked.append((pod_uid, volume, path, ctx, kind))
        return self.allows

    def may_read(self, pod_uid: str, volume: str, path: str, ctx: CallerContext, kind: str) -> bool:
        self.asked.append((pod_uid, volume, path, ctx, kind))
        return not self.revoked

    def is_revoked(self, pod_uid: str, volume: str) -> bool:
        return self.revoked

    def may_look(self, pod_uid: str, volume: str, path: str, ctx: CallerContext) -> bool:
        self.asked.append((pod_uid, volume, path, ctx, "lookup"))
        return self.allows


@dataclass
class Filesystem:
    tree: Tree
    guard: Guard
    desk: FrontDesk

    def number(self, path: str) -> int:
        return find(self.tree, path).number if path else 1

    def ask(self, opcode: Opcode, node: int, body: bytes = bytes(8), tid: int = READER) -> bytes | None:
        request = make_request(opcode, body, node=node, tid=tid, uid=1000, gid=2000)
        return self.desk.answer(parse_header(request), request)

    def error(self, opcode: Opcode, node: int, body: bytes = bytes(8), tid: int = READER) -> str:
        answer = self.ask(opcode, node, body, tid)
        assert answer is not None
        length, error, unique = struct.unpack("<IiQ", answer)
        assert (length, unique) == (16, 7)
        return errno.errorcode[-error]

    def open(self, path: str, flags: int = os.O_RDONLY, tid: int = READER) -> tuple[int, int]:
        return self._opened(self.ask(Opcode.OPEN, self.number(path), struct.pack("<II", flags, 0), tid))

    def open_directory(self, path: str, tid: int = READER) -> tuple[int, int]:
        return self._opened(self.ask(Opcode.OPENDIR, self.number(path), tid=tid))

    def read(self, fh: int, offset: int, size: int) -> bytes:
        answer = self.ask(Opcode.READ, fh, read_body(fh, offset, size))
        assert answer is not None
        assert struct.unpack_from("<IiQ", answer) == (len(answer), 0, 7)
        return answer[16:]

    @staticmethod
    def _opened(answer: bytes | None) -> tuple[int, int]:
        assert answer is not None
        length, error, unique, fh, flags, backing = struct.unpack("<IiQQII", answer)
        assert (length, error, unique, backing) == (32, 0, 7, 0)
        return fh, flags


def read_body(fh: int, offset: int, size: int) -> bytes:
    return struct.pack("<QQIIQII", fh, offset, size, 0, 0, 0, 0)


@pytest.fixture
def fs(store: int) -> Filesystem:
    write_directly(store, f"{UID}/v/{TS}/key", b"one")
    os.symlink(TS, f"{UID}/v/..data", dir_fd=store)
    tree, guard = Tree(store, resumed=False), Guard()
    return Filesystem(tree, guard, FrontDesk(tree, guard, lambda tid: tid == WRITER))


def test_guard_hears_who_what_and_how(fs: Filesystem) -> None:
    caller = CallerContext(READER, 1000, 2000)
    keep_cache = 2
    assert fs.open(f"{UID}/v/{TS}/key") == (fs.number(f"{UID}/v/{TS}/key"), keep_cache)
    assert fs.open_directory(f"{UID}/v") == (fs.number(f"{UID}/v"), 0)
    fs.open_directory("")
    assert fs.guard.asked == [
        (UID, "v", f"{TS}/key", caller, "open"),
        (UID, "v", "", caller, "opendir"),
        ("", "", "", caller, "opendir"),
    ]


def test_refused_open_is_eacces(fs: Filesystem) -> None:
    fs.guard.allows = False
    assert fs.error(Opcode.OPEN, fs.number(f"{UID}/v/{TS}/key")) == "EACCES"
    assert fs.error(Opcode.OPENDIR, fs.number(f"{UID}/v")) == "EACCES"


def test_writer_is_not_asked(fs: Filesystem) -> None:
    fs.guard.allows = False
    fs.open(f"{UID}/v/{TS}/key", os.O_RDWR, tid=WRITER)
    fs.open_directory("", tid=WRITER)
    assert fs.guard.asked == []


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_TRUNC])
def test_opening_for_writing_is_erofs_whatever_the_guard_says(fs: Filesystem, flags: int) -> None:
    file = fs.number(f"{UID}/v/{TS}/key")
    assert fs.error(Opcode.OPEN, file, struct.pack("<II", flags, 0)) == "EROFS"
    assert fs.guard.asked == []
    assert fs.read(file, 0, 4096) == b"one"


def test_writing_is_erofs_for_whoever_has_the_writers_descriptor(fs: Filesystem) -> None:
    fh, _ = fs.open(f"{UID}/v/{TS}/key", os.O_WRONLY, tid=WRITER)
    body = struct.pack("<QQIIQII", fh, 0, 1, 0, 0, 0, 0) + b"x"
    assert fs.error(Opcode.WRITE, fh, body) == "EROFS"
    assert fs.ask(Opcode.WRITE, fh, body, tid=WRITER) is None


def test_reads_are_of_the_store_and_end_with_the_file(fs: Filesystem) -> None:
    fh, _ = fs.open(f"{UID}/v/{TS}/key")
    assert fs.read(fh, 0, 4096) == b"one"
    assert fs.read(fh, 1, 1) == b"n"
    assert fs.read(fh, 3, 4096) == b""


def test_file_is_cut_when_the_writer_opens_it_so(fs: Filesystem) -> None:
    fh, _ = fs.open(f"{UID}/v/{TS}/key", os.O_WRONLY | os.O_TRUNC, tid=WRITER)
    assert fs.read(fh, 0, 4096) == b""


def test_node_that_left_the_store_is_estale(fs: Filesystem) -> None:
    file, directory = fs.number(f"{UID}/v/{TS}/key"), fs.number(f"{UID}/v")
    fs.tree.remove_volume(UID, "v")
    assert fs.error(Opcode.OPEN, file) == "ESTALE"
    assert fs.error(Opcode.READ, file, read_body(file, 0, 1)) == "EIO"
    by_handle = struct.pack("<IIQ", 1, 0, file)
    assert fs.error(Opcode.GETATTR, file, by_handle) == "EIO"  # which a read may begin with
    assert fs.ask(Opcode.GETATTR, file, bytes(16)) is None
    assert fs.error(Opcode.OPENDIR, directory) == "ESTALE"
    assert fs.error(Opcode.OPENDIR, directory, tid=WRITER) == "ESTALE"
    assert fs.guard.asked == []


def test_errors_of_the_store_keep_their_errno(fs: Filesystem) -> None:
    link = fs.number(f"{UID}/v/..data")
    assert fs.error(Opcode.READ, link, read_body(link, 0, 1)) == "ELOOP"


def test_nothing_of_a_revoked_volume_is_read(fs: Filesystem) -> None:
    file, directory = fs.number(f"{UID}/v/{TS}/key"), fs.number(f"{UID}/v")
    fs.guard.revoked = True
    assert fs.error(Opcode.READ, file, read_body(file, 0, 1)) == "EACCES"
    for opcode in (Opcode.READDIR, Opcode.READDIRPLUS):
        assert fs.error(opcode, directory, read_body(directory, 0, 4096)) == "EACCES"
    caller = CallerContext(READER, 1000, 2000)
    assert fs.guard.asked[0] == (UID, "v", f"{TS}/key", caller, "read")
    assert fs.guard.asked[1:] == [(UID, "v", "", caller, "readdir")] * 2


def test_writer_brings_no_pages_of_a_revoked_volume_back(fs: Filesystem) -> None:
    """It compares the version there is with the next one, and what it reads others would find in the kernel's cache."""
    file, direct_io, keep_cache = f"{UID}/v/{TS}/key", 1, 2
    assert fs.open(file, tid=WRITER) == (fs.number(file), keep_cache)
    fs.guard.revoked = True
    assert fs.open(file, tid=WRITER) == (fs.number(file), direct_io)


def test_names_within_a_volume_are_judged_and_those_above_are_not(fs: Filesystem) -> None:
    """Whoever attaches or takes away a volume walks to it, which is not the guard's business."""
    version, link = fs.number(f"{UID}/v/{TS}"), fs.number(f"{UID}/v/..data")
    caller = CallerContext(READER, 1000, 2000)
    for allows in (True, False):
        fs.guard.allows, fs.guard.asked = allows, []
        assert fs.ask(Opcode.LOOKUP, 1, UID.encode() + b"\0") is None
        assert fs.ask(Opcode.LOOKUP, fs.number(UID), b"v\0") is None
        assert fs.ask(Opcode.LOOKUP, version, b"absent\0", tid=WRITER) is None
        assert fs.guard.asked == []
        answers = [
            fs.ask(Opcode.LOOKUP, version, b"absent\0"),
            fs.ask(Opcode.LOOKUP, version, b"key\0"),
            fs.ask(Opcode.READLINK, link, b""),
        ]
        assert answers == [None if allows else struct.pack("<IiQ", 16, -errno.EACCES, 7)] * 3
        assert fs.guard.asked == [
            (UID, "v", TS, caller, "lookup"),  # not the name, of which there may be as many as somebody likes
            (UID, "v", f"{TS}/key", caller, "lookup"),
            (UID, "v", "..data", caller, "lookup"),
        ]


@pytest.mark.parametrize("opcode", [Opcode.RELEASE, Opcode.RELEASEDIR])
def test_closing_always_succeeds(fs: Filesystem, opcode: Opcode) -> None:
    assert fs.ask(opcode, 99999, bytes(24)) == struct.pack("<IiQ", 16, 0, 7)


@pytest.mark.parametrize("opcode", [Opcode.INIT, Opcode.INTERRUPT, Opcode.GETATTR, 6, 9999])
def test_everything_else_is_for_others(fs: Filesystem, opcode: int) -> None:
    request = make_request(opcode, bytes(64))
    assert fs.desk.answer(parse_header(request), request) is None

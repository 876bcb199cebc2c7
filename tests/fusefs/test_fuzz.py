"""Arbitrary requests: sequences of sound ones beside a tmpfs that is told the same, and bytes that are no requests at all."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kubelet_secrets.fusefs import mounts
from kubelet_secrets.fusefs.frontdesk import FrontDesk
from kubelet_secrets.fusefs.infodesk import InfoDesk
from kubelet_secrets.fusefs.library import Library
from kubelet_secrets.fusefs.operations import Operations
from kubelet_secrets.fusefs.session import serve
from kubelet_secrets.fusefs.tree import Tree
from kubelet_secrets.fusefs.wellformed import is_known, is_well_formed
from kubelet_secrets.fusefs.wire import IN_HEADER, Opcode, limit_read, parse_header
from tests.fusefs.protocol import Client
from tests.fusefs.test_library import INIT, WRITER
from tests.fusefs.test_session import Guard
from tests.fusefs.test_tree import TS, UID, find, write_directly
from tests.fusefs.test_wire import make_request

ROOT = f"{UID}/v"
NAMES = st.sampled_from(["a", "b", "..data", "c" * 60])
DIRECTORIES = st.sampled_from(["", "..2026", "c" * 60, "..2026/sub", "b"])
PICKS = st.integers(0, 99)  # of what there is
MODES = st.sampled_from([0o400, 0o644, 0o755, 0o777])


class BesideTmpfs(RuleBasedStateMachine):
    """One volume, changed by the writer through the protocol, and a directory of a real tmpfs, by system calls."""

    held = Bundle("held")

    @initialize()
    def begin(self) -> None:
        self.umask = os.umask(0)
        self.store_fd, _ = mounts.make_store(size_bytes=4 << 20)
        self.model_fd, _ = mounts.make_store(size_bytes=4 << 20)
        for fd in (self.store_fd, self.model_fd):
            os.mkdir(UID, 0o755, dir_fd=fd)
            os.mkdir(ROOT, 0o777, dir_fd=fd)
            for name in ("..2026/a", "..2026/b", "..2026/sub/a", "b"):
                write_directly(fd, f"{ROOT}/{name}", name.encode())
            os.symlink("..2026", f"{ROOT}/..data", dir_fd=fd)
            os.symlink("..data/a", f"{ROOT}/a", dir_fd=fd)
        self.handles: list[tuple[int, int]] = []
        self.start(resumed=False)
        self.client = Client(self.answer, tid=WRITER)

    def start(self, *, resumed: bool) -> None:
        self.tree = Tree(self.store_fd, resumed=resumed)
        self.desk = FrontDesk(self.tree, Guard(), lambda tid: tid == WRITER)
        operations = Operations(self.tree, lambda tid: tid == WRITER, resumed=resumed)
        self.info_desk, self.library = InfoDesk(operations), Library(operations, INIT)

    def answer(self, request: bytes) -> list[bytes]:
        """As ``session`` does it."""
        header = parse_header(request)
        assert is_known(header)
        assert is_well_formed(header, request)
        answer = self.desk.answer(header, request)
        if answer is None:
            answer = self.info_desk.answer(header, request)
        if answer is None:
            return self.library.answer(request)
        return [answer] if answer else []

    def teardown(self) -> None:
        if not hasattr(self, "library"):
            return
        try:
            for _, model_fd in self.handles:
                os.close(model_fd)
            for node in list(self.client.told):
                self.client.forget(node)
            left = [names for _, _, names, _ in os.fwalk(".grave", dir_fd=self.store_fd) if names]
            assert left == [], "a file that nobody knows any more stays in the graveyard"
        finally:
            self.library.close()
            os.close(self.store_fd)
            os.close(self.model_fd)
            os.umask(self.umask)

    def both(self, ours: Callable[[], Any], models: Callable[[], Any]) -> Any:
        """Do both, which must do the same; returns what ours does, or None after an error."""
        outcomes: list[Any] = []
        for each in (ours, models):
            try:
                outcomes.append((0, each()))
            except OSError as error:
                outcomes.append((error.errno, None))
        (our_error, ours_made), (their_error, theirs_made) = outcomes
        assert errno.errorcode.get(our_error, "") == errno.errorcode.get(their_error, "")
        assert ours_made == theirs_made
        return ours_made

    def path(self, directory: str, name: str) -> str:
        return "/".join(filter(None, (ROOT, directory, name)))

    def stat(self, path: str) -> os.stat_result | None:
        """Of what is there, over no link."""
        try:
            found = os.stat(ROOT, dir_fd=self.model_fd)
            for end in (index for index, letter in enumerate(f"{path}/") if letter == "/" and index > len(ROOT)):
                if stat.S_ISLNK(found.st_mode):
                    return None
                found = os.stat(path[:end], dir_fd=self.model_fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found

    def pick(self, number: int, *, only_files: bool = False) -> tuple[str, str]:
        """A directory and a name in it, of what there is, or of what might be."""
        found = [
            (os.path.relpath(directory, ROOT).removeprefix("."), name)
            for directory, directories, names, fd in os.fwalk(ROOT, dir_fd=self.model_fd)
            for name in sorted(names if only_files else (*directories, *names))
            if not only_files or stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
        ]
        return found[number % len(found)] if found else ("", "a")

    def leads_over_link(self, directory: str) -> bool:
        """Links are followed by the kernel's path walk, which is not what is compared here."""
        parts = directory.split("/")
        prefixes = [self.path("", "/".join(parts[:count])) for count in range(1, len(parts) + 1)]
        return any(found is not None and stat.S_ISLNK(found.st_mode) for found in map(self.stat, prefixes))

    def parent(self, directory: str) -> int:
        """A path walk ends at what is no directory: that is the kernel's to see, before it asks."""
        node = self.client.walk(f"{ROOT}/{directory}")
        if not stat.S_ISDIR(self.client.getattr(node).mode):
            raise NotADirectoryError(errno.ENOTDIR, "")
        return node

    # --- changes ----------------------------------------------------------------------------------------------------

    @rule(directory=DIRECTORIES, name=NAMES, mode=MODES)
    def mkdir(self, directory: str, name: str, mode: int) -> None:
        if self.leads_over_link(directory):
            return
        self.both(
            lambda: self.client.mkdir(self.parent(directory), name, mode) and None,
            lambda: os.mkdir(self.path(directory, name), mode, dir_fd=self.model_fd),
        )

    @rule(directory=DIRECTORIES, name=NAMES, to=st.sampled_from(["..2026", "..data/a", "x" * 300]))
    def symlink(self, directory: str, name: str, to: str) -> None:
        if self.leads_over_link(directory):
            return
        self.both(
            lambda: self.client.symlink(self.parent(directory), name, to) and None,
            lambda: os.symlink(to, self.path(directory, name), dir_fd=self.model_fd),
        )

    @rule(directory=DIRECTORIES, name=NAMES, mode=MODES, data=st.binary(max_size=9000))
    def create(self, directory: str, name: str, mode: int, data: bytes) -> None:
        if self.leads_over_link(directory):
            return

        def ours() -> int:
            node = self.client.create(self.parent(directory), name, mode)
            return self.client.write(node, node, 0, data) if data else 0

        def models() -> int:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            fd = os.open(self.path(directory, name), flags, mode, dir_fd=self.model_fd)
            try:
                return os.pwrite(fd, data, 0)
            finally:
                os.close(fd)

        self.both(ours, models)

    @rule(picked=PICKS, offset=st.integers(0, 9000), data=st.binary(min_size=1, max_size=50))
    def write(self, picked: int, offset: int, data: bytes) -> None:
        directory, name = self.pick(picked, only_files=True)
        found = self.stat(self.path(directory, name))
        if found is None or not stat.S_ISREG(found.st_mode):
            return

        def models() -> int:
            fd = os.open(self.path(directory, name), os.O_WRONLY, dir_fd=self.model_fd)
            try:
                return os.pwrite(fd, data, offset)
            finally:
                os.close(fd)

        def ours() -> int:
            node = self.client.walk(self.path(directory, name))
            return self.client.write(node, self.client.open(node, os.O_WRONLY), offset, data)

        self.both(ours, models)

    @rule(picked=PICKS, mode=MODES)
    def chmod(self, picked: int, mode: int) -> None:
        directory, name = self.pick(picked)
        found = self.stat(self.path(directory, name))
        if found is not None and not stat.S_ISLNK(found.st_mode):
            self.client.chmod(self.client.walk(self.path(directory, name)), stat.S_IFMT(found.st_mode) | mode)
            os.chmod(self.path(directory, name), mode, dir_fd=self.model_fd)

    @rule(picked=PICKS)
    def unlink(self, picked: int) -> None:
        directory, name = self.pick(picked)
        self.both(
            lambda: self.client.unlink(self.parent(directory), name),
            lambda: os.unlink(self.path(directory, name), dir_fd=self.model_fd),
        )

    @rule(picked=PICKS)
    def rmdir(self, picked: int) -> None:
        directory, name = self.pick(picked)
        self.both(
            lambda: self.client.rmdir(self.parent(directory), name),
            lambda: os.rmdir(self.path(directory, name), dir_fd=self.model_fd),
        )

    @rule(picked=PICKS, new_directory=DIRECTORIES, new_name=NAMES)
    def rename(self, picked: int, new_directory: str, new_name: str) -> None:
        """What the kernel refuses by itself, and a directory in the new one's place, never come here."""
        directory, name = self.pick(picked)
        old, new = self.path(directory, name), self.path(new_directory, new_name)
        source, replaced = self.stat(old), self.stat(new)
        above = self.stat(self.path(new_directory, ""))
        if source is None or above is None or not stat.S_ISDIR(above.st_mode) or f"{new}/".startswith(f"{old}/"):
            return
        if replaced is not None and (stat.S_ISDIR(replaced.st_mode) or stat.S_ISDIR(source.st_mode)):
            return
        self.client.rename(
            self.client.walk(f"{ROOT}/{directory}"), name, self.client.walk(f"{ROOT}/{new_directory}"), new_name
        )
        os.rename(old, new, src_dir_fd=self.model_fd, dst_dir_fd=self.model_fd)

    # --- who has something open, and who forgets ----------------------------------------------------------------------

    @rule(target=held, picked=PICKS)
    def hold(self, picked: int) -> Any:
        directory, name = self.pick(picked, only_files=True)
        found = self.stat(self.path(directory, name))
        if found is None or not stat.S_ISREG(found.st_mode):
            return multiple()
        node = self.client.walk(self.path(directory, name))
        fh = self.client.open(node, os.O_RDONLY)
        handle = (fh, os.open(self.path(directory, name), os.O_RDONLY, dir_fd=self.model_fd))
        self.handles.append(handle)
        return handle

    @rule(handle=held, offset=st.integers(0, 10_000), size=st.integers(1, 20_000))
    def read_held(self, handle: tuple[int, int], offset: int, size: int) -> None:
        fh, model_fd = handle
        assert self.client.read(fh, fh, offset, size) == os.pread(model_fd, size, offset)
        assert self.client.getattr(fh).mode == os.fstat(model_fd).st_mode

    @rule(handle=held, is_replaced=st.booleans())
    def take_away(self, handle: tuple[int, int], is_replaced: bool) -> None:
        """The name of what somebody holds goes, or becomes another file's: what an update does."""
        inode = os.fstat(handle[1]).st_ino
        for directory, _, names, fd in os.fwalk(ROOT, dir_fd=self.model_fd):
            for name in names:
                if os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino != inode:
                    continue
                parent = self.client.walk(directory)
                if is_replaced:
                    self.client.symlink(parent, ".new", "..data")
                    os.symlink("..data", ".new", dir_fd=fd)
                    self.client.rename(parent, ".new", parent, name)
                    os.rename(".new", name, src_dir_fd=fd, dst_dir_fd=fd)
                else:
                    self.client.unlink(parent, name)
                    os.unlink(name, dir_fd=fd)

    @rule(handle=consumes(held))
    def let_go(self, handle: tuple[int, int]) -> None:
        self.handles.remove(handle)
        os.close(handle[1])

    @rule()
    def forget_what_nobody_holds(self) -> None:
        """Memory is short: the kernel drops every inode that no descriptor holds."""
        held = {fh for fh, _ in self.handles}
        for node in list(self.client.told):
            if node not in held:
                self.client.forget(node)

    @precondition(lambda self: hasattr(self, "library"))
    @rule()
    def crash(self) -> None:
        self.library.close()
        self.start(resumed=True)

    # --- looking ----------------------------------------------------------------------------------------------------

    @invariant()
    def shows_what_the_tmpfs_shows(self) -> None:
        if hasattr(self, "library"):
            self.compare(ROOT, self.client.walk(ROOT))
            for fh, model_fd in self.handles:
                assert self.client.read(fh, fh) == os.pread(model_fd, 1 << 17, 0)

    def compare(self, path: str, node: int) -> None:
        ours, model = self.client.getattr(node), os.stat(path, dir_fd=self.model_fd, follow_symlinks=False)
        is_directory = stat.S_ISDIR(model.st_mode)
        assert (ours.mode, ours.uid, ours.gid) == (model.st_mode, model.st_uid, model.st_gid), path
        assert ours.nlink == model.st_nlink, path
        if is_directory:
            names = sorted(os.listdir(f"/proc/self/fd/{self.model_fd}/{path}"))
            assert sorted(self.client.list(node, 400)) == names  # two at a time
            for name in names:
                self.compare(f"{path}/{name}", self.client.lookup(node, name)[0])
            return
        assert ours.size == model.st_size, path
        if stat.S_ISLNK(model.st_mode):
            assert self.client.readlink(node) == os.readlink(path, dir_fd=self.model_fd)
        else:
            fd = os.open(path, os.O_RDONLY, dir_fd=self.model_fd)
            try:
                assert self.client.read(node, self.client.open(node, os.O_RDONLY)) == os.read(fd, 1 << 17)
            finally:
                os.close(fd)


def test_any_sequence_of_requests_does_what_a_tmpfs_does() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        BesideTmpfs,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


# --- bytes ----------------------------------------------------------------------------------------------------------

_OPCODES = st.one_of(st.sampled_from(list(Opcode)), st.integers(0, 70), st.integers(0, (1 << 32) - 1))
_NUMBERS = st.one_of(st.integers(0, 3), st.integers(1000, 1010), st.integers(0, (1 << 64) - 1))
_BODIES = st.one_of(
    st.binary(max_size=200),
    st.lists(_NUMBERS, max_size=12).map(lambda numbers: struct.pack(f"<{len(numbers)}Q", *numbers)),
    st.lists(st.sampled_from([b"key", b"v", b".", b"..", b"a/b", b"", b"\xff", b"n" * 300]), max_size=3).map(
        lambda names: b"".join(name + b"\0" for name in names)
    ),
    st.tuples(st.binary(max_size=16), st.sampled_from([b"key\0", b"..\0", b"new\0old\0"])).map(b"".join),
)


_LAYOUTS = {
    Opcode.GETATTR: "IIQ",
    Opcode.SETATTR: "IIQQQQQQIIIIIIII",
    Opcode.MKNOD: "IIII",
    Opcode.MKDIR: "II",
    Opcode.RENAME: "Q",
    Opcode.RENAME2: "QII",
    Opcode.LINK: "Q",
    Opcode.OPEN: "II",
    Opcode.READ: "QQIIQII",
    Opcode.WRITE: "QQIIQII",
    Opcode.RELEASE: "QIIQ",
    Opcode.FSYNC: "QII",
    Opcode.FLUSH: "QIIQ",
    Opcode.OPENDIR: "II",
    Opcode.READDIR: "QQIIQII",
    Opcode.READDIRPLUS: "QQIIQII",
    Opcode.RELEASEDIR: "QIIQ",
    Opcode.FSYNCDIR: "QII",
    Opcode.CREATE: "IIII",
    Opcode.FORGET: "Q",
    Opcode.INTERRUPT: "Q",
}
"""What stands before the names; of the others, nothing. Source: include/uapi/linux/fuse.h."""
_NAMED = {Opcode.LOOKUP: 1, Opcode.SYMLINK: 2, Opcode.MKNOD: 1, Opcode.MKDIR: 1, Opcode.UNLINK: 1, Opcode.RMDIR: 1}
_NAMED |= {Opcode.RENAME: 2, Opcode.RENAME2: 2, Opcode.LINK: 1, Opcode.CREATE: 1}
_EDGES = {
    "I": st.sampled_from([0, 1, 2, 3, 7, 0o644, 0o40755, 1 << 7, 1 << 8, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]),
    "Q": st.one_of(
        st.sampled_from([0, 1, 2, 100, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]), st.integers(1000, 1012)
    ),
}


@st.composite
def _shaped(draw: st.DrawFn) -> bytes:
    """Of the form that its kind has, with numbers from the edges of what they can be, of nodes that mostly exist."""
    opcode = draw(st.sampled_from([*_LAYOUTS, *(_NAMED.keys() - _LAYOUTS.keys()), Opcode.READLINK, Opcode.STATFS]))
    layout = _LAYOUTS.get(opcode, "")
    fields = [draw(_EDGES[letter]) for letter in layout]
    data = b""
    if opcode == Opcode.WRITE:
        data = draw(st.binary(max_size=100))
        fields[2] = len(data)
    names = draw(st.lists(_WORDS, min_size=_NAMED.get(opcode, 0), max_size=_NAMED.get(opcode, 0)))
    body = struct.pack(f"<{layout}", *fields) + data + b"".join(name + b"\0" for name in names)
    node = draw(st.one_of(st.just(1), st.integers(1000, 1012)))
    return make_request(opcode, body, unique=draw(st.integers(1, 1 << 62)), node=node, tid=draw(_TIDS))


_WORDS = st.sampled_from([b"key", b"v", b"a", b".grave", b".unanswered", b"..data", b"\xff", b"n" * 256, TS.encode()])
_TIDS = st.sampled_from([WRITER, WRITER, 0, 4242])


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return draw(_shaped())
    body = draw(_BODIES)
    unique = draw(st.integers(1, (1 << 64) - 1))
    tid = draw(st.one_of(st.sampled_from([WRITER, 0]), st.integers(0, (1 << 32) - 1)))
    message = bytearray(make_request(draw(_OPCODES), body, unique=unique, node=draw(_NUMBERS), tid=tid))
    if draw(st.integers(0, 9)) == 0:
        IN_HEADER.pack_into(message, 0, *(draw(st.integers(0, 300)), *IN_HEADER.unpack_from(message)[1:]))
    if draw(st.integers(0, 9)) == 0:
        del message[draw(st.integers(1, len(message))) :]
    return bytes(message)


@given(messages=st.lists(_messages(), min_size=1, max_size=40))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_message_ends_the_service(messages: list[bytes]) -> None:
    """Whatever was said, of whomever, the next question is answered; and nobody is answered twice."""

    async def main() -> None:
        store_fd, _ = mounts.make_store(size_bytes=4 << 20)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            write_directly(store_fd, f"{UID}/v/{TS}/key", b"one")
            tree = Tree(store_fd, resumed=False)
            key = find(tree, f"{UID}/v/{TS}/key").number
            desk = FrontDesk(tree, Guard(), lambda tid: tid == WRITER)
            operations = Operations(tree, lambda tid: tid == WRITER, resumed=False)
            last = (1 << 63) - 2
            with ours, theirs, trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    await nursery.start(partial(serve, theirs.fileno(), INIT, desk, operations, resume=False))
                    ours.setblocking(False)
                    for message in messages:
                        await trio.lowlevel.wait_writable(ours)
                        ours.send(message)
                    # Not about the key, which an arbitrary order of the writer's may have taken away.
                    ours.send(make_request(Opcode.STATFS, unique=last, node=1))
                    answered = []
                    while last not in answered:
                        await trio.lowlevel.wait_readable(ours)
                        length, _, unique = struct.unpack_from("<IiQ", datagram := ours.recv(1 << 20))
                        assert length == len(datagram)
                        answered.append(unique)
                    nursery.cancel_scope.cancel()
            assert len(answered) <= len(messages) + 1
            assert key > 0
        finally:
            os.close(store_fd)

    trio.run(main)


@given(_messages())
def test_what_passes_for_whole_can_be_taken_apart(message: bytes) -> None:
    if len(message) < IN_HEADER.size:
        return
    header = parse_header(message)
    if is_known(header) and is_well_formed(header, message):
        if header.opcode in (Opcode.READDIR, Opcode.READDIRPLUS, Opcode.READ):
            limit_read(bytearray(message), 10)
        assert header.length == len(message)

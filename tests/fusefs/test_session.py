"""The loop between the kernel and those who answer: a socket stands in for /dev/fuse, and once the device itself."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing

from kubelet_secrets.errors import HostError
from kubelet_secrets.fusefs import mounts
from kubelet_secrets.fusefs.athand import MAX_DEATHS, AtHand
from kubelet_secrets.fusefs.frontdesk import CallerContext, FrontDesk
from kubelet_secrets.fusefs.init import InitFlag, make_init_answer, make_resend_notification, parse_init
from kubelet_secrets.fusefs.operations import Operations
from kubelet_secrets.fusefs.session import REQUEST_BYTES, serve
from kubelet_secrets.fusefs.tree import Tree
from kubelet_secrets.fusefs.unanswered import Unanswered
from kubelet_secrets.fusefs.wire import Opcode, make_attribute_invalidation
from tests.fusefs.test_init import KERNEL_6_18, init_request
from tests.fusefs.test_library import FORGET, LOOKUP
from tests.fusefs.test_tree import TS, UID, find, write_directly
from tests.fusefs.test_wire import make_request

OTHER_UID = UID[:-1] + "9"
INIT = init_request(minor=45, flags=KERNEL_6_18 | InitFlag.HAS_RESEND)


@dataclass
class Guard:
    """Allows everything.

    Attributes:
        pause_s: how long each verdict keeps the program busy.
    """

    pause_s: float = 0
    asked: list[str] = field(default_factory=list)

    def group(self, tid: int) -> str:
        return str(tid)

    def may_read(self, *_: object) -> bool:
        return True

    def may_open(self, pod_uid: str, volume: str, path: str, ctx: CallerContext, kind: str) -> bool:
        self.asked.append(path)
        ends = time.perf_counter() + self.pause_s
        while time.perf_counter() < ends:
            pass
        return True

    def is_revoked(self, pod_uid: str, volume: str) -> bool:
        return False

    def may_look(self, pod_uid: str, volume: str, path: str, ctx: CallerContext) -> bool:
        return True


@dataclass
class Kernel:
    """The other end of the device: gives requests, takes answers, a datagram each."""

    wire: socket.socket
    fd: int  # the program's end
    tree: Tree
    guard: Guard

    def ask(self, *requests: bytes) -> None:
        for request in requests:
            self.wire.send(request)

    async def answers(self, count: int) -> list[tuple[int, int, bytes]]:
        """The next *count* answers as (number, error, rest)."""
        found = []
        with trio.fail_after(60):
            while len(found) < count:
                await trio.lowlevel.wait_readable(self.wire)
                datagram = self.wire.recv(1 << 20)
                length, error, unique = struct.unpack_from("<IiQ", datagram)
                assert length == len(datagram)
                found.append((unique, error, datagram[16:]))
        return found

    def rest(self) -> list[bytes]:
        """What else has been said so far."""
        found = []
        while True:
            try:
                found.append(self.wire.recv(1 << 20))
            except BlockingIOError:
                return found


@pytest.fixture
def kernel(store: int) -> Iterator[Kernel]:
    write_directly(store, f"{UID}/v/{TS}/key", b"one")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        yield Kernel(ours, theirs.fileno(), Tree(store, resumed=False), Guard())


@asynccontextmanager
async def serving(
    kernel: Kernel, *, unanswered: Unanswered | None = None, at_hand: AtHand | None = None, resume: bool = False
) -> AsyncIterator[None]:
    operations = Operations(kernel.tree, lambda tid: False, resumed=resume)
    desk = FrontDesk(kernel.tree, kernel.guard, lambda tid: tid == WRITER)
    async with trio.open_nursery() as nursery:
        kept = {"unanswered": unanswered, "at_hand": at_hand}
        serves = partial(serve, kernel.fd, INIT, desk, operations, resume=resume, **kept)
        await nursery.start(serves)
        yield
        nursery.cancel_scope.cancel()


def lookup(name: str, unique: int) -> bytes:
    return make_request(LOOKUP, name.encode() + b"\0", unique=unique)


async def test_each_request_gets_its_answer_in_turn_whoever_gives_it(kernel: Kernel) -> None:
    """Opens are the front desk's, lookups the library's; all that waits is answered without another word from the kernel."""
    key = find(kernel.tree, f"{UID}/v/{TS}/key").number
    async with serving(kernel):
        kernel.ask(
            lookup(UID, 10),
            make_request(Opcode.OPEN, bytes(8), unique=12, node=key),
            lookup("missing", 14),
            make_request(Opcode.RELEASE, bytes(24), unique=16, node=key),
        )
        assert [(unique, error) for unique, error, _ in await kernel.answers(4)] == [
            (10, 0),
            (12, 0),
            (14, -2),
            (16, 0),
        ]
        assert kernel.guard.asked == [f"{TS}/key"]


async def test_what_wants_no_answer_gets_none(kernel: Kernel) -> None:
    """An INTERRUPT comes after the request it is about, which has been answered; a FORGET is a message, not a question."""
    pod = find(kernel.tree, UID).number
    async with serving(kernel):
        kernel.ask(
            make_request(Opcode.INTERRUPT, struct.pack("<Q", 10), unique=11),
            make_request(FORGET, struct.pack("<Q", 1), node=pod),
            lookup(UID, 14),
        )
        assert [unique for unique, _, _ in await kernel.answers(1)] == [14]
        assert kernel.rest() == []


async def test_next_request_does_not_see_the_one_before(kernel: Kernel) -> None:
    """One buffer serves all of them."""
    async with serving(kernel):
        kernel.ask(lookup("x" * 200, 2), lookup(UID, 4))
        assert [(unique, error) for unique, error, _ in await kernel.answers(2)] == [(2, -2), (4, 0)]


async def test_listing_is_given_in_parts_however_much_is_asked_for(kernel: Kernel, store: int) -> None:
    """Linux 6.16 asks for up to 1 MiB, which libfuse's buffer does not hold."""
    for number in range(400):
        write_directly(store, f"{UID}/v/{TS}/{number:03}-{'n' * 200}")
    directory = find(kernel.tree, f"{UID}/v/{TS}").number
    async with serving(kernel):
        body = struct.pack("<QQIIQII", directory, 0, 1 << 20, 0, 0, 0, 0)
        kernel.ask(make_request(Opcode.READDIRPLUS, body, node=directory, unique=8))
        ((_, error, entries),) = await kernel.answers(1)
        assert error == 0
        assert 1 << 13 < len(entries) <= 1 << 14


async def test_rest_of_the_program_has_its_turns_while_requests_keep_coming(kernel: Kernel) -> None:
    kernel.guard.pause_s = 0.002  # longer than a burst may last
    key = find(kernel.tree, f"{UID}/v/{TS}/key").number
    turns: list[int] = []
    async with serving(kernel):
        kernel.ask(*(make_request(Opcode.OPEN, bytes(8), unique=2 * number, node=key) for number in range(10)))
        while len(kernel.guard.asked) < 10:
            turns.append(len(kernel.guard.asked))
            await trio.lowlevel.checkpoint()
    # One round of trio's loop each; the order within a round is random.
    assert max(later - earlier for earlier, later in pairwise([0, *turns, 10])) <= 2


WRITER = 77


async def test_crowd_is_answered_in_turns_and_the_writer_at_once(kernel: Kernel, store: int) -> None:
    """A hundred threads of one pod ask first, then one of another pod, then the writer, on whom all pods depend."""
    write_directly(store, f"{OTHER_UID}/v/{TS}/key", b"two")
    mine = find(kernel.tree, f"{UID}/v/{TS}/key").number
    other = find(kernel.tree, f"{OTHER_UID}/v/{TS}/key").number
    kernel.ask(*(make_request(Opcode.OPEN, bytes(8), unique=2 * n, node=mine, tid=1000 + n) for n in range(100)))
    kernel.ask(make_request(Opcode.OPEN, bytes(8), unique=500, node=other, tid=9000))
    kernel.ask(make_request(Opcode.OPEN, bytes(8), unique=600, node=mine, tid=WRITER))
    async with serving(kernel):
        answered = [unique for unique, error, _ in await kernel.answers(102) if error == 0]
    assert sorted(answered) == [*range(0, 200, 2), 500, 600]
    assert answered.index(600) <= 8
    assert answered.index(500) <= 12
    assert [n for n in answered if n < 500] == list(range(0, 200, 2))


async def test_agent_that_ends_over_a_crowd_leaves_it_to_the_next(kernel: Kernel) -> None:
    """What was read and not answered is the kernel's to deliver again; nothing is answered twice."""
    kernel.guard.pause_s = 0.002
    mine = find(kernel.tree, f"{UID}/v/{TS}/key").number
    asked = [make_request(Opcode.OPEN, bytes(8), unique=2 * n, node=mine, tid=1000 + n) for n in range(50)]
    async with serving(kernel):
        kernel.ask(*asked)
        answered = [unique for unique, _, _ in await kernel.answers(20)]
    answered += [struct.unpack_from("<IiQ", each)[2] for each in kernel.rest()]
    assert answered == list(range(0, 2 * len(answered), 2))
    assert len(answered) < 50


@pytest.mark.parametrize("has_resend", [True, False])
@pytest.mark.parametrize("opcode", [Opcode.OPEN, Opcode.READLINK, Opcode.FORGET])
async def test_request_that_trips_over_a_bug_is_not_left_to_the_next_agent(
    kernel: Kernel, store: int, monkeypatch: pytest.MonkeyPatch, opcode: Opcode, has_resend: bool
) -> None:
    """It would end that one as well, and the one after it, and nobody would be served any more."""

    def trip(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(kernel.guard, "may_open", trip)
    monkeypatch.setattr(kernel.tree, "read_link", trip)
    monkeypatch.setattr(kernel.tree, "forget", trip)
    unanswered = None if has_resend else Unanswered(store, size_bytes=REQUEST_BYTES)
    key = find(kernel.tree, f"{UID}/v/{TS}/key").number

    async def serve_and_ask() -> None:
        async with serving(kernel, unanswered=unanswered):
            kernel.ask(make_request(opcode, bytes(8), unique=2, node=key))
            await trio.sleep_forever()

    with trio.fail_after(60):
        with pytest.raises(ExceptionGroup) as caught:
            await serve_and_ask()
    assert caught.group_contains(ZeroDivisionError)
    said = [struct.unpack("<IiQ", answer) for answer in kernel.rest()]
    assert said == ([] if opcode == Opcode.FORGET else [(16, -errno.EIO, 2)])
    assert unanswered is None or unanswered.left_behind() == 0


async def test_ended_service_leaves_what_it_has_not_read_to_the_next(kernel: Kernel) -> None:
    async with serving(kernel):
        kernel.ask(lookup(UID, 2))
        await kernel.answers(1)
    kernel.ask(lookup(UID, 4))
    async with serving(kernel, resume=True):
        first, second = sorted(await kernel.answers(2))
        assert first[0] == 0  # the notification
        assert (second[0], second[1]) == (4, 0)


async def test_successor_asks_for_what_was_under_way_and_after_the_buried(kernel: Kernel) -> None:
    directory, key = find(kernel.tree, f"{UID}/v/{TS}"), find(kernel.tree, f"{UID}/v/{TS}/key")
    kernel.tree.remember(key)
    kernel.tree.unlink(directory, b"key")
    async with serving(kernel, resume=True):
        said = kernel.rest()
    assert said == [make_resend_notification(), make_attribute_invalidation(key.number)]


async def test_kernel_that_cannot_deliver_again_is_not_asked_to(kernel: Kernel, store: int) -> None:
    """What the agent before had read lies in the store, and is answered first."""
    kept = Unanswered(store, size_bytes=REQUEST_BYTES)
    left = lookup(UID, 2)
    kept.buffer[: len(left)] = left
    kernel.ask(lookup("missing", 4))
    async with serving(kernel, unanswered=Unanswered(store, size_bytes=REQUEST_BYTES), resume=True):
        assert [(unique, error) for unique, error, _ in await kernel.answers(2)] == [(2, 0), (4, -2)]
        assert kernel.rest() == []
    assert kept.left_behind() == 0


async def test_request_that_several_agents_died_over_is_refused_to_whoever_left_it(
    kernel: Kernel, store: int, tmp_path: Path
) -> None:
    kept = Unanswered(store, size_bytes=REQUEST_BYTES)
    left = lookup(UID, 2)
    kept.buffer[: len(left)] = left
    for _ in range(MAX_DEATHS):
        AtHand(tmp_path / "at-hand", resumed=True).begin(2)
    kernel.ask(lookup(UID, 4))
    at_hand = AtHand(tmp_path / "at-hand", resumed=True)
    async with serving(kernel, unanswered=kept, at_hand=at_hand, resume=True):
        assert [(unique, error) for unique, error, _ in await kernel.answers(2)] == [(2, -errno.EIO), (4, 0)]
    assert kept.left_behind() == 0


async def test_request_of_an_earlier_mount_is_not_answered_on_the_next(kernel: Kernel, store: int) -> None:
    left = lookup(UID, 2)
    kept = Unanswered(store, size_bytes=REQUEST_BYTES)
    kept.buffer[: len(left)] = left
    async with serving(kernel, unanswered=kept):
        await trio.testing.wait_all_tasks_blocked()
        assert kernel.rest() == []


async def test_first_agent_asks_for_nothing(kernel: Kernel) -> None:
    async with serving(kernel):
        await trio.testing.wait_all_tasks_blocked()
        assert kernel.rest() == []


@pytest.mark.fuse
async def test_filesystem_ended_from_outside_is_said_in_one_line(tmp_path: Path, store: int) -> None:
    """The one part of the device that no socket has: ENODEV."""
    fuse_fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        mounts.mount_fuse(fuse_fd, tmp_path)
        init = os.read(fuse_fd, 1 << 18)
        os.write(fuse_fd, make_init_answer(parse_init(init)))
        tree = Tree(store, resumed=False)
        desk = FrontDesk(tree, Guard(), lambda tid: False)
        operations = Operations(tree, lambda tid: False, resumed=False)

        async def serve_and_unmount() -> None:
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(serve, fuse_fd, init, desk, operations, resume=False))
                mounts.umount_lazy(tmp_path)

        with trio.fail_after(60):
            with pytest.raises(ExceptionGroup) as caught:
                await serve_and_unmount()
    finally:
        mounts.umount_all_below(tmp_path)
        os.close(fuse_fd)
    assert caught.group_contains(HostError, match="aborted, or unmounted everywhere")

"""Writer and client over their socket, with a plain memory filesystem in place of the mount.

The writer runs in a thread here; that it is a process, and the only one that may write, is tested in ``test_mounted``.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import trio

from kubelet_secrets.errors import InvalidPath, SetUpError
from kubelet_secrets.fusefs.orders import (
    DATAGRAM_BYTES,
    Done,
    FileEntry,
    Hello,
    OrderAssembler,
    RemoveVolume,
    Synchronize,
    encode_answer,
    encode_order,
)
from kubelet_secrets.fusefs.writer import run_writer
from kubelet_secrets.fusefs.writerclient import WriterClient, WriterLost
from kubelet_secrets.sensitive import SensitiveBytes


def payload(**files: str) -> dict[str, FileEntry]:
    return {path: FileEntry(path, SensitiveBytes(text.encode()), 0o644, None) for path, text in files.items()}


@dataclass
class Pair:
    """Both ends, as the keeper holds them."""

    store: int
    agent_end: socket.socket
    writer_end: socket.socket
    device: socket.socket  # in place of /dev/fuse, which is only written to
    kernel: socket.socket  # what was written there
    threads: list[trio.Event] = field(default_factory=list)

    def client(self) -> WriterClient:
        return WriterClient(self.agent_end.dup(), writer_pid=1)

    def start_writer(self, nursery: trio.Nursery) -> None:
        end = self.writer_end.dup()
        ended = trio.Event()

        def work() -> None:
            with end, suppress(BrokenPipeError):  # an answer that comes after the test's end
                run_writer(end, self.store, self.device.fileno())

        async def run() -> None:
            try:
                await trio.to_thread.run_sync(work)
            finally:
                ended.set()

        self.threads.append(ended)
        nursery.start_soon(run)


@asynccontextmanager
async def open_pair(store: int) -> AsyncIterator[tuple[Pair, trio.Nursery]]:
    agent_end, writer_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    device, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pair = Pair(store, agent_end, writer_end, device, kernel)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            try:
                yield pair, nursery
            finally:
                agent_end.shutdown(socket.SHUT_RDWR)  # writers' recv returns
                with trio.CancelScope(shield=True):
                    for ended in pair.threads:
                        await ended.wait()
                nursery.cancel_scope.cancel()
                agent_end.close()
                writer_end.close()
                device.close()
                kernel.close()


def make_volume(store: int) -> None:
    os.mkdir("uid", dir_fd=store)
    os.mkdir("uid/v", dir_fd=store)


def content(store: int, path: str) -> str:
    fd = os.open(path, os.O_RDONLY, dir_fd=store)
    try:
        return os.read(fd, 1 << 22).decode()
    finally:
        os.close(fd)


async def test_orders_are_carried_out_one_after_the_other(store: int) -> None:
    make_volume(store)
    async with open_pair(store) as (pair, nursery):
        pair.start_writer(nursery)
        client = pair.client()
        await nursery.start(client.run)
        assert client.is_writer(os.getpid())
        first = await client.update("uid", "v", payload(a="one"), fs_group=None)
        again = await client.update("uid", "v", payload(a="one"), fs_group=None)
        assert (first.changed, again.changed) == (True, False)
        assert again.version == first.version == os.readlink("uid/v/..data", dir_fd=store)
        await client.make_nested_directory("uid", "v", "sub/deep")
        assert os.stat("uid/v/sub/deep", dir_fd=store).st_mode & 0o777 == 0o755
        async with trio.open_nursery() as many:
            for index in range(20):
                many.start_soon(lambda text: client.update("uid", "v", payload(a=text), fs_group=None), str(index))
        assert content(store, "uid/v/a") in {str(index) for index in range(20)}
        await client.remove_volume("uid", "v")
        assert os.listdir(f"/proc/self/fd/{store}/uid") == []
        await client.remove_volume("uid", "v")
        await client.remove_volume("no-such-pod", "v")


async def test_payload_larger_than_a_datagram(store: int) -> None:
    make_volume(store)
    text = "x" * (3 << 20)
    async with open_pair(store) as (pair, nursery):
        pair.start_writer(nursery)
        client = pair.client()
        await nursery.start(client.run)
        await client.update("uid", "v", payload(a=text), fs_group=None)
    assert content(store, "uid/v/a") == text


async def test_failures_keep_their_kind(store: int) -> None:
    make_volume(store)
    async with open_pair(store) as (pair, nursery):
        pair.start_writer(nursery)
        client = pair.client()
        await nursery.start(client.run)
        with pytest.raises(FileNotFoundError):
            await client.update("uid", "missing", payload(a="1"), fs_group=None)
        with pytest.raises(SetUpError, match="must not contain"):
            await client.update("uid", "v", {"a/../b": payload(x="1")["x"]}, fs_group=None)
        for path in ("", "/a", "../a", "a/../b", "a//b", "."):
            with pytest.raises(SetUpError, match="invalid container mount point"):
                await client.make_nested_directory("uid", "v", path)
        with pytest.raises(OSError, match="Invalid argument"):
            await client.make_nested_directory("uid", "v", "a\0b")
        os.symlink("/", "uid/v/out", dir_fd=store)
        with pytest.raises(NotADirectoryError):
            await client.make_nested_directory("uid", "v", "out/tmp")


async def test_dropped_pages_are_the_whole_files(store: int) -> None:
    async with open_pair(store) as (pair, nursery):
        pair.start_writer(nursery)
        client = pair.client()
        await nursery.start(client.run)
        await client.drop_pages([1001, 1002])
        told = [pair.kernel.recv(100) for _ in range(2)]
    notify_inval_inode = 2
    assert told == [struct.pack("<IiQQqq", 40, notify_inval_inode, 0, number, 0, 0) for number in (1001, 1002)]


async def test_new_writer_ignores_what_was_meant_for_its_predecessor(store: int) -> None:
    make_volume(store)
    async with open_pair(store) as (pair, nursery):
        # An order that a writer never got to, left in the socket by an agent that is gone as well.
        for datagram in encode_order(1, RemoveVolume("uid", "v")):
            pair.agent_end.send(datagram)
        pair.start_writer(nursery)
        client = pair.client()
        await nursery.start(client.run)
        assert os.listdir(f"/proc/self/fd/{store}/uid") == ["v"]


async def test_next_agent_hears_nothing_of_its_predecessors_answers(store: int) -> None:
    make_volume(store)
    async with open_pair(store) as (pair, nursery):
        pair.start_writer(nursery)
        first = pair.client()
        with trio.CancelScope() as life:
            async with trio.open_nursery() as agent:
                await agent.start(first.run)
                life.cancel()
        for datagram in encode_order(5, Synchronize()):  # answered to nobody
            pair.agent_end.send(datagram)
        second = pair.client()
        await nursery.start(second.run)
        await second.synchronize()
        assert (await second.update("uid", "v", payload(a="1"), fs_group=None)).changed


async def test_order_is_given_again_when_its_writer_dies(store: int) -> None:
    make_volume(store)
    async with open_pair(store) as (pair, nursery):
        client = pair.client()
        async with scripted_writer(pair, nursery) as hear:
            await nursery.start(client.run)
            outcomes: list[bool] = []

            async def update() -> None:
                outcomes.append((await client.update("uid", "v", payload(a="1"), fs_group=None)).changed)

            nursery.start_soon(update)
            await hear()  # taken, never answered
        pair.start_writer(nursery)
        while not outcomes:
            await trio.lowlevel.checkpoint()
        assert outcomes == [True]
        assert client.is_writer(os.getpid())


async def test_order_that_kills_every_writer_is_given_up(store: int) -> None:
    async with open_pair(store) as (pair, nursery):
        client = pair.client()
        async with scripted_writer(pair, nursery) as hear:
            await nursery.start(client.run)
            outcomes: list[str] = []

            async def update() -> None:
                try:
                    await client.update("uid", "v", payload(a="1"), fs_group=None)
                except WriterLost as exc:
                    outcomes.append(str(exc))

            nursery.start_soon(update)
            for pid in range(3):
                await hear()
                pair.writer_end.send(encode_answer(Hello(100 + pid)))
            while not outcomes:
                await trio.lowlevel.checkpoint()
        assert outcomes == ["the writer process died while writing the volume"]


async def test_cancelled_caller_leaves_the_client_usable(store: int) -> None:
    make_volume(store)
    async with open_pair(store) as (pair, nursery):
        pair.start_writer(nursery)
        client = pair.client()
        await nursery.start(client.run)
        text = "x" * (3 << 20)  # more than the socket holds: the cancellation strikes half-way
        for _ in range(3):
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_soon, scope)
                await client.update("uid", "v", payload(a=text), fs_group=None)
        await client.synchronize()
        assert (await client.update("uid", "v", payload(a="2"), fs_group=None)).version
        assert content(store, "uid/v/a") == "2"


async def cancel_soon(scope: trio.CancelScope) -> None:
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    scope.cancel()


@asynccontextmanager
async def scripted_writer(pair: Pair, nursery: trio.Nursery) -> AsyncIterator[Callable[[], object]]:
    """A writer that greets back, and takes any other order without a word."""
    taken_send, taken_receive = trio.open_memory_channel[object](10)
    end = trio.socket.from_stdlib_socket(pair.writer_end.dup())

    async def work() -> None:
        assembler = OrderAssembler()
        while True:
            received = assembler.feed(await end.recv(DATAGRAM_BYTES))
            if received is not None and isinstance(received[1], Synchronize):
                await end.send(encode_answer(Done(received[0], pid=1)))
            elif received is not None:
                await taken_send.send(received[1])

    with end:
        async with trio.open_nursery() as own:
            own.start_soon(work)
            yield taken_receive.receive
            own.cancel_scope.cancel()


async def test_caller_without_a_pid_is_never_the_writer(store: int) -> None:
    async with open_pair(store) as (pair, _):
        for writer_pid in (0, os.getpid()):
            client = WriterClient(pair.agent_end.dup(), writer_pid=writer_pid)
            assert client.is_writer(0) is False
            assert client.is_writer(os.getpid()) is (writer_pid == os.getpid())
            with trio.CancelScope() as scope:
                scope.cancel()
                await client.run()  # closes its end


def test_invalid_path_is_a_set_up_error() -> None:
    """The writer's answer carries no class; SetUpError is what callers react to."""
    assert issubclass(InvalidPath, SetUpError)

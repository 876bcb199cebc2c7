"""The agent's end of the writer: one awaitable call per order.

Orders are carried out one after the other, in the order of the calls. When the writer dies its answers are lost; the keeper
starts another, and the client gives the unanswered orders once more (each may be carried out twice without harm).

Called by the agent, which starts :meth:`WriterClient.run` once the filesystem is being served: the writer itself needs it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from kubelet_secrets.errors import SetUpError
from kubelet_secrets.fusefs.orders import (
    Attach,
    Done,
    DropPages,
    Failed,
    FileEntry,
    Hello,
    MakeDirectory,
    Order,
    RemoveVolume,
    Synchronize,
    Update,
    decode_answer,
    encode_order,
)
from kubelet_secrets.fusefs.sibling import Sibling
from kubelet_secrets.volume.atomicwriter import FileLike, WriteResult

_ATTEMPTS = 3


class WriterLost(SetUpError):
    """The writer died over an order, and so did its successors. The last version stands; try again later."""


class _Pending:
    """An order on its way."""

    def __init__(self) -> None:
        self.settled = trio.Event()
        self.answer: Done | Failed | None = None  # None when settled: lost with its writer

    def settle(self, answer: Done | Failed | None) -> None:
        self.answer = answer
        self.settled.set()


class WriterClient:
    """Gives orders and awaits their answers.

    Args:
        orders: the agent's end of the pair (SOCK_SEQPACKET); owned by the client from now on.
        writer_pid: the writer that runs now, as the keeper knows it: requests it already has under way must be admitted
            before it can be asked.
    """

    def __init__(self, orders: socket.socket, *, writer_pid: int) -> None:
        self._orders = trio.socket.from_stdlib_socket(orders)
        self._writer = Sibling(writer_pid)
        # Random, so that answers to an earlier agent's orders mean nothing here.
        self._next_id = int.from_bytes(os.urandom(7), "little")
        self._sending = trio.Lock()
        self._pending: dict[int, _Pending] = {}
        self._synchronized = trio.Event()

    def is_writer(self, tid: int) -> bool:
        """Whether this thread is the writer. It has one thread, whose id is its pid.

        0 is nobody's: a caller outside our pid namespace shows it, and so does the keeper's handover when no writer runs.
        """
        return tid == self._writer.pid and self._writer.is_alive()

    def _meet_writer(self, pid: int) -> None:
        if pid != self._writer.pid or not self._writer.is_alive():
            self._writer.close()
            self._writer = Sibling(pid)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read answers for ever; started when the writer has told that all earlier orders are done.

        Cancellation: orders under way are carried out all the same; nobody hears of it.
        """
        with self._orders:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._synchronize)
                nursery.start_soon(self._read_answers, nursery)
                await self._synchronized.wait()
                task_status.started()

    async def synchronize(self) -> None:
        """Wait until every order given before, also by an earlier agent, is done. Plan new ones after that."""
        await self._submit(Synchronize())

    async def update(
        self, pod_uid: str, volume: str, payload: Mapping[str, FileLike], *, fs_group: int | None
    ) -> WriteResult:
        """Write a version of a volume that exists in the store, with the AtomicWriter's steps.

        Args:
            payload: relative path → file; kept until the order is answered.
            fs_group: group for the whole volume, None to leave owners alone.

        Raises:
            SetUpError: an invalid path, or WriterLost.
            OSError: as the AtomicWriter's; ENOENT when the volume does not exist, ENOSPC when the store is full.

        Cancellation: the order is carried out all the same if its last part was sent; the volume is whole in any case.
        """
        files = [FileEntry(path, file.data, file.mode, file.fs_user) for path, file in payload.items()]
        done = await self._submit(Update(pod_uid, volume, files, fs_group))
        return WriteResult(done.version, done.changed)

    async def remove_volume(self, pod_uid: str, volume: str) -> None:
        """Remove a volume; who has a file of it open reads on until it closes it. A missing volume is fine.

        Raises:
            OSError, WriterLost: as update.
        """
        await self._submit(RemoveVolume(pod_uid, volume))

    async def make_nested_directory(self, pod_uid: str, volume: str, path: str, *, mode: int = 0o755) -> None:
        """Make a directory with its parents inside a volume: the mount point of a nested mount, or a missing subPath.

        Args:
            mode: permission, set-ID and sticky bits of every directory that is made.

        Raises:
            OSError: ENOTDIR when a file or link is in the way, EINVAL for a NUL byte.
            SetUpError: *path* is not a plain relative path.
        """
        if not path or path.startswith("/") or {"", ".", ".."} & set(path.split("/")):
            raise SetUpError(f"invalid container mount point {path}")
        await self._submit(MakeDirectory(pod_uid, volume, path, mode))

    async def attach(self, pod_uid: str, volume: str, target: Path, *, path: str = "") -> None:
        """Attach a read-only clone of a volume at the existing mount point *target*; replaces an earlier clone there.

        The agent must not do this itself: walking its own mount it could neither answer nor be killed.

        Args:
            path: a directory or file within the volume, reached over no link; "" for the volume itself.

        Raises:
            OSError: ENOENT when source or target is missing.
        """
        await self._submit(Attach(pod_uid, volume, path, str(target)))

    async def drop_pages(self, numbers: Sequence[int]) -> None:
        """Have the kernel drop what it holds of these nodes' contents: the next read of any, or in a mapping, asks the agent.

        Args:
            numbers: of nodes; ones that the kernel does not know are fine.

        Raises:
            WriterLost: nothing is known of what was dropped.
        """
        await self._submit(DropPages(list(numbers)))

    async def _submit(self, order: Order) -> Done:
        for _ in range(_ATTEMPTS):
            answer = await self._give(order)
            if isinstance(answer, Done):
                return answer
            if isinstance(answer, Failed):
                if answer.errno:
                    raise OSError(answer.errno, answer.message)
                raise SetUpError(answer.message)
        raise WriterLost("the writer process died while writing the volume")

    async def _give(self, order: Order) -> Done | Failed | None:
        """Send one order and await its answer; None when the writer died over it."""
        while True:
            if not isinstance(order, Synchronize):
                await self._synchronized.wait()
            async with self._sending:
                if not isinstance(order, Synchronize) and not self._synchronized.is_set():
                    continue  # a new writer came while we waited for our turn: it drops what is sent before the greeting
                order_id = self._next_id
                self._next_id += 1
                pending = self._pending[order_id] = _Pending()
                try:
                    for datagram in encode_order(order_id, order):
                        await self._send(datagram)
                except BaseException:
                    del self._pending[order_id]
                    raise
                break
        try:
            await pending.settled.wait()
        finally:
            self._pending.pop(order_id, None)
        return pending.answer

    async def _send(self, datagram: bytes) -> None:
        try:
            await self._orders.send(datagram)
        except BrokenPipeError:
            raise WriterLost("the writer's socket is closed") from None

    async def _synchronize(self) -> None:
        """Greet the writer there is; repeated for every new one."""
        done = await self._give(Synchronize())
        if isinstance(done, Done):
            self._meet_writer(done.pid)
            self._synchronized.set()

    async def _read_answers(self, nursery: trio.Nursery) -> None:
        while datagram := await self._orders.recv(1 << 16):
            answer = decode_answer(datagram)
            if isinstance(answer, Hello):
                # A new writer, which waits to be greeted. Whatever is under way was its predecessor's.
                self._meet_writer(answer.pid)
                if self._synchronized.is_set():
                    self._synchronized = trio.Event()
                for pending in self._pending.values():
                    pending.settle(None)
                nursery.start_soon(self._synchronize)
            elif (pending_order := self._pending.get(answer.order_id)) is not None:
                pending_order.settle(answer)

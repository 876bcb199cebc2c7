"""A channel of names, not of states: who receives one looks up the latest state, so many changes of one object may be one."""

from __future__ import annotations

from dataclasses import dataclass

import trio


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An object's name within its kind. Prints as in logs and events: ``shop/db``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ChangeQueue(trio.abc.ReceiveChannel[ObjectRef]):
    """Changed objects, each at most once at a time, in the order of their first unread change.

    One consumer. Never full: it holds at most one entry per object. Waiters see the latest state, not every state.
    """

    def __init__(self) -> None:
        self._pending: dict[ObjectRef, None] = {}
        self._is_closed = False
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<ChangeQueue, {len(self._pending)} pending>"

    def put(self, ref: ObjectRef) -> None:
        """Note that *ref* has changed. Does not wait."""
        self._pending[ref] = None
        self._changed.set()

    def discard(self, ref: ObjectRef) -> None:
        """Nobody is interested in *ref* any more."""
        self._pending.pop(ref, None)

    def receive_nowait(self) -> ObjectRef:
        """Take the oldest entry.

        Raises:
            trio.WouldBlock: there is none.
        """
        if not self._pending:
            raise trio.WouldBlock
        ref = next(iter(self._pending))
        del self._pending[ref]
        return ref

    async def receive(self) -> ObjectRef:
        """Wait for an entry and take it. Cancellation: nothing is taken."""
        await trio.lowlevel.checkpoint()
        while not self._pending:
            if self._is_closed:
                raise trio.EndOfChannel
            self._changed = trio.Event()
            await self._changed.wait()
        return self.receive_nowait()

    async def aclose(self) -> None:
        self._is_closed = True
        self._changed.set()
        await trio.lowlevel.checkpoint()

"""The end of an outage is told to everybody who pauses."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from kubelet_secrets.node.outage import CALM_S, follow_returns


class Returns:
    """A server whose outages end when a test says."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = trio.Event()

    def come_back(self) -> None:
        self.count += 1
        self._changed.set()
        self._changed = trio.Event()

    async def wait_returned(self, seen: int) -> int:
        while self.count <= seen:
            await self._changed.wait()
        return self.count


async def test_every_end_is_told_and_many_in_a_row_as_one(autojump_clock: MockClock) -> None:
    told: list[str] = []
    server = Returns()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_returns, server, [lambda: told.append("a"), lambda: told.append("b")])
        await trio.sleep(CALM_S)
        assert told == []
        server.come_back()
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["a", "b"]
        server.come_back()
        server.come_back()
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["a", "b"]  # it has just been told
        await trio.sleep(2 * CALM_S)
        assert told == ["a", "b", "a", "b"]
        nursery.cancel_scope.cancel()

"""What ended pods leave in memory is given back soon after, not when the next thousand objects happen to be made."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from kubelet_secrets.pod.garbage import collect_after


class Pods:
    def __init__(self) -> None:
        self.ended = 0
        self._news = trio.Event()

    async def wait_changed(self) -> None:
        await self._news.wait()

    def tell(self, *, ended: int = 0) -> None:
        self.ended += ended
        self._news.set()
        self._news = trio.Event()


class Circle:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def no_other_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_other_collection")
async def test_garbage_goes_soon_after_pods_have_ended_and_once_in_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pods = Pods()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect_after, pods)
        await trio.testing.wait_all_tasks_blocked()
        circle = weakref.ref(Circle())
        pods.tell()
        await trio.sleep(60)
        assert circle() is not None, "nothing has ended"
        pods.tell(ended=2)
        await trio.sleep(1)
        assert circle() is None
        circle = weakref.ref(Circle())
        await trio.sleep(601)
        assert circle() is None
        nursery.cancel_scope.cancel()

"""Who may start containers, and when: volumes first, a few at a time, nobody for ever."""

from __future__ import annotations

from collections.abc import Callable

import trio
import trio.testing

from kubelet_secrets.pod.turns import (
    HELD_S,
    PATIENCE_S,
    QUIET_PATIENCE_S,
    QUIET_S,
    STALLED_S,
    Turns,
)


class Starts:
    """Pods that each want one turn; they have it until they are told to end."""

    def __init__(self, turns: Turns, nursery: trio.Nursery) -> None:
        self.turns = turns
        self.admitted: list[str] = []
        self._nursery = nursery
        self._ends: dict[str, trio.Event] = {}

    async def begin(self, *names: str, is_begun: bool = False) -> None:
        for name in names:
            self._ends[name] = trio.Event()
            self._nursery.start_soon(self._start, name, is_begun)
            await trio.testing.wait_all_tasks_blocked()

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
            await trio.testing.wait_all_tasks_blocked()

    async def _start(self, name: str, is_begun: bool) -> None:
        async with self.turns.turn(is_begun=is_begun):
            self.admitted.append(name)
            await self._ends[name].wait()


async def elapsed(condition: Callable[[], bool]) -> float:
    began = trio.current_time()
    while not condition():  # noqa: ASYNC110 - the clock is what is tested
        await trio.sleep(0.01)
    return trio.current_time() - began


async def test_alone_a_pod_waits_for_nobody(autojump_clock: trio.testing.MockClock) -> None:
    turns = Turns(places=1)
    began = trio.current_time()
    with turns.setting_up_volume():
        await trio.sleep(3)
    async with turns.turn(is_begun=False):
        pass
    async with turns.turn(is_begun=True):
        assert trio.current_time() == began + 3


async def test_places_are_limited_and_begun_pods_go_first(nursery: trio.Nursery) -> None:
    starts = Starts(Turns(places=2), nursery)
    await starts.begin("a", "b")
    await starts.begin("new")
    await starts.begin("begun", is_begun=True)
    assert starts.admitted == ["a", "b"]
    await starts.end("a")
    assert starts.admitted == ["a", "b", "begun"]
    await starts.end("b")
    assert starts.admitted[-1] == "new"
    await starts.end("begun", "new")


async def test_a_start_waits_for_the_volumes_of_others(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    starts = Starts(Turns(places=2), nursery)
    with starts.turns.setting_up_volume():
        await starts.begin("a")
        for _ in range(3):
            await trio.sleep(STALLED_S / 2)
            with starts.turns.setting_up_volume():
                pass  # one that is done: the other is in line
            assert not starts.admitted
    await trio.testing.wait_all_tasks_blocked()
    assert starts.admitted == ["a"]
    await starts.end("a")


async def test_volumes_that_get_nowhere_hold_up_nobody_for_long(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    starts = Starts(Turns(places=2), nursery)
    with starts.turns.setting_up_volume():
        await starts.begin("a")
        assert STALLED_S <= await elapsed(lambda: bool(starts.admitted)) < STALLED_S + 0.1
    await starts.end("a")


async def test_patience_with_volumes_has_an_end(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    starts = Starts(Turns(places=2), nursery)

    async def set_up_for_ever() -> None:
        with starts.turns.setting_up_volume():
            while True:
                with starts.turns.setting_up_volume():
                    await trio.sleep(STALLED_S / 2)

    nursery.start_soon(set_up_for_ever)
    await trio.testing.wait_all_tasks_blocked()
    await starts.begin("a")
    assert PATIENCE_S - 0.1 <= await elapsed(lambda: bool(starts.admitted)) < PATIENCE_S + STALLED_S
    await starts.end("a")


async def test_more_than_have_a_place_wait_for_a_quiet_moment(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Pods keep coming, each a moment after the volumes of the one before were done."""
    starts = Starts(Turns(places=1), nursery)
    await starts.begin("a", "b", "c")
    for _ in range(3):
        with starts.turns.setting_up_volume():
            pass
        await starts.end("a")
        await trio.sleep(QUIET_S / 2)
        assert starts.admitted == ["a"]
    assert await elapsed(lambda: "b" in starts.admitted) <= QUIET_S
    await starts.end("b")
    assert starts.admitted == ["a", "b", "c"]
    await starts.end("c")


async def test_a_quiet_moment_is_not_waited_for_without_end(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    starts = Starts(Turns(places=1), nursery)

    async def come_for_ever() -> None:
        while True:
            with starts.turns.setting_up_volume():
                pass
            await trio.sleep(QUIET_S / 2)

    nursery.start_soon(come_for_ever)
    await trio.testing.wait_all_tasks_blocked()
    await starts.begin("a", "b", "c")
    await starts.end("a")
    assert await elapsed(lambda: "b" in starts.admitted) <= QUIET_PATIENCE_S + QUIET_S
    await starts.end("b")
    assert await elapsed(lambda: "c" in starts.admitted) <= QUIET_PATIENCE_S + QUIET_S
    await starts.end("c")


async def test_what_hangs_gives_its_place_back(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    starts = Starts(Turns(places=1), nursery)
    await starts.begin("hangs", "next")
    assert HELD_S - 0.1 <= await elapsed(lambda: "next" in starts.admitted) < HELD_S + QUIET_PATIENCE_S
    await starts.end("hangs", "next")


async def test_a_cancelled_wait_gives_up_its_place_in_the_line(nursery: trio.Nursery) -> None:
    turns = Turns(places=1)
    starts = Starts(turns, nursery)
    await starts.begin("a")
    with trio.move_on_after(0):
        async with turns.turn(is_begun=True):
            raise AssertionError("no place is free")
    await starts.begin("b")
    await starts.end("a")
    assert starts.admitted == ["a", "b"]
    await starts.end("b")
    assert repr(turns) == "<Turns 0 volumes, 0 of 1 places taken, 0 wait>"


async def test_news_waits_for_volumes_but_not_for_long(autojump_clock: trio.testing.MockClock) -> None:
    turns = Turns()
    began = trio.current_time()
    await turns.wait_volumes()
    assert trio.current_time() == began
    async with trio.open_nursery() as nursery:

        async def set_up_for_ever() -> None:
            with turns.setting_up_volume():
                while True:
                    with turns.setting_up_volume():
                        await trio.sleep(STALLED_S / 2)

        nursery.start_soon(set_up_for_ever)
        await trio.testing.wait_all_tasks_blocked()
        await turns.wait_volumes()
        assert trio.current_time() - began == QUIET_PATIENCE_S
        nursery.cancel_scope.cancel()

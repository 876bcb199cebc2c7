"""Turns by what each has cost so far."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.fusefs.fairqueue import FairQueue


def serve(queue: FairQueue[int], count: int, cost_s: float = 1.0) -> list[tuple[object, int]]:
    served = []
    for _ in range(count):
        key, item = queue.pop()
        queue.charge(key, cost_s)
        served.append((key, item))
    return served


def test_one_account_is_served_in_order_of_arrival() -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(3):
        queue.put("a", item)
    assert serve(queue, 3) == [("a", 0), ("a", 1), ("a", 2)]
    assert not queue
    with pytest.raises(ValueError):
        queue.pop()


def test_newcomer_waits_for_one_item_of_a_crowd() -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(100):
        queue.put("crowd", item)
    serve(queue, 10)
    queue.put("newcomer", 0)
    assert ("newcomer", 0) in serve(queue, 2)


def test_dear_items_mean_fewer_turns() -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(100):
        queue.put("cheap", item)
        queue.put("dear", item)
    turns: Counter[object] = Counter()
    for _ in range(55):
        key, _ = queue.pop()
        queue.charge(key, 10.0 if key == "dear" else 1.0)
        turns[key] += 1
    assert turns == {"cheap": 50, "dear": 5}


def test_who_was_away_has_saved_nothing_up() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put("away", 0)
    serve(queue, 1)
    for item in range(100):
        queue.put("busy", item)
    serve(queue, 50)
    for item in range(50):
        queue.put("away", item)
    served = [key for key, _ in serve(queue, 20)]
    assert 9 <= served.count("away") <= 11


def test_who_was_dear_is_not_forgiven_by_going_away() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put("dear", 0)
    serve(queue, 1, cost_s=9.5)
    for item in range(20):
        queue.put("other", item)
    queue.put("dear", 1)
    assert [key for key, _ in serve(queue, 11)] == ["other"] * 10 + ["dear"]


def test_accounts_of_the_past_are_forgotten() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(10_000):
        queue.put(number, number)
        serve(queue, 1, cost_s=0.0)
    assert len(queue._accounts) <= 1024


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 10)), max_size=60), st.data())
def test_nothing_is_lost_and_each_accounts_order_is_kept(
    arrivals: list[tuple[str, float]], data: st.DataObject
) -> None:
    queue: FairQueue[int] = FairQueue()
    expected: dict[object, list[int]] = {}
    served: dict[object, list[int]] = {}

    def pop() -> None:
        key, item = queue.pop()
        queue.charge(key, arrivals[item][1])
        served.setdefault(key, []).append(item)

    for number, (key, _) in enumerate(arrivals):
        queue.put(key, number)
        expected.setdefault(key, []).append(number)
        if data.draw(st.booleans()):
            pop()
    while queue:
        pop()
    assert served == expected

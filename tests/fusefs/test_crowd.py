"""Many requests at once: pods in turns, and in a pod its containers."""

from __future__ import annotations

import pytest

from kubelet_secrets.fusefs.crowd import Crowd, Waiting
from kubelet_secrets.fusefs.wire import Opcode, parse_header
from tests.fusefs.test_wire import make_request


class World:
    """Nodes 1000..1999 are of pod 1, and so on; as are threads. A look at a caller takes time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.looked_at: list[int] = []
        self.crowd = Crowd(lambda node: node // 1000, self.whose, clock=lambda: self.now_s)
        self.served: list[int] = []  # their numbers

    def whose(self, tid: int) -> int:
        self.looked_at.append(tid)
        self.now_s += 10e-6
        return tid // 1000

    def ask(self, unique: int, *, node: int, tid: int) -> None:
        request = make_request(Opcode.OPEN, bytes(8), unique=unique, node=node, tid=tid)
        self.crowd.add(Waiting(parse_header(request), bytearray(request)))

    def serve(self, waiting: Waiting) -> None:
        assert parse_header(waiting.request) == waiting.header
        self.now_s += 30e-6
        self.served.append(waiting.header.unique)

    def serve_next(self, count: int) -> list[int]:
        del self.served[:]
        for _ in range(count):
            self.crowd.serve_next(self.serve)
        return self.served


@pytest.fixture
def world() -> World:
    return World()


def test_one_pod_is_served_in_order(world: World) -> None:
    for number in range(100):
        world.ask(number, node=1000, tid=1000 + number)
    assert len(world.crowd) == 100
    assert world.serve_next(100) == list(range(100))
    assert len(world.crowd) == 0


def test_other_pods_do_not_wait_for_a_crowd(world: World) -> None:
    for number in range(1000):
        world.ask(number, node=1000, tid=1000 + number)
    world.serve_next(5)
    world.ask(9001, node=2000, tid=2000)
    world.ask(9002, node=3000, tid=3000)
    assert {9001, 9002} <= set(world.serve_next(4))


def test_other_containers_of_the_pod_wait_little(world: World) -> None:
    """The pod pays for finding out who asks, a few callers at a time."""
    for number in range(600):
        world.ask(number, node=1000, tid=1000 + number)
    world.ask(9001, node=1000, tid=2000)
    assert 9001 in world.serve_next(25)


def test_guest_in_another_pods_files_waits_with_those(world: World) -> None:
    """A container with the node's directory mounted hammers a neighbour's volume: at the cost of that volume's pod, half."""
    for number in range(500):
        world.ask(number, node=1000, tid=2000 + number)
    for number in range(9000, 9010):
        world.ask(number, node=1000, tid=1000)
    world.serve_next(17)  # until it has been looked who they are
    assert sum(number >= 9000 for number in world.serve_next(16)) >= 8


def test_threads_are_looked_at_once_in_a_while(world: World) -> None:
    for number in range(30):
        world.ask(number, node=1000, tid=1000)
    world.serve_next(30)
    assert world.looked_at == [1000]
    world.now_s += 1.5  # the number may be another thread's by now
    world.ask(30, node=1000, tid=1000)
    world.serve_next(1)
    assert world.looked_at == [1000, 1000]


def test_failing_answer_leaves_the_others(world: World) -> None:
    for number in range(3):
        world.ask(number, node=1000, tid=1000)

    def fail(_: Waiting) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        world.crowd.serve_next(fail)
    assert world.serve_next(2) == [1, 2]

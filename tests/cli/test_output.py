"""What commands print with: the line that says how far a long task is."""

from __future__ import annotations

import io

from kubelet_secrets.cli.output import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_long_task_is_told_of_now_and_then_and_leaves_no_trace() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress(stream, clock=clock)
    progress.tell("too early")
    clock.now += 1
    progress.tell("1 of 3")
    progress.tell("2 of 3")
    clock.now += 0.1
    progress.tell("3 of 3")
    progress.clear()
    assert stream.getvalue() == "\r\x1b[K1 of 3\r\x1b[K3 of 3\r\x1b[K"


def test_short_task_says_nothing() -> None:
    stream = Terminal()
    progress = Progress(stream, clock=Clock())
    progress.tell("1 of 1")
    progress.clear()
    assert stream.getvalue() == ""


def test_nothing_is_told_to_a_file() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock=clock)
    clock.now += 100
    progress.tell("1 of 1")
    progress.clear()
    assert stream.getvalue() == ""

"""What the keeper tells the agent."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from kubelet_secrets.fusefs.handover import Handover, News, Turn

HANDOVER = Handover(
    fuse_fd=3,
    store_fd=4,
    writer_fd=5,
    init_request=b"\x00\xff",
    fuse_mount=Path("/var/lib/kubelet-secrets/fuse"),
    store_kind="tmpfs-noswap",
)


def take_over(line: bytes) -> tuple[Handover, int]:
    """The agent's side: read what the keeper wrote; returns the keeper's end of the news pipe as well."""
    turn_fd, go_fd = os.pipe()
    news_fd, told_fd = os.pipe2(os.O_NONBLOCK)
    os.write(go_fd, line)
    os.close(go_fd)
    environ = {**HANDOVER.to_environ(), "KS_TURN_FD": str(turn_fd), "KS_NEWS_FD": str(told_fd)}
    try:
        return Handover.from_environ(environ), news_fd
    except BaseException:
        os.close(news_fd)
        os.close(told_fd)
        raise


@pytest.mark.parametrize("resume", [False, True])
def test_handover_arrives_with_the_turn(resume: bool) -> None:
    received, news_fd = take_over(Turn(resume=resume, writer_pid=77).to_line())
    assert received == dataclasses.replace(HANDOVER, news_fd=received.news_fd, resume=resume, writer_pid=77)
    received.tell_alive()
    received.tell_ready()
    assert os.read(news_fd, 10) == News.WAITING.value + News.ALIVE.value + News.READY.value
    os.close(news_fd)
    os.close(received.news_fd)


def test_agent_does_not_wait_for_a_keeper_that_does_not_listen() -> None:
    received, news_fd = take_over(Turn(resume=False, writer_pid=0).to_line())
    for _ in range(70_000):
        received.tell_alive()
    assert len(os.read(news_fd, 1 << 20)) == 1 << 16, "as much as the pipe holds"
    os.close(news_fd)
    os.close(received.news_fd)


def test_agent_whose_turn_never_comes_ends_quietly() -> None:
    with pytest.raises(SystemExit) as caught:
        take_over(b"")
    assert caught.value.code == 0


def test_process_not_started_by_the_keeper_is_told_apart() -> None:
    with pytest.raises(KeyError):
        Handover.from_environ({})

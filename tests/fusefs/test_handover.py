"""What the keeper tells the agent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubelet_secrets.fusefs.handover import Handover

HANDOVER = Handover(
    fuse_fd=3,
    store_fd=4,
    writer_fd=5,
    ready_fd=6,
    writer_pid=77,
    init_request=b"\x00\xff",
    resume=True,
    fuse_mount=Path("/var/lib/kubelet-secrets/fuse"),
    store_kind="tmpfs-noswap",
)


def test_handover_survives_the_environment() -> None:
    environ = HANDOVER.to_environ()
    assert Handover.from_environ(environ) == HANDOVER
    assert environ["KS_RESUME"] == "1"
    assert environ["KS_INIT"] == "00ff"


def test_process_not_started_by_the_keeper_is_told_apart() -> None:
    with pytest.raises(KeyError):
        Handover.from_environ({})


def test_ready_is_told_once_and_the_pipe_closed() -> None:
    read_fd, write_fd = os.pipe()
    try:
        Handover.from_environ({**HANDOVER.to_environ(), "KS_READY_FD": str(write_fd)}).tell_ready()
        assert os.read(read_fd, 10) == b"1"
        assert os.read(read_fd, 10) == b""
    finally:
        os.close(read_fd)

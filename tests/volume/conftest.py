"""Fixtures of the volume room: a store as the keeper makes it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kubelet_secrets.fusefs.mounts import make_store


@pytest.fixture
def store_fd() -> Iterator[int]:
    """A detached memory filesystem of 4 MiB and 1000 files; gone with its last descriptor."""
    fd, _ = make_store(size_bytes=4 << 20, inodes=1000)
    yield fd
    os.close(fd)

"""A real store for every test that wants one; nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kubelet_secrets.fusefs import mounts


@pytest.fixture
def store() -> Iterator[int]:
    """Descriptor of a detached memory filesystem of its own."""
    store_fd, _ = mounts.make_store(size_bytes=64 << 20)
    yield store_fd
    os.close(store_fd)

"""What the running kernel can do, for tests of what is there only on newer ones. See docs/kernels.md."""

from __future__ import annotations

import os
import re

import pytest

_VERSION = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])

HAS_NOSWAP = _VERSION >= (6, 4)
"""tmpfs that is never swapped; before, the store is a ramfs."""

needs_sized_store = pytest.mark.skipif(
    not HAS_NOSWAP,
    reason="ramfs, the store before Linux 6.4, has no size of its own: there the agent counts (tests/volume/test_store.py)",
)
needs_idmapped_fuse = pytest.mark.skipif(_VERSION < (6, 12), reason="id-mapped FUSE mounts need Linux 6.12")

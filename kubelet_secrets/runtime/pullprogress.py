"""How far a download is: bytes that have arrived in the layout that skopeo fills, told from time to time.

A kubelet says ``Pulling image`` and then nothing until the end, which may be many minutes away. Here a pull that takes long is
told of again, with a number. One that ends within :data:`FIRST_S` looks as it does with a kubelet.

Called by ``images``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

FIRST_S = 10.0
EVERY_S = 30.0

_UNIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One look at a download."""

    received_bytes: int  # compressed, as distributed
    total_bytes: int | None  # None: the registry's answer names no sizes, as that for several platforms does not

    def __str__(self) -> str:
        """``12.5 of 101.0 MiB``, or ``12.5 MiB so far``."""
        received = self.received_bytes / _UNIT_BYTES
        if self.total_bytes is None:
            return f"{received:.1f} MiB so far"
        return f"{received:.1f} of {self.total_bytes / _UNIT_BYTES:.1f} MiB"


async def tell_progress(
    layout: Path,
    total_bytes: int | None,
    tell: Callable[[PullProgress], None],
    *,
    first_s: float = FIRST_S,
    every_s: float = EVERY_S,
) -> None:
    """Measure *layout* again and again, until cancelled."""
    await trio.sleep(first_s)
    while True:
        tell(PullProgress(_size_bytes(layout), total_bytes))
        await trio.sleep(every_s)


def _size_bytes(directory: Path) -> int:
    """Of all files below; what vanishes meanwhile (skopeo renames what is complete) may be missed, or counted twice."""
    size_bytes = 0
    for path, _, names in os.walk(directory):
        for name in names:
            try:
                size_bytes += os.lstat(os.path.join(path, name)).st_size
            except FileNotFoundError:
                continue
    return size_bytes

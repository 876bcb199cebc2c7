"""Give back what ended pods have left in this process's memory.

Python frees at once what nothing refers to, but what refers to itself - a task with its exception, for one - only when it
looks for such garbage, which an agent that has nothing else to do would not come to for hours. Given back, it is overwritten
(``fusefs.hardening``). Run by ``agent``.
"""

from __future__ import annotations

import gc
import logging
import time
from typing import Protocol

import trio

logger = logging.getLogger(__name__)

_SETTLE_S = 0.5
"""Pods often end together. Each look holds up the whole process for some milliseconds."""
_AT_LEAST_EVERY_S = 600.0


class EndingPods(Protocol):
    """Where pods end."""

    ended: int  # how many so far

    async def wait_changed(self) -> None:
        """Wait for any change of theirs."""


async def collect_after(pods: EndingPods) -> None:
    """Collect garbage a moment after pods have ended, and every ten minutes. Runs until cancelled."""
    seen = pods.ended
    while True:
        with trio.move_on_after(_AT_LEAST_EVERY_S):
            while pods.ended == seen:
                await pods.wait_changed()
            await trio.sleep(_SETTLE_S)
        seen = pods.ended
        began_s = time.perf_counter()
        found = gc.collect()
        logger.debug("collected %d objects in %.1f ms", found, (time.perf_counter() - began_s) * 1000)

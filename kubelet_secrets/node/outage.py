"""What follows the end of an outage of the API server: whoever pauses after failures tries again at once.

Each part backs off by its own rule, up to a minute, and none knows of the others. The first answer that anybody gets (the
lease's, which is asked for every seven seconds at most) is news to all of them. Run by the composition root.

Differs: upstream's reflectors sit out their pauses, half a minute and more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

logger = logging.getLogger(__name__)

CALM_S = 1.0  # a server that comes and goes does not have everything asked anew all the time


class _Client(Protocol):
    """What of ``ApiClient`` is needed here."""

    async def wait_returned(self, seen: int) -> int: ...


async def follow_returns(client: _Client, nudges: Sequence[Callable[[], None]]) -> None:
    """Call every one of *nudges* at the end of each outage, until cancelled. None may wait."""
    seen = 0
    while True:
        seen = await client.wait_returned(seen)
        logger.info("the API server answers again")
        for nudge in nudges:
            nudge()
        await trio.sleep(CALM_S)

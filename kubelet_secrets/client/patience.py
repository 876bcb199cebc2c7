"""Ask again while the API server does not answer: for what cannot go on without. Controllers have ways of their own to wait."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from kubelet_secrets.errors import ApiUnavailable

_PAUSE_S = 0.05

T = TypeVar("T")


async def insist(request: Callable[[], Awaitable[T]], *, within_s: float = math.inf) -> T:
    """The answer to *request*, made again as often as nobody answers: on a busy machine that takes longer than a client waits.

    A request that was not answered may have been done: who creates or deletes with this takes AlreadyExists and NotFound for
    success.

    Args:
        within_s: after so long a request that fails is the last one.

    Raises:
        ApiUnavailable: nobody answered within *within_s*.
        Whatever else the request raises.
    """
    deadline_s = trio.current_time() + within_s
    while True:
        try:
            return await request()
        except ApiUnavailable:
            if trio.current_time() >= deadline_s:
                raise
        await trio.sleep(_PAUSE_S)

"""A request is made again while nobody answers, and for no other reason."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from kubelet_secrets.client.patience import insist
from kubelet_secrets.errors import ApiUnavailable, NotFound


async def test_unanswered_request_is_made_again(autojump_clock: trio.testing.MockClock) -> None:
    outcomes: list[Exception | str] = [ApiUnavailable("no answer"), ApiUnavailable("no connection"), "pod"]

    async def request() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert await insist(request) == "pod"
    outcomes = [ApiUnavailable("no answer"), NotFound("gone", code=404), "pod"]
    with pytest.raises(NotFound):
        await insist(request)
    assert outcomes == ["pod"]


async def test_last_failure_is_told_when_the_time_is_over(autojump_clock: trio.testing.MockClock) -> None:
    asked = 0

    async def request() -> None:
        nonlocal asked
        asked += 1
        await trio.sleep(10)
        raise ApiUnavailable("no connection within 10 s")

    with pytest.raises(ApiUnavailable, match="within 10 s"):
        await insist(request, within_s=35)
    assert asked == 4

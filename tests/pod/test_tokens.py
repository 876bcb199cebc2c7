"""Source: pkg/kubelet/token/token_manager_test.go; semantics §4.2."""

from __future__ import annotations

from datetime import datetime

import pytest

from kubelet_secrets.api.core import Pod, ServiceAccountTokenProjection
from kubelet_secrets.api.meta import PodUID
from kubelet_secrets.errors import SetUpError
from kubelet_secrets.pod.tokens import TokenManager, _Token
from kubelet_secrets.sensitive import SensitiveBytes
from tests.node.facts import Clock
from tests.pod.builders import T0, after
from tests.pod.cluster import Cluster, container

HOUR = ServiceAccountTokenProjection(path="token", expiration_seconds=3600)


@pytest.mark.parametrize(
    ("lifetime_s", "age_s", "expected"),
    [
        pytest.param(3600, 2869, False, id="a-fifth-and-the-jitter-is-left"),
        pytest.param(3600, 2871, True, id="a-fifth-is-left-but-for-the-jitter"),
        pytest.param(7 * 86400, 86389, False, id="younger-than-a-day"),
        pytest.param(7 * 86400, 86391, True, id="a-day-old"),
    ],
)
def test_when_a_token_is_refreshed(lifetime_s: int, age_s: float, expected: bool) -> None:
    token = _Token(SensitiveBytes(b"t"), expires_at=after(lifetime_s), lifetime_s=lifetime_s)
    assert token.wants_refresh(after(age_s), jitter_s=10) is expected


async def bound_pod(lab: Cluster) -> Pod:
    source = {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}  # NodeRestriction looks for it
    volume = {"name": "v", "projected": {"sources": [source]}}
    return await lab.create("web", container(), serviceAccountName="default", volumes=[volume])


async def test_token_is_kept_until_its_last_fifth(lab: Cluster) -> None:
    clock = Clock()
    tokens = TokenManager(lab.node, clock=clock)
    pod = await bound_pod(lab)
    first = await tokens.get(pod, HOUR)
    clock.now = first_expiry(tokens)
    clock.advance(-1800)
    assert await tokens.get(pod, HOUR) == first
    clock.advance(1200)
    assert await tokens.get(pod, HOUR) != first
    tokens.forget(PodUID(pod.metadata.uid))
    assert not tokens._tokens


async def test_old_token_serves_while_the_api_server_is_away_until_it_expires(lab: Cluster) -> None:
    clock = Clock()
    tokens = TokenManager(lab.node, clock=clock)
    pod = await bound_pod(lab)
    first = await tokens.get(pod, HOUR)
    clock.now = first_expiry(tokens)
    clock.advance(-1)
    with lab.api_away():
        assert await tokens.get(pod, HOUR) == first
        clock.advance(2)
        with pytest.raises(SetUpError) as caught:
            await tokens.get(pod, HOUR)
        assert str(caught.value).startswith(
            'token "default"/"default"/[]string(nil)/3600/v1.BoundObjectReference{Kind:"Pod"'
        )
        assert "expired and refresh failed: " in str(caught.value)
        assert first.reveal().decode() not in str(caught.value)
        clock.advance(61)
        with pytest.raises(SetUpError, match=r"^failed to fetch token: "):  # collected: it was never there
            await tokens.get(pod, HOUR)
        assert not tokens._tokens


async def test_audience_that_the_pod_does_not_ask_for(lab: Cluster) -> None:
    pod = await bound_pod(lab)
    projection = ServiceAccountTokenProjection(path="token", audience="not-in-the-spec", expiration_seconds=600)
    with pytest.raises(SetUpError, match=r"^failed to fetch token: "):
        await TokenManager(lab.node, clock=lambda: T0).get(pod, projection)


def first_expiry(tokens: TokenManager) -> datetime:
    return next(iter(tokens._tokens.values())).expires_at

"""Source: client-go util/flowcontrol/throttle_test.go."""

from __future__ import annotations

from kubelet_secrets.pod.tokenbucket import TokenBucket


def test_a_burst_is_taken_at_once_and_then_by_and_by() -> None:
    bucket = TokenBucket(5, 2)
    assert [bucket.try_take(100.0) for _ in range(3)] == [True, True, False]
    assert not bucket.try_take(100.1)
    assert bucket.try_take(100.2)
    assert [bucket.try_take(200.0) for _ in range(3)] == [True, True, False], "it holds no more than the burst"


def test_who_takes_in_advance_waits_his_turn() -> None:
    bucket = TokenBucket(10, 1)
    assert [round(bucket.take(0.0), 3) for _ in range(3)] == [0.0, 0.1, 0.2]
    assert round(bucket.take(0.3), 3) == 0.0


def test_no_rate_is_no_limit() -> None:
    bucket = TokenBucket(0, 1)
    assert all(bucket.try_take(0.0) for _ in range(100))
    assert bucket.take(0.0) == 0.0

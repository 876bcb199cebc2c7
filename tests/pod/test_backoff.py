"""Source: semantics §8.1, §8.7, §9.4; client-go util/flowcontrol/backoff_test.go."""

from __future__ import annotations

import pytest

from kubelet_secrets.pod.backoff import BackOff, mount_delay_s
from tests.pod.builders import T0, after


def test_first_restart_is_immediate_then_delays_double_to_the_cap() -> None:
    """§8.7: 10, 20, 40, 80, 160, 300, 300 seconds."""
    back_off = BackOff()
    assert back_off.retry_at("k", T0, T0) is None
    delays = []
    for _ in range(7):
        back_off.advance("k", T0, T0)
        delays.append(back_off.delay_s("k"))
    assert delays == [10, 20, 40, 80, 160, 300, 300]


def test_delay_counts_from_the_event() -> None:
    back_off = BackOff()
    back_off.advance("k", T0, T0)
    assert back_off.retry_at("k", after(3), after(5)) == after(13)
    assert back_off.retry_at("k", after(3), after(13)) is None


@pytest.mark.parametrize(("quiet_s", "delay_s"), [pytest.param(600, 40, id="kept"), pytest.param(601, 10, id="reset")])
def test_entry_resets_after_ten_quiet_minutes(quiet_s: float, delay_s: float) -> None:
    """§8.7: the container ran for more than 600 s after the last restart."""
    back_off = BackOff()
    back_off.advance("k", T0, T0)
    back_off.advance("k", T0, T0)
    back_off.advance("k", after(quiet_s), after(quiet_s))
    assert back_off.delay_s("k") == delay_s


def test_image_delay_counts_from_the_last_failure() -> None:
    """§9.4: ErrImagePull, ImagePullBackOff for 10 s, ErrImagePull, ImagePullBackOff for 20 s."""
    back_off = BackOff()
    back_off.advance("uid_image", T0, T0)
    assert back_off.retry_at_since_update("uid_image", after(9)) == after(10)
    assert back_off.retry_at_since_update("uid_image", after(10)) is None
    back_off.advance("uid_image", after(10), after(10))
    assert back_off.retry_at_since_update("uid_image", after(11)) == after(30)


def test_forget_drops_the_keys_of_one_pod() -> None:
    back_off = BackOff()
    back_off.advance("a_x", T0, T0)
    back_off.advance("b_x", T0, T0)
    back_off.forget("a_")
    assert (back_off.delay_s("a_x"), back_off.delay_s("b_x")) == (0.0, 10.0)


def test_mount_back_off() -> None:
    """§8.1: 0.5, 1, 2, 4, 8, 16, 32, 64, 122, 122 seconds."""
    assert [mount_delay_s(n) for n in range(1, 11)] == [0.5, 1, 2, 4, 8, 16, 32, 64, 122, 122]
    assert mount_delay_s(10_000) == 122

"""A token bucket: so many at once, then so many a second. No clock is read here.

For events (``events``), which wait for their token, and image pulls (``imagepull``), which are refused without one.
Source: client-go util/flowcontrol/throttle.go.
"""

from __future__ import annotations


class TokenBucket:
    """Full at first.

    Args:
        rate: tokens a second; 0 or less: no limit.
        burst: how many it holds.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._tokens = float(burst)
        self._filled_at_s: float | None = None

    def try_take(self, now_s: float) -> bool:
        """Take one if there is one. *now_s* is of any clock that does not go back."""
        if self._rate <= 0:
            return True
        self._fill(now_s)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def take(self, now_s: float) -> float:
        """Take one, also of those still to come.

        Returns:
            Seconds until it is there; 0.0: it is.
        """
        if self._rate <= 0:
            return 0.0
        self._fill(now_s)
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)

    def _fill(self, now_s: float) -> None:
        if self._filled_at_s is not None:
            self._tokens = min(self._burst, self._tokens + (now_s - self._filled_at_s) * self._rate)
        self._filled_at_s = now_s

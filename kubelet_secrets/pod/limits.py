"""``PodLimits``: what a node fails a pod for though its containers would go on: its deadline, and its scratch space.

Made and asked by ``pod/worker.py``, which carries the verdict out. Source: pkg/kubelet/active_deadline.go and
pkg/kubelet/eviction; semantics §2.7, §8.6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.times import parse_rfc3339
from kubelet_secrets.pod import eviction
from kubelet_secrets.pod.events import NORMAL, WARNING

DEADLINE_REASON = "DeadlineExceeded"
DEADLINE_MESSAGE = "Pod was active on the node longer than the specified deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a pod has failed; status and event carry it."""

    reason: str
    message: str
    event_type: str
    max_grace_s: float = float("inf")  # what its containers may take to stop, if their pod grants more
    is_disruption: bool = False  # it is not the pod's doing: the condition DisruptionTarget says so


class PodLimits:
    """The limits of one pod.

    Args:
        struck: called once, with the verdict; must not wait.

    Attributes:
        verdict: the first one; None while the pod keeps to its limits.
    """

    def __init__(self, struck: Callable[[Verdict], None]) -> None:
        self.verdict: Verdict | None = None
        self._struck = struck

    def deadline(self, pod: Pod, start_time: str | None) -> datetime | None:
        """When *pod*'s ``activeDeadlineSeconds`` are over; None when there is no such limit, or a verdict already.

        Args:
            start_time: of its status; None while there is none.
        """
        limit_s, started_at = pod.spec.active_deadline_seconds, parse_rfc3339(start_time)
        if limit_s is None or started_at is None or self.verdict is not None:
            return None
        return started_at + timedelta(seconds=limit_s)

    def check_deadline(self, pod: Pod, start_time: str | None, now: datetime) -> None:
        """Pronounce the verdict when the deadline is over."""
        deadline = self.deadline(pod, start_time)
        if deadline is not None and now >= deadline:
            self._pronounce(Verdict(reason=DEADLINE_REASON, message=DEADLINE_MESSAGE, event_type=NORMAL))

    async def watch_scratch(self, pod: Pod, places: eviction.Places) -> None:
        """Pronounce the verdict when *pod* has written more to the node than it may; then return."""
        message = await eviction.wait_exceeded(pod, places)
        self._pronounce(
            Verdict(reason=eviction.REASON, message=message, event_type=WARNING, max_grace_s=eviction.GRACE_S)
        )

    def evict(self, message: str) -> bool:
        """The node is short of something; returns whether this verdict is the one."""
        if self.verdict is not None:
            return False
        self._pronounce(
            Verdict(
                reason=eviction.REASON,
                message=message,
                event_type=WARNING,
                max_grace_s=eviction.GRACE_S,
                is_disruption=True,
            )
        )
        return True

    def _pronounce(self, verdict: Verdict) -> None:
        if self.verdict is None:
            self.verdict = verdict
            self._struck(verdict)

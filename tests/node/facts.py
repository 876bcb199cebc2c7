from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kubelet_secrets.node.facts import NodeFacts

T0 = datetime(2026, 11, 23, 19, 40, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def facts(**changes: Any) -> NodeFacts:
    made = NodeFacts(
        name="n1",
        hostname="vm",
        ips=("192.0.2.7",),
        cpus=2,
        memory_bytes=4 << 30,
        storage_bytes=100 << 30,
        runtime_version="runc://1.1.5",
        machine_id="m",
    )
    return replace(made, **changes)


class Clock:
    """Wall time that a test sets."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

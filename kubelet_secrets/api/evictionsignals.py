"""What a node can run short of, and from where on: eviction signals and thresholds. Pure.

Source: pkg/kubelet/eviction (api/types.go, helpers.go: ParseThresholdConfig, thresholdsMet, signalToNodeCondition,
signalToResource); pkg/kubelet/apis/config/v1beta1 (evictionHard).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from kubelet_secrets.api import quantity

MEMORY, DISK, PID = "MemoryPressure", "DiskPressure", "PIDPressure"

_SIGNALS = {
    "memory.available": (MEMORY, "memory"),
    "nodefs.available": (DISK, "ephemeral-storage"),
    "nodefs.inodesFree": (DISK, "inodes"),
    "imagefs.available": (DISK, "ephemeral-storage"),
    "imagefs.inodesFree": (DISK, "inodes"),
    "pid.available": (PID, "pids"),
}


class InvalidThreshold(ValueError):
    """A threshold is none; the text is the kubelet's."""


@dataclass(frozen=True, slots=True)
class Observation:
    available: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """Of one signal: an amount, or a fraction of the capacity."""

    signal: str
    amount: int | None = None
    fraction: Fraction | None = None

    @property
    def condition(self) -> str:
        """Of the Node."""
        return _SIGNALS[self.signal][0]

    @property
    def resource(self) -> str:
        """What pods give back."""
        return _SIGNALS[self.signal][1]

    def value(self, capacity: int) -> int:
        """The amount that is too little to fall below."""
        return self.amount if self.amount is not None else int((self.fraction or Fraction()) * capacity)


DEFAULT_THRESHOLDS = (
    Threshold("memory.available", amount=100 << 20),
    Threshold("nodefs.available", fraction=Fraction(10, 100)),
    Threshold("nodefs.inodesFree", fraction=Fraction(5, 100)),
    Threshold("imagefs.available", fraction=Fraction(15, 100)),
    Threshold("imagefs.inodesFree", fraction=Fraction(5, 100)),
)
"""The kubelet's ``evictionHard`` where nobody says anything."""


def parse_thresholds(statements: Mapping[str, str]) -> tuple[Threshold, ...]:
    """``evictionHard``: signal → amount or percentage. 0% and 100% switch a signal off.

    Raises:
        InvalidThreshold: naming the signal.
    """
    found = []
    for signal, text in statements.items():
        if signal not in _SIGNALS:
            raise InvalidThreshold(f"unsupported eviction signal {signal}")
        if text in ("0%", "100%"):
            continue
        if (percent := re.fullmatch(r"([+-]?\d+(?:\.\d+)?)%", text)) is not None:
            share = Fraction(percent[1])
            if share < 0:
                raise InvalidThreshold(f"eviction percentage threshold {signal} must be >= 0%: {text}")
            if share > 100:
                raise InvalidThreshold(f"eviction percentage threshold {signal} must be <= 100%: {text}")
            found.append(Threshold(signal, fraction=share / 100))
            continue
        try:
            amount = quantity.value(text)
        except quantity.InvalidQuantity as error:
            raise InvalidThreshold(f"eviction threshold {signal}: {error}") from None
        if amount < 0:
            raise InvalidThreshold(f"eviction threshold {signal} must be positive: {text}")
        found.append(Threshold(signal, amount=amount))
    return tuple(found)


def parse_flag(text: str) -> tuple[Threshold, ...]:
    """``--eviction-hard``: ``memory.available<100Mi,nodefs.available<10%``. Empty: none.

    Raises:
        InvalidThreshold: see :func:`parse_thresholds`.
    """
    statements: dict[str, str] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        signal, operator, amount = part.partition("<")
        if not operator or not signal or not amount:
            raise InvalidThreshold(f"invalid eviction threshold syntax {part}, expected <signal><operator><value>")
        if signal in statements:
            raise InvalidThreshold(f"duplicate eviction threshold {signal}")
        statements[signal] = amount
    return parse_thresholds(statements)


def met(thresholds: Iterable[Threshold], observed: Mapping[str, Observation]) -> list[Threshold]:
    """Those that are fallen below, memory first. A signal that nobody observes is none, nor is one that has no capacity."""
    found = []
    for threshold in thresholds:
        seen = observed.get(threshold.signal)
        if seen is not None and seen.capacity > 0 and seen.available < threshold.value(seen.capacity):
            found.append(threshold)
    return sorted(found, key=lambda each: each.signal != "memory.available")


def conditions(thresholds: Sequence[Threshold], observed: Mapping[str, Observation]) -> frozenset[str]:
    """The Node's conditions that hold."""
    return frozenset(each.condition for each in met(thresholds, observed))

"""Instants as the API writes them. Pure: nobody here reads a clock.

Source: k8s.io/apimachinery metav1.Time (whole seconds) and metav1.MicroTime (leases).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

_DURATION = re.compile(r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|[-+]?0")
_DURATION_PART = re.compile(r"([\d.]+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def rfc3339(instant: datetime) -> str:
    """``2026-11-23T19:40:01Z``: metav1.Time. *instant* must carry a time zone."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(instant: datetime) -> str:
    """``2026-11-23T19:40:01.123456Z``: metav1.MicroTime."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def rfc3339_nano(instant: datetime) -> str:
    """``2026-11-23T20:40:01.1234+01:00``: in the zone of *instant*. Source: time.RFC3339Nano."""
    whole, zone = instant.strftime("%Y-%m-%dT%H:%M:%S"), instant.isoformat()[-6:]
    fraction = f".{instant.microsecond:06}".rstrip("0").rstrip(".")
    return f"{whole}{fraction}{'Z' if zone == '+00:00' else zone}"


def parse_rfc3339(text: str | None) -> datetime | None:
    """The instant that the API wrote, or None when it is unset or not a time.

    Nanoseconds (as runtimes write them) are cut to microseconds.
    """
    if not text:
        return None
    head, dot, rest = text.partition(".")
    if dot:
        digits = len(rest) - len(rest.lstrip("0123456789"))
        text = f"{head}.{rest[:digits][:6].ljust(6, '0')}{rest[digits:]}"
    try:
        instant = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def go_duration(seconds: float) -> str:
    """A duration as Go's ``%v`` prints it: ``10s``, ``1m20s``, ``5m0s``, ``1.5s``, ``250ms``; ``0s`` for nothing."""
    if seconds == 0:
        return "0s"
    if seconds < 0:
        return "-" + go_duration(-seconds)
    nanoseconds = round(seconds * 1e9)
    for unit, size in (("ns", 1_000), ("µs", 1_000_000), ("ms", 1_000_000_000)):
        if nanoseconds < size:
            return f"{_trim(nanoseconds / (size // 1000))}{unit}"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_trim(rest / 1e9)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def parse_go_duration(text: str) -> float:
    """Seconds of a Go duration: ``3s``, ``1m30s``, ``250ms``, ``0``.

    Raises:
        ValueError: it is none.

    Source: time.ParseDuration.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError("not a duration")
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _DURATION_PART.findall(text))
    return -seconds if text.startswith("-") else seconds


def _trim(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")

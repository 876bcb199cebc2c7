"""What pytest's own report (JUnit's XML) says of a group of tests. Pure but for reading it; called by ``__main__``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

_NEEDS_NEWER = re.compile(r"needs Kubernetes ≥ \d+\.\d+ \([^)]*\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How many tests of a group ended how."""

    passed: int
    failed: Sequence[str]  # names
    newer: Mapping[str, int] = field(default_factory=dict)  # "needs Kubernetes ≥ 1.35 (fileKeyRef)" → tests
    skipped: Mapping[str, int] = field(default_factory=dict)  # any other reason → tests

    @property
    def held(self) -> bool:
        """Nothing failed, and there was something to hold."""
        return not self.failed and self.passed > 0

    def __str__(self) -> str:
        counts = [f"{self.passed} passed"]
        if self.newer:
            counts.append(f"{sum(self.newer.values())} need a newer Kubernetes")
        if self.skipped:
            counts.append(f"{sum(self.skipped.values())} skipped")
        if self.failed:
            counts.append(f"{len(self.failed)} failed")
        return ", ".join(counts)


def read_verdict(report: Path) -> Verdict:
    """Read the report; one that is missing or cut off is a failure of its own."""
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return Verdict(passed=0, failed=["pytest did not come to its end"])
    failed, newer, skipped = [], Counter[str](), Counter[str]()
    for case in cases:
        if (skip := case.find("skipped")) is not None:
            reason = skip.get("message", "")
            found = _NEEDS_NEWER.search(reason)
            (newer if found else skipped)[found[0] if found else reason] += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '')}")
    passed = len(cases) - len(failed) - sum(newer.values()) - sum(skipped.values())
    return Verdict(passed=passed, failed=failed, newer=newer, skipped=skipped)

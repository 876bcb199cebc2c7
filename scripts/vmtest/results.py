"""What checks said, kept beside the guest's image: a run that was ended goes on where it was, and a table can show all of it.

One JSON line per outcome: kernel release, the name of the checkout's content, and the report itself. Called by ``__main__``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

Report = Mapping[str, object]


class Results:
    """The file of outcomes; later ones of a check replace earlier ones."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, kernel: str, code: str, report: Report) -> None:
        """Note an outcome at once: the next check may be the one that hangs. What was cut off before stays a line by itself."""
        with self._path.open("a") as file:
            file.write("\n" + json.dumps({"kernel": kernel, "code": code, **report}))

    def held(self, kernel: str, code: str) -> dict[str, Report]:
        """Check → report, of those whose last outcome with just this kernel and this checkout was that it held."""
        last: dict[str, Report] = {}
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the first, which is empty; or cut off, as the run was killed just then
            if (entry.pop("kernel"), entry.pop("code")) == (kernel, code):
                last[entry["check"]] = entry
        return {name: report for name, report in last.items() if report["held"]}

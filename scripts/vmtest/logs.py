"""The log of a guest's checks, cut into one part per check. Pure. Called by ``__main__``."""

from __future__ import annotations

import re

_HEADING = re.compile(r"^=== (\S+)$", re.MULTILINE)


def section(log: str, check: str) -> str:
    """What *check* printed, when it was run last; "" if it was not."""
    parts = _HEADING.split(log)  # text, name, text, name, text …
    found = [text for name, text in zip(parts[1::2], parts[2::2], strict=True) if name == check]
    return found[-1].strip("\n") if found else ""


def tail(text: str, lines: int) -> str:
    """The last lines of a text, indented as belonging to the line above."""
    return "\n".join(f"      {line}" for line in text.splitlines()[-lines:])

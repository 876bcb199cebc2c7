"""What becomes of a variable on its way into a process. Pure; asked by the runtime's spec and by those who foretell it.

Source: execve(2): a NUL byte ends a string. The CRI carries values as bytes (kubernetes#139168, in 1.36 and before 1.34), but
runtimes write ``config.json`` with Go's encoding/json, which puts U+FFFD in the place of every byte that is not UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # surrogate escapes: each is one byte


def refusal(name: str, value: str) -> str:
    """Why no container can get the variable; empty when it can. Names the variable, never its value."""
    if "\0" in name or "\0" in value:
        return f'environment variable "{as_passed(name)}" contains a NUL byte'
    return ""


def argument_refusal(arguments: Iterable[str]) -> str:
    """Why no container can be given these arguments; empty when it can. Unlike values, the CRI carries them as strings."""
    for argument in arguments:
        if "\0" in argument:
            return "an argument of the command contains a NUL byte"
        if _NOT_UTF8.search(argument):
            return "an argument of the command is not valid UTF-8"
    return ""


def as_passed(text: str) -> str:
    """A name or value as the process gets it: U+FFFD for each byte that is not UTF-8."""
    return _NOT_UTF8.sub("\ufffd", text)


def count_replaced(value: str) -> int:
    """How many bytes of a value get lost so."""
    return len(_NOT_UTF8.findall(value))

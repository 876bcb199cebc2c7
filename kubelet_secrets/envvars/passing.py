"""Which variables can be handed to a process at all. Pure; asked by the runtime's spec and by ``explain``.

Source: execve(2): a NUL byte ends a string. The CRI carries variables as strings, which must be UTF-8; so does config.json.
"""

from __future__ import annotations


def refusal(name: str, value: str) -> str:
    """Why no container can get the variable; empty when it can. Names the variable, never its value."""
    shown = name.encode("utf-8", "backslashreplace").decode()
    if "\0" in name or "\0" in value:
        return f'environment variable "{shown}" contains a NUL byte'
    try:
        (name + value).encode()
    except UnicodeEncodeError:
        return f'environment variable "{shown}" is not valid UTF-8: mount the key as a file instead'
    return ""

"""How commands print: kubectl's tables and ``-o`` formats."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO, TypeVar

import click
import msgspec

F = TypeVar("F", bound=Callable[..., Any])
_REDRAW_S = 0.1
OUTPUT_FORMATS = ("table", "wide", "json", "yaml", "name")


def output_option(*formats: str) -> Callable[[F], F]:
    """The ``-o/--output`` option, limited to the formats a command has."""
    return click.option(
        "-o", "--output", type=click.Choice(formats or OUTPUT_FORMATS), default="table", show_default=True
    )


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, file: Any = None) -> None:
    """Print left-aligned columns three spaces apart, as kubectl does; nothing but the last column may be long."""
    lines = [list(headers), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        text = "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        click.echo(text, file=file)


def print_objects(value: Any, output: str) -> None:
    """Print structs, dataclasses or plain data as JSON or YAML; fields in camelCase, as everywhere in Kubernetes."""
    plain = msgspec.to_builtins(_named_for_machines(value))
    if output == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode() + "\n")
    else:
        import yaml

        yaml.dump(plain, sys.stdout, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)


def _named_for_machines(value: Any) -> Any:
    """Dataclasses as mappings with their fields' names in camelCase. Structs bring such names; keys of mappings are data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {_camel(each.name): _named_for_machines(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [_named_for_machines(each) for each in value]
    if isinstance(value, dict):
        return {key: _named_for_machines(each) for key, each in value.items()}
    return value


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(each.capitalize() for each in others)


class Progress:
    """A line on a terminal's standard error that says how far a long task is; nothing elsewhere, nor while it is not long.

    Args:
        patience_s: how long a task may take before anything is said.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic, patience_s: float = 1.0) -> None:
        self._stream = stream
        self._clock = clock
        self._next_at = clock() + patience_s if stream.isatty() else float("inf")
        self._is_shown = False

    def tell(self, text: str) -> None:
        """Show *text*, unless something was shown just now. Cheap: may be called at every step."""
        if self._clock() < self._next_at:
            return
        self._write(text)
        self._is_shown, self._next_at = True, self._clock() + _REDRAW_S

    def clear(self) -> None:
        """Take the line away, before anything else is printed."""
        if self._is_shown:
            self._write("")
            self._is_shown = False

    def _write(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}")
        self._stream.flush()


def human_size(size_bytes: int) -> str:
    """``4.1 MB``: powers of ten, as image tools print them."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def mode_string(mode: int) -> str:
    """``-rw-r--r--`` of a full st_mode."""
    import stat

    return stat.filemode(mode)

"""Env files (KEP 3721): the value of one key in a file of ``KEY='value'`` lines.

Pure: works on the file's bytes; reading them, confined to the volume, is the pod worker's job. Parsing stops at the first
line that defines the key, so mistakes behind it are not seen.

Source: pkg/util/env, ParseEnv; semantics §6.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kubelet_secrets.api.core import Container
from kubelet_secrets.errors import KubeletSecretsError
from kubelet_secrets.sensitive import SensitiveBytes

MAX_LINE_LENGTH = 64 * 1024  # bytes, with its line break: bufio.MaxScanTokenSize

_BLANKS = b" \t"


class EnvFileError(KubeletSecretsError):
    """The file breaks the grammar. The text names a line and what is wrong with it, and quotes nothing of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvFile:
    """A file that ``fileKeyRef`` names, as the node found it."""

    host_path: str  # absolute, for the error message
    content: SensitiveBytes | None  # None: it does not exist or cannot be read


def wanted_env_files(container: Container) -> tuple[tuple[str, str], ...]:
    """(volume name, path) of every file that *container*'s variables read; each once, in order."""
    wanted: dict[tuple[str, str], None] = {}
    for variable in container.env:
        if not variable.value and variable.value_from is not None and variable.value_from.file_key_ref is not None:
            reference = variable.value_from.file_key_ref
            wanted[reference.volume_name, reference.path] = None
    return tuple(wanted)


def find_value(content: bytes, key: str) -> bytes:
    """The value of *key*; empty when the file does not define it, or defines it empty.

    Raises:
        EnvFileError: a line up to and including the key's breaks the grammar.
    """
    wanted = key.encode("utf-8", "surrogateescape")
    lines = enumerate(_scan_lines(content), start=1)
    for number, raw in lines:
        line = raw.lstrip(_BLANKS)
        if not line or line.startswith(b"#"):
            continue
        name, equals, rest = line.partition(b"=")
        if not equals:
            raise _invalid(number, "missing '='")
        if not name.rstrip(_BLANKS):
            raise _invalid(number, "empty variable name")
        if name != name.rstrip(_BLANKS):
            raise _invalid(number, "whitespace before '=' is not allowed")
        if rest[:1] in (b" ", b"\t"):
            # A shell would set the name to nothing and run the rest: the name is empty, the line no mistake.
            if name == wanted:
                return b""
            continue
        if not rest.startswith(b"'"):
            raise _invalid(number, "value must be enclosed in single quotes")
        value = _quoted_value(rest[1:], number, lines)
        if name == wanted:
            return value
    return b""


def _quoted_value(rest: bytes, start: int, lines: Iterator[tuple[int, bytes]]) -> bytes:
    """Read up to the closing quote, over as many *lines* as it takes; *rest* is what follows the opening one."""
    parts = []
    number = start
    while True:
        part, quote, behind = rest.partition(b"'")
        parts.append(part)
        if quote:
            behind = behind.lstrip(_BLANKS)
            if behind and not behind.startswith(b"#"):
                raise _invalid(number, "unexpected content after closing quote")
            return b"\n".join(parts)
        try:
            number, rest = next(lines)
        except StopIteration:
            raise EnvFileError(
                f"invalid environment variable format starting at line {start}: unclosed single quote"
            ) from None


def _scan_lines(content: bytes) -> Iterator[bytes]:
    """Lines as Go's ``bufio.ScanLines`` gives them: without ``\\n`` or ``\\r\\n``; nothing after a final line break."""
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for line in lines:
        if len(line) >= MAX_LINE_LENGTH:
            raise EnvFileError("bufio.Scanner: token too long")
        yield line[:-1] if line.endswith(b"\r") else line


def _invalid(line: int, problem: str) -> EnvFileError:
    return EnvFileError(f"invalid environment variable format at line {line}: {problem}")

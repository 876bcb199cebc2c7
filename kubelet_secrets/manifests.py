"""Manifest files → API objects as plain dictionaries: what ``-f`` reads, for every command that has it.

Reads files, directories and standard input; knows YAML and JSON, several documents per file, and Lists. What an object means
is not decided here. Errors name file, document and line, and never quote what stands there: a manifest holds secrets.

How YAML is understood is ``api/yamltext.py``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kubelet_secrets.api import yamltext
from kubelet_secrets.errors import UsageError

SUFFIXES = (".json", ".yaml", ".yml")
STDIN = "-"

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class ManifestObject:
    """One object and where it was read: ``pod.yaml``, ``all.yaml, document 2``, ``-, document 1, item 3``."""

    obj: dict[str, Any] = field(repr=False)
    source: str

    @property
    def kind(self) -> str:
        return str(self.obj["kind"])


def read_manifests(paths: Sequence[str]) -> list[ManifestObject]:
    """Read every object behind *paths*, in order.

    Args:
        paths: files; directories (their ``.json``, ``.yaml`` and ``.yml`` files, by name, not deeper); ``-``.

    Raises:
        UsageError: a path cannot be read, or what stands there is no object. One line, ready to be shown.
    """
    return [found for path in manifest_files(paths) for found in read_manifest(path)]


def manifest_files(paths: Sequence[str]) -> list[str]:
    """The files behind *paths*, directories listed.

    Raises:
        UsageError: a path does not exist, or a directory holds no manifest.
    """
    files: list[str] = []
    for given in paths:
        path = Path(given)
        if given == STDIN or not path.is_dir():
            files.append(given)
            continue
        try:
            found = sorted(str(entry) for entry in path.iterdir() if entry.suffix in SUFFIXES and entry.is_file())
        except OSError as error:
            raise UsageError(f"{given}: {error.strerror}") from None
        if not found:
            raise UsageError(f"{given}: no .json, .yaml or .yml file in this directory")
        files += found
    return files


def read_manifest(path: str, *, tell: Callable[[int], None] = lambda number: None) -> list[ManifestObject]:
    """Read the objects of one file, or of standard input for ``-``.

    Args:
        tell: called after each document with how many have been read.

    Raises:
        UsageError: see :func:`read_manifests`.
    """
    try:
        content = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    return parse_manifest(content, source="standard input" if path == STDIN else path, tell=tell)


def parse_manifest(
    content: bytes, *, source: str, tell: Callable[[int], None] = lambda number: None
) -> list[ManifestObject]:
    """Parse the content of one file; *source* is its name in messages.

    Args:
        tell: as in :func:`read_manifest`.

    Raises:
        UsageError: see :func:`read_manifests`.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{source}: not UTF-8 at byte {error.start}") from None
    documents = [document for document in _documents(text, source, tell) if document is not None]
    objects: list[ManifestObject] = []
    for number, document in enumerate(documents, start=1):
        where = source if len(documents) == 1 else f"{source}, document {number}"
        try:
            size = yamltext.expanded_size(document)
        except RecursionError:
            raise UsageError(f"{where}: nested too deeply") from None
        if size > yamltext.LARGEST_NODE_COUNT:
            raise UsageError(f"{where}: aliases expand to too many nodes")
        objects += _flatten(document, where)
    return objects


def _documents(text: str, source: str, tell: Callable[[int], None]) -> Iterator[Any]:
    if text.lstrip()[:1] == "{" and (documents := _json_documents(text)) is not None:
        yield from documents
        return
    documents = []
    loader = yamltext.Loader(text)
    try:
        if yamltext.is_too_deep(text):
            raise UsageError(f"{source}: nested too deeply")
        while loader.check_data():  # type: ignore[no-untyped-call]  # types-PyYAML leaves it out
            documents.append(loader.get_data())
            tell(len(documents))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise UsageError(f"{source}{where}: {error.problem or 'not valid YAML'}") from None
    except yaml.YAMLError:
        raise UsageError(f"{source}: not valid YAML") from None
    except (RecursionError, ValueError):
        raise UsageError(f"{source}, document {len(documents) + 1}: not valid YAML") from None
    finally:
        loader.dispose()
    yield from documents


def _json_documents(text: str) -> list[Any] | None:
    """One or more JSON values behind each other; None when it is not JSON (but perhaps YAML in flow style)."""
    decoder = json.JSONDecoder()
    documents: list[Any] = []
    at = 0
    try:
        while (match := re.compile(r"\s*").match(text, at)) is not None and match.end() < len(text):
            document, at = decoder.raw_decode(text, match.end())
            documents.append(document)
    except (ValueError, RecursionError):
        return None
    # Half of a surrogate pair is no character: Go reads U+FFFD for it.
    return [_replace_surrogates(document) for document in documents] if _SURROGATE.search(text) else documents


def _replace_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_replace_surrogates(entry) for entry in value]
    if isinstance(value, dict):
        return {_replace_surrogates(key): _replace_surrogates(entry) for key, entry in value.items()}
    return value


def _flatten(document: Any, where: str) -> Iterator[ManifestObject]:
    """One object, or the items of a List."""
    if not isinstance(document, dict):
        raise UsageError(f"{where}: not an object but {_type_name(document)}")
    kind, api_version = document.get("kind"), document.get("apiVersion")
    if not isinstance(kind, str) or not kind:
        raise UsageError(f"{where}: kind is missing")
    if not isinstance(api_version, str) or not api_version:
        raise UsageError(f"{where}: apiVersion is missing")
    items = document.get("items")
    if not (kind.endswith("List") and (isinstance(items, list) or "items" not in document or items is None)):
        yield ManifestObject(document, where)
        return
    for number, item in enumerate(items or (), start=1):
        if isinstance(item, dict) and kind != "List":
            # The items of a SecretList need not say what they are.
            item = {"apiVersion": api_version, "kind": kind.removesuffix("List"), **item}
        yield from _flatten(item, f"{where}, item {number}")


def _type_name(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return "text" if isinstance(value, str) else "a bare value"

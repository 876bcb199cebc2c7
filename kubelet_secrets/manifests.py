"""Manifest files → API objects as plain dictionaries: what ``-f`` reads, for every command that has it.

Reads files, directories and standard input; knows YAML and JSON, several documents per file, and Lists. What an object means
is not decided here. Errors name file, document and line, and never quote what stands there: a manifest holds secrets.

YAML is read as kubectl reads it (sigs.k8s.io/yaml): no dates, no base-60 numbers, keys are strings.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kubelet_secrets.errors import UsageError

SUFFIXES = (".json", ".yaml", ".yml")
STDIN = "-"

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_DEEPEST = 300  # levels; the deepest field of the API, in an OpenAPI schema, has some dozens
_LARGEST_NODE_COUNT = 5_000_000  # after aliases are expanded; a 3 MiB object has no more


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


def read_manifest(path: str) -> list[ManifestObject]:
    """Read the objects of one file, or of standard input for ``-``.

    Raises:
        UsageError: see :func:`read_manifests`.
    """
    try:
        content = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    return parse_manifest(content, source="standard input" if path == STDIN else path)


def parse_manifest(content: bytes, *, source: str) -> list[ManifestObject]:
    """Parse the content of one file; *source* is its name in messages.

    Raises:
        UsageError: see :func:`read_manifests`.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{source}: not UTF-8 at byte {error.start}") from None
    documents = [document for document in _documents(text, source) if document is not None]
    objects: list[ManifestObject] = []
    for number, document in enumerate(documents, start=1):
        where = source if len(documents) == 1 else f"{source}, document {number}"
        try:
            size = _expanded_size(document)
        except RecursionError:
            raise UsageError(f"{where}: nested too deeply") from None
        if size > _LARGEST_NODE_COUNT:
            raise UsageError(f"{where}: aliases expand to too many nodes")
        objects += _flatten(document, where)
    return objects


def _documents(text: str, source: str) -> Iterator[Any]:
    if text.lstrip()[:1] == "{" and (documents := _json_documents(text)) is not None:
        yield from documents
        return
    documents = []
    loader = _Loader(text)
    try:
        if _is_too_deep(text):
            raise UsageError(f"{source}: nested too deeply")
        while loader.check_data():  # type: ignore[no-untyped-call]  # types-PyYAML leaves it out
            documents.append(loader.get_data())
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


def _is_too_deep(text: str) -> bool:
    """Whether YAML nests deeper than this program's (and libyaml's C) recursion stands.

    The events are only counted for a text that could be so: each bracket, and each character of indentation, opens one level
    at most.
    """
    indentation = max(map(len, re.findall(r"^[ ?-]+", text, re.MULTILINE)), default=0)
    if text.count("[") + text.count("{") + indentation <= _DEEPEST:
        return False
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            depth += 1
            if depth > _DEEPEST:
                return True
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            depth -= 1
    return False


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


def _expanded_size(document: Any) -> int:
    """Nodes of *document* once every alias is written out; each shared node is counted once and multiplied."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Any) -> int:
        if not isinstance(node, (dict, list)):
            return 1
        if id(node) in open_nodes:
            return _LARGEST_NODE_COUNT + 1  # an alias inside its own anchor never ends
        if id(node) not in sizes:
            open_nodes.add(id(node))
            children = node.values() if isinstance(node, dict) else node
            sizes[id(node)] = 1 + sum(map(size, children))
            open_nodes.discard(id(node))
        return sizes[id(node)]

    return size(document)


class _Loader(yaml.CSafeLoader):
    """YAML as sigs.k8s.io/yaml resolves it on its way to JSON."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own way to configure a loader class
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("null", "bool", "merge")]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # Not the inherited one: a key becomes text before it meets the others, because True == 1 in Python.
        self.flatten_mapping(node)
        return {
            _key(self.construct_object(key_node, deep=True), key_node): self.construct_object(value_node, deep=deep)
            for key_node, value_node in node.value
        }


def _key(key: object, node: yaml.Node) -> str:
    match key:
        case str():
            return key
        case bool():
            return "true" if key else "false"
        case int() | float():
            return str(key)
        case _:
            raise yaml.constructor.ConstructorError(None, None, "a key is not text", node.start_mark)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(?:0b[01_]+|0o?[0-7_]+|(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+)\Z"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?\Z"),
    list("-+.0123456789"),
)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.lstrip("+"))
    if digits.startswith(("0b", "0x", "0o")):
        return sign * int(digits, 0)
    return sign * int(digits, 8 if digits.startswith("0") else 10)


def _refuse(loader: _Loader, node: yaml.Node) -> None:
    loader.construct_undefined(node)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)).replace("_", ""))


for _tag in ("binary", "omap", "pairs", "set", "timestamp"):  # nothing that JSON has
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _refuse)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)

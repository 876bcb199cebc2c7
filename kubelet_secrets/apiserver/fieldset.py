"""Sets of fields: which part of an object an applier names, or an update touches.

Pure. A path is a tuple of elements in the notation of ``FieldsV1``: ``f:name`` a field, ``k:{"name":"c"}`` an element of a
list that is a map, ``v:"x"`` an element of a list that is a set. ``apply.py`` turns them into ownership.

Source: sigs.k8s.io/structured-merge-diff v6: fieldpath/serialize.go, typed/tofieldset.go, typed/compare.go, typed/merge.go,
typed/remove.go.
"""

from __future__ import annotations

import copy
import json
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kubelet_secrets.apiserver.schemas import Schema

Path = tuple[str, ...]
_ABSENT: Final = object()

# The typed form of every object has these, set or not, so that gaining content does not mean that they were added.
_ALWAYS_PRESENT = frozenset(
    {("f:metadata",), ("f:spec",), ("f:status",), ("f:spec", "f:containers"), ("f:involvedObject",), ("f:source",)}
)
# A list-map's key field that may be left out, as its schema gives it a default (ports).
_KEY_DEFAULTS = {"protocol": "TCP"}


@dataclass(slots=True)
class Comparison:
    """What happened between two states of an object."""

    added: set[Path] = field(default_factory=set)
    modified: set[Path] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)

    @property
    def is_same(self) -> bool:
        return not (self.added or self.modified or self.removed)


def to_fields_v1(paths: Iterable[Path]) -> dict[str, Any]:
    """The trie of ``managedFields[].fieldsV1``; a path that has others below it is marked by a dot."""
    root: dict[str, Any] = {}
    for path in sorted(paths):
        node = root
        for element in path:
            # A sorted prefix comes first: it is a leaf until something below it arrives.
            node = node.setdefault(element, {})
        node["."] = {}
    return _without_leaf_dots(root)


def from_fields_v1(trie: Mapping[str, Any]) -> set[Path]:
    """Inverse of :func:`to_fields_v1`.

    Raises:
        ValueError: it is none: clients may write what they like there.
    """
    paths: set[Path] = set()
    pending: list[tuple[Path, Mapping[str, Any]]] = [((), trie)]
    while pending:
        prefix, node = pending.pop()
        for element, below in node.items():
            if not isinstance(below, Mapping):
                raise ValueError("fieldsV1: an element is no object")
            if element == ".":
                paths.add(prefix)
                continue
            _check_element(element)
            if not below:
                paths.add((*prefix, element))
            else:
                pending.append(((*prefix, element), below))
    return paths


def _check_element(element: str) -> None:
    """Raises: ValueError: what path_text and the rest could not make anything of. Source: fieldpath/serialize-pe.go."""
    kind, colon, rest = element[:1], element[1:2], element[2:]
    if colon != ":" or kind not in ("f", "k", "v", "i"):
        raise ValueError("fieldsV1: an element is of no known type")
    if kind == "k" and not isinstance(json.loads(rest), dict):
        raise ValueError("fieldsV1: a key is no object")
    if kind == "v":
        json.loads(rest)
    if kind == "i":
        int(rest)


def path_text(path: Path) -> str:
    """As conflicts name a field: ``.spec.containers[name="c"].image``."""
    out = []
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "f":
            out.append("." + rest)
        elif kind == "k":
            keys = ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(rest).items())
            out.append(f"[{keys}]")
        else:
            out.append(f"[={rest}]" if kind == "v" else f"[{rest}]")
    return "".join(out)


def field_set(obj: Any, schema: Schema) -> set[Path]:
    """The fields an applied configuration names."""
    paths: set[Path] = set()
    _collect(obj, schema, (), paths)
    return paths


def _collect(value: Any, schema: Schema, path: Path, paths: set[Path]) -> None:
    if isinstance(value, dict) and not schema.is_atomic:
        for key, entry in value.items():
            below = (*path, f"f:{key}")
            _collect(entry, schema.field(key), below, paths)
            if entry is None or entry == {} or not (schema.is_struct and key in schema.fields):
                paths.add(below)
    elif isinstance(value, list) and schema.type == "array" and schema.list_type != "atomic":
        for entry in value:
            below = (*path, element_of(entry, schema))
            _collect(entry, schema.item, below, paths)
            paths.add(below)
    else:
        paths.add(path)


def element_of(entry: Any, schema: Schema) -> str:
    """The path element of one entry of a set or of a list-map."""
    if schema.list_type == "set" or not isinstance(entry, dict):
        return "v:" + _compact(entry)
    return "k:" + _compact({key: entry.get(key, _KEY_DEFAULTS.get(key, "")) for key in sorted(schema.map_keys)})


def compare(old: Any, new: Any, schema: Schema) -> Comparison:
    """What an update from *old* to *new* added, modified and removed; *old* may be an empty mapping."""
    comparison = Comparison()
    _compare(old, new, schema, (), comparison)
    return comparison


def _compare(old: Any, new: Any, schema: Schema, path: Path, out: Comparison) -> None:
    if old is _ABSENT or new is _ABSENT:
        if path and not (path in _ALWAYS_PRESENT and (new if old is _ABSENT else old)):
            (out.added if old is _ABSENT else out.removed).add(path)
    elif old == new and type(old) is type(new):
        return
    if schema.is_atomic and schema.is_known:
        if old is not _ABSENT and new is not _ABSENT:
            out.modified.add(path)
        return
    left, right = _children(old, schema), _children(new, schema)
    if left is None or right is None:
        if old is not _ABSENT and new is not _ABSENT:
            out.modified.add(path)
        return
    for element in {**left, **right}:
        below = schema.field(element[2:]) if element.startswith("f:") else schema.item
        _compare(left.get(element, _ABSENT), right.get(element, _ABSENT), below, (*path, element), out)


def _children(value: Any, schema: Schema) -> dict[str, Any] | None:
    """Path element → child, or None for a leaf. Absent has no children. Elements with the same key count as one list."""
    if value is _ABSENT:
        return {}
    if isinstance(value, dict):
        return {f"f:{key}": entry for key, entry in value.items()}
    if isinstance(value, list) and schema.type == "array" and schema.list_type != "atomic":
        children: dict[str, Any] = {}
        for entry in value:
            element = element_of(entry, schema)
            children[element] = [children[element], entry] if element in children else entry
        return children
    return None


def merge(live: Any, applied: Any, schema: Schema) -> Any:
    """*live* with everything that *applied* names; a new value, sharing nothing with either."""
    if isinstance(live, dict) and isinstance(applied, dict) and not schema.is_atomic:
        merged = copy.deepcopy(live)
        for key, entry in applied.items():
            merged[key] = merge(live.get(key), entry, schema.field(key))
        return merged
    mergeable = schema.type == "array" and schema.list_type != "atomic"
    if mergeable and isinstance(live, list) and isinstance(applied, list):
        return _merge_lists(live, applied, schema)
    return copy.deepcopy(applied)


def _merge_lists(live: list[Any], applied: list[Any], schema: Schema) -> list[Any]:
    """Both in one: what is in both has the order of *applied*, what is in *live* alone stays before what followed it.

    Source: structured-merge-diff typed/merge.go, visitListItems.
    """
    left, right = [element_of(entry, schema) for entry in live], [element_of(entry, schema) for entry in applied]
    # Of entries with the same key none is the one to merge with.
    count = Counter(left)
    standing = {element: entry if count[element] == 1 else None for element, entry in zip(left, live, strict=True)}
    wanted = dict(zip(right, applied, strict=True))
    shared = deque(element for element in right if element in standing)
    merged: list[Any] = []
    done: set[str] = set()

    def take_applied(element: str) -> None:
        done.add(element)
        merged.append(merge(standing.get(element), wanted[element], schema.item))
        if shared and shared[0] == element:
            shared.popleft()

    at, then = 0, 0
    while at < len(left) or then < len(right):
        if at < len(left) and then < len(right):
            if left[at] == right[then]:
                take_applied(left[at])
                at, then = at + 1, then + 1
                continue
            if left[at] in wanted and shared and shared[0] != left[at]:
                at += 1  # it comes when it is its turn among those in both
                continue
        if at < len(left):
            if left[at] not in wanted:
                merged.append(copy.deepcopy(live[at]))
                at += 1
                continue
            if left[at] in done:
                at += 1
        if then < len(right):
            take_applied(right[then])
            then += 1
    return merged


def remove(obj: Any, path: Path, schema: Schema) -> set[Path]:
    """Take the value at *path* out of *obj*, in place, and with it every map or list that this empties below the root.

    Returns:
        The paths of those.
    """
    emptied: set[Path] = set()
    _remove(obj, (), path, schema, emptied)
    return emptied


def _remove(obj: Any, above: Path, path: Path, schema: Schema, emptied: set[Path]) -> None:
    element, rest = path[0], path[1:]
    here = (*above, element)
    if isinstance(obj, dict):
        key = element[2:]
        if key not in obj:
            return
        if not rest:
            del obj[key]
            return
        _remove(obj[key], here, rest, schema.field(key), emptied)
        if obj[key] in ({}, []):
            del obj[key]
            emptied.add(here)
    elif isinstance(obj, list):
        name = rest[0][2:] if len(rest) == 1 else ""
        is_key = name in schema.map_keys and name not in _KEY_DEFAULTS  # without its key it would be another element
        for entry in [entry for entry in obj if element_of(entry, schema) == element]:
            if not rest:
                obj.remove(entry)
            elif not is_key:
                _remove(entry, here, rest, schema.item, emptied)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _without_leaf_dots(node: dict[str, Any]) -> dict[str, Any]:
    if node.keys() == {"."}:
        return {}
    return {element: {} if element == "." else _without_leaf_dots(node[element]) for element in sorted(node)}

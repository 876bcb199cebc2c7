"""Fields that a body names twice: of two values one would be lost, so strict decoding says where.

Pure. The texts are upstream's: a path for JSON, a line for YAML. Neither shows a value.

Source: sigs.k8s.io/json, strict decoding (``duplicate field "…"``); sigs.k8s.io/yaml, YAMLToJSONStrict.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

_MOST = 100  # upstream's limit of strict errors for one body


def duplicate_fields(body: bytes, *, is_yaml: bool) -> list[str]:
    """One text per repeated field of *body*, which is known to be well-formed and of a bounded depth.

    ``duplicate field "spec.containers[0].image"``, or for YAML all of them in one: ``yaml: unmarshal errors:\\n  line 4: key
    "image" already set in map``.
    """
    if not is_yaml:
        paths = list(_paths(json.loads(body, object_pairs_hook=_Pairs), ""))
        return [f'duplicate field "{path}"' for path in dict.fromkeys(paths)][:_MOST]
    lines = list(_lines(yaml.compose(body, yaml.CSafeLoader), set()))
    return ["yaml: unmarshal errors:\n" + "\n".join(f"  {line}" for line in lines[:_MOST])] if lines else []


class _Pairs(tuple[tuple[str, Any], ...]):
    """A JSON object as its pairs, in order, every one of them."""

    __slots__ = ()


def _paths(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _Pairs):
        seen = set()
        for key, entry in value:
            below = f"{path}.{key}" if path else key
            if key in seen:
                yield below
            seen.add(key)
            yield from _paths(entry, below)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _paths(entry, f"{path}[{index}]")


def _lines(node: Any, visited: set[int]) -> Iterator[str]:
    """*visited*: nodes that have been looked at, by identity; aliases lead to them again."""
    if id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, entry in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in seen:
                yield f'line {key.start_mark.line + 1}: key "{key.value}" already set in map'
            seen.add(name)
            yield from _lines(entry, visited)
    elif isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from _lines(entry, visited)

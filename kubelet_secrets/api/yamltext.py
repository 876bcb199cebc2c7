"""YAML on its way to JSON, as kubectl and the API server read it (sigs.k8s.io/yaml), and what bounds it.

No dates, no base-60 numbers, keys are strings. A small text can stand for endless data, by nesting or by aliases of aliases; C
code that recurses over it ends the process, so :func:`is_too_deep` comes before loading and :func:`expanded_size` after it.
Pure; it raises PyYAML's errors, whose text may quote the line: who shows them picks the place out of them.

Source: sigs.k8s.io/yaml (goyaml.v2, resolve.go and yamlprivateh.go).
"""

from __future__ import annotations

import re
from typing import Any

import yaml

DEEPEST = 300  # levels; the deepest field of the API, in an OpenAPI schema, has some dozens
_ENDLESS = 1 << 62
LARGEST_NODE_COUNT = 5_000_000  # after aliases are expanded; a 3 MiB object has no more


def is_too_deep(text: str) -> bool:
    """Whether YAML nests deeper than this program's (and libyaml's C) recursion stands.

    The events are only counted for a text that could be so: each bracket, and each character of indentation, opens one level
    at most.
    """
    indentation = max(map(len, re.findall(r"^[ ?-]+", text, re.MULTILINE)), default=0)
    if text.count("[") + text.count("{") + indentation <= DEEPEST:
        return False
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            depth += 1
            if depth > DEEPEST:
                return True
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            depth -= 1
    return False


def expanded_size(document: Any, *, counts_text: bool = False) -> int:
    """Nodes of *document* once every alias is written out; each shared node is counted once and multiplied.

    Args:
        counts_text: and the length of every text: about what the document takes as JSON.

    Raises:
        RecursionError: it nests too deeply.
    """
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Any) -> int:
        if not isinstance(node, (dict, list)):
            return 1 + len(node) if counts_text and isinstance(node, str) else 1
        if id(node) in open_nodes:
            return _ENDLESS  # an alias inside its own anchor never ends
        if id(node) not in sizes:
            open_nodes.add(id(node))
            children = node.values() if isinstance(node, dict) else node
            keys = sum(map(len, node)) if counts_text and isinstance(node, dict) else 0
            sizes[id(node)] = 1 + keys + sum(map(size, children))
            open_nodes.discard(id(node))
        return sizes[id(node)]

    return size(document)


def is_deeper(value: Any, levels: int = DEEPEST) -> bool:
    """Whether plain data nests deeper than *levels*. Does not recurse."""
    nodes = [value]
    for _ in range(levels):
        nodes = [
            child
            for node in nodes
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
        if not nodes:
            return False
    return True


class Loader(yaml.CSafeLoader):
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


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(?:0b[01_]+|0o?[0-7_]+|(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+)\Z"),
    list("-+0123456789"),
)
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?\Z"),
    list("-+.0123456789"),
)


def _construct_int(loader: Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.lstrip("+"))
    if digits.startswith(("0b", "0x", "0o")):
        return sign * int(digits, 0)
    return sign * int(digits, 8 if digits.startswith("0") else 10)


def _refuse(loader: Loader, node: yaml.Node) -> None:
    loader.construct_undefined(node)


def _construct_float(loader: Loader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)).replace("_", ""))


for _tag in ("binary", "omap", "pairs", "set", "timestamp"):  # nothing that JSON has
    Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _refuse)
Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)

"""The generated schemas of the served kinds, and a way to walk down them by field.

Pure but for reading its own package file once. Patches take merge keys from here, server-side apply its list types,
strict decoding its field names, and ``openapi.py`` publishes the whole. Made by ``scripts/generate-openapi``.

Source: Kubernetes' OpenAPI (Apache-2.0) as packaged by kubernetes-validate; x-kubernetes-* extensions as in
k8s.io/kube-openapi/pkg/generators/extension.go.
"""

from __future__ import annotations

import gzip
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

_REF_PREFIX = "#/components/schemas/"


@cache
def document() -> Mapping[str, Any]:
    """The file: ``version``, ``kinds`` (``v1/Secret`` → schema name), ``schemas`` (name → OpenAPI schema). Do not change it."""
    packed = (importlib.resources.files(__package__) / "schemas.json.gz").read_bytes()
    loaded: dict[str, Any] = json.loads(gzip.decompress(packed))
    return loaded


@dataclass(frozen=True, slots=True)
class Schema:
    """One node of a schema with its reference followed; the unknown schema has an empty *node* and allows anything."""

    node: Mapping[str, Any]

    @property
    def is_known(self) -> bool:
        return bool(self.node)

    @property
    def is_int_or_string(self) -> bool:
        return "oneOf" in self.node

    @property
    def is_quantity(self) -> bool:
        return {"type": "number"} in self.node.get("oneOf", ())

    @property
    def type(self) -> str:
        """``object``, ``array``, ``string``, ``integer``, ``number``, ``boolean``; empty when open or int-or-string."""
        return str(self.node.get("type", ""))

    @property
    def format(self) -> str:
        return str(self.node.get("format", ""))

    @property
    def is_struct(self) -> bool:
        """An object whose fields are fixed, as opposed to a map from free keys."""
        return "properties" in self.node

    @property
    def has_typed_values(self) -> bool:
        """A map whose values have a schema, as opposed to free-form JSON."""
        return isinstance(self.node.get("additionalProperties"), dict)

    @property
    def fields(self) -> frozenset[str]:
        return frozenset(self.node.get("properties", ()))

    def field(self, name: str) -> Schema:
        """The schema of a struct's field or of a map's value; unknown when there is no such field."""
        properties = self.node.get("properties")
        if properties is not None:
            return _resolve(properties.get(name))
        return _resolve(self.node.get("additionalProperties"))

    @property
    def item(self) -> Schema:
        """The schema of an array's elements."""
        return _resolve(self.node.get("items"))

    # Strategic merge patch.

    @property
    def merges(self) -> bool:
        """The patch strategy of the list or struct is to merge."""
        return "merge" in self._patch_strategies

    @property
    def replaces(self) -> bool:
        return "replace" in self._patch_strategies

    @property
    def merge_key(self) -> str:
        """The key by which a merged list of maps tells its elements apart; empty for lists of scalars."""
        return str(self.node.get("x-kubernetes-patch-merge-key", ""))

    @property
    def _patch_strategies(self) -> list[str]:
        return str(self.node.get("x-kubernetes-patch-strategy", "")).split(",")

    # Server-side apply.

    @property
    def is_atomic(self) -> bool:
        """One owner for the whole: lists that are neither sets nor maps, and maps marked so."""
        if self.type == "array":
            return self.list_type == "atomic"
        return self.node.get("x-kubernetes-map-type") == "atomic"

    @property
    def list_type(self) -> str:
        """``atomic``, ``set`` or ``map``."""
        return str(self.node.get("x-kubernetes-list-type", "atomic"))

    @property
    def map_keys(self) -> tuple[str, ...]:
        return tuple(self.node.get("x-kubernetes-list-map-keys", ()))


UNKNOWN = Schema({})


def schema_of(api_version: str, kind: str) -> Schema:
    """The schema of a served kind, or :data:`UNKNOWN`."""
    name = document()["kinds"].get(f"{api_version}/{kind}")
    return Schema(document()["schemas"][name]) if name else UNKNOWN


def _resolve(node: Any) -> Schema:
    if not isinstance(node, dict):
        return UNKNOWN
    reference = node.get("$ref")
    if reference is None and len(node.get("allOf", ())) == 1:
        reference = node["allOf"][0].get("$ref")
    if reference is None:
        return Schema(node)
    target: dict[str, Any] = document()["schemas"][reference.removeprefix(_REF_PREFIX)]
    beside = {key: value for key, value in node.items() if key.startswith("x-kubernetes-")}
    return Schema({**target, **beside} if beside else target)

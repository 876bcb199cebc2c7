"""Objects as dictionaries ⇄ the bytes the store keeps ⇄ the bytes a client gets.

The store's form is JSON that begins ``{"kind":…,"apiVersion":…,"metadata":{`` and has no resourceVersion: that is the revision
of the record and is known only after the write. :func:`stamp` splices it in, so a read needs no parsing at all.
Pure; called by the registry and the watch hub.
"""

from __future__ import annotations

from typing import Any

import msgspec

Object = dict[str, Any]

_METADATA = b'"metadata":{'
_encoder = msgspec.json.Encoder()
_ordering_encoder = msgspec.json.Encoder(order="deterministic")


def encode(obj: Object) -> bytes:
    """The store's form of *obj*, which has kind, apiVersion and a non-empty metadata."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "resourceVersion"}
    assert metadata, "an object has a name"
    ordered = {"kind": obj["kind"], "apiVersion": obj["apiVersion"], "metadata": metadata}
    ordered.update({name: value for name, value in obj.items() if name not in ordered})
    return _encoder.encode(ordered)


def stamp(value: bytes, revision: int) -> bytes:
    """*value* with its resourceVersion, ready for a client.

    The first ``"metadata":{`` is the object's own: only kind and apiVersion stand before it (see :func:`encode`).
    """
    return value.replace(_METADATA, b'%s"resourceVersion":"%d",' % (_METADATA, revision), 1)


def decode(value: bytes, revision: int) -> Object:
    """The object in *value*, with its resourceVersion; the caller may change it."""
    obj: Object = msgspec.json.decode(value)
    obj["metadata"]["resourceVersion"] = str(revision)
    return obj


def is_same(one: Object, other: Object) -> bool:
    """Whether two objects say the same; the order of their fields says nothing.

    Equality alone would not do: to Python ``True`` and ``1`` are equal.
    """
    return one == other and _ordering_encoder.encode(one) == _ordering_encoder.encode(other)


def to_json(value: Any) -> bytes:
    """Any answer's JSON."""
    return _encoder.encode(value)


def read_path(obj: Object, path: str) -> Any:
    """The value at a dotted *path*, or None."""
    value: Any = obj
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value

"""``fieldValidation``: which fields of an object its kind does not have, and which have a type it cannot have.

Pure. Unknown fields are upstream's strict decoding errors: an error, a warning or nothing, as the request asks. A wrong type
is what Go's decoder refuses always: 400. Neither text ever shows a value, only field paths.

Source: sigs.k8s.io/json strict decoding, k8s.io/apimachinery/pkg/runtime/serializer/json; encoding/json's
UnmarshalTypeError.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import Any

from kubelet_secrets.api import quantity
from kubelet_secrets.apiserver.schemas import Schema, schema_of

_GO_TYPES = {"string": "string", "integer": "int64", "number": "float64", "boolean": "bool"}
_BASE64 = re.compile("[A-Za-z0-9+/]")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def unknown_fields(obj: Any, api_version: str, kind: str) -> list[str]:
    """One text per field that *kind* does not have: ``unknown field "spec.containers[0].imagee"``, in document order.

    An unknown kind has no unknown fields.
    """
    return [f'unknown field "{path}"' for path in _unknown(obj, schema_of(api_version, kind), "")]


def decode_error(obj: Any, api_version: str, kind: str) -> str | None:
    """Why *obj* cannot be a *kind* at all, as the 400 says it, or None.

    The text is ``Secret in version "v1" cannot be handled as a Secret: json: cannot unmarshal number into Go struct field
    Secret.data of type string``. Differs: upstream adds the Go type's full name for structs.
    """
    cause = mismatch(obj, api_version, kind)
    return None if cause is None else cannot_be_handled(kind, api_version, cause)


def mismatch(obj: Any, api_version: str, kind: str) -> str | None:
    """The first field of a type that it cannot have, in the decoder's own words, or None."""
    for path, problem in _mismatches(obj, schema_of(api_version, kind), ""):
        return problem.format(field=f"{kind}.{path}" if path else kind)
    return None


def strict_cause(problems: list[str]) -> str:
    """What is wrong by ``fieldValidation=Strict``; *problems* are what :func:`unknown_fields` gave."""
    return "strict decoding error: " + ", ".join(problems)


def cannot_be_handled(kind: str, api_version: str, cause: str) -> str:
    """Source: k8s.io/apiserver/pkg/endpoints/handlers, transformDecodeError."""
    version = api_version.rpartition("/")[2]
    return f'{kind} in version "{version}" cannot be handled as a {kind}: {cause}'


def _unknown(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if isinstance(value, dict) and (schema.is_struct or schema.type == "object"):
        for key, entry in value.items():
            below = f"{path}.{key}" if path else str(key)
            if schema.is_struct and key not in schema.fields:
                yield below
            else:
                yield from _unknown(entry, schema.field(str(key)), below)
    elif isinstance(value, list) and schema.type == "array":
        for index, entry in enumerate(value):
            yield from _unknown(entry, schema.item, f"{path}[{index}]")


def _mismatches(value: Any, schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    if value is None or not schema.is_known:
        return
    if schema.is_int_or_string:
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            yield path, _unmarshal(value, "string")
        elif schema.is_quantity:
            try:
                quantity.parse(value)
            except quantity.InvalidQuantity as error:
                yield path, _literal(str(error))
        return
    match schema.type:
        case "object":
            if not isinstance(value, dict):
                yield path, _unmarshal(value, "struct" if schema.is_struct else "map")
                return
            for key, entry in value.items():
                below = f"{path}.{key}" if schema.is_struct and path else (str(key) if schema.is_struct else path)
                yield from _mismatches(entry, schema.field(str(key)), below)
        case "array":
            if not isinstance(value, list):
                yield path, _unmarshal(value, "slice")
                return
            for entry in value:
                yield from _mismatches(entry, schema.item, path)
        case "string":
            yield from _string_mismatches(value, schema.format, path)
        case "integer":
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            limit = 2**31 if schema.format == "int32" else 2**63
            if not is_whole or not -limit <= value < limit:
                yield path, _unmarshal(value, schema.format or "int64")
        case "number" | "boolean":
            wanted = bool if schema.type == "boolean" else (int, float)
            if not isinstance(value, wanted) or (schema.type == "number" and isinstance(value, bool)):
                yield path, _unmarshal(value, _GO_TYPES[schema.type])


def _string_mismatches(value: Any, text_format: str, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, str):
        yield path, _unmarshal(value, "uint8" if text_format == "byte" else "string")
    elif text_format == "byte":
        offset = illegal_base64_offset(value)
        if offset is not None:
            yield path, f"illegal base64 data at input byte {offset}"
    elif text_format == "date-time" and value and not _RFC3339.fullmatch(value):
        yield path, "parsing time in {field}: cannot parse as RFC 3339"


def illegal_base64_offset(text: str) -> int | None:
    """Where Go's decoder gives up on *text*, or None if it does not. Line breaks are skipped, as it skips them.

    Source: encoding/base64, Encoding.decodeQuantum, with StdEncoding.
    """
    try:
        # The walk below takes 40 ms for a Secret of 100 kB; what is well-formed, and nearly all is, need not take it.
        binascii.a2b_base64(text, strict_mode=True)
        return None
    except ValueError:  # binascii.Error, and what is not ASCII
        pass
    quantum = 0
    is_padded = False
    for at, character in enumerate(text):
        if character in "\r\n":
            continue
        if is_padded and quantum == 0:
            return at  # something after the end
        if character == "=":
            if quantum < 2:
                return at
            is_padded = True
        elif is_padded or not _BASE64.fullmatch(character):
            return at
        quantum = (quantum + 1) % 4
    if quantum == 0:
        return None
    return len(text) if is_padded else len(text) - quantum


def _literal(text: str) -> str:
    """*text* safe from being formatted again."""
    return text.replace("{", "{{").replace("}", "}}")


def _unmarshal(value: Any, go_type: str) -> str:
    return f"json: cannot unmarshal {_json_type(value)} into Go struct field {{field}} of type {go_type}"


def _json_type(value: Any) -> str:
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"

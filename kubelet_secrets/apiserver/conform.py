"""What decoding into the API's types does to an object, done to a dictionary: unknown fields go, quantities are rewritten.

Pure. Called after strict decoding has had its say (``strictness.py``) and before defaults: what a client misspelt is not
stored, and ``cpu: 1000m`` reads ``1`` from then on, as with a server that keeps typed objects.

Source: k8s.io/apimachinery/pkg/runtime/serializer/json; resource.Quantity's UnmarshalJSON and MarshalJSON.
"""

from __future__ import annotations

from typing import Any

from kubelet_secrets.api import quantity
from kubelet_secrets.apiserver.schemas import Schema, schema_of


def conform(obj: dict[str, Any], api_version: str, kind: str) -> None:
    """Change *obj*, whose types are right, in place. A kind without a schema is left as it is."""
    _conform(obj, schema_of(api_version, kind))


def _conform(value: Any, schema: Schema) -> Any:
    """*value* as it is stored; containers are changed in place."""
    if schema.is_quantity:
        return quantity.canonical(value)
    if isinstance(value, dict) and schema.type == "object":
        if schema.is_struct:
            for key in [key for key in value if key not in schema.fields]:
                del value[key]
        elif not schema.has_typed_values:
            return value  # free-form, such as fieldsV1
        for key, entry in value.items():
            if entry is not None:
                value[key] = _conform(entry, schema.field(key))
    elif isinstance(value, list) and schema.type == "array":
        value[:] = [_conform(entry, schema.item) if entry is not None else _zero(schema.item) for entry in value]
    return value


_ZEROS = {"string": "", "integer": 0, "number": 0, "boolean": False}


def _zero(schema: Schema) -> Any:
    """What Go's decoder makes of nothing in a list: the type's zero value."""
    if schema.is_quantity:
        return "0"
    return {} if schema.is_struct else _ZEROS.get(schema.type)

"""Whatever decodes can be defaulted, checked, printed and patched: a client's odd object is a 4xx, never a crash."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubelet_secrets.api.defaults import apply_defaults
from kubelet_secrets.api.validation.fields import invalid_message, status_causes
from kubelet_secrets.api.validation.objects import validate_object
from kubelet_secrets.apiserver import patch, resources, strictness, tables
from kubelet_secrets.apiserver.schemas import Schema, schema_of
from kubelet_secrets.errors import ApiError

Obj = dict[str, Any]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXT = st.sampled_from(
    ["", "a", "a-b", "..", "../x", "/x", "A b", "é", "metadata.labels['a']", "limits.cpu", "None", "v1"]
)
NUMBER = st.sampled_from([-1, 0, 1, 30, 2**31 - 1])


def objects(schema: Schema, depth: int = 7) -> st.SearchStrategy[Any]:
    """Objects of the right types, with a few of their fields."""
    if schema.is_quantity:
        return st.sampled_from(["0", "1", "-1", "64Mi", "1500m", 2, 1.5])
    if schema.is_int_or_string:
        return st.one_of(TEXT, NUMBER)
    match schema.type:
        case "object" if depth <= 0:
            return st.just({})
        case "object" if schema.is_struct:
            chosen = st.lists(st.sampled_from(sorted(schema.fields)), max_size=5, unique=True)
            return chosen.flatmap(
                lambda names: st.fixed_dictionaries({name: objects(schema.field(name), depth - 1) for name in names})
            )
        case "object":
            return st.dictionaries(TEXT, objects(schema.field("any"), depth - 1), max_size=2)
        case "array":
            return st.lists(objects(schema.item, depth - 1), max_size=2)
        case "string" if schema.format == "byte":
            return st.sampled_from(["", "eA==", "W10="])
        case "string" if schema.format == "date-time":
            return st.just("2026-01-01T00:00:00Z")
        case "string":
            return TEXT
        case "integer":
            return NUMBER
        case "number":
            return st.just(1.5)
        case "boolean":
            return st.booleans()
        case _:
            return st.just({})


def whole(row: resources.ServedResource) -> st.SearchStrategy[Obj]:
    """An object with a name, a spec and the rest by chance."""
    schema = schema_of(row.resource.api_version, row.kind)
    head = {"apiVersion": row.resource.api_version, "kind": row.kind}
    namespace = {"namespace": "default"} if row.namespaced else {}
    certain = {name: objects(schema.field(name)) for name in ("spec", "status", "data") if name in schema.fields}
    rest = objects(schema)
    return st.builds(
        lambda by_chance, surely, metadata: {
            **by_chance,
            **surely,
            **head,
            "metadata": {**metadata, "name": "x", **namespace},
        },
        rest,
        st.fixed_dictionaries(certain),
        objects(schema.field("metadata"), 3),
    )


KINDS = pytest.mark.parametrize("row", resources.SERVED, ids=lambda row: row.plural)
FEW = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@KINDS
@FEW
@given(data=st.data())
def test_any_object_can_be_defaulted_checked_and_printed(row: resources.ServedResource, data: st.DataObject) -> None:
    obj = data.draw(whole(row))
    api_version = row.resource.api_version
    assert strictness.unknown_fields(obj, api_version, row.kind) == []
    assert strictness.decode_error(obj, api_version, row.kind) is None
    apply_defaults(obj)
    once = copy.deepcopy(obj)
    apply_defaults(obj)
    assert obj == once
    errors = validate_object(obj)
    assert validate_object(obj, copy.deepcopy(obj)) is not None
    invalid_message(row.kind, "x", errors)
    status_causes(errors)
    for subresource in ("status", "ephemeralcontainers", "binding"):
        validate_object(obj, copy.deepcopy(obj), subresource)
    tables.to_table(row, [obj], NOW, "Object", {})


@KINDS
@FEW
@given(data=st.data())
def test_any_two_objects_can_be_merged_and_owned(row: resources.ServedResource, data: st.DataObject) -> None:
    old, new = data.draw(whole(row)), data.draw(whole(row))
    gvk = {"api_version": row.resource.api_version, "kind": row.kind}
    for obj in (old, new):
        obj["metadata"].pop("managedFields", None)
    updated = patch.track_update(old, new, "a", now="T", **gvk)
    assert {**updated, "metadata": {**updated["metadata"], "managedFields": None}} == {
        **new,
        "metadata": {**new["metadata"], "managedFields": None},
    }
    try:
        patch.apply_strategic_merge_patch(old, new, **gvk)
        applied = patch.server_side_apply(updated, new, "b", True, now="T", **gvk)
    except ApiError:
        return  # an element without its merge key
    again = patch.server_side_apply(applied, new, "b", False, now="U", **gvk)
    assert again == applied, "applying the same again changes nothing"

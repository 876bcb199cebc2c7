"""Strategic merge patch: a merge patch that knows which lists are maps in disguise.

Pure: takes and returns plain data, changes neither argument. Called through ``patch.py``. The directives are
``$patch: delete|replace|merge``, ``$retainKeys``, ``$setElementOrder/<list>`` and ``$deleteFromPrimitiveList/<list>``.

Source: k8s.io/apimachinery/pkg/util/strategicpatch/patch.go, StrategicMergeMapPatchUsingLookupPatchMeta with
MergeParallelList and IgnoreUnmatchedNulls, which is how the API server calls it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from kubelet_secrets.apiserver.listorder import in_order
from kubelet_secrets.apiserver.schemas import Schema

Obj = dict[str, Any]

_DIRECTIVE = "$patch"
_RETAIN_KEYS = "$retainKeys"
_SET_ORDER = "$setElementOrder/"
_DELETE_PRIMITIVES = "$deleteFromPrimitiveList/"


class BadPatch(ValueError):
    """The patch breaks the format; the text is upstream's and quotes field names only."""


def strategic_merge(original: Obj, patch: Obj, schema: Schema) -> Obj:
    """Return *original* with *patch* merged in.

    Raises:
        BadPatch: a directive is malformed, or an element of a merged list lacks its merge key.
    """
    return _merge_map(copy.deepcopy(original), copy.deepcopy(patch), schema)


def _merge_map(original: Obj, patch: Obj, schema: Schema) -> Obj:
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        del patch[_DIRECTIVE]
        return patch
    if directive == "delete":
        return {}
    if _DIRECTIVE in patch and directive != "merge":
        raise BadPatch(f"unknown patch type: {directive} in map")
    patch.pop(_DIRECTIVE, None)
    _apply_retain_keys(original, patch)
    _apply_element_orders(original, patch, schema)
    for key, value in patch.items():
        field, is_deletion = key, False
        if key.startswith(_DELETE_PRIMITIVES):
            field, is_deletion = key.removeprefix(_DELETE_PRIMITIVES), True
        if value is None:
            original.pop(field, None)
        elif field not in original or not _same_shape(original[field], value):
            if not is_deletion:
                original[field] = _without_directives(value)
        elif isinstance(value, dict):
            below = schema.field(field)
            original[field] = value if below.replaces else _merge_map(original[field], value, below)
        elif isinstance(value, list):
            original[field] = _merge_list(original[field], value, schema.field(field), is_deletion=is_deletion)
        else:
            original[field] = value
    return original


def _apply_retain_keys(original: Obj, patch: Obj) -> None:
    if _RETAIN_KEYS not in patch:
        return
    retained = patch.pop(_RETAIN_KEYS)
    if not isinstance(retained, list) or not all(isinstance(key, str) for key in retained):
        raise BadPatch("invalid patch format of retainKeys")
    for key, value in patch.items():
        if value is not None and not key.startswith((_DELETE_PRIMITIVES, _SET_ORDER)) and key not in retained:
            raise BadPatch("invalid patch format of retainKeys")
    for key in [key for key in original if key not in retained]:
        del original[key]


def _apply_element_orders(original: Obj, patch: Obj, schema: Schema) -> None:
    """Merge each list that has a ``$setElementOrder`` and put it in that order; both leave *patch*."""
    for directive in [key for key in patch if key.startswith(_SET_ORDER)]:
        order = patch.pop(directive)
        field = directive.removeprefix(_SET_ORDER)
        if not isinstance(order, list):
            raise BadPatch("invalid patch format of setElementOrder list")
        before = original.get(field)
        changes = patch.get(field)
        if not isinstance(before, list | None) or not isinstance(changes, list | None):
            continue  # one side is no list: the plain rules decide
        below = schema.field(field)
        if changes is not None:
            _check_order(changes, order, below.merge_key)
        if before is None and changes is None:
            continue
        if before is None:
            merged = _without_directives(changes)
        elif changes is None:
            merged = list(before)
        else:
            merged = _merge_list(list(before), changes, below, is_deletion=False)
        original[field] = _in_order(merged, order, before or [], below.merge_key)
        patch.pop(field, None)


def _check_order(changes: list[Any], order: list[Any], merge_key: str) -> None:
    """Every element the patch adds or changes has to stand in the order list, in the same sequence."""
    identities = [_identity(entry, merge_key) for entry in order]
    at = 0
    for change in changes:
        if isinstance(change, dict) and _DIRECTIVE in change:
            continue
        try:
            at = identities.index(_identity(change, merge_key), at) + 1
        except ValueError:
            raise BadPatch("invalid patch format of setElementOrder list") from None


def _merge_list(original: list[Any], patch: list[Any], schema: Schema, *, is_deletion: bool) -> list[Any]:
    if is_deletion:
        return [entry for entry in original if entry not in patch]
    if not schema.merges:
        return patch
    if not original and not patch:
        return original
    if not any(isinstance(entry, dict) for entry in (*original, *patch)):
        return _in_order(_unique([*original, *patch]), patch, original, "")
    if not schema.merge_key:
        raise BadPatch("cannot merge lists without merge key")
    kept, changes = _apply_list_directives(original, patch, schema.merge_key)
    merged = list(kept)
    for change in changes:
        identity = _identity(change, schema.merge_key)
        at = next((i for i, entry in enumerate(merged) if _identity(entry, schema.merge_key) == identity), None)
        if at is None:
            merged.append(_without_directives(change))
        else:
            merged[at] = _merge_map(merged[at], change, schema.item)
    return _in_order(merged, changes, kept, schema.merge_key)


def _apply_list_directives(original: list[Any], patch: list[Any], merge_key: str) -> tuple[list[Any], list[Any]]:
    """Return the elements that stay and the changes without directives."""
    changes = []
    is_replaced = False
    for change in patch:
        if not isinstance(change, dict):
            raise BadPatch("invalid patch format of primitive list")
        match change.get(_DIRECTIVE):
            case None:
                changes.append(change)
            case "delete":
                identity = _identity(change, merge_key)
                original = [entry for entry in original if _identity(entry, merge_key) != identity]
            case "replace":
                is_replaced = True
            case "merge":
                raise BadPatch("merging lists cannot yet be specified in the patch")
            case unknown:
                raise BadPatch(f"unknown patch type: {unknown} in map")
    # Replaced as it stands, two elements of one key included (a node's addresses): nothing is left to merge.
    return ([_without_directives(each) for each in changes], []) if is_replaced else (original, changes)


def _in_order(merged: list[Any], order: list[Any], server_order: list[Any], merge_key: str) -> list[Any]:
    def identity(entry: Any) -> Any:
        return _identity(entry, merge_key)

    return in_order(merged, [identity(entry) for entry in order], [identity(entry) for entry in server_order], identity)


def _identity(entry: Any, merge_key: str) -> Any:
    if not merge_key:
        return entry
    if not isinstance(entry, dict) or merge_key not in entry:
        raise BadPatch(f"map: does not contain declared merge key: {merge_key}")
    return entry[merge_key]


def _same_shape(left: Any, right: Any) -> bool:
    """Both maps, both lists, or both neither."""
    return isinstance(left, dict) is isinstance(right, dict) and isinstance(left, list) is isinstance(right, list)


def _unique(entries: Iterable[Any]) -> list[Any]:
    unique: list[Any] = []
    for entry in entries:
        if entry not in unique:
            unique.append(entry)
    return unique


def _without_directives(value: Any) -> Any:
    """What a patch's value adds where nothing was: no directives, no nulls, no elements to delete.

    Source: removeDirectives, discardNullValuesFromPatch.
    """
    if isinstance(value, dict):
        return {
            key: _without_directives(entry)
            for key, entry in value.items()
            if entry is not None
            and key not in (_DIRECTIVE, _RETAIN_KEYS)
            and not key.startswith((_SET_ORDER, _DELETE_PRIMITIVES))
        }
    if isinstance(value, list):
        return [
            _without_directives(entry)
            for entry in value
            if not (isinstance(entry, dict) and entry.get(_DIRECTIVE) in ("delete", "replace"))
        ]
    return value

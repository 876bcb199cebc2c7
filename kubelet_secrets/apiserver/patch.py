"""The door to the four kinds of patch: one function each, plain data in and out, errors as the API answers them.

Pure. Called by ``registry.py`` with the stored object and the decoded body; the result still has to be defaulted,
validated and stored. The work is done in ``strategic.py`` and ``apply.py``.

Source: k8s.io/apiserver/pkg/endpoints/handlers/patch.go; RFC 6902; RFC 7386.
"""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch
import jsonpointer
import msgspec

from kubelet_secrets.api import yamltext
from kubelet_secrets.apiserver.apply import server_side_apply, track_update
from kubelet_secrets.apiserver.schemas import schema_of
from kubelet_secrets.apiserver.strategic import BadPatch, strategic_merge
from kubelet_secrets.errors import Invalid

__all__ = [
    "APPLY",
    "JSON_PATCH",
    "MERGE_PATCH",
    "STRATEGIC_MERGE_PATCH",
    "apply_json_patch",
    "apply_merge_patch",
    "apply_strategic_merge_patch",
    "server_side_apply",
    "track_update",
]

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

Obj = dict[str, Any]

_MAX_OPERATIONS = 10_000
_MAX_COPIED_BYTES = 3 * 2**20  # upstream's AccumulatedCopySizeLimit


def apply_json_patch(obj: Obj, patch: Any) -> Obj:
    """Apply RFC 6902 operations, all or none.

    Raises:
        Invalid: 400 for what is no patch, 413 for more than 10,000 operations, 422 for an operation that
            fails, a failed ``test`` included, and for copies that add up to more than a body may have.
    """
    if not isinstance(patch, list) or not all(isinstance(operation, dict) for operation in patch):
        raise _bad_request("error decoding patch: expected a list of operations")
    if len(patch) > _MAX_OPERATIONS:
        message = f"The allowed maximum operations in a JSON patch is {_MAX_OPERATIONS}, got {len(patch)}"
        raise Invalid(message, code=413, reason="RequestEntityTooLarge")
    result: Any = copy.deepcopy(obj)
    copied_bytes = 0
    try:
        # One by one, for a copy of a copy of a copy doubles the object each time.
        for operation in copy.deepcopy(patch):
            if operation.get("op") == "copy":
                source = jsonpointer.resolve_pointer(result, operation["from"])
                copied_bytes += len(msgspec.json.encode(source))
                if copied_bytes > _MAX_COPIED_BYTES or yamltext.is_deeper(source):
                    raise _unprocessable()
            result = jsonpatch.apply_patch(result, [operation], in_place=True)
    except (jsonpatch.InvalidJsonPatch, KeyError):
        raise _bad_request("error decoding patch: malformed operation") from None
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, RecursionError, TypeError, ValueError):
        raise _unprocessable() from None
    if not isinstance(result, dict):
        raise _bad_request("error decoding patch: the result is not an object")
    return result


def apply_merge_patch(obj: Obj, patch: Any) -> Obj:
    """Apply an RFC 7386 merge patch: null removes, maps merge, everything else replaces."""
    if not isinstance(patch, dict):
        raise _bad_request("invalid JSON document")
    merged: Obj = _merge(copy.deepcopy(obj), patch)
    return merged


def apply_strategic_merge_patch(obj: Obj, patch: Any, api_version: str, kind: str) -> Obj:
    """Apply a strategic merge patch by the merge keys of the kind's schema.

    Raises:
        Invalid: 400, when a directive is malformed or an element lacks its merge key.
    """
    if not isinstance(patch, dict):
        raise _bad_request("invalid JSON document")
    try:
        return strategic_merge(obj, patch, schema_of(api_version, kind))
    except BadPatch as error:
        raise _bad_request(str(error)) from None


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key), value)
    return result


def _bad_request(message: str) -> Invalid:
    return Invalid(message, code=400, reason="BadRequest")


def _unprocessable() -> Invalid:
    """Upstream says no more than this; which operation failed would help, and may quote the object."""
    message = "the server rejected our request due to an error in our request"
    return Invalid(message, code=422, reason="Invalid")

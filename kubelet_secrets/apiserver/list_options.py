"""The parameters of a list: from when, how many, and where to go on.

Pure. Called by ``resource_call.py``; a watch has its own in ``watch_route.py``.

Source: apimachinery pkg/apis/meta/internalversion/validation, ValidateListOptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.delete_options import parse_int
from kubelet_secrets.errors import Invalid

_MOST_DIGITS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """As :func:`listing.list_objects` takes them."""

    limit: int
    continue_token: str
    revision: int | None
    is_exact: bool


def parse_list_options(query: Mapping[str, str]) -> ListOptions:
    """Raises: Invalid: 422, for parameters that do not fit together; 400, for what is malformed."""
    version = query.get("resourceVersion", "")
    match = query.get("resourceVersionMatch", "")
    token = query.get("continue", "")
    if match:
        _check_match(match, version, token)
    if "sendInitialEvents" in query:
        raise _forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list")
    revision = parse_revision(version) if version not in ("", "0") else None
    if token and version not in ("", "0"):
        raise statuses.bad_request("specifying resource version is not allowed when using continue")
    return ListOptions(
        limit=parse_int(query, "limit"), continue_token=token, revision=revision, is_exact=match == "Exact"
    )


def _check_match(match: str, version: str, token: str) -> None:
    field = "resourceVersionMatch"
    if not version:
        raise _forbidden(field, "resourceVersionMatch is forbidden unless resourceVersion is provided")
    if token:
        raise _forbidden(field, "resourceVersionMatch is forbidden when continue is provided")
    if match not in ("Exact", "NotOlderThan"):
        detail = f'Unsupported value: "{match}": supported values: "", "Exact", "NotOlderThan"'
        raise statuses.invalid_options("ListOptions", field, "FieldValueNotSupported", detail)
    if match == "Exact" and version == "0":
        raise _forbidden(field, 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')


def _forbidden(field: str, detail: str) -> Invalid:
    return statuses.invalid_options("ListOptions", field, "FieldValueForbidden", f"Forbidden: {detail}")


def parse_revision(text: str) -> int:
    """Raises: Invalid: 400, *text* is no 64-bit number. Source: storage.APIObjectVersioner.ParseResourceVersion."""
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
        raise statuses.bad_request("resourceVersion: Invalid value: must be a decimal number")
    return int(text)

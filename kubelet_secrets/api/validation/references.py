"""``fieldRef`` and ``resourceFieldRef``, as variables and downward API volumes share them.

Pure. Source: pkg/apis/core/validation, validateObjectFieldSelector, validateContainerResourceFieldSelector,
validateContainerResourceDivisor; semantics §4.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kubelet_secrets.api import fieldpath, quantity
from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import FieldError, Path
from kubelet_secrets.api.validation.names import qualified_name_errors

Obj = dict[str, Any]

_RESOURCES = (
    *("limits.cpu", "limits.ephemeral-storage", "limits.memory"),
    *("requests.cpu", "requests.ephemeral-storage", "requests.memory"),
)
_HUGE_PAGES = ("limits.hugepages-", "requests.hugepages-")
_BYTE_DIVISORS = ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")
_BYTE_RESOURCES = {"memory": "memory", "ephemeral-storage": "local ephemeral storage"}


def validate_field_ref(reference: Obj, allowed: Sequence[str], path: Path) -> list[FieldError]:
    """Args: *allowed* are the paths without a subscript; labels and annotations by key are always allowed."""
    api_version, text = reference.get("apiVersion", ""), reference.get("fieldPath", "")
    if not api_version:
        return [fields.required(path.child("apiVersion"))]
    if not text:
        return [fields.required(path.child("fieldPath"))]
    try:
        converted = fieldpath.convert_label(api_version, text)
    except fieldpath.FieldPathError as error:
        return [fields.invalid(path.child("fieldPath"), text, f"error converting fieldPath: {error}")]
    if (split := fieldpath.split_subscript(converted)) is not None:
        where, key = split
        key = key.lower() if where == "metadata.annotations" else key
        return fields.each_invalid(path, key, qualified_name_errors(key))
    return [] if converted in allowed else [fields.not_supported(path.child("fieldPath"), converted, sorted(allowed))]


def validate_resource_field_ref(reference: Obj, path: Path, *, needs_container: bool) -> list[FieldError]:
    resource = reference.get("resource", "")
    errors: list[FieldError] = []
    if needs_container and not reference.get("containerName"):
        errors.append(fields.required(path.child("containerName")))
    elif not resource:
        errors.append(fields.required(path.child("resource")))
    elif resource not in _RESOURCES and not resource.startswith(_HUGE_PAGES):
        errors.append(fields.not_supported(path.child("resource"), resource, _RESOURCES))
    return errors + _divisor_errors(resource, reference.get("divisor") or "0", path.child("divisor"))


def _divisor_errors(resource: str, divisor: Any, path: Path) -> list[FieldError]:
    if quantity.is_zero(divisor):
        return []
    name = resource.partition(".")[2]
    if name == "cpu":
        allowed: Sequence[str] = ("1m", "1")
        text = "only divisor's values 1m and 1 are supported with the cpu resource"
    elif name in _BYTE_RESOURCES or resource.startswith(_HUGE_PAGES):
        allowed = _BYTE_DIVISORS
        noun = _BYTE_RESOURCES.get(name, "hugepages")
        text = f"only divisor's values {', '.join(_BYTE_DIVISORS)} are supported with the {noun} resource"
    else:
        return []
    return [] if str(divisor) in allowed else [fields.invalid(path, resource, text)]

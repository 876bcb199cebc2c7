"""ResourceQuotas: which resources may be limited, by how much, and over which pods.

Pure, on plain dictionaries, defaulted.

Source: pkg/apis/core/validation/validation.go, ValidateResourceQuotaSpec; pkg/apis/core/helper, IsStandardQuotaResourceName.
"""

from __future__ import annotations

from typing import Any

from kubelet_secrets.api import quantity
from kubelet_secrets.api.core import Quantity
from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import SPEC, FieldError, Path
from kubelet_secrets.api.validation.metadata import validate_metadata, validate_metadata_update
from kubelet_secrets.api.validation.names import dns1123_subdomain_errors, qualified_name_errors

Obj = dict[str, Any]

_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_OBJECTS = (
    *("pods", "resourcequotas", "services", "replicationcontrollers", "secrets", "persistentvolumeclaims"),
    *("configmaps", "services.nodeports", "services.loadbalancers"),
)
_STANDARD = frozenset(
    [
        *_OBJECTS,
        *_COMPUTE,
        *(f"{which}.{name}" for which in ("requests", "limits") for name in _COMPUTE),
        "requests.storage",
    ]
)
_WHOLE = frozenset(_OBJECTS)
_SCOPES = ("Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass")
_OPERATORS = ("DoesNotExist", "Exists", "In", "NotIn")
_CONTRARY = (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating"))


def validate_resource_quota(quota: Obj, old: Obj | None = None) -> list[FieldError]:
    """Differs: scopes of what is not served here (CrossNamespacePodAffinity, VolumeAttributesClass) are refused."""
    metadata, spec = quota.get("metadata") or {}, quota.get("spec") or {}
    errors = validate_metadata_update(metadata, old.get("metadata") or {}) if old is not None else []
    errors += validate_metadata(metadata, dns1123_subdomain_errors, is_namespaced=True)
    for name, amount in (spec.get("hard") or {}).items():
        errors += _hard_errors(SPEC.child(f"hard[{name}]"), name, amount)
    errors += _scope_errors(spec)
    for position, each in enumerate((spec.get("scopeSelector") or {}).get("matchExpressions") or ()):
        errors += _expression_errors(SPEC.child("scopeSelector", "matchExpressions").index(position), each)
    if old is not None and sorted(spec.get("scopes") or ()) != sorted((old.get("spec") or {}).get("scopes") or ()):
        errors.append(fields.invalid(SPEC.child("scopes"), spec.get("scopes") or [], fields.IMMUTABLE_MESSAGE))
    return errors


def _hard_errors(path: Path, name: str, amount: Quantity) -> list[FieldError]:
    errors = [fields.invalid(path, name, text) for text in qualified_name_errors(name)]
    if not errors and "/" not in name and name not in _STANDARD and not name.startswith("requests.hugepages-"):
        errors.append(fields.invalid(path, name, "must be a standard resource for quota"))
    exact = quantity.parse(amount)
    if exact < 0:
        errors.append(fields.invalid(path, str(amount), "must be greater than or equal to 0"))
    if exact.denominator != 1 and (name in _WHOLE or name.startswith("count/")):
        errors.append(fields.invalid(path, str(amount), "must be an integer"))
    return errors


def _scope_errors(spec: Obj) -> list[FieldError]:
    scopes = spec.get("scopes") or []
    path = SPEC.child("scopes")
    errors = [
        fields.invalid(path.index(position), scope, "unsupported scope")
        for position, scope in enumerate(scopes)
        if scope not in _SCOPES
    ]
    if any(set(pair) <= set(scopes) for pair in _CONTRARY):
        errors.append(fields.invalid(path, scopes, "conflicting scopes"))
    return errors


def _expression_errors(path: Path, expression: Obj) -> list[FieldError]:
    scope, operator = expression.get("scopeName", ""), expression.get("operator", "")
    values = expression.get("values") or []
    errors = []
    if scope not in _SCOPES:
        errors.append(fields.invalid(path.child("scopeName"), scope, "unsupported scope"))
    elif scope != "PriorityClass" and operator != "Exists":
        text = f"must be 'Exist' when scope is any of {_SCOPES[:4]}"
        errors.append(fields.invalid(path.child("operator"), operator, text))
    if operator not in _OPERATORS:
        errors.append(fields.invalid(path.child("operator"), operator, "not a valid selector operator"))
    elif operator in ("In", "NotIn") and not values:
        text = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
        errors.append(fields.required(path.child("values"), text))
    elif operator in ("Exists", "DoesNotExist") and values:
        text = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
        errors.append(fields.invalid(path.child("values"), values, text))
    return errors

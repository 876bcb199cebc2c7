"""``metadata``: names, labels, annotations, owners, finalizers; on creation and on update.

Pure, on plain dictionaries. Called by every kind's rules.

Source: k8s.io/apimachinery/pkg/api/validation/objectmeta.go, pkg/apis/meta/v1/validation; pkg/apis/core/validation,
ValidateObjectMeta and validateKubeFinalizerName.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import METADATA, FieldError, Path
from kubelet_secrets.api.validation.names import (
    dns1123_label_errors,
    label_value_errors,
    mask_trailing_dash,
    qualified_name_errors,
)

Obj = dict[str, Any]
NameRule = Callable[[str], list[str]]

ANNOTATIONS_LIMIT_BYTES = 256 * 1024
_STANDARD_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion")


def validate_metadata(metadata: Obj, name_rule: NameRule, *, is_namespaced: bool) -> list[FieldError]:
    """Check the metadata of an object that is about to be created; a generated name has been filled in before."""
    errors: list[FieldError] = []
    if prefix := metadata.get("generateName"):
        errors += fields.each_invalid(METADATA.child("generateName"), prefix, name_rule(mask_trailing_dash(prefix)))
    if name := metadata.get("name"):
        errors += fields.each_invalid(METADATA.child("name"), name, name_rule(name))
    else:
        errors.append(fields.required(METADATA.child("name"), "name or generateName is required"))
    namespace = metadata.get("namespace")
    if is_namespaced and not namespace:
        errors.append(fields.required(METADATA.child("namespace")))
    elif is_namespaced:
        errors += fields.each_invalid(METADATA.child("namespace"), namespace, dns1123_label_errors(str(namespace)))
    elif namespace:
        errors.append(fields.forbidden(METADATA.child("namespace"), "not allowed on this type"))
    return errors + _validate_content(metadata)


def validate_metadata_update(new: Obj, old: Obj) -> list[FieldError]:
    """Check the metadata of an object that is about to replace *old*."""
    errors: list[FieldError] = []
    if old.get("deletionTimestamp"):
        added = sorted(set(new.get("finalizers") or ()) - set(old.get("finalizers") or ()))
        if added:
            shown = ", ".join(map(go_quote, added))
            text = "no new finalizers can be added if the object is being deleted, found new finalizers []string{%s}"
            errors.append(fields.forbidden(METADATA.child("finalizers"), text % shown))
    for field in ("name", "namespace", "uid"):
        errors += fields.immutable(METADATA.child(field), new.get(field, ""), old.get(field, ""))
    return errors + _validate_content(new)


def validate_labels(labels: Mapping[str, str], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for key, value in labels.items():
        errors += fields.each_invalid(path, key, qualified_name_errors(key))
        errors += fields.each_invalid(path, value, label_value_errors(value))
    return errors


def validate_label_selector(selector: Obj, path: Path) -> list[FieldError]:
    """Source: apimachinery pkg/apis/meta/v1/validation, ValidateLabelSelector."""
    errors = validate_labels(selector.get("matchLabels") or {}, path.child("matchLabels"))
    for index, entry in enumerate(selector.get("matchExpressions") or ()):
        here = path.child("matchExpressions").index(index)
        operator, values, key = entry.get("operator", ""), entry.get("values") or [], entry.get("key", "")
        if operator in ("In", "NotIn"):
            if not values:
                text = "must be specified when `operator` is 'In' or 'NotIn'"
                errors.append(fields.required(here.child("values"), text))
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                errors.append(fields.forbidden(here.child("values"), text))
        else:
            errors.append(fields.invalid(here.child("operator"), operator, "not a valid selector operator"))
        errors += fields.each_invalid(here.child("key"), key, qualified_name_errors(key))
        for place, value in enumerate(values):
            errors += fields.each_invalid(here.child("values").index(place), value, label_value_errors(value))
    return errors


def validate_annotations(annotations: Mapping[str, str], path: Path) -> list[FieldError]:
    """Keys are qualified names of any case; keys and values together stay below 256 KiB."""
    errors: list[FieldError] = []
    size = 0
    for key, value in annotations.items():
        errors += fields.each_invalid(path, key, qualified_name_errors(key.lower()))
        size += len(key.encode("utf-8", "surrogatepass")) + len(value.encode("utf-8", "surrogatepass"))
    if size > ANNOTATIONS_LIMIT_BYTES:
        errors.append(fields.too_long(path, ANNOTATIONS_LIMIT_BYTES))
    return errors


def _validate_content(metadata: Obj) -> list[FieldError]:
    errors = validate_labels(metadata.get("labels") or {}, METADATA.child("labels"))
    errors += validate_annotations(metadata.get("annotations") or {}, METADATA.child("annotations"))
    errors += _validate_owners(metadata.get("ownerReferences") or (), METADATA.child("ownerReferences"))
    path = METADATA.child("finalizers")
    for index, finalizer in enumerate(metadata.get("finalizers") or ()):
        errors += fields.each_invalid(path, finalizer, qualified_name_errors(finalizer))
        if "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
            text = "name is neither a standard finalizer name nor is it fully qualified"
            errors.append(fields.invalid(path.index(index), finalizer, text))
    return errors


def _validate_owners(owners: Any, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    controllers = []
    for owner in owners:
        if not str(owner.get("apiVersion", "")).rpartition("/")[2]:
            errors.append(
                fields.invalid(path.child("apiVersion"), owner.get("apiVersion", ""), "version must not be empty")
            )
        missing = (field for field in ("kind", "name", "uid") if not owner.get(field))
        errors += [fields.invalid(path.child(field), "", "must not be empty") for field in missing]
        if (owner.get("apiVersion"), owner.get("kind")) == ("v1", "Event"):
            errors.append(fields.invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner"))
        if owner.get("controller"):
            controllers.append(owner.get("name", ""))
    for name in controllers[1:]:
        text = 'Only one reference can have Controller set to true. Found "true" in references for %s and %s'
        errors.append(fields.invalid(path, list(owners), text % (controllers[0], name)))
    return errors

"""Kinds that a kubelet reads or writes for itself: RuntimeClass, CSINode, CSIDriver.

Pure, on plain dictionaries, defaulted.

Source: pkg/apis/{node,storage}/validation.
"""

from __future__ import annotations

from typing import Any

from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import SPEC, FieldError, Path
from kubelet_secrets.api.validation.metadata import validate_metadata, validate_metadata_update
from kubelet_secrets.api.validation.names import (
    dns1123_label_errors,
    dns1123_subdomain_errors,
    max_length_message,
    qualified_name_errors,
)

Obj = dict[str, Any]

_LONGEST_NODE_ID = 256
_LONGEST_DRIVER_NAME = 63
_MODES = ("Ephemeral", "Persistent")
_GROUP_POLICIES = ("File", "None", "ReadWriteOnceWithFSType")


def _metadata(obj: Obj, old: Obj | None) -> list[FieldError]:
    metadata = obj.get("metadata") or {}
    errors = validate_metadata_update(metadata, old.get("metadata") or {}) if old is not None else []
    return errors + validate_metadata(metadata, dns1123_subdomain_errors, is_namespaced=False)


def validate_runtime_class(runtime_class: Obj, old: Obj | None = None) -> list[FieldError]:
    handler = runtime_class.get("handler", "")
    errors = _metadata(runtime_class, old)
    errors += fields.each_invalid(Path("handler"), handler, dns1123_label_errors(handler))
    if old is not None:
        errors += fields.immutable(Path("handler"), handler, old.get("handler", ""))
    return errors


def validate_csi_node(node: Obj, old: Obj | None = None) -> list[FieldError]:
    """A driver may come and go; while it is there, its entry stays as it is."""
    errors = _metadata(node, old)
    before = {each.get("name"): each for each in ((old or {}).get("spec") or {}).get("drivers") or ()}
    seen: set[str] = set()
    for index, driver in enumerate((node.get("spec") or {}).get("drivers") or ()):
        here = SPEC.child("drivers").index(index)
        name, node_id = driver.get("name", ""), driver.get("nodeID", "")
        errors += _driver_name_errors(here.child("name"), name)
        if not node_id:
            errors.append(fields.required(here.child("nodeID")))
        elif len(node_id) > _LONGEST_NODE_ID:
            errors.append(fields.invalid(here.child("nodeID"), node_id, max_length_message(_LONGEST_NODE_ID)))
        if name in seen:
            errors.append(fields.duplicate(here.child("name"), name))
        seen.add(name)
        for key in driver.get("topologyKeys") or ():
            errors += fields.each_invalid(here, key, qualified_name_errors(key))
        known = before.get(name)
        if known is not None and any(known.get(each) != driver.get(each) for each in ("nodeID", "topologyKeys")):
            errors.append(fields.invalid(SPEC.child("drivers"), driver, fields.IMMUTABLE_MESSAGE))
    return errors


def validate_csi_driver(driver: Obj, old: Obj | None = None) -> list[FieldError]:
    metadata, spec = driver.get("metadata") or {}, driver.get("spec") or {}
    errors = validate_metadata_update(metadata, old.get("metadata") or {}) if old is not None else []
    errors += validate_metadata(metadata, lambda _: [], is_namespaced=False)
    errors += _driver_name_errors(Path("metadata.name"), metadata.get("name", ""))
    errors += fields.unless_one_of(SPEC.child("fsGroupPolicy"), spec.get("fsGroupPolicy", ""), _GROUP_POLICIES)
    for mode in spec.get("volumeLifecycleModes") or ():
        errors += fields.unless_one_of(SPEC.child("volumeLifecycleModes"), mode, _MODES)
    seen: set[str] = set()
    for index, request in enumerate(spec.get("tokenRequests") or ()):
        audience = request.get("audience", "")
        if audience in seen:
            errors.append(fields.duplicate(SPEC.child("tokenRequests").index(index).child("audience"), audience))
        seen.add(audience)
    if old is not None:
        was = old.get("spec") or {}
        for field in ("attachRequired", "volumeLifecycleModes"):
            errors += fields.immutable(SPEC.child(field), spec.get(field), was.get(field))
    return errors


def _driver_name_errors(path: Path, name: str) -> list[FieldError]:
    """Source: validateCSIDriverName: a subdomain in any case of letters."""
    if not name:
        return [fields.required(path)]
    errors = [fields.too_long(path, _LONGEST_DRIVER_NAME)] if len(name) > _LONGEST_DRIVER_NAME else []
    return errors + fields.each_invalid(path, name, dns1123_subdomain_errors(name.lower()))

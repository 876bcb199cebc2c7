"""``env`` and ``envFrom``: names, and references to exactly one source.

Pure, on plain dictionaries, defaulted. Duplicate names are allowed, as upstream.

Source: pkg/apis/core/validation, ValidateEnv, validateEnvVarValueFrom, ValidateEnvFrom; semantics §6.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import FieldError, Path
from kubelet_secrets.api.validation.names import (
    config_key_errors,
    dns1123_label_errors,
    dns1123_subdomain_errors,
    env_name_errors,
    mask_trailing_dash,
)
from kubelet_secrets.api.validation.references import validate_field_ref, validate_resource_field_ref
from kubelet_secrets.api.validation.volumes import local_path_errors

Obj = dict[str, Any]

_ENV_FIELD_PATHS = (
    *("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName"),
    *("status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"),
)
_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_NO_SOURCE = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
_NO_BULK_SOURCE = "must specify one of: `configMapRef` or `secretRef`"
_TWO_SOURCES = "may not have more than one field specified at a time"


def validate_env(variables: list[Obj], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, variable in enumerate(variables):
        here = path.index(index)
        name = variable.get("name", "")
        if name:
            errors += fields.each_invalid(here.child("name"), name, env_name_errors(name))
        else:
            errors.append(fields.required(here.child("name")))
        if variable.get("valueFrom") is not None:
            errors += _validate_value_from(variable, here.child("valueFrom"))
    return errors


def validate_env_from(sources: list[Obj], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, source in enumerate(sources):
        here = path.index(index)
        if prefix := source.get("prefix"):
            errors += fields.each_invalid(here.child("prefix"), prefix, env_name_errors(prefix))
        present = [kind for kind in ("configMapRef", "secretRef") if source.get(kind) is not None]
        for kind in present:
            errors += _bulk_errors(source[kind], here.child(kind, "name"))
        # Upstream reports these at the list.
        if not present:
            errors.append(fields.invalid(path, "", _NO_BULK_SOURCE))
        elif len(present) > 1:
            errors.append(fields.invalid(path, "", _TWO_SOURCES))
    return errors


def _bulk_errors(reference: Obj, path: Path) -> list[FieldError]:
    name = reference.get("name", "")
    if not name:
        return [fields.required(path)]
    return fields.each_invalid(path, name, dns1123_subdomain_errors(mask_trailing_dash(name)))


def _validate_value_from(variable: Obj, path: Path) -> list[FieldError]:
    source: Obj = variable["valueFrom"]
    present = [name for name in _SOURCES if source.get(name) is not None]
    errors: list[FieldError] = []
    for name in present:
        errors += _validate_reference(name, source[name], path.child(name))
    if not present:
        errors.append(fields.invalid(path, "", _NO_SOURCE))
    elif variable.get("value"):
        errors.append(fields.invalid(path, "", "may not be specified when `value` is not empty"))
    elif len(present) > 1:
        errors.append(fields.invalid(path, "", _TWO_SOURCES))
    return errors


def _validate_reference(name: str, reference: Obj, path: Path) -> list[FieldError]:
    match name:
        case "fieldRef":
            return validate_field_ref(reference, _ENV_FIELD_PATHS, path)
        case "resourceFieldRef":
            return validate_resource_field_ref(reference, path, needs_container=False)
        case "fileKeyRef":
            return _file_key_errors(reference, path)
        case _:
            return _key_errors(reference, path)


def _key_errors(reference: Obj, path: Path) -> list[FieldError]:
    """Source: validateSecretKeySelector and validateConfigMapKeySelector."""
    name, key = reference.get("name", ""), reference.get("key", "")
    errors = fields.each_invalid(path.child("name"), name, dns1123_subdomain_errors(name))
    if not key:
        return [*errors, fields.required(path.child("key"))]
    return errors + fields.each_invalid(path.child("key"), key, config_key_errors(key))


def _file_key_errors(reference: Obj, path: Path) -> list[FieldError]:
    """Source: KEP-3721, validateFileKeySelector."""
    errors = [fields.required(path.child(field)) for field in ("volumeName", "path", "key") if not reference.get(field)]
    if name := reference.get("volumeName"):
        errors += fields.each_invalid(path.child("volumeName"), name, dns1123_label_errors(name))
    if text := reference.get("path"):
        errors += local_path_errors(text, path.child("path"))
    if key := reference.get("key"):
        errors += fields.each_invalid(path.child("key"), key, env_name_errors(key))
    return errors


def validate_file_key_volumes(containers: list[Obj], volumes: Mapping[str, Obj], path: Path) -> list[FieldError]:
    """Env files are read from emptyDir volumes of the pod only.

    Args:
        volumes: name → volume, of those without an error of their own.
        path: of the list of containers.

    Source: KEP-3721, validateFileKeyRefVolumes.
    """
    errors = []
    for index, container in enumerate(containers):
        for position, variable in enumerate(container.get("env") or ()):
            name = ((variable.get("valueFrom") or {}).get("fileKeyRef") or {}).get("volumeName")
            if not name:
                continue
            here = path.index(index).child("env").index(position).child("valueFrom", "fileKeyRef", "volumeName")
            if name not in volumes:
                errors.append(fields.not_found(here, name))
            elif volumes[name].get("emptyDir") is None:
                errors.append(fields.invalid(here, name, "referenced volume must be of type emptyDir"))
    return errors

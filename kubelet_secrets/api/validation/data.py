"""Secrets and ConfigMaps: keys, sizes, what each type of Secret must hold, and what an immutable one may still change.

Pure, on plain dictionaries as stored: ``data`` of a Secret is base64. Values are decoded only to be measured or, for registry
credentials, to see that they are a JSON object; no error shows any part of one.

Source: pkg/apis/core/validation, ValidateSecret, ValidateSecretUpdate, ValidateConfigMap, ValidateConfigMapUpdate;
semantics §1.2-1.5.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import METADATA, REDACTED, WHOLE, FieldError, Path
from kubelet_secrets.api.validation.metadata import validate_metadata, validate_metadata_update
from kubelet_secrets.api.validation.names import config_key_errors, dns1123_subdomain_errors

Obj = dict[str, Any]

SIZE_LIMIT_BYTES = 1024 * 1024
SERVICE_ACCOUNT_NAME = "kubernetes.io/service-account.name"
_IMMUTABLE = "field is immutable when `immutable` is set"
_DATA, _BINARY_DATA = Path("data"), Path("binaryData")


def validate_secret(secret: Obj, old: Obj | None = None) -> list[FieldError]:
    """Check a Secret; with *old*, as its next version."""
    errors = _validate_update(secret, old, ("data",)) if old is not None else []
    errors += validate_metadata(secret.get("metadata") or {}, dns1123_subdomain_errors, is_namespaced=True)
    data: Mapping[str, str] = secret.get("data") or {}
    size = 0
    for key, value in data.items():
        errors += fields.each_invalid(_DATA.key(key), key, config_key_errors(key))
        size += decoded_length(value)
    if size > SIZE_LIMIT_BYTES:
        errors.append(fields.too_long(_DATA, SIZE_LIMIT_BYTES))
    return errors + _validate_type(secret, data)


def validate_config_map(config_map: Obj, old: Obj | None = None) -> list[FieldError]:
    """Check a ConfigMap; with *old*, as its next version."""
    errors = _validate_update(config_map, old, ("data", "binaryData")) if old is not None else []
    errors += validate_metadata(config_map.get("metadata") or {}, dns1123_subdomain_errors, is_namespaced=True)
    data: Mapping[str, str] = config_map.get("data") or {}
    binary: Mapping[str, str] = config_map.get("binaryData") or {}
    size = 0
    for key, value in data.items():
        errors += fields.each_invalid(_DATA.key(key), key, config_key_errors(key))
        if key in binary:
            errors.append(fields.invalid(_DATA.key(key), key, "duplicate of key present in binaryData"))
        size += len(value.encode("utf-8", "surrogatepass"))
    for key, value in binary.items():
        errors += fields.each_invalid(_BINARY_DATA.key(key), key, config_key_errors(key))
        size += decoded_length(value)
    if size > SIZE_LIMIT_BYTES:
        errors.append(fields.too_long(WHOLE, SIZE_LIMIT_BYTES))
    return errors


def decoded_length(text: str) -> int:
    """How many bytes a well-formed base64 text stands for."""
    packed = text.translate({10: None, 13: None})
    return len(packed) * 3 // 4 - packed[-2:].count("=")


def _validate_update(new: Obj, old: Obj, bags: tuple[str, ...]) -> list[FieldError]:
    errors = validate_metadata_update(new.get("metadata") or {}, old.get("metadata") or {})
    if "type" in old:
        errors += fields.immutable(Path("type"), new.get("type", ""), old["type"])
    if old.get("immutable"):
        if not new.get("immutable"):
            errors.append(fields.forbidden(Path("immutable"), _IMMUTABLE))
        errors += [
            fields.forbidden(Path(bag), _IMMUTABLE) for bag in bags if (new.get(bag) or {}) != (old.get(bag) or {})
        ]
    return errors


def _validate_type(secret: Obj, data: Mapping[str, str]) -> list[FieldError]:
    match secret.get("type"):
        case "kubernetes.io/service-account-token":
            annotations = (secret.get("metadata") or {}).get("annotations") or {}
            if not annotations.get(SERVICE_ACCOUNT_NAME):
                return [fields.required(METADATA.child("annotations").key(SERVICE_ACCOUNT_NAME))]
        case "kubernetes.io/dockercfg":
            return _validate_json(data, ".dockercfg")
        case "kubernetes.io/dockerconfigjson":
            return _validate_json(data, ".dockerconfigjson")
        case "kubernetes.io/basic-auth":
            if "username" not in data and "password" not in data:
                return [fields.required(_DATA.key("username")), fields.required(_DATA.key("password"))]
        case "kubernetes.io/ssh-auth":
            if not data.get("ssh-privatekey"):
                return [fields.required(_DATA.key("ssh-privatekey"))]
        case "kubernetes.io/tls":
            return [fields.required(_DATA.key(key)) for key in ("tls.crt", "tls.key") if key not in data]
    return []


def _validate_json(data: Mapping[str, str], key: str) -> list[FieldError]:
    if key not in data:
        return [fields.required(_DATA.key(key))]
    problem = _json_object_problem(data[key])
    return [fields.invalid(_DATA.key(key), REDACTED, problem)] if problem else []


def _json_object_problem(encoded: str) -> str:
    """Why Go could not read it as a map; its own text would show a character of the value, this one does not."""
    try:
        text = base64.b64decode(encoded)
        value = json.loads(text)
    except (binascii.Error, ValueError):
        return "unexpected end of JSON input" if not encoded else "invalid character in JSON input"
    if value is None or isinstance(value, dict):
        return ""
    names = {list: "array", str: "string", bool: "bool"}
    return f"json: cannot unmarshal {names.get(type(value), 'number')} into Go value of type map[string]interface {{}}"

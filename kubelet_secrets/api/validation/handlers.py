"""Probes and lifecycle hooks: exactly one handler, ports that exist, sane numbers.

Pure. Source: pkg/apis/core/validation, validateHandler, validateProbe and their neighbours.
"""

from __future__ import annotations

import re
from typing import Any

from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import FieldError, Path
from kubelet_secrets.api.validation.names import port_name_errors, port_number_errors

Obj = dict[str, Any]

_PROBE_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOK_HANDLERS = ("exec", "httpGet", "tcpSocket", "sleep")
_HEADER_NAME = re.compile(r"[-A-Za-z0-9]+")
_HEADER_TEXT = (
    "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', "
    "regex used for validation is '[-A-Za-z0-9]+')"
)
_NOT_NEGATIVE = "must be greater than or equal to 0"


def validate_probes(container: Obj, path: Path) -> list[FieldError]:
    """The three probes of a container that may have them."""
    errors: list[FieldError] = []
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if probe is None:
            continue
        here = path.child(name)
        errors += _probe_errors(probe, here)
        grace_s = probe.get("terminationGracePeriodSeconds")
        if name == "readinessProbe":
            if grace_s is not None:
                text = "must not be set for readinessProbes"
                errors.append(fields.invalid(here.child("terminationGracePeriodSeconds"), grace_s, text))
        elif probe.get("successThreshold", 1) != 1:
            errors.append(fields.invalid(here.child("successThreshold"), probe["successThreshold"], "must be 1"))
    return errors


def validate_lifecycle(lifecycle: Obj, grace_s: int | None, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for name in ("postStart", "preStop"):
        if lifecycle.get(name) is not None:
            errors += _handler_errors(lifecycle[name], _HOOK_HANDLERS, grace_s, path.child(name))
    return errors


def _probe_errors(probe: Obj, path: Path) -> list[FieldError]:
    errors = _handler_errors(probe, _PROBE_HANDLERS, None, path)
    for name in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        if probe.get(name, 0) < 0:
            errors.append(fields.invalid(path.child(name), probe[name], _NOT_NEGATIVE))
    grace_s = probe.get("terminationGracePeriodSeconds")
    if grace_s is not None and grace_s <= 0:
        errors.append(fields.invalid(path.child("terminationGracePeriodSeconds"), grace_s, "must be greater than 0"))
    return errors


def _handler_errors(owner: Obj, names: tuple[str, ...], grace_s: int | None, path: Path) -> list[FieldError]:
    present = [name for name in names if owner.get(name) is not None]
    if not present:
        return [fields.required(path, "must specify a handler type")]
    errors = _one_handler_errors(present[0], owner[present[0]], grace_s, path.child(present[0]))
    return errors + [
        fields.forbidden(path.child(name), "may not specify more than 1 handler type") for name in present[1:]
    ]


def _one_handler_errors(name: str, handler: Obj, grace_s: int | None, path: Path) -> list[FieldError]:
    match name:
        case "exec":
            return [] if handler.get("command") else [fields.required(path.child("command"))]
        case "httpGet":
            errors = [] if handler.get("path") else [fields.required(path.child("path"))]
            errors += _port_errors(handler.get("port", 0), path.child("port"))
            if handler.get("scheme") not in ("HTTP", "HTTPS"):
                errors.append(fields.not_supported(path.child("scheme"), handler.get("scheme", ""), ("HTTP", "HTTPS")))
            for header in handler.get("httpHeaders") or ():
                if not _HEADER_NAME.fullmatch(header.get("name", "")):
                    errors.append(fields.invalid(path.child("httpHeaders"), header.get("name", ""), _HEADER_TEXT))
            return errors
        case "sleep":
            seconds = handler.get("seconds", 0)
            if grace_s is not None and not 0 <= seconds <= grace_s:
                text = f"must be non-negative and less than terminationGracePeriodSeconds ({grace_s})"
                return [fields.invalid(path, seconds, text)]
            return []
        case _:
            return _port_errors(handler.get("port", 0), path.child("port"))


def _port_errors(port: Any, path: Path) -> list[FieldError]:
    details = port_name_errors(port) if isinstance(port, str) else port_number_errors(port)
    return fields.each_invalid(path, port, details)

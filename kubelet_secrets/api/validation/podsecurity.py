"""A pod's security context: its groups, users and sysctls. Pure, on plain dictionaries; called by ``pods.py``.

Source: pkg/apis/core/validation, ValidatePodSecurityContext, validateSysctls, ValidateHostSysctl.
"""

from __future__ import annotations

import re
from typing import Any

from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.containers import id_errors
from kubelet_secrets.api.validation.fields import SPEC, FieldError, Path

Obj = dict[str, Any]

_LONGEST_SYSCTL = 253
_SEGMENT = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SYSCTL = f"^({_SEGMENT}[\\./])*{_SEGMENT}$"
_IPC_SYSCTLS = ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")


def validate_pod_security(context: Obj, spec: Obj) -> list[FieldError]:
    """Check ``spec.securityContext``, and what of *spec* goes with it."""
    path = SPEC.child("securityContext")
    errors: list[FieldError] = []
    for field in ("fsGroup", "runAsUser", "runAsGroup"):
        errors += id_errors(context.get(field), path.child(field))
    for index, group in enumerate(context.get("supplementalGroups") or ()):
        errors += id_errors(group, path.child("supplementalGroups").index(index))
    errors += _sysctl_errors(context.get("sysctls") or [], spec, path.child("sysctls"))
    policy = context.get("fsGroupChangePolicy")
    if policy is not None and policy not in ("Always", "OnRootMismatch"):
        errors.append(fields.not_supported(path.child("fsGroupChangePolicy"), policy, ("Always", "OnRootMismatch")))
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        text = "ShareProcessNamespace and HostPID cannot both be enabled"
        errors.append(fields.invalid(SPEC.child("shareProcessNamespace"), True, text))
    return errors


def _sysctl_errors(sysctls: list[Obj], spec: Obj, path: Path) -> list[FieldError]:
    errors, seen = [], set()
    for index, sysctl in enumerate(sysctls):
        here, name = path.index(index).child("name"), sysctl.get("name", "")
        if not name:
            errors.append(fields.required(here))
        elif len(name) > _LONGEST_SYSCTL or not re.match(_SYSCTL, name, re.ASCII) or name.endswith("\n"):
            text = f"must have at most {_LONGEST_SYSCTL} characters and match regex {_SYSCTL}"
            errors.append(fields.invalid(here, name, text))
        elif name in seen:
            errors.append(fields.duplicate(here, name))
        dotted = name.replace("/", ".")
        if dotted.startswith("net.") and spec.get("hostNetwork"):
            errors.append(fields.invalid(here, name, "may not be specified when 'hostNetwork' is true"))
        elif dotted.startswith(_IPC_SYSCTLS) and spec.get("hostIPC"):
            errors.append(fields.invalid(here, name, "may not be specified when 'hostIPC' is true"))
        seen.add(name)
    return errors

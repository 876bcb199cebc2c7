"""Resizing a pod in place: what ``pods/resize`` may change, and what ``resizePolicy`` may say.

Pure, on plain dictionaries, defaulted. Source: pkg/apis/core/validation, ValidatePodResize, validateContainerResize,
validateResizePolicy. Differs: what else was changed is not printed.
"""

from __future__ import annotations

import copy
from typing import Any

from kubelet_secrets.api.qosclass import qos_class
from kubelet_secrets.api.staticpod import CONFIG_MIRROR
from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import SPEC, FieldError, Path

Obj = dict[str, Any]

_RESIZABLE = ("cpu", "memory")
_POLICIES = ("NotRequired", "RestartContainer")


def validate_resize(pod: Obj, old: Obj) -> list[FieldError]:
    """Check *pod*, whose metadata and spec are valid by themselves, as *old* resized."""
    if CONFIG_MIRROR in ((old.get("metadata") or {}).get("annotations") or {}):
        return [fields.forbidden(fields.WHOLE, "static pods cannot be resized")]
    errors: list[FieldError] = []
    spec, before, status = pod["spec"], old["spec"], old.get("status") or {}
    wanted = qos_class(spec)
    if (status.get("qosClass") or qos_class(before)) != wanted:
        errors.append(fields.invalid(SPEC, wanted, "Pod QOS Class may not change as a result of resizing"))
    if not _is_supported(status):
        errors.append(fields.forbidden(SPEC, "Pod running on node without support for resize"))
    for field, noun in (("containers", "containers"), ("initContainers", "initContainers")):
        new_names, old_names = _names(spec, field), _names(before, field)
        if len(new_names) != len(old_names):
            return [*errors, fields.forbidden(SPEC, f"{noun} may not be added or removed on resize")]
        if new_names != old_names:
            return [*errors, fields.forbidden(SPEC, f"{noun} may not be renamed or reordered on resize")]
        for index, (container, given) in enumerate(zip(spec.get(field) or (), before.get(field) or (), strict=True)):
            path = SPEC.child(field).index(index).child("resources")
            if field == "initContainers" and given.get("restartPolicy") != "Always":
                if (container.get("resources") or {}) != (given.get("resources") or {}):
                    errors.append(fields.forbidden(path, "resources for non-sidecar init containers are immutable"))
            else:
                errors += _removal_errors(container.get("resources") or {}, given.get("resources") or {}, path)
    if _without_resizable(spec) != _without_resizable(before):
        errors.append(fields.forbidden(SPEC, "only cpu and memory resources are mutable"))
    return errors


def _names(spec: Obj, field: str) -> list[str]:
    return [str(each.get("name", "")) for each in spec.get(field) or ()]


def _is_supported(status: Obj) -> bool:
    """By the first container that runs: whether its node tells what it has. Without any, nobody knows."""
    for each in status.get("containerStatuses") or ():
        if (each.get("state") or {}).get("running") is not None:
            return each.get("resources") is not None
    return True


def _removal_errors(new: Obj, old: Obj, path: Path) -> list[FieldError]:
    return [
        fields.forbidden(path.child(kind), f"resource {kind} cannot be removed")
        for kind in ("limits", "requests")
        if set(old.get(kind) or ()) - set(new.get(kind) or ())
    ]


def _without_resizable(spec: Obj) -> Obj:
    """The spec, as far as a resize leaves it alone."""
    kept = copy.deepcopy(spec)
    for field in ("containers", "initContainers"):
        for container in kept.get(field) or ():
            resources = container.get("resources") or {}
            for kind in ("limits", "requests"):
                left = {name: amount for name, amount in (resources.get(kind) or {}).items() if name not in _RESIZABLE}
                resources.pop(kind, None)
                if left:
                    resources[kind] = left
            container.pop("resources", None)
            if resources:
                container["resources"] = resources
    return kept


def validate_resize_policy(policies: list[Obj], path: Path, *, pod_restart_policy: str) -> list[FieldError]:
    """Check one container's ``resizePolicy``."""
    errors: list[FieldError] = []
    seen: set[str] = set()
    for index, policy in enumerate(policies):
        name, restart = policy.get("resourceName", ""), policy.get("restartPolicy", "")
        if name in seen:
            errors.append(fields.duplicate(path.index(index), name))
        seen.add(name)
        for found, known in ((name, _RESIZABLE), (restart, _POLICIES)):
            if not found:
                errors.append(fields.required(path))
            elif found not in known:
                errors.append(fields.not_supported(path, found, known))
        if pod_restart_policy == "Never" and restart != "NotRequired":
            text = "must be 'NotRequired' when `restartPolicy` is 'Never'"
            errors.append(fields.invalid(path, restart, text))
    return errors

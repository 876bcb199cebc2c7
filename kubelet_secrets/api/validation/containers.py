"""Containers of all three kinds: names, images, ports, mounts, resources, and what each kind may not have.

Pure, on plain dictionaries, defaulted.

Source: pkg/apis/core/validation, validateContainers, validateInitContainers, validateEphemeralContainers,
validateContainerCommon, ValidateVolumeMounts; semantics §5.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubelet_secrets.api import quantity
from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.environment import validate_env, validate_env_from
from kubelet_secrets.api.validation.fields import FieldError, Path
from kubelet_secrets.api.validation.handlers import validate_lifecycle, validate_probes
from kubelet_secrets.api.validation.names import (
    dns1123_label_errors,
    port_name_errors,
    port_number_errors,
    qualified_name_errors,
)
from kubelet_secrets.api.validation.volumes import descending_path_errors

Obj = dict[str, Any]
Volumes = Mapping[str, Obj]

_INIT_FORBIDDEN = ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe")
_EPHEMERAL_FORBIDDEN = (*_INIT_FORBIDDEN, "ports", "resources", "resizePolicy", "restartPolicy")
_RESTART_POLICIES = ("Always", "Never", "OnFailure")
_MAX_RESTART_RULES, _MAX_EXIT_CODES = 20, 255
_HIGHEST_ID = 2**31 - 1
_ID_MESSAGE = f"must be between 0 and {_HIGHEST_ID}, inclusive"


def validate_containers(containers: list[Obj], volumes: Volumes, grace_s: int | None, path: Path) -> list[FieldError]:
    if not containers:
        return [fields.required(path)]
    errors: list[FieldError] = []
    names: set[str] = set()
    for index, container in enumerate(containers):
        here = path.index(index)
        errors += _common_errors(container, volumes, here)
        errors += _name_errors(container, names, here)
        if container.get("lifecycle") is not None:
            errors += validate_lifecycle(container["lifecycle"], grace_s, here.child("lifecycle"))
        errors += validate_probes(container, here)
        errors += _restart_errors(container, here)
    return errors + host_port_errors(containers, path)


def validate_init_containers(
    containers: list[Obj], regular: list[Obj], volumes: Volumes, grace_s: int | None, path: Path
) -> list[FieldError]:
    """Names are unique across init and regular containers; only sidecars have probes and hooks."""
    errors: list[FieldError] = []
    names = {container.get("name", "") for container in regular}
    for index, container in enumerate(containers):
        here = path.index(index)
        errors += _common_errors(container, volumes, here)
        policy = container.get("restartPolicy")
        errors += _restart_errors(container, here)
        errors += _name_errors(container, names, here)
        errors += host_port_errors([container], path)
        if policy == "Always":
            if container.get("lifecycle") is not None:
                errors += validate_lifecycle(container["lifecycle"], grace_s, here.child("lifecycle"))
            errors += validate_probes(container, here)
            continue
        text = "may not be set for init containers without restartPolicy=Always"
        errors += [
            fields.forbidden(here.child(name), text) for name in _INIT_FORBIDDEN if container.get(name) is not None
        ]
    return errors


def _restart_errors(container: Obj, path: Path) -> list[FieldError]:
    """A container's own restart policy, and its rules by exit code (gate ContainerRestartRules, on by default).

    Source: validateContainerRestartPolicy, validateRestartPolicyRules.
    """
    errors: list[FieldError] = []
    policy, rules = container.get("restartPolicy"), container.get("restartPolicyRules") or []
    if policy is not None and policy not in _RESTART_POLICIES:
        errors.append(fields.not_supported(path.child("restartPolicy"), policy, _RESTART_POLICIES))
    if not rules:
        return errors
    here = path.child("restartPolicyRules")
    if policy is None:
        errors.append(
            fields.required(path.child("restartPolicy"), "must specify restartPolicy when restart rules are used")
        )
    if len(rules) > _MAX_RESTART_RULES:
        errors.append(fields.too_long(here, _MAX_RESTART_RULES))
    for index, rule in enumerate(rules):
        if rule.get("action") != "Restart":
            errors.append(fields.not_supported(here.index(index).child("action"), rule.get("action", ""), ("Restart",)))
        codes, at = rule.get("exitCodes"), here.index(index).child("exitCodes")
        if codes is None:
            errors.append(fields.required(at, "must be specified"))
            continue
        if codes.get("operator") not in ("In", "NotIn"):
            errors.append(fields.not_supported(at.child("operator"), codes.get("operator", ""), ("In", "NotIn")))
        if len(codes.get("values") or ()) > _MAX_EXIT_CODES:
            errors.append(fields.too_long(at.child("values"), _MAX_EXIT_CODES))
    return errors


def validate_ephemeral_containers(
    containers: list[Obj], others: list[Obj], volumes: Volumes, path: Path
) -> list[FieldError]:
    errors: list[FieldError] = []
    targets = {container.get("name", "") for container in others}
    names = set(targets)
    for index, container in enumerate(containers):
        here = path.index(index)
        errors += _common_errors(container, volumes, here)
        errors += whitespace_errors(container, here)
        errors += _name_errors(container, names, here)
        target = container.get("targetContainerName")
        if target and target not in targets:
            errors.append(fields.not_found(here.child("targetContainerName"), target))
        text = "cannot be set for an Ephemeral Container"
        errors += [fields.forbidden(here.child(name), text) for name in _EPHEMERAL_FORBIDDEN if container.get(name)]
        for position, mount in enumerate(container.get("volumeMounts") or ()):
            for field in ("subPath", "subPathExpr"):
                if mount.get(field):
                    errors.append(fields.forbidden(here.child("volumeMounts").index(position).child(field), text))
    return errors


def whitespace_errors(container: Obj, path: Path) -> list[FieldError]:
    image = container.get("image", "")
    if image == image.strip():
        return []
    return [fields.invalid(path.child("image"), image, "must not have leading or trailing whitespace")]


def host_port_errors(containers: list[Obj], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    taken: set[str] = set()
    for index, container in enumerate(containers):
        for position, port in enumerate(container.get("ports") or ()):
            if not port.get("hostPort"):
                continue
            text = f"{port.get('protocol', '')}/{port.get('hostIP', '')}/{port['hostPort']}"
            if text in taken:
                errors.append(
                    fields.duplicate(path.index(index).child("ports").index(position).child("hostPort"), text)
                )
            taken.add(text)
    return errors


def id_errors(value: Any, path: Path) -> list[FieldError]:
    """A user or group id."""
    return [] if value is None or 0 <= value <= _HIGHEST_ID else [fields.invalid(path, value, _ID_MESSAGE)]


def _name_errors(container: Obj, names: set[str], path: Path) -> list[FieldError]:
    """Duplicates; adds the name to *names*."""
    name = container.get("name", "")
    if name and name in names:
        return [fields.duplicate(path.child("name"), name)]
    names.add(name)
    return []


def _common_errors(container: Obj, volumes: Volumes, path: Path) -> list[FieldError]:
    name = container.get("name", "")
    if name:
        errors = fields.each_invalid(path.child("name"), name, dns1123_label_errors(name))
    else:
        errors = [fields.required(path.child("name"))]
    if not container.get("image"):
        errors.append(fields.required(path.child("image")))
    policies = ("File", "FallbackToLogsOnError")
    policy = container.get("terminationMessagePolicy", "")
    errors += fields.unless_one_of(path.child("terminationMessagePolicy"), policy, policies)
    errors += _port_list_errors(container.get("ports") or [], path.child("ports"))
    errors += validate_env(container.get("env") or [], path.child("env"))
    errors += validate_env_from(container.get("envFrom") or [], path.child("envFrom"))
    errors += _mount_errors(container, volumes, path.child("volumeMounts"))
    pull_policies = ("Always", "IfNotPresent", "Never")
    errors += fields.unless_one_of(path.child("imagePullPolicy"), container.get("imagePullPolicy", ""), pull_policies)
    errors += validate_resources(container.get("resources") or {}, path.child("resources"))
    return errors + _security_errors(container.get("securityContext") or {}, path.child("securityContext"))


def _port_list_errors(ports: list[Obj], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    names: set[str] = set()
    for index, port in enumerate(ports):
        here = path.index(index)
        if name := port.get("name"):
            details = port_name_errors(name)
            errors += fields.each_invalid(here.child("name"), name, details)
            if not details and name in names:
                errors.append(fields.duplicate(here.child("name"), name))
            names.add(name)
        if not port.get("containerPort"):
            errors.append(fields.required(here.child("containerPort")))
        for field in ("containerPort", "hostPort"):
            if port.get(field):
                errors += fields.each_invalid(here.child(field), port[field], port_number_errors(port[field]))
        errors += fields.unless_one_of(here.child("protocol"), port.get("protocol", ""), ("SCTP", "TCP", "UDP"))
    return errors


def _mount_errors(container: Obj, volumes: Volumes, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    points: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        here = path.index(index)
        name, point = mount.get("name", ""), mount.get("mountPath", "")
        if not name:
            errors.append(fields.required(here.child("name")))
        if name not in volumes:
            errors.append(fields.not_found(here.child("name"), name))
        if not point:
            errors.append(fields.required(here.child("mountPath")))
        if point in points:
            errors.append(fields.invalid(here.child("mountPath"), point, "must be unique"))
        points.add(point)
        errors += _sub_path_errors(mount, volumes.get(name, {}), here, path)
        errors += _propagation_errors(mount, container, path)
    return errors


def _sub_path_errors(mount: Obj, volume: Obj, here: Path, path: Path) -> list[FieldError]:
    """Upstream reports the form of a path at the list, the rest at the element."""
    errors: list[FieldError] = []
    sub_path, expression = mount.get("subPath", ""), mount.get("subPathExpr", "")
    if volume.get("image") is not None:
        text = "not allowed in image volume sources"
        given = (field for field in ("subPath", "subPathExpr") if mount.get(field))
        errors += [fields.invalid(here.child(field), mount[field], text) for field in given]
    if sub_path:
        errors += descending_path_errors(sub_path, path.child("subPath"))
    if expression:
        if sub_path:
            text = "subPathExpr and subPath are mutually exclusive"
            errors.append(fields.invalid(here.child("subPathExpr"), expression, text))
        errors += descending_path_errors(expression, path.child("subPathExpr"))
    return errors


def _propagation_errors(mount: Obj, container: Obj, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    propagation, recursive = mount.get("mountPropagation"), mount.get("recursiveReadOnly")
    if propagation is not None:
        here = path.child("mountPropagation")
        if propagation not in ("Bidirectional", "HostToContainer", "None"):
            errors.append(fields.not_supported(here, propagation, ("Bidirectional", "HostToContainer", "None")))
        if propagation == "Bidirectional" and not (container.get("securityContext") or {}).get("privileged"):
            text = "Bidirectional mount propagation is available only to privileged containers"
            errors.append(fields.forbidden(here, text))
    if recursive in ("Enabled", "IfPossible"):
        here = path.child("recursiveReadOnly")
        if not mount.get("readOnly"):
            errors.append(fields.forbidden(here, "may only be specified when readOnly is true"))
        if propagation not in (None, "None"):
            text = "may only be specified when mountPropagation is None or not specified"
            errors.append(fields.forbidden(here, text))
    elif recursive not in (None, "Disabled"):
        supported = ("Disabled", "Enabled", "IfPossible")
        errors.append(fields.not_supported(path.child("recursiveReadOnly"), recursive, supported))
    return errors


def validate_resources(resources: Obj, path: Path) -> list[FieldError]:
    """Quantities are not negative; a request is at most its limit, and equals it where over-commitment is impossible.

    Source: ValidateContainerResourceRequirements.
    """
    errors: list[FieldError] = []
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for field, bag in (("limits", limits), ("requests", requests)):
        for name, amount in bag.items():
            here = path.child(field).key(name)
            errors += fields.each_invalid(path.child(field), name, qualified_name_errors(name))
            if quantity.parse(amount) < 0:
                errors.append(fields.invalid(here, str(amount), "must be greater than or equal to 0"))
    for name, amount in requests.items():
        can_overcommit = "/" not in name and not name.startswith("hugepages-")
        if name not in limits:
            if not can_overcommit:
                text = "Limit must be set for non overcommitable resources"
                errors.append(fields.required(path.child("limits"), text))
            continue
        asked, limit = quantity.parse(amount), quantity.parse(limits[name])
        here = path.child("requests")
        if asked != limit and not can_overcommit:
            errors.append(fields.invalid(here, str(amount), f"must be equal to {name} limit of {limits[name]}"))
        elif asked > limit:
            text = f"must be less than or equal to {name} limit of {limits[name]}"
            errors.append(fields.invalid(here, str(amount), text))
    return errors


def _security_errors(context: Obj, path: Path) -> list[FieldError]:
    errors = id_errors(context.get("runAsUser"), path.child("runAsUser"))
    errors += id_errors(context.get("runAsGroup"), path.child("runAsGroup"))
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
            errors.append(fields.invalid(path, context, text))
        if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or ()):
            text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            errors.append(fields.invalid(path, context, text))
    return errors

"""Pods: the parts this project reads, in upstream's order and words; and what an update may still change.

Pure, on plain dictionaries, defaulted. Not checked: affinity, topology, resource claims, Windows.

Source: pkg/apis/core/validation, ValidatePodCreate, ValidatePodUpdate, ValidatePodStatusUpdate,
ValidatePodEphemeralContainersUpdate, ValidatePodSpec.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.staticpod import CONFIG_MIRROR
from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.containers import (
    validate_containers,
    validate_ephemeral_containers,
    validate_init_containers,
    validate_resources,
    whitespace_errors,
)
from kubelet_secrets.api.validation.environment import validate_file_key_volumes
from kubelet_secrets.api.validation.fields import METADATA, SPEC, STATUS, FieldError, Path
from kubelet_secrets.api.validation.metadata import validate_labels, validate_metadata, validate_metadata_update
from kubelet_secrets.api.validation.names import (
    dns1123_label_errors,
    dns1123_subdomain_errors,
    ip_errors,
    label_value_errors,
    qualified_name_errors,
)
from kubelet_secrets.api.validation.podresize import validate_resize, validate_resize_policy
from kubelet_secrets.api.validation.podsecurity import validate_pod_security
from kubelet_secrets.api.validation.reports import pod_address_errors
from kubelet_secrets.api.validation.volumes import validate_volumes

Obj = dict[str, Any]

_HIGHEST_DEADLINE_S = 2**31 - 1
_UPDATABLE = (
    "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
    "`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def validate_pod(pod: Obj, old: Obj | None = None, subresource: str = "") -> list[FieldError]:
    """Check a pod; with *old*, as its next version by way of *subresource*.

    Args:
        subresource: ``status``, ``ephemeralcontainers`` and ``resize`` have rules of their own, ``binding`` writes
            ``spec.nodeName``.
    """
    if old is None:
        return _validate_create(pod)
    errors = validate_metadata_update(pod.get("metadata") or {}, old.get("metadata") or {})
    errors += _mirror_update_errors(pod, old)
    match subresource:
        case "status":
            return errors + _validate_status_update(pod, old)
        case "ephemeralcontainers":
            return errors + _validate_metadata_and_spec(pod) + _validate_ephemeral_update(pod, old)
        case "resize":
            return errors + _validate_metadata_and_spec(pod) + validate_resize(pod, old)
        case "binding":
            return errors
        case _:
            return errors + _validate_metadata_and_spec(pod) + _validate_spec_update(pod["spec"], old["spec"])


def _validate_create(pod: Obj) -> list[FieldError]:
    errors = _validate_metadata_and_spec(pod)
    spec = pod.get("spec") or {}
    if spec.get("ephemeralContainers"):
        errors.append(fields.forbidden(SPEC.child("ephemeralContainers"), "cannot be set on create"))
    if spec.get("nodeName") and spec.get("schedulingGates"):
        text = "cannot be set until all schedulingGates have been cleared"
        errors.append(fields.forbidden(SPEC.child("nodeName"), text))
    return errors


def _validate_metadata_and_spec(pod: Obj) -> list[FieldError]:
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    errors = validate_metadata(metadata, dns1123_subdomain_errors, is_namespaced=True)
    mirror = (metadata.get("annotations") or {}).get(CONFIG_MIRROR)
    if mirror is not None and not spec.get("nodeName"):
        text = "must set spec.nodeName if mirror pod annotation is set"
        errors.append(fields.invalid(METADATA.child("annotations").key(CONFIG_MIRROR), mirror, text))
    errors += _validate_spec(spec)
    if not spec.get("serviceAccountName"):
        text = "must not be specified when serviceAccountName is not set"
        errors += [fields.forbidden(path, text) for path in _token_paths(spec)]
    for field in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(field) or ()):
            errors += whitespace_errors(container, SPEC.child(field).index(index))
    return errors


def _token_paths(spec: Obj) -> Iterator[Path]:
    for index, volume in enumerate(spec.get("volumes") or ()):
        for position, source in enumerate((volume.get("projected") or {}).get("sources") or ()):
            if source.get("serviceAccountToken") is not None:
                here = SPEC.child("volumes").index(index).child("projected", "sources").index(position)
                yield here.child("serviceAccountToken")


def _validate_spec(spec: Obj) -> list[FieldError]:
    errors: list[FieldError] = []
    grace_s = spec.get("terminationGracePeriodSeconds")
    if grace_s is None:
        errors.append(fields.required(SPEC.child("terminationGracePeriodSeconds")))
    volumes, found = validate_volumes(spec.get("volumes") or [], SPEC.child("volumes"))
    errors += found
    regular, init = spec.get("containers") or [], spec.get("initContainers") or []
    ephemeral = spec.get("ephemeralContainers") or []
    errors += validate_containers(regular, volumes, grace_s, SPEC.child("containers"))
    errors += validate_init_containers(init, regular, volumes, grace_s, SPEC.child("initContainers"))
    errors += validate_ephemeral_containers(ephemeral, [*regular, *init], volumes, SPEC.child("ephemeralContainers"))
    for field, members in (("containers", regular), ("initContainers", init), ("ephemeralContainers", ephemeral)):
        errors += validate_file_key_volumes(members, volumes, SPEC.child(field))
    for field, members in (("containers", regular), ("initContainers", init)):
        for index, container in enumerate(members):
            path = SPEC.child(field).index(index).child("resizePolicy")
            policies, restarts = container.get("resizePolicy") or [], spec.get("restartPolicy", "")
            errors += validate_resize_policy(policies, path, pod_restart_policy=restarts)
    if spec.get("resources"):
        errors += validate_resources(spec["resources"], SPEC.child("resources"))
    errors += _host_network_errors(spec)
    policies = ("Always", "OnFailure", "Never")
    errors += fields.unless_one_of(SPEC.child("restartPolicy"), spec.get("restartPolicy", ""), policies)
    dns_policies = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
    errors += fields.unless_one_of(SPEC.child("dnsPolicy"), spec.get("dnsPolicy", ""), dns_policies)
    errors += validate_labels(spec.get("nodeSelector") or {}, SPEC.child("nodeSelector"))
    errors += validate_pod_security(spec.get("securityContext") or {}, spec)
    errors += _dns_errors(spec)
    for index, gate in enumerate(spec.get("readinessGates") or ()):
        kind = gate.get("conditionType", "")
        path = SPEC.child("readinessGates").index(index).child("conditionType")
        errors += fields.each_invalid(path, kind, qualified_name_errors(kind))
    return errors + _named_field_errors(spec)


def _named_field_errors(spec: Obj) -> list[FieldError]:
    errors: list[FieldError] = []
    for field in ("serviceAccountName", "nodeName"):
        if name := spec.get(field):
            errors += fields.each_invalid(SPEC.child(field), name, dns1123_subdomain_errors(name))
    deadline_s = spec.get("activeDeadlineSeconds")
    if deadline_s is not None and not 1 <= deadline_s <= _HIGHEST_DEADLINE_S:
        text = f"must be between 1 and {_HIGHEST_DEADLINE_S}, inclusive"
        errors.append(fields.invalid(SPEC.child("activeDeadlineSeconds"), deadline_s, text))
    for field in ("hostname", "subdomain"):
        if name := spec.get(field):
            errors += fields.each_invalid(SPEC.child(field), name, dns1123_label_errors(name))
    errors += _toleration_errors(spec.get("tolerations") or [], SPEC.child("tolerations"))
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        path = SPEC.child("hostAliases").index(index)
        errors += fields.each_invalid(path.child("ip"), alias.get("ip", ""), ip_errors(alias.get("ip", "")))
        for position, name in enumerate(alias.get("hostnames") or ()):
            errors += fields.each_invalid(path.child("hostnames").index(position), name, dns1123_subdomain_errors(name))
    for field in ("priorityClassName", "runtimeClassName"):
        if name := spec.get(field):
            errors += fields.each_invalid(SPEC.child(field), name, dns1123_subdomain_errors(name))
    return errors


def _host_network_errors(spec: Obj) -> list[FieldError]:
    if not spec.get("hostNetwork"):
        return []
    text = "must match `containerPort` when `hostNetwork` is true"
    return [
        fields.invalid(
            SPEC.child("containers").index(index).child("ports").index(position).child("hostPort"), found, text
        )
        for index, container in enumerate(spec.get("containers") or ())
        for position, port in enumerate(container.get("ports") or ())
        if (found := port.get("hostPort", 0)) != port.get("containerPort", 0)
    ]


def _dns_errors(spec: Obj) -> list[FieldError]:
    path, config = SPEC.child("dnsConfig"), spec.get("dnsConfig")
    if spec.get("dnsPolicy") == "None":
        if config is None:
            return [fields.required(path, "must provide `dnsConfig` when `dnsPolicy` is None")]
        if not config.get("nameservers"):
            text = "must provide at least one DNS nameserver when `dnsPolicy` is None"
            return [fields.required(path.child("nameservers"), text)]
    errors: list[FieldError] = []
    servers = (config or {}).get("nameservers") or []
    if len(servers) > 3:
        errors.append(fields.invalid(path.child("nameservers"), servers, "must not have more than 3 nameservers"))
    for index, server in enumerate(servers):
        errors += fields.each_invalid(path.child("nameservers").index(index), server, ip_errors(server))
    return errors


def _toleration_errors(tolerations: list[Obj], path: Path) -> list[FieldError]:
    """Source: ValidateTolerations."""
    errors: list[FieldError] = []
    for index, toleration in enumerate(tolerations):
        here = path.index(index)
        key, operator = toleration.get("key", ""), toleration.get("operator", "")
        value, effect = toleration.get("value", ""), toleration.get("effect", "")
        if key:
            errors += fields.each_invalid(here.child("key"), key, qualified_name_errors(key))
        elif operator != "Exists":
            text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            errors.append(fields.invalid(here.child("operator"), operator, text))
        if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
            text = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            errors.append(fields.invalid(here.child("effect"), effect, text))
        if operator in ("", "Equal"):
            if details := label_value_errors(value):
                errors.append(fields.invalid(here.child("operator"), value, ";".join(details)))
        elif operator != "Exists":
            errors.append(fields.not_supported(here.child("operator"), operator, ("Equal", "Exists")))
        elif value:
            text = "value must be empty when `operator` is 'Exists'"
            errors.append(fields.invalid(here.child("operator"), value, text))
        effects = ("NoSchedule", "PreferNoSchedule", "NoExecute")
        if effect and effect not in effects:
            errors.append(fields.not_supported(here.child("effect"), effect, effects))
    return errors


# --- updates -------------------------------------------------------------------------------------------------------


def _mirror_update_errors(new: Obj, old: Obj) -> list[FieldError]:
    before = ((old.get("metadata") or {}).get("annotations") or {}).get(CONFIG_MIRROR)
    after = ((new.get("metadata") or {}).get("annotations") or {}).get(CONFIG_MIRROR)
    if before == after:
        return []
    verb = "add" if before is None else "remove or update"
    return [fields.forbidden(METADATA.child("annotations").key(CONFIG_MIRROR), f"may not {verb} mirror pod annotation")]


def _validate_spec_update(new: Obj, old: Obj) -> list[FieldError]:
    for field in ("containers", "initContainers"):
        if len(new.get(field) or ()) != len(old.get(field) or ()):
            return [fields.forbidden(SPEC.child(field), "pod updates may not add or remove containers")]
    errors: list[FieldError] = []
    after, before = new.get("activeDeadlineSeconds"), old.get("activeDeadlineSeconds")
    path = SPEC.child("activeDeadlineSeconds")
    if after is None and before is not None:
        errors.append(fields.invalid(path, None, "must not update from a positive integer to nil value"))
    elif after is not None and before is not None and after > before:
        return [fields.invalid(path, after, "must be less than or equal to previous value")]
    kept = [_without_seconds(toleration) for toleration in new.get("tolerations") or ()]
    if any(_without_seconds(toleration) not in kept for toleration in old.get("tolerations") or ()):
        text = "existing toleration can not be modified except its tolerationSeconds"
        errors.append(fields.forbidden(SPEC.child("tolerations"), text))
    if changed := _changed_fields(new, old):
        # Upstream prints both specs; variables may hold passwords, so here it is the names of the fields that changed.
        listed = ", ".join(f"spec.{field}" for field in changed)
        text = f"pod updates may not change fields other than {_UPDATABLE}\nchanged: {listed}"
        errors.append(fields.forbidden(SPEC, text))
    return errors


def _changed_fields(new: Obj, old: Obj) -> list[str]:
    """Fields of the spec that differ once everything updatable has been put back."""
    munged = copy.deepcopy(new)
    for field in ("containers", "initContainers"):
        for container, before in zip(munged.get(field) or (), old.get(field) or (), strict=True):
            container["image"] = before.get("image", "")
    for field in ("activeDeadlineSeconds", "tolerations", "schedulingGates"):
        munged[field] = old.get(field)
    if (old.get("terminationGracePeriodSeconds") or 0) < 0 and munged.get("terminationGracePeriodSeconds") == 1:
        munged["terminationGracePeriodSeconds"] = old["terminationGracePeriodSeconds"]
    return sorted(field for field in {**munged, **old} if (munged.get(field) or None) != (old.get(field) or None))


def _without_seconds(toleration: Obj) -> Obj:
    return {key: value for key, value in toleration.items() if key != "tolerationSeconds"}


def _validate_ephemeral_update(pod: Obj, old: Obj) -> list[FieldError]:
    if CONFIG_MIRROR in ((old.get("metadata") or {}).get("annotations") or {}):
        return [fields.forbidden(fields.WHOLE, "static pods do not support ephemeral containers")]
    errors: list[FieldError] = []
    path = SPEC.child("ephemeralContainers")
    by_name = {container.get("name"): container for container in pod["spec"].get("ephemeralContainers") or ()}
    for container in old["spec"].get("ephemeralContainers") or ():
        name = container.get("name")
        if by_name.get(name) != container:
            verb = "changed" if name in by_name else "removed"
            text = f"existing ephemeral containers {go_quote(str(name))} may not be {verb}\n"
            errors.append(fields.forbidden(path, text))
    return errors


def _validate_status_update(pod: Obj, old: Obj) -> list[FieldError]:
    errors: list[FieldError] = []
    spec, status, before = pod.get("spec") or {}, pod.get("status") or {}, old.get("status") or {}
    for index, condition in enumerate(status.get("conditions") or ()):
        kind = condition.get("type", "")
        # Upstream's own path, wrong parent and capital included.
        path = METADATA.child("conditions").index(index).child("Type")
        errors += fields.each_invalid(path, kind, qualified_name_errors(kind))
    if spec.get("nodeName") != (old.get("spec") or {}).get("nodeName"):
        errors.append(fields.forbidden(STATUS.child("nodeName"), "may not be changed directly"))
    errors += fields.immutable(STATUS.child("qosClass"), status.get("qosClass", ""), before.get("qosClass", ""))
    policy = spec.get("restartPolicy")
    sidecars = {
        entry.get("name") for entry in spec.get("initContainers") or () if entry.get("restartPolicy") == "Always"
    }
    errors += _transition_errors(status, before, "containerStatuses", policy, set())
    errors += _transition_errors(status, before, "initContainerStatuses", policy, sidecars)
    errors += _transition_errors(status, before, "ephemeralContainerStatuses", "Never", set())
    return errors + pod_address_errors(status)


def _transition_errors(new: Obj, old: Obj, field: str, policy: Any, restartable: set[Any]) -> list[FieldError]:
    """A container that has ended and is not restarted stays ended."""
    if policy == "Always":
        return []
    running = {
        status.get("name") for status in new.get(field) or () if (status.get("state") or {}).get("terminated") is None
    }
    errors: list[FieldError] = []
    for index, status in enumerate(old.get(field) or ()):
        terminated = (status.get("state") or {}).get("terminated")
        if terminated is None or (terminated.get("exitCode") and policy == "OnFailure"):
            continue
        if status.get("name") in running - restartable:
            path = STATUS.child(field).index(index).child("state")
            errors.append(fields.forbidden(path, "may not be transitioned to non-terminated state"))
    return errors

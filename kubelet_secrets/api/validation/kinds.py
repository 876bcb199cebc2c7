"""The smaller kinds: namespaces, service accounts, nodes, leases, events, services, RBAC, trust bundles.

Pure, on plain dictionaries, defaulted.

Source: pkg/apis/{core,coordination,rbac,certificates}/validation.
"""

from __future__ import annotations

import re
from typing import Any

from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import SPEC, FieldError, Path
from kubelet_secrets.api.validation.metadata import (
    NameRule,
    validate_label_selector,
    validate_metadata,
    validate_metadata_update,
)
from kubelet_secrets.api.validation.names import (
    dns1035_label_errors,
    dns1123_label_errors,
    dns1123_subdomain_errors,
    label_value_errors,
    path_segment_errors,
    port_name_errors,
    port_number_errors,
    qualified_name_errors,
)
from kubelet_secrets.api.validation.reports import event_errors, node_status_errors

Obj = dict[str, Any]

_RBAC_GROUP = "rbac.authorization.k8s.io"
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
MAX_TRUST_BUNDLE_BYTES = 1 << 20
_PEM_TYPE = re.compile(r"^-----BEGIN ([^\n-]+)-----\s*$", re.MULTILINE)
_SERVICE_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")


def _metadata(obj: Obj, old: Obj | None, rule: NameRule, *, is_namespaced: bool = True) -> list[FieldError]:
    metadata = obj.get("metadata") or {}
    errors = validate_metadata_update(metadata, old.get("metadata") or {}) if old is not None else []
    return errors + validate_metadata(metadata, rule, is_namespaced=is_namespaced)


def validate_namespace(namespace: Obj, old: Obj | None = None) -> list[FieldError]:
    errors = _metadata(namespace, old, dns1123_label_errors, is_namespaced=False)
    path = SPEC.child("finalizers")
    for finalizer in (namespace.get("spec") or {}).get("finalizers") or ():
        errors += fields.each_invalid(path, finalizer, qualified_name_errors(finalizer))
        if "/" not in finalizer and finalizer != "kubernetes":
            text = "name is neither a standard finalizer name nor is it fully qualified"
            errors.append(fields.invalid(path, finalizer, text))
    return errors


def validate_service_account(account: Obj, old: Obj | None = None) -> list[FieldError]:
    return _metadata(account, old, dns1123_subdomain_errors)


def validate_node(node: Obj, old: Obj | None = None) -> list[FieldError]:
    errors = _metadata(node, old, dns1123_subdomain_errors, is_namespaced=False)
    seen: set[tuple[str, str]] = set()
    for index, taint in enumerate((node.get("spec") or {}).get("taints") or ()):
        here = SPEC.child("taints").index(index)
        key, value, effect = taint.get("key", ""), taint.get("value", ""), taint.get("effect", "")
        errors += fields.each_invalid(here.child("key"), key, qualified_name_errors(key))
        if details := label_value_errors(value):
            errors.append(fields.invalid(here.child("value"), value, ";".join(details)))
        errors += fields.unless_one_of(here.child("effect"), effect, _EFFECTS)
        if (key, effect) in seen:
            errors.append(fields.duplicate(here, taint))
        seen.add((key, effect))
    return errors + node_status_errors(node, old)


def validate_lease(lease: Obj, old: Obj | None = None) -> list[FieldError]:
    errors = _metadata(lease, old, dns1123_subdomain_errors)
    spec = lease.get("spec") or {}
    duration_s, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if duration_s is not None and duration_s <= 0:
        errors.append(fields.invalid(SPEC.child("leaseDurationSeconds"), duration_s, "must be greater than 0"))
    if transitions is not None and transitions < 0:
        text = "must be greater than or equal to 0"
        errors.append(fields.invalid(SPEC.child("leaseTransitions"), transitions, text))
    return errors


def validate_event(event: Obj, old: Obj | None = None) -> list[FieldError]:
    return _metadata(event, old, dns1123_subdomain_errors) + event_errors(event)


def validate_service(service: Obj, old: Obj | None = None) -> list[FieldError]:
    errors = _metadata(service, old, dns1035_label_errors)
    spec = service.get("spec") or {}
    kind, address, ports = spec.get("type", ""), spec.get("clusterIP", ""), spec.get("ports") or []
    if not ports and address != "None" and kind != "ExternalName":
        errors.append(fields.required(SPEC.child("ports")))
    if kind == "ExternalName" and not spec.get("externalName"):
        errors.append(fields.required(SPEC.child("externalName")))
    errors += fields.unless_one_of(SPEC.child("type"), kind, _SERVICE_TYPES)
    if old is not None and kind != "ExternalName":
        before = (old.get("spec") or {}).get("clusterIP")
        if before and (old.get("spec") or {}).get("type") != "ExternalName":
            errors += fields.immutable(SPEC.child("clusterIP"), address, before)
    return errors + _service_port_errors(ports)


def _service_port_errors(ports: list[Obj]) -> list[FieldError]:
    errors: list[FieldError] = []
    names: set[str] = set()
    pairs: set[tuple[str, int]] = set()
    for index, port in enumerate(ports):
        here = SPEC.child("ports").index(index)
        name, number, protocol = port.get("name", ""), port.get("port", 0), port.get("protocol", "")
        if name:
            errors += fields.each_invalid(here.child("name"), name, dns1123_label_errors(name))
            if name in names:
                errors.append(fields.duplicate(here.child("name"), name))
            names.add(name)
        elif len(ports) > 1:
            errors.append(fields.required(here.child("name")))
        errors += fields.each_invalid(here.child("port"), number, port_number_errors(number))
        errors += fields.unless_one_of(here.child("protocol"), protocol, ("SCTP", "TCP", "UDP"))
        target: Any = port.get("targetPort", number)
        details = port_name_errors(target) if isinstance(target, str) else port_number_errors(target)
        errors += fields.each_invalid(here.child("targetPort"), target, details)
        if (protocol, number) in pairs:
            errors.append(fields.duplicate(here, {"protocol": protocol, "port": number}))
        pairs.add((protocol, number))
    return errors


def validate_role(role: Obj, old: Obj | None = None) -> list[FieldError]:
    """A Role or a ClusterRole: every rule says what may be done to what."""
    is_namespaced = role.get("kind") == "Role"
    errors = _metadata(role, old, path_segment_errors, is_namespaced=is_namespaced)
    if (aggregation := role.get("aggregationRule")) is not None:
        path, selectors = Path("aggregationRule.clusterRoleSelectors"), aggregation.get("clusterRoleSelectors") or []
        if not selectors:
            text = "at least one clusterRoleSelector required if aggregationRule is non-nil"
            errors.append(fields.required(path, text))
        for index, selector in enumerate(selectors):
            errors += validate_label_selector(selector, path.index(index))
    for index, rule in enumerate(role.get("rules") or ()):
        here = Path("rules").index(index)
        if not rule.get("verbs"):
            errors.append(fields.required(here.child("verbs"), "verbs must contain at least one value"))
        if urls := rule.get("nonResourceURLs"):
            if is_namespaced:
                text = "namespaced rules cannot apply to non-resource URLs"
                errors.append(fields.invalid(here.child("nonResourceURLs"), urls, text))
            if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                text = "rules cannot apply to both regular resources and non-resource URLs"
                errors.append(fields.invalid(here.child("nonResourceURLs"), urls, text))
            continue
        if not rule.get("apiGroups"):
            errors.append(fields.required(here.child("apiGroups"), "resource rules must supply at least one api group"))
        if not rule.get("resources"):
            errors.append(fields.required(here.child("resources"), "resource rules must supply at least one resource"))
    return errors


def validate_role_binding(binding: Obj, old: Obj | None = None) -> list[FieldError]:
    """A RoleBinding or a ClusterRoleBinding; what it binds to never changes."""
    is_namespaced = binding.get("kind") == "RoleBinding"
    errors = _metadata(binding, old, path_segment_errors, is_namespaced=is_namespaced)
    reference, path = binding.get("roleRef") or {}, Path("roleRef")
    if reference.get("apiGroup") != _RBAC_GROUP:
        errors.append(fields.not_supported(path.child("apiGroup"), reference.get("apiGroup", ""), (_RBAC_GROUP,)))
    kinds = ("Role", "ClusterRole") if is_namespaced else ("ClusterRole",)
    if reference.get("kind") not in kinds:
        errors.append(fields.not_supported(path.child("kind"), reference.get("kind", ""), kinds))
    if not reference.get("name"):
        errors.append(fields.required(path.child("name")))
    else:
        errors += fields.each_invalid(path.child("name"), reference["name"], path_segment_errors(reference["name"]))
    for index, subject in enumerate(binding.get("subjects") or ()):
        errors += _subject_errors(subject, Path("subjects").index(index))
    if old is not None and reference != (old.get("roleRef") or {}):
        errors.append(fields.invalid(path, reference, "cannot change roleRef"))
    return errors


def _subject_errors(subject: Obj, path: Path) -> list[FieldError]:
    errors = [] if subject.get("name") else [fields.required(path.child("name"))]
    kind, group = subject.get("kind", ""), subject.get("apiGroup", "")
    match kind:
        case "ServiceAccount":
            if subject.get("name"):
                errors += fields.each_invalid(
                    path.child("name"), subject["name"], dns1123_subdomain_errors(subject["name"])
                )
            if group:
                errors.append(fields.not_supported(path.child("apiGroup"), group, ("",)))
            if not subject.get("namespace"):
                errors.append(fields.required(path.child("namespace")))
        case "User" | "Group":
            if group != _RBAC_GROUP:
                errors.append(fields.not_supported(path.child("apiGroup"), group, (_RBAC_GROUP,)))
        case _:
            errors.append(fields.not_supported(path.child("kind"), kind, ("ServiceAccount", "User", "Group")))
    return errors


def validate_cluster_trust_bundle(bundle: Obj, old: Obj | None = None) -> list[FieldError]:
    """Its name tells the signer; it holds certificates and nothing else. What is in a certificate is not looked at."""
    spec = bundle.get("spec") or {}
    signer, content = spec.get("signerName", ""), spec.get("trustBundle", "")
    errors = _metadata(bundle, old, lambda name: _trust_bundle_name_errors(name, signer), is_namespaced=False)
    path, omitted = SPEC.child("trustBundle"), "<value omitted>"
    if len(content.encode()) > MAX_TRUST_BUNDLE_BYTES:
        return [*errors, fields.too_long(path, MAX_TRUST_BUNDLE_BYTES)]
    blocks = _PEM_TYPE.findall(content)
    for index, kind in enumerate(blocks):
        if kind != "CERTIFICATE":
            errors.append(fields.invalid(path, omitted, f"entry {index} has bad block type: {kind}"))
    if "CERTIFICATE" not in blocks:
        errors.append(fields.invalid(path, omitted, "at least one trust anchor must be provided"))
    if old is not None:
        errors += fields.immutable(SPEC.child("signerName"), signer, (old.get("spec") or {}).get("signerName", ""))
    return errors


def _trust_bundle_name_errors(name: str, signer: str) -> list[str]:
    """Source: apivalidation.ValidateClusterTrustBundleName."""
    if not signer:
        if ":" in name:
            return ['ClusterTrustBundle without signer name must not have ":" in its name']
        return dns1123_subdomain_errors(name)
    prefix = signer.replace("/", ":") + ":"
    if not name.startswith(prefix):
        return [f"ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"]
    return dns1123_subdomain_errors(name.removeprefix(prefix))

"""What a node reports: its own status, the addresses of its pods, events.

Pure, on plain dictionaries, defaulted. Source: pkg/apis/core/validation (ValidateNode, ValidateNodeUpdate,
ValidatePodStatusUpdate) and events.go (legacyValidateEvent); compared with answers of a kube-apiserver 1.20.2.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from kubelet_secrets.api import quantity
from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import STATUS, FieldError, Path
from kubelet_secrets.api.validation.names import dns1123_subdomain_errors, ip_errors, qualified_name_errors

Obj = dict[str, Any]

_LONGEST_PART = 128
_LONGEST_NOTE = 1024
_ONE_OF_EACH = "may specify no more than one IP for each IP family"


def node_status_errors(node: Obj, old: Obj | None) -> list[FieldError]:
    """Amounts are not negative; on an update no address comes twice."""
    status, errors = node.get("status") or {}, []
    for field in ("capacity", "allocatable"):
        for name, amount in (status.get(field) or {}).items():
            if quantity.parse(amount) < 0:
                text = "must be greater than or equal to 0"
                errors.append(fields.invalid(STATUS.child(field).child(name), str(amount), text))
    if old is not None:
        seen: list[Obj] = []
        for index, address in enumerate(status.get("addresses") or ()):
            if address in seen:
                errors.append(fields.duplicate(STATUS.child("addresses").index(index), address))
            seen.append(address)
    return errors


def pod_address_errors(status: Obj) -> list[FieldError]:
    """Addresses are addresses, at most one of a family, and the lists begin with the single one."""
    errors: list[FieldError] = []
    path, pod_ips = STATUS.child("podIPs"), status.get("podIPs") or []
    for index, each in enumerate(pod_ips):
        errors += fields.each_invalid(path.index(index), each.get("ip", ""), ip_errors(each.get("ip", "")))
    if len(pod_ips) > 1 and not errors:
        families = {ipaddress.ip_address(each["ip"]).version for each in pod_ips}
        if len(pod_ips) > 2 or len(families) == 1:
            errors.append(fields.invalid(path, pod_ips, _ONE_OF_EACH))
    path, host_ips = STATUS.child("hostIPs"), status.get("hostIPs") or []
    if host_ips and host_ips[0].get("ip") != status.get("hostIP"):
        errors.append(fields.invalid(path.index(0).child("ip"), host_ips[0].get("ip"), "must be equal to `hostIP`"))
    for index, each in enumerate(host_ips):
        errors += fields.each_invalid(path.index(index), each.get("ip", ""), ip_errors(each.get("ip", "")))
    if name := status.get("nominatedNodeName"):
        errors += fields.each_invalid(STATUS.child("nominatedNodeName"), name, dns1123_subdomain_errors(name))
    return errors


def event_errors(event: Obj) -> list[FieldError]:
    """An event lives in the namespace of what it is about; one about a cluster-wide object, in ``default``.

    One with an ``eventTime`` is of the newer kind: it may live in ``kube-system`` too, and says who reports what.
    """
    namespace = (event.get("metadata") or {}).get("namespace", "")
    about = (event.get("involvedObject") or {}).get("namespace", "")
    is_new = bool(event.get("eventTime"))
    if about and not is_new:
        fits = namespace == about
    else:
        fits = bool(about) or namespace in ("", "default", *(("kube-system",) if is_new else ()))
    errors: list[FieldError] = []
    if not fits:
        errors.append(fields.invalid(Path("involvedObject.namespace"), about, "does not match event.namespace"))
    if not is_new:
        return errors
    reporter = event.get("reportingComponent", "")
    if not reporter:
        errors.append(fields.required(Path("reportingComponent")))
    errors += fields.each_invalid(Path("reportingComponent"), reporter, qualified_name_errors(reporter))
    for field in ("reportingInstance", "action", "reason"):
        given = event.get(field, "")
        if not given:
            errors.append(fields.required(Path(field)))
        if len(given.encode()) > _LONGEST_PART:
            errors.append(fields.invalid(Path(field), "", f"can have at most {_LONGEST_PART} characters"))
    if len(event.get("message", "").encode()) > _LONGEST_NOTE:
        errors.append(fields.invalid(Path("message"), "", f"can have at most {_LONGEST_NOTE} characters"))
    return errors

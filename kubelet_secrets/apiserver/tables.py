"""``Table`` answers: the columns and cells that ``kubectl get`` prints, computed by the server as a real one does.

Pure: the time is an argument. Called by the routes for lists, single objects and watch events. Cells of secrets count keys
and never show one.

Source: pkg/printers/internalversion/printers.go; k8s.io/apimachinery/pkg/util/duration, HumanDuration;
k8s.io/apiserver/pkg/registry/rest/table.go for kinds without a printer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from kubelet_secrets.api.times import parse_rfc3339
from kubelet_secrets.apiserver.podprinter import summarize
from kubelet_secrets.apiserver.resources import ServedResource

Obj = dict[str, Any]
Cells = list[Any]

_NONE = "<none>"
_UNKNOWN = "<unknown>"


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str = "string"
    is_name: bool = False  # the column that ``-o name`` and selections go by
    is_wide: bool = False  # shown by ``-o wide`` only


@dataclass(frozen=True, slots=True)
class Printer:
    columns: tuple[Column, ...]
    cells: Callable[[Obj, datetime], Cells]


def to_table(row: ServedResource, objects: Sequence[Obj], now: datetime, include: str, metadata: Obj) -> Obj:
    """The ``meta.k8s.io/v1`` Table of *objects*.

    Args:
        now: what ages are counted from.
        include: ``includeObject`` of the request: ``None``, ``Metadata`` or ``Object`` beside the cells.
        metadata: ListMeta of the answer: resourceVersion, continue.
    """
    printer = _PRINTERS.get((row.resource.group, row.kind), _ANY)
    columns = [
        {
            "name": column.name,
            "type": column.type,
            "format": "name" if column.is_name else "",
            "description": "",
            "priority": 1 if column.is_wide else 0,
        }
        for column in printer.columns
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": [_row(row, printer, obj, now, include) for obj in objects],
    }


def _row(row: ServedResource, printer: Printer, obj: Obj, now: datetime, include: str) -> Obj:
    entry: Obj = {"cells": printer.cells(obj, now)}
    phase = (obj.get("status") or {}).get("phase") if row.kind == "Pod" else None
    if phase in ("Succeeded", "Failed"):
        message = "The pod has completed successfully." if phase == "Succeeded" else "The pod failed."
        entry["conditions"] = [{"type": "Completed", "status": "True", "reason": phase, "message": message}]
    if include == "Object":
        entry["object"] = obj
    elif include != "None":
        head = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
        entry["object"] = {**head, "metadata": obj.get("metadata") or {}}
    return entry


def human_duration(duration: timedelta) -> str:
    """``45s``, ``5m30s``, ``3h``, ``2d4h``: two units at most, fewer the older. Source: HumanDuration."""
    seconds = int(duration.total_seconds())
    if seconds < -1:
        return "<invalid>"
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    minutes, hours = seconds // 60, seconds // 3600
    days = hours // 24
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 3 * 60:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 2 * 365:
        return f"{days}d"
    if days < 8 * 365:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big}{big_unit}{small}{small_unit}" if small else f"{big}{big_unit}"


def _since(text: str | None, now: datetime) -> str:
    moment = parse_rfc3339(text)
    return _UNKNOWN if moment is None else human_duration(now - moment)


def _name(obj: Obj) -> str:
    return str((obj.get("metadata") or {}).get("name", ""))


def _age(obj: Obj, now: datetime) -> str:
    return _since((obj.get("metadata") or {}).get("creationTimestamp"), now)


def _created_at(obj: Obj) -> str:
    return str((obj.get("metadata") or {}).get("creationTimestamp") or "")


# --- cells, one function per kind ------------------------------------------------------------------------------------


def _secret(obj: Obj, now: datetime) -> Cells:
    return [_name(obj), obj.get("type", ""), len(obj.get("data") or ()), _age(obj, now)]


def _config_map(obj: Obj, now: datetime) -> Cells:
    return [_name(obj), len(obj.get("data") or ()) + len(obj.get("binaryData") or ()), _age(obj, now)]


def _namespace(obj: Obj, now: datetime) -> Cells:
    return [_name(obj), (obj.get("status") or {}).get("phase", ""), _age(obj, now)]


def _service_account(obj: Obj, now: datetime) -> Cells:
    return [_name(obj), len(obj.get("secrets") or ()), _age(obj, now)]


def _pod(obj: Obj, now: datetime) -> Cells:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    summary = summarize(obj)
    restarts = str(summary.restarts)
    if summary.restarts and summary.last_restart:
        restarts += f" ({_since(summary.last_restart, now)} ago)"
    ips = status.get("podIPs") or ({"ip": ""},)
    gates = [gate.get("conditionType") for gate in spec.get("readinessGates") or ()]
    true = {entry.get("type") for entry in status.get("conditions") or () if entry.get("status") == "True"}
    return [
        *(_name(obj), f"{summary.ready}/{summary.total}", summary.word, restarts, _age(obj, now)),
        *(ips[0].get("ip") or _NONE, spec.get("nodeName") or _NONE, status.get("nominatedNodeName") or _NONE),
        f"{sum(gate in true for gate in gates)}/{len(gates)}" if gates else _NONE,
    ]


def _node(obj: Obj, now: datetime) -> Cells:
    status = obj.get("status") or {}
    info = status.get("nodeInfo") or {}
    ready = [entry.get("status") for entry in status.get("conditions") or () if entry.get("type") == "Ready"]
    words = [("Ready" if ready[-1] == "True" else "NotReady") if ready else "Unknown"]
    if (obj.get("spec") or {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    labels = (obj.get("metadata") or {}).get("labels") or {}
    prefix = "node-role.kubernetes.io/"
    roles = {label.removeprefix(prefix) for label in labels if label.startswith(prefix)} | {
        labels.get("kubernetes.io/role")
    }
    addresses = {entry.get("type"): entry.get("address") for entry in reversed(status.get("addresses") or ())}
    return [
        *(_name(obj), ",".join(words), ",".join(sorted(filter(None, roles))) or _NONE, _age(obj, now)),
        info.get("kubeletVersion", ""),
        *(addresses.get("InternalIP", _NONE), addresses.get("ExternalIP", _NONE)),
        *(info.get(field) or _UNKNOWN for field in ("osImage", "kernelVersion", "containerRuntimeVersion")),
    ]


def _event(obj: Obj, now: datetime) -> Cells:
    series, source, target = obj.get("series") or {}, obj.get("source") or {}, obj.get("involvedObject") or {}
    first = _since(obj.get("firstTimestamp") or obj.get("eventTime"), now)
    last = _since(obj["lastTimestamp"], now) if obj.get("lastTimestamp") else first
    if series:
        last = _since(series.get("lastObservedTime"), now)
    kind = str(target.get("kind", "")).lower()
    origin = (
        source.get("component") or obj.get("reportingComponent"),
        source.get("host") or obj.get("reportingInstance"),
    )
    return [
        *(last, obj.get("type", ""), obj.get("reason", "")),
        f"{kind}/{target['name']}" if target.get("name") else kind,
        *(target.get("fieldPath", ""), ", ".join(filter(None, origin)), str(obj.get("message", "")).strip()),
        *(first, series.get("count") or obj.get("count") or 1, _name(obj)),
    ]


def _resource_quota(obj: Obj, now: datetime) -> Cells:
    status = obj.get("status") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    texts = {name: f"{name}: {used.get(name, 0)}/{hard[name]}" for name in sorted(hard)}
    limits = [text for name, text in texts.items() if name.startswith("limits")]
    requests = [text for name, text in texts.items() if not name.startswith("limits")]
    return [_name(obj), ", ".join(requests), ", ".join(limits), _age(obj, now)]


def _lease(obj: Obj, now: datetime) -> Cells:
    return [_name(obj), (obj.get("spec") or {}).get("holderIdentity", ""), _age(obj, now)]


def _runtime_class(obj: Obj, now: datetime) -> Cells:
    return [_name(obj), obj.get("handler", ""), _age(obj, now)]


def _csi_node(obj: Obj, now: datetime) -> Cells:
    return [_name(obj), len((obj.get("spec") or {}).get("drivers") or ()), _age(obj, now)]


def _csi_driver(obj: Obj, now: datetime) -> Cells:
    spec = obj.get("spec") or {}
    flags = (spec.get(field, False) for field in ("attachRequired", "podInfoOnMount", "storageCapacity"))
    audiences = ",".join(each.get("audience", "") for each in spec.get("tokenRequests") or ()) or "<unset>"
    modes = ",".join(spec.get("volumeLifecycleModes") or ()) or "<none>"
    return [_name(obj), *flags, audiences, spec.get("requiresRepublish", False), modes, _age(obj, now)]


def _service(obj: Obj, now: datetime) -> Cells:
    spec = obj.get("spec") or {}
    kind = spec.get("type", "")
    external = ",".join(spec.get("externalIPs") or ())
    if kind == "ExternalName":
        external = spec.get("externalName", "")
    elif kind == "LoadBalancer":
        ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
        given = sorted({entry.get("ip") or entry.get("hostname") or "" for entry in ingress} - {""})
        external = ",".join([*given, *(spec.get("externalIPs") or ())]) or "<pending>"
    ports = ",".join(_port(port) for port in spec.get("ports") or ())
    selector = ",".join(f"{key}={value}" for key, value in sorted((spec.get("selector") or {}).items()))
    return [
        *(_name(obj), kind, spec.get("clusterIP") or _NONE, external or _NONE, ports or _NONE, _age(obj, now)),
        selector or _NONE,
    ]


def _port(port: Obj) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port', 0)}{node_port}/{port.get('protocol', 'TCP')}"


def _binding(obj: Obj, now: datetime) -> Cells:
    role, subjects = obj.get("roleRef") or {}, obj.get("subjects") or ()
    accounts = (
        f"{entry.get('namespace', '')}/{entry.get('name', '')}" for entry in _of_kind(subjects, "ServiceAccount")
    )
    return [
        *(_name(obj), f"{role.get('kind', '')}/{role.get('name', '')}", _age(obj, now)),
        *(", ".join(str(entry.get("name", "")) for entry in _of_kind(subjects, kind)) for kind in ("User", "Group")),
        ", ".join(accounts),
    ]


def _of_kind(subjects: Iterable[Obj], kind: str) -> Iterable[Obj]:
    return (subject for subject in subjects if subject.get("kind") == kind)


def _signing_request(obj: Obj, now: datetime) -> Cells:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    conditions = {entry.get("type") for entry in status.get("conditions") or ()}
    word = "Denied" if "Denied" in conditions else "Approved" if "Approved" in conditions else "Pending"
    word += ",Failed" if "Failed" in conditions else ""
    word += ",Issued" if status.get("certificate") else ""
    seconds = spec.get("expirationSeconds")
    duration = _NONE if seconds is None else human_duration(timedelta(seconds=seconds))
    return [_name(obj), _age(obj, now), spec.get("signerName", ""), spec.get("username", ""), duration, word]


def _any(obj: Obj, _now: datetime) -> Cells:
    return [_name(obj), _created_at(obj)]


_NAME = Column("Name", is_name=True)
_RBAC = "rbac.authorization.k8s.io"


def _columns(*names: str, wide: Sequence[str] = ()) -> tuple[Column, ...]:
    return (*(Column(name) for name in names), *(Column(name, is_wide=True) for name in wide))


_ANY = Printer((_NAME, Column("Created At", "date")), _any)
_BINDING = Printer((_NAME, *_columns("Role", "Age", wide=("Users", "Groups", "ServiceAccounts"))), _binding)
_ROLE = Printer((_NAME, Column("Created At")), _any)
_PRINTERS = {
    ("", "Secret"): Printer((_NAME, *_columns("Type", "Data", "Age")), _secret),
    ("", "ConfigMap"): Printer((_NAME, *_columns("Data", "Age")), _config_map),
    ("", "Namespace"): Printer((_NAME, *_columns("Status", "Age")), _namespace),
    ("", "ServiceAccount"): Printer((_NAME, *_columns("Secrets", "Age")), _service_account),
    ("", "Pod"): Printer(
        (
            _NAME,
            *_columns("Ready", "Status", "Restarts", "Age", wide=("IP", "Node", "Nominated Node", "Readiness Gates")),
        ),
        _pod,
    ),
    ("", "Node"): Printer(
        (
            _NAME,
            *_columns("Status", "Roles", "Age", "Version"),
            *_columns(wide=("Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime")),
        ),
        _node,
    ),
    ("", "Event"): Printer(
        (
            *_columns("Last Seen", "Type", "Reason", "Object", wide=("Subobject", "Source")),
            *_columns("Message", wide=("First Seen", "Count")),
            Column("Name", is_name=True, is_wide=True),
        ),
        _event,
    ),
    ("", "Service"): Printer(
        (_NAME, *_columns("Type", "Cluster-IP", "External-IP", "Port(s)", "Age", wide=("Selector",))), _service
    ),
    ("", "ResourceQuota"): Printer((_NAME, *_columns("Request", "Limit", "Age")), _resource_quota),
    ("coordination.k8s.io", "Lease"): Printer((_NAME, *_columns("Holder", "Age")), _lease),
    ("node.k8s.io", "RuntimeClass"): Printer((_NAME, *_columns("Handler", "Age")), _runtime_class),
    ("storage.k8s.io", "CSINode"): Printer((_NAME, *_columns("Drivers", "Age")), _csi_node),
    ("storage.k8s.io", "CSIDriver"): Printer(
        (
            _NAME,
            *_columns("AttachRequired", "PodInfoOnMount", "StorageCapacity", "TokenRequests", "RequiresRepublish"),
            *_columns("Modes", "Age"),
        ),
        _csi_driver,
    ),
    (_RBAC, "Role"): _ROLE,
    (_RBAC, "ClusterRole"): _ROLE,
    (_RBAC, "RoleBinding"): _BINDING,
    (_RBAC, "ClusterRoleBinding"): _BINDING,
    ("certificates.k8s.io", "CertificateSigningRequest"): Printer(
        (_NAME, *_columns("Age", "SignerName", "Requestor", "RequestedDuration", "Condition")), _signing_request
    ),
}

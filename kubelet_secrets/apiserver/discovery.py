"""What the server tells a client about itself: versions, groups, and the resources of each.

Pure: everything is derived from the rows of ``resources.py``. :func:`answer` is the door; ``general_routes.py`` calls it for
every path below ``/api`` and ``/apis`` that names no resource. Not here: schemas (``openapi.py``).

Source: k8s.io/apimachinery meta/v1 APIVersions, APIGroupList, APIResourceList; k8s.io/api/apidiscovery/v2 (KEP-3352).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kubelet_secrets.apiserver.resources import SERVED, ServedResource, Subresource, group_versions

Obj = dict[str, Any]

AGGREGATED_MEDIA_TYPE = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


def answer(path: str) -> Obj | None:
    """The body for one discovery path (``/api``, ``/api/v1``, ``/apis``, ``/apis/G``, ``/apis/G/V``), or None."""
    match path.strip("/").split("/"):
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in _named_groups()]}
        case ["apis", group] if group in _named_groups():
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group)}
        case ["api", version] if ("", version) in group_versions():
            return _resource_list("", version)
        case ["apis", group, version] if group and (group, version) in group_versions():
            return _resource_list(group, version)
        case _:
            return None


def aggregated(path: str) -> Obj | None:
    """The same for all groups in one answer, for clients that accept :data:`AGGREGATED_MEDIA_TYPE`; None for other paths."""
    groups: Sequence[str]
    match path.strip("/"):
        case "api":
            groups = [""]
        case "apis":
            groups = _named_groups()
        case _:
            return None
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": [{"metadata": {"name": group} if group else {}, "versions": _versions(group)} for group in groups],
    }


def _named_groups() -> list[str]:
    return list(dict.fromkeys(group for group, _ in group_versions() if group))


def _group(name: str) -> Obj:
    versions = [
        {"groupVersion": f"{group}/{version}", "version": version}
        for group, version in group_versions()
        if group == name
    ]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def _rows(group: str, version: str) -> list[ServedResource]:
    rows = [row for row in SERVED if (row.resource.group, row.resource.version) == (group, version)]
    return sorted(rows, key=lambda row: row.plural)


def _resource_list(group: str, version: str) -> Obj:
    resources: list[Obj] = []
    for row in _rows(group, version):
        resources.append(_resource(row))
        resources += [_subresource(row, sub) for sub in sorted(row.subresources, key=lambda sub: sub.name)]
    api_version = f"{group}/{version}" if group else version
    head: Obj = {"kind": "APIResourceList", "groupVersion": api_version, "resources": resources}
    return {**head, "apiVersion": "v1"} if group else head


def _resource(row: ServedResource) -> Obj:
    return {
        "name": row.plural,
        "singularName": row.singular,
        "namespaced": row.namespaced,
        "kind": row.kind,
        "verbs": list(row.verbs),
        **_nicknames(row),
    }


def _nicknames(row: ServedResource) -> Obj:
    """Short names and categories, where there are any."""
    names = {"shortNames": list(row.short_names), "categories": list(row.categories)}
    return {field: value for field, value in names.items() if value}


def _subresource(row: ServedResource, sub: Subresource) -> Obj:
    resource: Obj = {
        "name": f"{row.plural}/{sub.name}",
        "singularName": "",
        "namespaced": row.namespaced,
        "kind": sub.kind,
        "verbs": list(sub.verbs),
    }
    if sub.group_version:
        resource["group"], _, resource["version"] = sub.group_version.rpartition("/")
    return resource


def _versions(group: str) -> list[Obj]:
    return [
        {
            "version": version,
            "freshness": "Current",
            "resources": [_discovered(row) for row in _rows(group, version)],
        }
        for name, version in group_versions()
        if name == group
    ]


def _discovered(row: ServedResource) -> Obj:
    resource: Obj = {
        "resource": row.plural,
        "responseKind": {"group": row.resource.group, "version": row.resource.version, "kind": row.kind},
        "scope": "Namespaced" if row.namespaced else "Cluster",
        "singularResource": row.singular,
        "verbs": list(row.verbs),
        **_nicknames(row),
    }
    if row.subresources:
        resource["subresources"] = [_discovered_sub(row, sub) for sub in row.subresources]
    return resource


def _discovered_sub(row: ServedResource, sub: Subresource) -> Obj:
    group, _, version = (sub.group_version or row.resource.api_version).rpartition("/")
    kind = {"group": group, "version": version, "kind": sub.kind}
    return {"subresource": sub.name, "responseKind": kind, "verbs": list(sub.verbs)}

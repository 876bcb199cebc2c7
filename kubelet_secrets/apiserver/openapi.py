"""OpenAPI v3: an index of documents, one per served group and version, with the schemas and paths kubectl looks for.

Pure: derived from ``resources.py`` and ``schemas.py``. ``kubectl explain`` reads the schemas, ``kubectl apply`` the merge keys,
and every writing command looks for the query parameter ``fieldValidation`` before it asks for strict decoding.
Not here: version 2 (``openapi_v2.py``).

Source: k8s.io/kube-openapi/pkg/handler3 (index, hash, etag); k8s.io/apiserver/pkg/endpoints/installer.go (paths).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from kubelet_secrets.apiserver import schemas
from kubelet_secrets.apiserver.resources import SERVED, ServedResource, Subresource, group_versions

Obj = dict[str, Any]

_PATCH_TYPES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)
_COMMON = ("pretty",)
_WRITE = ("dryRun", "fieldManager", "fieldValidation")
_LIST = (
    *("allowWatchBookmarks", "continue", "fieldSelector", "labelSelector", "limit", "resourceVersion"),
    *("resourceVersionMatch", "sendInitialEvents", "timeoutSeconds", "watch"),
)
_DELETE = ("dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy")
# verb of the row → HTTP method, action, query parameters; the collection's first, then the object's.
_COLLECTION = {
    "list": ("get", "list", _LIST),
    "create": ("post", "post", _WRITE),
    "deletecollection": ("delete", "deletecollection", (*_LIST, *_DELETE)),
}
_OBJECT = {
    "get": ("get", "get", ()),
    "update": ("put", "put", _WRITE),
    "patch": ("patch", "patch", (*_WRITE, "force")),
    "delete": ("delete", "delete", _DELETE),
    "create": ("post", "post", _WRITE),  # of a subresource
}


@dataclass(frozen=True, slots=True)
class Document:
    body: bytes  # JSON
    hash: str  # upper-case hexadecimal SHA-512; the ETag, and the ``hash`` in the index


def index() -> Obj:
    """The body of ``/openapi/v3``."""
    paths = {}
    for group, version in group_versions():
        name = _document_path(group, version)
        paths[name] = {"serverRelativeURL": f"/openapi/v3/{name}?hash={make_document(group, version).hash}"}
    return {"paths": paths}


def find_document(path: str) -> Document | None:
    """The document behind ``/openapi/v3/<path>``, for example ``api/v1`` or ``apis/coordination.k8s.io/v1``."""
    for group, version in group_versions():
        if path.strip("/") == _document_path(group, version):
            return make_document(group, version)
    return None


@cache
def make_document(group: str, version: str) -> Document:
    """Assemble one document; a few milliseconds for core/v1, then kept (it depends on nothing that changes)."""
    rows = [row for row in SERVED if (row.resource.group, row.resource.version) == (group, version)]
    paths: Obj = {}
    for row in rows:
        paths.update(_paths(row))
    content = {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": schemas.document()["version"]},
        "paths": paths,
        "components": {"schemas": _reachable(f"{group}/{version}" if group else version, rows)},
    }
    body = msgspec.json.encode(content)
    return Document(body, hashlib.sha512(body).hexdigest().upper())


def _document_path(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def _reachable(api_version: str, rows: list[ServedResource]) -> Obj:
    """Every schema that a kind of *api_version*, or of a subresource there, leads to."""
    document = schemas.document()
    wanted = {name for kind, name in document["kinds"].items() if kind.rpartition("/")[0] == api_version}
    kinds = {f"{_api_version(row, sub)}/{sub.kind}" for row in rows for sub in row.subresources}
    # Options of a connection (PodExecOptions) travel in the query and have no schema; upstream's document has none either.
    wanted |= {document["kinds"][kind] for kind in kinds if kind in document["kinds"]}
    found: Obj = {}
    pending: list[Any] = sorted(wanted)
    while pending:
        node = pending.pop()
        if isinstance(node, str):
            if node not in found:
                found[node] = document["schemas"][node]
                pending.append(found[node])
        elif isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                pending.append(node["$ref"].rpartition("/")[2])
            pending += [value for value in node.values() if isinstance(value, (dict, list))]
        else:
            pending += [value for value in node if isinstance(value, (dict, list))]
    return dict(sorted(found.items()))


def _api_version(row: ServedResource, sub: Subresource) -> str:
    return sub.group_version or row.resource.api_version


def _paths(row: ServedResource) -> Obj:
    collection = row.resource.path("{namespace}" if row.namespaced else "")
    one = f"{collection}/{{name}}"
    kind = (row.resource.api_version, row.kind)
    paths = {collection: _path_item(row, kind, row.verbs, _COLLECTION, collection)}
    if not row.is_review:
        paths[one] = _path_item(row, kind, tuple(verb for verb in row.verbs if verb != "create"), _OBJECT, one)
    for sub in row.subresources:
        path = f"{one}/{sub.name}"
        paths[path] = _path_item(row, (_api_version(row, sub), sub.kind), sub.verbs, _OBJECT, path)
    if row.namespaced and "list" in row.verbs:
        everywhere = row.resource.path()
        paths[everywhere] = _path_item(row, kind, ("list",), _COLLECTION, everywhere)
    return paths


def _path_item(
    row: ServedResource, kind: tuple[str, str], verbs: tuple[str, ...], methods: dict[str, Any], path: str
) -> Obj:
    item: Obj = {}
    for verb, (method, action, parameters) in methods.items():
        if verb in verbs:
            item[method] = _operation(row, kind, action, (*parameters, *_COMMON))
    item["parameters"] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "uniqueItems": True}}
        for name in ("name", "namespace")
        if f"{{{name}}}" in path
    ]
    return item


def _operation(row: ServedResource, kind: tuple[str, str], action: str, parameters: tuple[str, ...]) -> Obj:
    api_version, name = kind
    group, _, version = api_version.rpartition("/")
    answered = f"{name}List" if action in ("list", "deletecollection") else name
    operation: Obj = {
        "tags": [f"{row.resource.group or 'core'}_{row.resource.version}"],
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": name},
        "parameters": [
            {"name": parameter, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
            for parameter in parameters
        ],
        "responses": {"200": {"description": "OK", "content": {"application/json": _reference(api_version, answered)}}},
    }
    if action in ("post", "put"):
        operation["requestBody"] = {"content": {"*/*": _reference(api_version, name)}, "required": True}
    elif action == "patch":
        patch = {"schema": {"type": "object"}}
        operation["requestBody"] = {"content": dict.fromkeys(_PATCH_TYPES, patch), "required": True}
    return operation


def _reference(api_version: str, kind: str) -> Obj:
    name = schemas.document()["kinds"].get(f"{api_version}/{kind}")
    return {"schema": {"$ref": f"#/components/schemas/{name}"}} if name else {}

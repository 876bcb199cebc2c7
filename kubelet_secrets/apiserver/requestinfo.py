"""What a request is about, read from method, path and query: verb, resource, namespace, name.

Pure. Authorization and routing both work on this and on nothing else of the URL.

Source: k8s.io/apiserver pkg/endpoints/request/requestinfo.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kubelet_secrets.api.selectors import exact_name, parse_field_selector
from kubelet_secrets.apiserver.resources import BY_PATH, ServedResource

_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInfo:
    """Attributes: *verb* as in RBAC rules; for paths that are no resource, the lower-case method."""

    path: str
    verb: str
    is_resource: bool = False
    group: str = ""
    version: str = ""
    plural: str = ""
    subresource: str = ""
    rest: str = ""  # what follows ``proxy``
    namespace: str = ""
    name: str = ""  # of list and watch too, when a field selector names exactly one object
    field_selector: str = ""
    label_selector: str = ""

    @property
    def row(self) -> ServedResource | None:
        """The served resource, or None."""
        return BY_PATH.get((self.group, self.version, self.plural))

    def namespace_of(self, row: ServedResource) -> str:
        """The namespace *row*'s objects are stored under: none for a Namespace itself."""
        return self.namespace if row.namespaced else ""


def is_true(text: str) -> bool:
    """Absent, "false" and "0" are false. Source: apimachinery pkg/runtime/conversion.go, Convert_Slice_string_To_bool."""
    return text.lower() not in ("", "false", "0")


def parse_request(method: str, path: str, query: Mapping[str, str]) -> RequestInfo:
    """Classify a request. *path* is percent-decoded already; segments are taken as they are."""
    other = RequestInfo(path=path, verb=method.lower())
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) >= 3:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return other
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in ("status", "finalize"):
            rest = rest[2:]
    plural, name, subresource = rest[0], rest[1] if len(rest) > 1 else "", "/".join(rest[2:])
    beyond = ""
    if rest[2:3] == ["proxy"]:
        subresource, beyond = "proxy", "/".join(rest[3:])
    if plural == "namespaces":
        namespace = name
    verb = _VERBS.get(method, "")
    field_selector = query.get("fieldSelector", "")
    if not name and verb == "delete":
        verb = "deletecollection"  # a selector does not name its object: it cannot be granted by name
    elif not name and verb == "get":
        verb = "watch" if is_true(query.get("watch", "")) else "list"
        try:
            name = exact_name(parse_field_selector(field_selector)) or ""
        except ValueError:
            name = ""  # answered with 400 where it is parsed for use
    return RequestInfo(
        path=path,
        verb=verb,
        is_resource=True,
        group=group,
        version=version,
        plural=plural,
        subresource=subresource,
        rest=beyond,
        namespace=namespace,
        name=name,
        field_selector=field_selector,
        label_selector=query.get("labelSelector", ""),
    )

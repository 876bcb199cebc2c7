"""Bring an object to what a manifest says, whatever the server can do: what ``up -f`` does with each manifest.

Source: kubectl apply --server-side. Differs: where a server has no server-side apply, an object is created, or merge-patched
when it exists; a three-way merge would need the last-applied annotation, which this tool does not leave behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kubelet_secrets.api.meta import Resource, find_resource
from kubelet_secrets.errors import AlreadyExists, ApiError, NotFound, UsageError

_APPLY_PATCH = "application/apply-patch+yaml"
_MERGE_PATCH = "application/merge-patch+json"


class _Client(Protocol):
    """What this needs of ``ApiClient``."""

    namespace: str

    async def get(
        self, resource: Resource, namespace: str, name: str, kind: type[dict[str, Any]]
    ) -> dict[str, Any]: ...

    async def create(self, resource: Resource, namespace: str, obj: Mapping[str, Any]) -> dict[str, Any]: ...

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Any,
        *,
        content_type: str,
        params: Mapping[str, str] = ...,
    ) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done. ``str()`` is kubectl's line: ``secret/db created``."""

    resource: Resource
    name: str
    verb: str  # "created", "configured", "unchanged"

    def __str__(self) -> str:
        group = f".{self.resource.group}" if self.resource.group else ""
        return f"{self.resource.kind.lower()}{group}/{self.name} {self.verb}"


async def apply_object(client: _Client, obj: Mapping[str, Any], field_manager: str) -> Applied:
    """Create or update the object of *obj*'s name. Fields the manifest does not mention keep what others put there.

    Raises:
        UsageError: the manifest names no kind this client knows, or no name.
        ApiError: the server refuses the object.

    Cancellation: the object is as it was, or as the manifest says; which is not known.
    """
    resource, namespace, name = _address(obj, client.namespace)
    try:
        before = await client.get(resource, namespace, name, dict)
    except NotFound:
        before = {}
    try:
        after = await client.patch(
            resource,
            namespace,
            name,
            obj,
            content_type=_APPLY_PATCH,
            params={"fieldManager": field_manager, "force": "true"},
        )
    except ApiError as error:
        # 415: no server-side apply at all; 404: none that creates, or no such namespace, which creating will tell.
        if error.code not in (404, 415):
            raise
        after = await _create_or_patch(client, resource, namespace, name, obj)
    return Applied(resource, name, _verb(before, after))


async def _create_or_patch(
    client: _Client, resource: Resource, namespace: str, name: str, obj: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        return await client.create(resource, namespace, obj)
    except AlreadyExists:
        return await client.patch(resource, namespace, name, obj, content_type=_MERGE_PATCH)


def _address(obj: Mapping[str, Any], default_namespace: str) -> tuple[Resource, str, str]:
    api_version, kind = obj.get("apiVersion", ""), obj.get("kind", "")
    resource = find_resource(api_version, kind) if isinstance(api_version, str) and isinstance(kind, str) else None
    if resource is None:
        raise UsageError(f"manifest: kind {kind!r} of apiVersion {api_version!r} is not one this program applies")
    metadata = obj.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or not isinstance(name, str) or not name:
        raise UsageError(f"manifest: {kind}: metadata.name: required")
    namespace = metadata.get("namespace") or default_namespace
    return resource, str(namespace) if resource.namespaced else "", name


def _verb(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if not before:
        return "created"
    versions = [obj.get("metadata", {}).get("resourceVersion") for obj in (before, after)]
    return "unchanged" if versions[0] == versions[1] else "configured"

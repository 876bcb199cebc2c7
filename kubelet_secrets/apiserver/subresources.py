"""Subresources that are created rather than read and written: a pod's binding and eviction, a service account's token.

Source: pkg/registry/core/pod/storage/{storage.go (BindingREST), eviction.go}.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.attributes import DeleteOptions, Write
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.requestinfo import RequestInfo
from kubelet_secrets.apiserver.resources import ServedResource
from kubelet_secrets.apiserver.token_request import create_token
from kubelet_secrets.apiserver.tokens import TokenIssuer


class Subresources:
    """What can be POSTed below an object."""

    def __init__(self, registry: Registry, tokens: TokenIssuer) -> None:
        self._registry = registry
        self._tokens = tokens

    async def create(self, row: ServedResource, info: RequestInfo, body: Object, write: Write) -> Object:
        """POST *body* to the subresource that *info* names; returns the answer's body.

        Raises:
            ApiError: as the subresource says; 405 for one that cannot be created.
        """
        match row.kind, info.subresource:
            case "Pod", "binding":
                target = body.get("target") or {}
                await bind_pod(self._registry, row, info.namespace, info.name, str(target.get("name", "")), write)
                return _success()
            case "Pod", "eviction":
                await self._evict(row, info, body, write)
                return _success()
            case "ServiceAccount", "token":
                return await create_token(self._registry, row, info, body, write, self._tokens)
            case _:
                raise statuses.method_not_allowed(row, info.verb)

    async def _evict(self, row: ServedResource, info: RequestInfo, body: Object, write: Write) -> None:
        options = body.get("deleteOptions") or {}
        preconditions = options.get("preconditions") or {}
        await self._registry.delete(
            row,
            info.namespace,
            info.name,
            DeleteOptions(
                grace_s=options.get("gracePeriodSeconds"),
                uid=preconditions.get("uid"),
                resource_version=preconditions.get("resourceVersion"),
            ),
            write,
        )


async def bind_pod(
    registry: Registry, row: ServedResource, namespace: str, name: str, node_name: str, write: Write
) -> Object:
    """Give a pod its node, once.

    Raises:
        Conflict: it has one, or is being deleted.
        Invalid: no node is named.
    """
    if not node_name:
        cause = {"reason": "FieldValueRequired", "message": "Required value", "field": "target.name"}
        raise statuses.invalid(row, name, f'Binding "{name}" is invalid: target.name: Required value', [cause])

    def assign(pod: Object) -> Object:
        spec = pod.setdefault("spec", {})
        if "deletionTimestamp" in pod["metadata"]:
            raise statuses.conflict(row, name, f"pod {name} is being deleted, cannot be assigned to a host", "binding")
        if spec.get("nodeName"):
            cause = f'pod {name} is already assigned to node "{spec["nodeName"]}"'
            raise statuses.conflict(row, name, cause, "binding")
        spec["nodeName"] = node_name
        status = pod.setdefault("status", {})
        conditions = [entry for entry in status.get("conditions", ()) if entry.get("type") != "PodScheduled"]
        conditions.append(
            {
                "type": "PodScheduled",
                "status": "True",
                "lastProbeTime": None,
                "lastTransitionTime": rfc3339(datetime.now(UTC)),
            }
        )
        status["conditions"] = conditions
        return pod

    binding = replace(write, subresource="binding", field_manager="")
    return await registry.update(row, namespace, name, assign, binding)


def _success() -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

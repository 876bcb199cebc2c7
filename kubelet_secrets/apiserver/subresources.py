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
from kubelet_secrets.apiserver.delete_options import is_dry_run, parse_delete_options
from kubelet_secrets.apiserver.registry import Registry, check_preconditions
from kubelet_secrets.apiserver.requestinfo import RequestInfo
from kubelet_secrets.apiserver.resources import ServedResource
from kubelet_secrets.apiserver.token_request import create_token
from kubelet_secrets.apiserver.tokens import TokenIssuer
from kubelet_secrets.errors import Invalid

NO_PRECONDITIONS = DeleteOptions()


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
                _check_name(info, body, "Binding")
                target, metadata = body.get("target") or {}, body.get("metadata") or {}
                if (kind := target.get("kind") or "Node") != "Node":
                    detail = f'Unsupported value: "{kind}": supported values: "Node"'
                    raise _invalid_binding(row, info.name, "FieldValueNotSupported", "target.kind", detail)
                preconditions = DeleteOptions(uid=metadata.get("uid"), resource_version=metadata.get("resourceVersion"))
                node_name = str(target.get("name") or "")
                await bind_pod(self._registry, row, info.namespace, info.name, node_name, write, preconditions)
                return _success()
            case "Pod", "eviction":
                await self._evict(row, info, body, write)
                return _success()
            case "ServiceAccount", "token":
                return await create_token(self._registry, row, info, body, write, self._tokens)
            case _:
                raise statuses.method_not_allowed(row, info.verb)

    async def _evict(self, row: ServedResource, info: RequestInfo, body: Object, write: Write) -> None:
        """As ``kubectl drain`` asks; its ``--dry-run=server`` is in the options, not in the URL. Budgets are not served."""
        _check_name(info, body, "Eviction")
        options = body.get("deleteOptions") or {}
        write = replace(write, is_dry_run=write.is_dry_run or is_dry_run(options))
        await self._registry.delete(row, info.namespace, info.name, parse_delete_options(options, {}), write)


def _check_name(info: RequestInfo, body: Object, kind: str) -> None:
    metadata = body.get("metadata") or {}
    if metadata.get("name") not in (None, "", info.name):
        raise statuses.bad_request(f"name in URL does not match name in {kind} object")
    if metadata.get("namespace") not in (None, "", info.namespace):
        raise statuses.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )


def _invalid_binding(row: ServedResource, name: str, reason: str, field: str, detail: str) -> Invalid:
    cause = {"reason": reason, "message": detail, "field": field}
    return statuses.invalid(row, name, f'Binding "{name}" is invalid: {field}: {detail}', [cause])


async def bind_pod(
    registry: Registry,
    row: ServedResource,
    namespace: str,
    name: str,
    node_name: str,
    write: Write,
    preconditions: DeleteOptions = NO_PRECONDITIONS,
) -> Object:
    """Give a pod its node, once.

    Args:
        preconditions: the uid and the resourceVersion that the pod has to have.

    Raises:
        Conflict: it has one, or is being deleted, or is another one than was meant.
        Invalid: no node is named.
    """
    if not node_name:
        raise _invalid_binding(row, name, "FieldValueRequired", "target.name", "Required value")

    def assign(pod: Object) -> Object:
        check_preconditions(row, pod, preconditions)
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

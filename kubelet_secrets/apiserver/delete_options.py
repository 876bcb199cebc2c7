"""``DeleteOptions`` of a request, in its body or its query.

Pure. Called by ``resource_call.py``.

Source: apimachinery pkg/apis/meta/v1/validation, ValidateDeleteOptions; apiserver pkg/endpoints/handlers/delete.go.
"""

from __future__ import annotations

from collections.abc import Mapping

from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.attributes import DeleteOptions, Propagation
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.requestinfo import is_true

Query = Mapping[str, str]


def parse_delete_options(body: Object, query: Query) -> DeleteOptions:
    """What is asked of a deletion; what the body says counts before the query.

    Raises:
        Invalid: 400.
    """
    is_dry_run(body)
    preconditions = body.get("preconditions") or {}
    grace_s = body.get("gracePeriodSeconds")
    if grace_s is None and "gracePeriodSeconds" in query:
        grace_s = parse_int(query, "gracePeriodSeconds")
    if grace_s is not None and not isinstance(grace_s, int):
        raise statuses.bad_request("gracePeriodSeconds must be an integer")
    return DeleteOptions(
        grace_s=grace_s,
        uid=preconditions.get("uid"),
        resource_version=preconditions.get("resourceVersion"),
        propagation=_propagation(body, query),
    )


def is_dry_run(body: Object) -> bool:
    """Whether the options, of a deletion or an eviction, ask that nothing be done.

    Raises:
        Invalid: 422, a directive that nobody knows: what it was to prevent must not happen.
    """
    directives = body.get("dryRun") or []
    for directive in directives:
        if directive != "All":
            detail = f'Unsupported value: ["{directive}"]: supported values: "All"'
            raise statuses.invalid_options("DeleteOptions", "dryRun", "FieldValueNotSupported", detail)
    return bool(directives)


def _propagation(body: Object, query: Query) -> Propagation:
    policy = body.get("propagationPolicy") or query.get("propagationPolicy")
    orphans = body.get("orphanDependents")
    if orphans is None and "orphanDependents" in query:
        orphans = is_true(query["orphanDependents"])
    if policy and orphans is not None:
        raise statuses.bad_request("orphanDependents and deletionPropagation cannot be both set")
    if orphans is not None:
        return Propagation.ORPHAN if orphans else Propagation.BACKGROUND
    try:
        return Propagation(policy or "Background")
    except ValueError:
        supported = ", ".join(f'"{each}"' for each in ("Background", "Foreground", "Orphan", "nil"))
        raise statuses.bad_request(
            f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "{policy}": '
            f"supported values: {supported}"
        ) from None


def parse_int(query: Query, name: str) -> int:
    """An integer parameter, 0 when absent. Raises: Invalid: 400."""
    try:
        return int(query.get(name) or 0)
    except ValueError:
        raise statuses.bad_request(f"{name}: must be an integer") from None

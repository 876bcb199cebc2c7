"""What each kind does to an object between the client and the store: fields a client may not set, status kept apart, grace.

Pure: dictionaries in, dictionaries changed in place. Called by ``registry.py``; one place for what upstream spreads over
``strategy.go`` files. Defaults and validation are not here (``api/defaults.py``, ``api/validation``).

Source: pkg/registry/core/{pod,node,namespace,secret,service}/strategy.go, k8s.io/apiserver pkg/registry/rest/{create,update,
delete}.go.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum

from kubelet_secrets.api.qosclass import qos_class
from kubelet_secrets.api.times import parse_rfc3339, rfc3339
from kubelet_secrets.apiserver import csr
from kubelet_secrets.apiserver.attributes import DeleteOptions, Propagation, User
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.resources import ServedResource

TERMINAL_PHASES = ("Succeeded", "Failed")
_LONGEST_S = 100 * 365 * 24 * 3600  # of a grace period, as far as a timestamp is concerned: calendars end
_SYSTEM_METADATA = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


def prepare_for_create(row: ServedResource, obj: Object, *, uid: str, now: datetime, user: User) -> None:
    """Give a new object its system metadata and drop what its creator may not set.

    Args:
        user: who creates it.
    """
    metadata = obj["metadata"]
    for field in (*_SYSTEM_METADATA, "resourceVersion", "selfLink"):
        metadata.pop(field, None)
    metadata["uid"] = uid
    metadata["creationTimestamp"] = rfc3339(now)
    if row.has_generation:
        metadata["generation"] = 1
    if row.has_status and not row.status_on_create:
        obj.pop("status", None)
    match row.kind:
        case "Pod":
            obj["status"] = {"phase": "Pending", "qosClass": qos_class(obj.get("spec") or {})}
        case "Namespace":
            spec = obj.setdefault("spec", {})
            spec["finalizers"] = sorted({*spec.get("finalizers", ()), "kubernetes"})
            obj["status"] = {"phase": "Active"}
            if "name" in metadata:  # the rules refuse it otherwise
                metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]
        case "CertificateSigningRequest":
            csr.set_requester(obj, user)


def prepare_for_update(row: ServedResource, obj: Object, old: Object, subresource: str, now: datetime) -> None:
    """Keep, in a new version, what this write may not change: system metadata, and spec or status by subresource."""
    metadata, old_metadata = obj["metadata"], old["metadata"]
    metadata.pop("selfLink", None)
    for field in _SYSTEM_METADATA:
        _copy(metadata, old_metadata, field)
    if row.has_status:
        if subresource == "status":
            _copy(obj, old, "spec")
            if row.kind == "Pod":
                _copy(metadata, old_metadata, "ownerReferences")
        elif subresource not in (
            "binding",
            "approval",
        ):  # a binding sets the node's name and the condition that says so
            _copy(obj, old, "status")
    if row.kind == "Pod":
        _prepare_pod_update(obj, old, subresource)
    elif row.kind == "Namespace" and subresource != "finalize":
        _copy(obj.setdefault("spec", {}), old.get("spec", {}), "finalizers")
    elif row.kind == "CertificateSigningRequest":
        csr.prepare_update(obj, old, subresource, now)
    elif row.kind == "Secret" and not obj.get("type"):
        _copy(obj, old, "type")


def count_generation(row: ServedResource, obj: Object, old: Object, subresource: str) -> None:
    """Count a change of ``spec``; to be called when defaults and admission have filled in what the writer left out."""
    if row.has_generation and subresource != "binding" and obj.get("spec") != old.get("spec"):
        obj["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1


def _prepare_pod_update(pod: Object, old: Object, subresource: str) -> None:
    if subresource == "ephemeralcontainers":
        wanted = (pod.get("spec") or {}).get("ephemeralContainers")
        pod["spec"] = {**old["spec"]}
        if wanted is not None:
            pod["spec"]["ephemeralContainers"] = wanted
    elif subresource == "resize":
        _keep_all_but_resources(pod, old)
    elif subresource == "" and "spec" in pod:
        _copy(pod["spec"], old["spec"], "ephemeralContainers")
    elif subresource == "status":
        status, old_status = pod.setdefault("status", {}), old.get("status", {})
        if not status.get("qosClass"):
            _copy(status, old_status, "qosClass")


def _keep_all_but_resources(pod: Object, old: Object) -> None:
    """Containers that were renamed or moved stay as they came: the rules refuse them. Source: dropNonResizeUpdates."""
    wanted = pod.get("spec") or {}
    pod["spec"] = {**old["spec"]}
    for field in ("containers", "initContainers"):
        asked, given = wanted.get(field) or [], old["spec"].get(field) or []
        if [each.get("name") for each in asked] != [each.get("name") for each in given]:
            pod["spec"][field] = asked
        elif given:
            pod["spec"][field] = [{**each} for each in given]
            for container, resized in zip(pod["spec"][field], asked, strict=True):
                for changed in ("resources", "resizePolicy"):
                    _copy(container, resized, changed)
    metadata = {name: pod["metadata"][name] for name in ("resourceVersion", "managedFields") if name in pod["metadata"]}
    pod["metadata"] = {**{k: v for k, v in old["metadata"].items() if k not in metadata}, **metadata}


def _copy(target: Object, source: Object, field: str) -> None:
    if field in source:
        target[field] = source[field]
    else:
        target.pop(field, None)


# --- deletion --------------------------------------------------------------------------------------------------------


class Deletion(Enum):
    """What a DELETE does to the object."""

    NOW = "remove it"
    MARK = "write it back, marked as being deleted"
    PENDING = "nothing: it is already being deleted, no sooner than before"


FOREGROUND_FINALIZER = "foregroundDeletion"
ORPHAN_FINALIZER = "orphan"
_PROPAGATION_FINALIZERS = {Propagation.FOREGROUND: FOREGROUND_FINALIZER, Propagation.ORPHAN: ORPHAN_FINALIZER}


def begin_deletion(row: ServedResource, obj: Object, options: DeleteOptions, *, now: datetime) -> Deletion:
    """Decide what a DELETE does and, for ``MARK``, set the deletion metadata on *obj*.

    Source: rest.BeforeDelete, pod strategy CheckGracefulDelete, Store.updateForGracefulDeletionAndFinalizers,
    deletionFinalizersForGarbageCollection.
    """
    metadata, grace_s = obj["metadata"], options.grace_s
    if "deletionTimestamp" not in metadata:
        _set_propagation(metadata, options.propagation)
    has_finalizers = bool(metadata.get("finalizers")) or bool(row.kind == "Namespace" and obj["spec"].get("finalizers"))
    if "deletionTimestamp" in metadata:
        pending_s = metadata.get("deletionGracePeriodSeconds")
        if pending_s is None or grace_s is None or grace_s >= pending_s:
            return Deletion.PENDING if has_finalizers or pending_s else Deletion.NOW
        due = parse_rfc3339(metadata["deletionTimestamp"]) or now
        sooner_s = min(pending_s, _LONGEST_S) - min(max(grace_s, 0), _LONGEST_S)
        metadata["deletionTimestamp"] = rfc3339(due - timedelta(seconds=sooner_s))
        metadata["deletionGracePeriodSeconds"] = grace_s
        return Deletion.MARK
    period_s = _grace_period(obj, grace_s) if row.kind == "Pod" else 0
    if row.kind != "Pod" and not has_finalizers:
        return Deletion.NOW
    metadata["deletionTimestamp"] = rfc3339(now + timedelta(seconds=min(period_s, _LONGEST_S)))
    metadata["deletionGracePeriodSeconds"] = period_s
    if metadata.get("generation"):
        metadata["generation"] += 1
    if row.kind == "Namespace":
        metadata.pop("deletionGracePeriodSeconds")
        obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
    return Deletion.MARK


def _set_propagation(metadata: Object, propagation: Propagation) -> None:
    """The finalizers by which garbage collection holds an owner: those of this DELETE, and of no earlier one."""
    before = metadata.get("finalizers") or []
    after = [each for each in before if each not in _PROPAGATION_FINALIZERS.values()]
    if propagation in _PROPAGATION_FINALIZERS:
        after.append(_PROPAGATION_FINALIZERS[propagation])
    if after != before:
        metadata["finalizers"] = after


def _grace_period(pod: Object, grace_s: int | None) -> int:
    spec, status = pod.get("spec", {}), pod.get("status", {})
    if not spec.get("nodeName") or status.get("phase") in TERMINAL_PHASES:
        return 0
    if grace_s is None:
        grace_s = spec.get("terminationGracePeriodSeconds", 0)
    return 1 if grace_s < 0 else int(grace_s)


def is_deletion_complete(row: ServedResource, obj: Object) -> bool:
    """Whether an object marked as being deleted has nothing left to wait for: no grace period, no finalizer.

    Source: registry.Store ShouldDeleteDuringUpdate.
    """
    metadata = obj["metadata"]
    if "deletionTimestamp" not in metadata or metadata.get("finalizers"):
        return False
    if row.kind == "Namespace":
        return not obj.get("spec", {}).get("finalizers")
    return not metadata.get("deletionGracePeriodSeconds")

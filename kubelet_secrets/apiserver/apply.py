"""Server-side apply and the bookkeeping behind it: who owns which field of an object.

Pure: the time is an argument. Every write passes here, an apply through :func:`server_side_apply`, every other through
:func:`track_update`; otherwise later appliers would conflict with nobody. Called through ``patch.py``.

Source: sigs.k8s.io/structured-merge-diff/merge/update.go; k8s.io/apimachinery/pkg/util/managedfields; KEP-555.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubelet_secrets.api.decode import strip_nulls
from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.apiserver import fieldset
from kubelet_secrets.apiserver.fieldset import Path
from kubelet_secrets.apiserver.schemas import Schema, schema_of
from kubelet_secrets.errors import Conflict, Invalid

Obj = dict[str, Any]

_BEFORE_FIRST_APPLY = "before-first-apply"
_UNTRACKED: frozenset[Path] = frozenset(
    {("f:apiVersion",), ("f:kind",), ("f:metadata",)}
    | {("f:metadata", f"f:{name}") for name in ("name", "namespace", "creationTimestamp", "selfLink", "uid")}
    | {("f:metadata", f"f:{name}") for name in ("generation", "managedFields", "resourceVersion", "deletionTimestamp")}
    | {("f:metadata", "f:deletionGracePeriodSeconds")}
)


@dataclass(frozen=True, slots=True)
class Manager:
    """Who writes, and in which manner; a program that both applies and updates is two managers."""

    name: str
    operation: str  # "Apply", "Update"
    api_version: str
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Owned:
    fields: frozenset[Path]
    time: str | None


Managers = dict[Manager, Owned]


def server_side_apply(
    live: Obj | None,
    applied: Obj,
    manager: str,
    force: bool,
    api_version: str,
    kind: str,
    now: str,
    *,
    subresource: str = "",
) -> Obj:
    """Merge *applied* into *live* for *manager*, and drop what it applied before and no longer names.

    (1) Merge. (2) Remove fields that only this manager owned and has let go. (3) Whatever then differs from *live* and
    belongs to somebody else is a conflict, unless *force* takes it over. (4) Write down the new owners.

    Args:
        live: the stored object, or None to create.
        now: RFC 3339, for the entry of *manager* if its fields change.

    Returns:
        The new object with ``metadata.managedFields``; equal to *live* when nothing changed. Not yet defaulted or validated.

    Raises:
        Invalid: *manager* is empty, or *applied* carries managedFields.
        Conflict: see (3); ``details.causes`` names each manager and field.
    """
    if not manager:
        detail = 'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'
        raise Invalid(detail, code=422, reason="Invalid")
    if applied.get("metadata", {}).get("managedFields"):
        raise Invalid("metadata.managedFields must be nil", code=400, reason="BadRequest")
    schema = schema_of(api_version, kind)
    config = strip_nulls(applied)
    before = _without_managed_fields(live or {})
    managers = _read(live or {})
    if live is not None and not managers:
        owned = frozenset(fieldset.field_set(before, schema) - _UNTRACKED)
        managers[Manager(_BEFORE_FIRST_APPLY, "Update", api_version)] = Owned(owned, now)
    me = Manager(manager, "Apply", api_version, subresource)
    last = managers.pop(me, Owned(frozenset(), None))
    named = frozenset(fieldset.field_set(config, schema) - _UNTRACKED)

    # (1)
    after = fieldset.merge(before, config, schema)
    # (2)
    held = named.union(*(owned.fields for owned in managers.values()))
    emptied: set[Path] = set()
    for path in sorted(last.fields - held, key=len):  # an element goes as a whole, before its fields are looked at
        # An element of a list that nobody owns as such goes with all there is in it; another field stays for what is below.
        if path[-1].startswith(("k:", "v:")) or not any(other[: len(path)] == path for other in held):
            emptied |= fieldset.remove(after, path, schema)
    # (3)
    difference = fieldset.compare(before, after, schema)
    difference.removed -= emptied  # upstream's are still there, with nothing in them: who owns one as such goes on to
    conflicts = {
        other: owned.fields & (difference.modified | difference.added)
        for other, owned in managers.items()
        if owned.fields & (difference.modified | difference.added)
    }
    if conflicts and not force:
        raise _conflict_error(conflicts, managers)
    # (4)
    managers = _disown(managers, difference)
    if named:
        managers[me] = Owned(named, last.time if named == last.fields and difference.is_same else now)
    return _with_managers(after, managers)


def track_update(
    live: Obj | None, new: Obj, manager: str, *, api_version: str, kind: str, now: str, subresource: str = ""
) -> Obj:
    """Return *new* with ``managedFields`` that give *manager* what it added or changed between *live* and *new*.

    Args:
        new: the object about to be stored, defaulted; its own managedFields count when it brings any (that is how
            clients move ownership), else those of *live*; ``[{}]`` clears them.
        manager: the request's ``fieldManager``, or the start of its user agent.
    """
    schema = schema_of(api_version, kind)
    brought = new.get("metadata", {}).get("managedFields")
    if brought == [{}]:
        return _with_managers(_without_managed_fields(new), {})
    managers = _read(new) if brought and not subresource else {}
    managers = managers or _read(live or {})
    before, after = _without_managed_fields(live or {}), _without_managed_fields(new)
    difference = fieldset.compare(before, after, schema)
    managers = _disown(managers, difference)
    me = Manager(manager, "Update", api_version, subresource)
    mine = managers.get(me, Owned(frozenset(), None))
    changed = _touchable(difference.added | difference.modified, schema, subresource)
    if changed:
        managers[me] = Owned(mine.fields | changed, now)
    return _with_managers(after, managers)


def _touchable(paths: set[Path], schema: Schema, subresource: str) -> frozenset[Path]:
    """Leave out identity, and the status where a write to the main resource cannot set it."""
    kept = paths - _UNTRACKED
    if not subresource and {"spec", "status"} <= set(schema.fields):
        kept = {path for path in kept if path[0] != "f:status"}
    return frozenset(kept)


def _disown(managers: Managers, difference: fieldset.Comparison) -> Managers:
    """Whoever owned what was changed or removed does no longer."""
    lost = difference.added | difference.modified | difference.removed
    kept = {}
    for manager, owned in managers.items():
        fields = owned.fields - lost
        if fields:
            kept[manager] = Owned(fields, owned.time)
    return kept


def _read(obj: Mapping[str, Any]) -> Managers:
    """The managers of *obj*; entries that cannot be read count as none, as upstream does."""
    managers: Managers = {}
    for entry in obj.get("metadata", {}).get("managedFields") or ():
        if not isinstance(entry, dict) or not isinstance(entry.get("fieldsV1", {}), dict):
            return {}
        manager = Manager(
            str(entry.get("manager", "")),
            str(entry.get("operation", "")),
            str(entry.get("apiVersion", "")),
            str(entry.get("subresource", "")),
        )
        try:
            fields = fieldset.from_fields_v1(entry.get("fieldsV1", {}))
        except ValueError:
            return {}
        managers[manager] = Owned(frozenset(fields), entry.get("time"))
    return managers


def _with_managers(obj: Obj, managers: Managers) -> Obj:
    """*obj* with the entries written out: appliers first, then by time, then by name."""
    entries = []
    order = sorted(managers, key=lambda manager: (manager.operation, managers[manager].time or "", manager.name))
    for manager in order:
        entry: Obj = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": manager.api_version,
            "time": managers[manager].time,
            "fieldsType": "FieldsV1",
            "fieldsV1": fieldset.to_fields_v1(managers[manager].fields),
        }
        if manager.subresource:
            entry["subresource"] = manager.subresource
        entries.append({key: value for key, value in entry.items() if value is not None})
    metadata = dict(obj.get("metadata") or {})
    if entries:
        metadata["managedFields"] = entries
    return {**obj, "metadata": metadata}


def _without_managed_fields(obj: Mapping[str, Any]) -> Obj:
    """A new outer mapping over the same content: nothing below is changed here."""
    metadata = {key: value for key, value in (obj.get("metadata") or {}).items() if key != "managedFields"}
    return {**obj, "metadata": metadata}


def _conflict_error(conflicts: Mapping[Manager, frozenset[Path]], managers: Managers) -> Conflict:
    """Source: managedfields/internal/conflict.go."""
    texts = {
        _manager_text(manager, managers[manager].time): sorted(map(fieldset.path_text, paths))
        for manager, paths in conflicts.items()
    }
    count = sum(map(len, texts.values()))
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": path}
        for who, paths in sorted(texts.items())
        for path in paths
    ]
    if count == 1:
        who, (path,) = next(iter(texts.items()))
        message = f"Apply failed with 1 conflict: conflict with {who}: {path}"
    else:
        listed = (f"conflicts with {who}:\n" + "\n".join(f"- {path}" for path in texts[who]) for who in sorted(texts))
        message = f"Apply failed with {count} conflicts: " + "\n".join(listed)
    return Conflict(message, code=409, reason="Conflict", details={"causes": causes})


def _manager_text(manager: Manager, time: str | None) -> str:
    text = go_quote(manager.name)
    if manager.subresource:
        text += f" with subresource {go_quote(manager.subresource)}"
    if manager.operation == "Update":
        text += f" using {manager.api_version}"
        if time:
            text += f" at {time}"
    return text

"""The chain behind one variable of a container. Pure; see ``why.py``."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from kubelet_secrets.api.core import Container, EnvFromSource, EnvVar, Pod
from kubelet_secrets.api.origin import Origin, OriginKind
from kubelet_secrets.api.sources import ObjectSource
from kubelet_secrets.envvars.environment import EnvEntry, Environment
from kubelet_secrets.explain.model import Problem
from kubelet_secrets.explain.variables import is_known
from kubelet_secrets.explain.why import (
    WAITS_FOR_CONFIG,
    Chain,
    Step,
    enumerate_names,
    find_config_map,
    find_secret,
    object_step,
    problems_below,
)

_MAX_DEPTH = 8  # of expansions in expansions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setter:
    """A line of the spec that sets, or would set, the variable."""

    where: str
    text: str
    failure: Problem | None = None
    left_out: str = ""  # why it does not set it, though nothing is wrong
    names_it: bool = True  # False: an envFrom whose object, as it is, says nothing of the variable

    @property
    def sets(self) -> bool:
        return self.failure is None and not self.left_out


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableContext:
    """What is known of one container's variables.

    Attributes:
        base: the container's field: ``spec.containers[0]``.
        environment: as far as it can be made; values may hold marks (``variables.is_known``).
        problems: what ``explain_variables`` found; their fields begin with *base*.
        source: the objects of the pod's namespace.
    """

    pod: Pod
    container: Container
    base: str
    environment: Environment
    problems: Sequence[Problem]
    source: ObjectSource


def why_variable(context: VariableContext, name: str) -> Chain:
    """Say where *name* comes from, or why it is not set."""
    setters = list(_setters(context, name))
    entry = context.environment.entries.get(name)
    failed = [setter for setter in setters if setter.failure is not None]
    if failed:
        failure = failed[-1].failure
        assert failure is not None
        return Chain(
            kind="variable",
            target=name,
            steps=(*_lost(setters, failed[-1]), Step(where=failed[-1].where, text=failed[-1].text)),
            rule=failure.message,
            effect=WAITS_FOR_CONFIG.format(context.container.name),
            hint=failure.hint,
        )
    if entry is None:
        return _nothing(context, name, setters)
    steps = tuple(_entry_steps(context, name, entry, setters, 0, frozenset()))
    return Chain(kind="variable", target=name, steps=steps, origin=entry.origin, frozen=True)


def _setters(context: VariableContext, name: str) -> Iterator[_Setter]:
    """Every line that sets *name*, in order: the last one that does wins."""
    for index, source in enumerate(context.container.env_from):
        yield from _env_from_setter(context, name, source, f"{context.base}.envFrom[{index}]")
    for index, variable in enumerate(context.container.env):
        if variable.name == name:
            field = f"{context.base}.env[{index}]"
            failures = problems_below(context.problems, field, blocking=True)
            optional = [each for each in problems_below(context.problems, field, blocking=False) if _is_optional(each)]
            where, text = _describe(variable, field)
            yield _Setter(
                where=where,
                text=text,
                failure=failures[0] if failures else None,
                left_out=optional[0].message if optional else "",
            )


def _is_optional(problem: Problem) -> bool:
    return problem.code == "missing-optional"


def _env_from_setter(context: VariableContext, name: str, source: EnvFromSource, field: str) -> Iterator[_Setter]:
    if not name.startswith(source.prefix):
        return
    key = name.removeprefix(source.prefix)
    prefix = f" under the prefix {source.prefix}" if source.prefix else ""
    failures = problems_below(context.problems, field, blocking=True)
    keys: Collection[str] | None
    if source.secret_ref is not None:
        secret = find_secret(context.source, source.secret_ref.name)
        keys, what = secret.data if secret is not None else None, f"secret/{source.secret_ref.name}"
        where = f"{field}.secretRef"
    elif source.config_map_ref is not None:
        config_map = find_config_map(context.source, source.config_map_ref.name)
        keys, what = config_map.data if config_map is not None else None, f"configmap/{source.config_map_ref.name}"
        where = f"{field}.configMapRef"
    else:
        return
    if failures:
        # What the object would hold is unknown: it stops the container, whatever sets this variable.
        yield _Setter(where=where, text=f"every key of {what}{prefix}", failure=failures[0])
    elif keys is None:
        left_out = "it does not exist, and is optional"
        yield _Setter(where=where, text=f"every key of {what}{prefix}", left_out=left_out, names_it=False)
    elif key in keys:
        yield _Setter(where=where, text=f"every key of {what}{prefix}: key {key}")
    else:
        left_out = f"it has no key {key}"
        yield _Setter(where=where, text=f"every key of {what}{prefix}", left_out=left_out, names_it=False)


def _describe(variable: EnvVar, field: str) -> tuple[str, str]:
    """(the field that gives the value, what it says)."""
    reference = variable.value_from
    if variable.value or reference is None:
        return f"{field}.value", "text in the spec" if variable.value else "empty text in the spec"
    below = f"{field}.valueFrom"
    if (secret := reference.secret_key_ref) is not None:
        return f"{below}.secretKeyRef", f"key {secret.key} of secret/{secret.name}{_optional(secret.optional)}"
    if (config_map := reference.config_map_key_ref) is not None:
        text = f"key {config_map.key} of configmap/{config_map.name}{_optional(config_map.optional)}"
        return f"{below}.configMapKeyRef", text
    if (own := reference.field_ref) is not None:
        return f"{below}.fieldRef", f"field {own.field_path} of the pod"
    if (resource := reference.resource_field_ref) is not None:
        of = f" of container {resource.container_name}" if resource.container_name else ""
        return f"{below}.resourceFieldRef", f"{resource.resource}{of}, in units of {resource.divisor or '1'}"
    if (file := reference.file_key_ref) is not None:
        text = f"key {file.key} in file {file.path} of volume {file.volume_name}{_optional(file.optional)}"
        return f"{below}.fileKeyRef", text
    return below, "no source: empty"


def _optional(optional: bool | None) -> str:
    return ", optional" if optional else ""


def _entry_steps(
    context: VariableContext,
    name: str,
    entry: EnvEntry,
    setters: Sequence[_Setter],
    depth: int,
    seen: frozenset[str],
) -> Iterator[Step]:
    winners = [setter for setter in setters if setter.sets]
    if not winners:
        yield _service_step(context, entry.origin, depth)
    else:
        winner = winners[-1]
        yield from _lost(setters, winner, depth)
        text = winner.text
        if entry.expanded_from or entry.undefined:
            text += ", made of " + ", ".join(f"$({each})" for each in (*entry.expanded_from, *entry.undefined))
        yield Step(where=winner.where, text=text, depth=depth)
    size = len(entry.value.encode("utf-8", "surrogateescape")) if is_known(entry.value) else None
    if (behind := object_step(entry.origin, size, depth)) is not None:
        yield behind
    for undefined in entry.undefined:
        yield Step(
            where=f"$({undefined})", text="is not defined before it: the text stays as it is written", depth=depth + 1
        )
    for used in entry.expanded_from:
        found = context.environment.entries.get(used)
        if found is None or used in seen or depth >= _MAX_DEPTH:
            continue
        yield Step(where=f"$({used})", text=f"is {found.origin}", depth=depth + 1)
        yield from _entry_steps(context, used, found, list(_setters(context, used)), depth + 1, seen | {name, used})


def _lost(setters: Sequence[_Setter], winner: _Setter, depth: int = 0) -> Iterator[Step]:
    for setter in setters:
        if setter is winner or not setter.names_it:
            continue
        text = f"{setter.text}: {'not set' if setter.left_out else 'overridden'}"
        yield Step(where=setter.where, text=text, depth=depth)


def _service_step(context: VariableContext, origin: Origin, depth: int) -> Step:
    if origin.kind is OriginKind.SERVICE and (origin.namespace, origin.name) != ("default", "kubernetes"):
        text = "true: variables of every service of the namespace"
        return Step(where="spec.enableServiceLinks", text=text, depth=depth)
    return Step(where="every container", text="gets the variables of service default/kubernetes", depth=depth)


def _nothing(context: VariableContext, name: str, setters: Sequence[_Setter]) -> Chain:
    named = [setter for setter in setters if setter.left_out and setter.names_it]
    steps = tuple(
        Step(where=setter.where, text=f"{setter.text}: {'not set' if setter.names_it else setter.left_out}")
        for setter in setters
        if setter.left_out
    )
    if named:
        rule = named[-1].left_out
        hint = "an optional reference that leads nowhere sets nothing"
    else:
        rule = f"nothing sets {name} in container {context.container.name}; only the image's own ENV could"
        hint = _name_hint(context, name)
    return Chain(kind="nothing", target=name, steps=steps, rule=rule, hint=hint)


def _name_hint(context: VariableContext, name: str) -> str:
    names = list(context.environment)
    alike = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    if alike:
        return f"did you mean {alike[0]}?"
    if context.pod.spec.enable_service_links is False and ("_SERVICE_" in name or "_PORT" in name):
        return "enableServiceLinks is false: only the service default/kubernetes has variables"
    own = [each for each, entry in context.environment.items() if entry.origin.kind is not OriginKind.SERVICE]
    return f"it has {enumerate_names(own)}" if own else "it has no variables of its own"

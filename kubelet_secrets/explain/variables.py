"""The variables of one container, and what is wrong with them.

Pure. The environment is the node's own (``envvars.environment``). Values that only a running node knows are replaced by marks
before it is computed, so that everything they are expanded into is marked too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import msgspec

from kubelet_secrets.api.core import Container, EnvVar, Pod, Service, ServicePort, ServiceSpec
from kubelet_secrets.api.meta import ObjectMeta
from kubelet_secrets.api.origin import Origin, OriginKind
from kubelet_secrets.api.sources import NodeInfo
from kubelet_secrets.envvars.environment import EnvEntry, Environment, expand_command, make_environment
from kubelet_secrets.envvars.filekeys import EnvFile, wanted_env_files
from kubelet_secrets.envvars.passing import argument_refusal, as_passed, count_replaced, refusal
from kubelet_secrets.errors import ContainerConfigError, MissingObject, SetUpError
from kubelet_secrets.explain.lookup import ManifestSource, is_run_time
from kubelet_secrets.explain.model import Problem, Severity, VariableView
from kubelet_secrets.sensitive import SensitiveBytes

_MARK = "\U0010fffe"  # a noncharacter: it stands in no manifest that means anything
_MARKED = re.compile(f"{_MARK}([0-9]+){_MARK}")
_UNKNOWN_ADDRESS = f"{_MARK}ip{_MARK}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variables:
    """What one container's environment comes to."""

    views: tuple[VariableView, ...]
    problems: tuple[Problem, ...]
    environment: Environment  # with marks in it: ask :func:`is_known` before using a value


def is_known(value: str) -> bool:
    """Whether *value* has no part that only a running node knows."""
    return _MARK not in value


def explain_variables(
    pod: Pod,
    container: Container,
    *,
    where: str,
    is_template: bool,
    source: ManifestSource,
    services: Sequence[Service],
) -> Variables:
    """Compute the variables of *container*.

    Args:
        where: the container, for problems: ``Pod default/web: spec.containers[0]``.
        is_template: the pod gets its name when it is made.
        services: see :func:`known_services`.
    """
    problems: list[Problem] = []
    kept_from = []
    for index, env_from in enumerate(container.env_from):
        lone = msgspec.structs.replace(container, env=(), env_from=(env_from,))
        name = "secretRef" if env_from.secret_ref is not None else "configMapRef"
        problem = _failure(pod, lone, f"{where}.envFrom[{index}].{name}", source)
        if problem is None:
            kept_from.append(env_from)
            problems += _optional_object(
                env_from.secret_ref, env_from.config_map_ref, f"{where}.envFrom[{index}]", source
            )
        else:
            problems.append(problem)
    kept: list[EnvVar] = []
    origins: dict[int, Origin] = {}
    for index, variable in enumerate(container.env):
        lone = msgspec.structs.replace(container, env=(variable,), env_from=())
        spot = f"{where}.env[{index}]"
        problem = _failure(pod, lone, f"{spot}.{_source_field(variable)}", source)
        if problem is not None:
            problems.append(problem)
            continue
        problems += _optional_key(variable, spot, source)
        if (origin := _run_time_origin(pod, container, variable, is_template=is_template)) is not None:
            origins[index] = origin
            variable = EnvVar(name=variable.name, value=f"{_MARK}{index}{_MARK}")
        kept.append(variable)
    complete = msgspec.structs.replace(container, env=tuple(kept), env_from=tuple(kept_from))
    environment = _make(pod, complete, source, services)
    # A reference to what could not be made is no second mistake.
    unmade = {variable.name for variable in container.env}
    is_complete = len(kept_from) == len(container.env_from)
    problems += _expansion_problems(container, environment, where, unmade if is_complete else None)
    problems += _passing_problems(container, environment, where)
    problems += _rotation_problems(environment, where, source)
    return Variables(
        views=tuple(_view(name, entry, origins) for name, entry in environment.items()),
        problems=tuple(problems),
        environment=environment,
    )


def known_services(services: Sequence[Service]) -> tuple[Service, ...]:
    """The given services as far as variables need them: addresses that a cluster has yet to assign are marked.

    The service ``default/kubernetes``, which every cluster has, is added unless it is given.
    """
    known = tuple(
        service
        if service.spec.cluster_ip
        else msgspec.structs.replace(service, spec=msgspec.structs.replace(service.spec, cluster_ip=_UNKNOWN_ADDRESS))
        for service in services
    )
    if any((each.metadata.namespace, each.metadata.name) == ("default", "kubernetes") for each in known):
        return known
    kubernetes = Service(
        metadata=ObjectMeta(name="kubernetes", namespace="default"),
        spec=ServiceSpec(cluster_ip=_UNKNOWN_ADDRESS, ports=(ServicePort(name="https", port=443),)),
    )
    return (kubernetes, *known)


def _failure(pod: Pod, container: Container, where: str, source: ManifestSource) -> Problem | None:
    """What would stop a container that has just the one entry."""
    try:
        _make(pod, container, source, ())
    except MissingObject as error:
        return Problem(
            severity=Severity.BLOCKS,
            code="missing-object",
            message=str(error),
            where=where,
            hint=source.object_hint(error.kind, error.name),
        )
    except (ContainerConfigError, SetUpError) as error:
        code, hint = "env-invalid", ""
        reference = container.env[0].value_from if container.env else None
        if reference is not None and reference.secret_key_ref is not None:
            code = "missing-key"
            hint = source.key_hint("secret", reference.secret_key_ref.name, reference.secret_key_ref.key)
        elif reference is not None and reference.config_map_key_ref is not None:
            code = "missing-key"
            hint = source.key_hint("configmap", reference.config_map_key_ref.name, reference.config_map_key_ref.key)
        return Problem(severity=Severity.BLOCKS, code=code, message=str(error), where=where, hint=hint)
    return None


def _make(pod: Pod, container: Container, source: ManifestSource, services: Sequence[Service]) -> Environment:
    return make_environment(
        pod,
        container,
        sources=source,
        services=services,
        node_info=NodeInfo(name=pod.spec.node_name),
        env_files=_written_later(pod, container),
    )


def _written_later(pod: Pod, container: Container) -> dict[tuple[str, str], EnvFile]:
    """Env files as if some container had written every key that is asked for."""
    mountable = {volume.name for volume in pod.spec.volumes if volume.empty_dir is not None}
    references = [each.value_from.file_key_ref for each in container.env if each.value_from is not None]
    keys = {reference.key for reference in references if reference is not None}
    content = "".join(f"{key}='{_MARK}'\n" for key in sorted(keys)).encode()
    return {
        (volume, path): EnvFile(host_path=path, content=SensitiveBytes(content))
        for volume, path in wanted_env_files(container)
        if volume in mountable
    }


def _source_field(variable: EnvVar) -> str:
    fields = ("field_ref", "resource_field_ref", "config_map_key_ref", "secret_key_ref", "file_key_ref")
    for field in fields:
        if variable.value_from is not None and getattr(variable.value_from, field) is not None:
            first, *rest = field.split("_")
            return "valueFrom." + first + "".join(part.capitalize() for part in rest)
    return "valueFrom"


def _run_time_origin(pod: Pod, container: Container, variable: EnvVar, *, is_template: bool) -> Origin | None:
    """The origin of a value that is not known before the pod runs; None when it is known."""
    reference = variable.value_from
    if variable.value or reference is None:
        return None
    if reference.field_ref is not None:
        origin = Origin(kind=OriginKind.FIELD, key=reference.field_ref.field_path)
    elif reference.resource_field_ref is not None:
        selector = reference.resource_field_ref
        origin = Origin(kind=OriginKind.RESOURCE_FIELD, name=selector.container_name, key=selector.resource)
    elif reference.file_key_ref is not None:
        file = reference.file_key_ref
        return Origin(kind=OriginKind.FILE, name=f"{file.volume_name}:{file.path}", key=file.key)
    else:
        return None
    return origin if is_run_time(origin, pod, container, is_template=is_template) else None


def _optional_object(
    secret_ref: object, config_map_ref: object, where: str, source: ManifestSource
) -> Iterator[Problem]:
    for kind, reference in (("secret", secret_ref), ("configmap", config_map_ref)):
        name = getattr(reference, "name", None)
        if name is None:
            continue
        try:
            source.get_secret(name) if kind == "secret" else source.get_config_map(name)
        except MissingObject as error:
            yield Problem(
                severity=Severity.WARNING,
                code="missing-optional",
                message=f"{error}; it is optional, so its variables are not set",
                where=where,
                hint=source.object_hint(kind, name),
            )
        return


def _optional_key(variable: EnvVar, where: str, source: ManifestSource) -> Iterator[Problem]:
    if variable.value or variable.value_from is None:
        return
    field = _source_field(variable)
    for kind, reference in (
        ("secret", variable.value_from.secret_key_ref),
        ("configmap", variable.value_from.config_map_key_ref),
    ):
        if reference is None:
            continue
        try:
            data = (
                source.get_secret(reference.name).data
                if kind == "secret"
                else source.get_config_map(reference.name).data
            )
        except MissingObject as error:
            message, hint = str(error), source.object_hint(kind, reference.name)
        else:
            if reference.key in data:
                continue
            message = f"{kind} {reference.name} has no key {reference.key}"
            hint = source.key_hint(kind, reference.name, reference.key)
        yield Problem(
            severity=Severity.WARNING,
            code="missing-optional",
            message=f"{message}; it is optional, so {variable.name} is not set",
            where=f"{where}.{field}",
            hint=hint,
        )


def _expansion_problems(
    container: Container, environment: Environment, where: str, own_names: Set[str] | None
) -> Iterator[Problem]:
    """Args: *own_names* are those that env sets, or would set; None when names of a failed envFrom are unknown."""
    last = {variable.name: index for index, variable in enumerate(container.env)}
    for name, entry in environment.items():
        spot = f"{where}.env[{last[name]}]" if name in last else f"{where}.envFrom"
        for undefined in entry.undefined:
            is_later = undefined in environment
            if not is_later and (own_names is None or undefined in own_names):
                continue
            state = "is set further down" if is_later else "is not defined"
            yield Problem(
                severity=Severity.WARNING,
                code="undefined-reference",
                message=f"{name} refers to $({undefined}), which {state}: the text stays as it is written",
                where=f"{spot}.value",
                hint=f"move {undefined} before {name}" if is_later else "write $$ for a plain dollar sign",
            )
        if name in last and container.env[last[name]].value and not entry.value:
            yield Problem(
                severity=Severity.WARNING,
                code="expands-to-nothing",
                message=f"{name} expands to nothing: {', '.join(entry.expanded_from)} is empty",
                where=f"{spot}.value",
            )
        if entry.overridden:
            losers = ", ".join(map(str, entry.overridden))
            yield Problem(
                severity=Severity.NOTE,
                code="variable-collision",
                message=f"{name} is set more than once: {entry.origin} wins over {losers}",
                where=spot,
            )


def _passing_problems(container: Container, environment: Environment, where: str) -> Iterator[Problem]:
    last = {variable.name: index for index, variable in enumerate(container.env)}
    for name, entry in environment.items():
        spot = f"{where}.env[{last[name]}]" if name in last else f"{where}.envFrom"
        if message := refusal(name, entry.value):
            yield Problem(severity=Severity.BLOCKS, code="env-refused", message=message, where=spot)
        elif lost := count_replaced(entry.value):
            yield Problem(
                severity=Severity.WARNING,
                code="env-not-utf8",
                message=f"{name} is not valid UTF-8: the container gets U+FFFD in place of {lost} of its bytes",
                where=spot,
                hint="mount the key as a file instead",
            )
    for field, arguments in zip(("command", "args"), expand_command(container, environment), strict=True):
        for index, argument in enumerate(arguments):
            if message := argument_refusal((argument,)):
                spot = f"{where}.{field}[{index}]"
                yield Problem(severity=Severity.BLOCKS, code="argument-refused", message=message, where=spot)


def _rotation_problems(environment: Environment, where: str, source: ManifestSource) -> Iterator[Problem]:
    users: dict[str, list[str]] = {}
    for name, entry in environment.items():
        for origin in _sources_of(entry, environment, frozenset({name})):
            if origin.kind in (OriginKind.SECRET, OriginKind.CONFIG_MAP) and not source.is_immutable(origin):
                names = users.setdefault(f"{origin.kind}/{origin.name}", [])
                if name not in names:
                    names.append(name)
    for changed, names in users.items():
        keep = "keeps its value" if len(names) == 1 else "keep their values"
        yield Problem(
            severity=Severity.NOTE,
            code="env-goes-stale",
            message=f"when {changed} changes, {', '.join(names)} {keep} until the container restarts",
            where=where,
            hint="mount it as a file to see the change, or restart the pods after a rotation",
        )


def _sources_of(entry: EnvEntry, environment: Environment, seen: frozenset[str]) -> Iterator[Origin]:
    yield entry.origin
    for name in entry.expanded_from:
        if name in environment and name not in seen:
            yield from _sources_of(environment[name], environment, seen | {name})


def _view(name: str, entry: EnvEntry, origins: dict[int, Origin]) -> VariableView:
    origin = entry.origin
    if (marked := _MARKED.fullmatch(entry.value)) is not None and int(marked[1]) in origins:
        origin = origins[int(marked[1])]
    return VariableView(
        name=name,
        origin=origin,
        overridden=entry.overridden,
        expanded_from=entry.expanded_from,
        is_secret=entry.is_secret or origin.is_secret,
        value=as_passed(entry.value) if is_known(entry.value) else None,
    )

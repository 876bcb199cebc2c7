"""``why`` answered: everything that is known of one container, asked for one variable or one path.

Pure. Offline it starts from manifests (:func:`answer_from_manifests`); the agent hands in what it really has instead
(``inspection``). Both give the same words, those of the control socket.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubelet_secrets.api.core import Container, Pod, Service
from kubelet_secrets.api.references import all_containers
from kubelet_secrets.control.protocol import WhyReader, WhyStep, WhyVersion, WhyView
from kubelet_secrets.envvars.environment import Environment
from kubelet_secrets.errors import UsageError
from kubelet_secrets.explain.files import explain_files
from kubelet_secrets.explain.inventory import Inventory, PodManifest, take_inventory
from kubelet_secrets.explain.lookup import ManifestSource, is_run_time
from kubelet_secrets.explain.model import Problem, Severity
from kubelet_secrets.explain.readers import (
    Credentials,
    Reader,
    judge_readers,
    planned_identities,
    spec_credentials,
)
from kubelet_secrets.explain.rules import pod_rule_problems, without_repetitions
from kubelet_secrets.explain.variables import explain_variables, known_services
from kubelet_secrets.explain.volumes import explain_volumes
from kubelet_secrets.explain.why import (
    WAITS_FOR_CONFIG,
    WAITS_FOR_VOLUMES,
    Chain,
    Step,
    container_base,
    problems_below,
)
from kubelet_secrets.explain.why_file import FileContext, FileFacts, ShownFile, why_file
from kubelet_secrets.explain.why_variable import VariableContext, why_variable
from kubelet_secrets.manifests import ManifestObject
from kubelet_secrets.volume.ownership import file_ownership, fs_group_of
from kubelet_secrets.volume.payload import Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: one of *variable* and *path* is empty."""

    container: str = ""  # the first one when empty
    variable: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What follows from a pod's spec and a set of objects, for one container."""

    pod: Pod
    container: Container
    base: str  # "spec.containers[0]"
    environment: Environment  # as far as it can be made
    payloads: Mapping[str, Payload]
    problems: tuple[Problem, ...]  # of the pod and of the container
    source: ManifestSource


def know(
    pod: Pod, container_name: str, *, source: ManifestSource, services: Sequence[Service], is_template: bool
) -> Known:
    """Work out environment, payloads and problems of one container of *pod*.

    Raises:
        UsageError: there is no such container.
    """
    found = container_base(pod, container_name)
    if found is None:
        names = " ".join(each.name for each in (*pod.spec.init_containers, *pod.spec.containers))
        raise UsageError(
            f"container {container_name} is not valid for pod {pod.metadata.name}: choose one of [{names}]"
        )
    base, container = found
    volumes = explain_volumes(pod, where="spec", source=source)
    variables = explain_variables(pod, container, where=base, is_template=is_template, source=source, services=services)
    files = explain_files(
        pod,
        container,
        volumes,
        variables.environment,
        where=base,
        is_template=is_template,
        source=source,
        is_environment_complete=all(each.severity is not Severity.BLOCKS for each in variables.problems),
    )
    origins = {view.name: view.origin for view in variables.views}
    environment = Environment(
        {
            name: dataclasses.replace(entry, origin=origins[name])
            for name, entry in variables.environment.entries.items()
        }
    )
    return Known(
        pod=pod,
        container=container,
        base=base,
        environment=environment,
        payloads=volumes.payloads,
        problems=(*volumes.problems, *variables.problems, *files.problems),
        source=source,
    )


def answer_from_manifests(
    manifests: Sequence[ManifestObject],
    name: str,
    question: Question,
    *,
    namespace: str = "default",
    projects_trust_bundles: bool = False,
) -> WhyView:
    """Answer for the pod or workload *name* among *manifests*.

    Raises:
        UsageError: it is not among them, or an object cannot be read.
    """
    inventory = take_inventory(manifests, namespace=namespace, projects_trust_bundles=projects_trust_bundles)
    given = _find_pod(inventory, name, namespace)
    source = ManifestSource(inventory, given.manifest.namespace)
    services = known_services(tuple(inventory.services.values()))
    known = know(given.pod, question.container, source=source, services=services, is_template=given.is_template)
    refused = [_relative(problem, given) for problem in pod_rule_problems(given)]
    problems = (*refused, *without_repetitions(known.problems, refused))
    known = dataclasses.replace(known, problems=problems)
    if question.variable:
        chain = ask_variable(known, question.variable)
        readers: tuple[Reader, ...] = ()
    else:
        chain = ask_file(known, question.path, known.payloads, _facts(known, is_template=given.is_template))
        readers = _planned_readers(known, chain, services)
    chain = with_other_blocks(chain, known)
    manifest = given.manifest
    shown = manifest.name if manifest.kind == "Pod" else f"{manifest.kind.lower()}/{manifest.name}"
    prefix = given.path.removesuffix("spec")
    return make_view(manifest.namespace, shown, known.container.name, chain, readers, prefix=prefix)


def ask_variable(known: Known, name: str) -> Chain:
    """The chain behind a variable."""
    context = VariableContext(
        pod=known.pod,
        container=known.container,
        base=known.base,
        environment=known.environment,
        problems=known.problems,
        source=known.source,
    )
    return why_variable(context, name)


def ask_file(
    known: Known,
    path: str,
    payloads: Mapping[str, Mapping[str, ShownFile]],
    facts: Mapping[tuple[str, str], FileFacts],
) -> Chain:
    """The chain behind a path."""
    context = FileContext(
        pod=known.pod,
        container=known.container,
        base=known.base,
        environment=known.environment,
        payloads=payloads,
        facts=facts,
        problems=known.problems,
    )
    return why_file(context, path)


def with_other_blocks(chain: Chain, known: Known) -> Chain:
    """*chain*, and what keeps its container from starting though the chain itself is whole."""
    if chain.rule:
        return chain
    blocking = [
        *problems_below(known.problems, "spec.volumes", blocking=True),
        *problems_below(known.problems, known.base, blocking=True),
        *(each for each in known.problems if each.code == "invalid"),
    ]
    if not blocking:
        return chain
    first = blocking[0]
    field = first.where.rpartition(": ")[2]
    if first.code == "invalid":
        effect = "the API server refuses the object"
    elif field.startswith("spec.volumes"):
        effect = WAITS_FOR_VOLUMES
    else:
        effect = WAITS_FOR_CONFIG.format(known.container.name)
    step = Step(where=field, text="stands in the way of all of it")
    return dataclasses.replace(chain, steps=(*chain.steps, step), rule=first.message, effect=effect, hint=first.hint)


def make_view(
    namespace: str,
    pod: str,
    container: str,
    chain: Chain,
    readers: Sequence[Reader] = (),
    *,
    started: WhyVersion | None = None,
    current: WhyVersion | None = None,
    stale: bool = False,
    prefix: str = "",
) -> WhyView:
    """The answer in the words of the control socket.

    Args:
        prefix: of the pod's fields in what was given: ``spec.template.``.
    """
    return WhyView(
        namespace=namespace,
        pod=pod,
        container=container,
        kind=chain.kind,
        target=chain.target,
        steps=tuple(
            WhyStep(
                where=prefix + step.where if step.where.startswith("spec.") else step.where,
                text=step.text,
                depth=step.depth,
            )
            for step in chain.steps
        ),
        origin=str(chain.origin) if chain.origin is not None else "",
        rule=chain.rule,
        effect=chain.effect,
        hint=chain.hint,
        frozen=chain.frozen,
        started=started,
        current=current,
        stale=stale,
        readers=tuple(WhyReader(who=each.who, allowed=each.allowed, why=each.why) for each in readers),
    )


def _find_pod(inventory: Inventory, name: str, namespace: str) -> PodManifest:
    kind, _, plain = name.rpartition("/")
    named = [
        each
        for each in inventory.pods
        if each.manifest.name == plain and kind.lower() in ("", each.manifest.kind.lower())
    ]
    found = [each for each in named if each.manifest.namespace == namespace] or named
    if not found:
        known = " ".join(sorted(f"{each.manifest.kind.lower()}/{each.manifest.name}" for each in inventory.pods))
        raise UsageError(f"no pod or workload {name} among the manifests; there are [{known}]")
    if len(found) > 1:
        kinds = " ".join(f"{each.manifest.kind.lower()}/{each.manifest.name}" for each in found)
        raise UsageError(f"{name} is more than one thing among the manifests: say which of [{kinds}], or its namespace")
    return found[0]


def _relative(problem: Problem, given: PodManifest) -> Problem:
    """*problem* with the field as it is in a pod, whatever the manifest wraps it in."""
    template = given.path.removesuffix("spec")
    where = problem.where.rpartition(": ")[2].removeprefix(template)
    return dataclasses.replace(problem, where=where)


def _facts(known: Known, *, is_template: bool) -> dict[tuple[str, str], FileFacts]:
    fs_group = fs_group_of(known.pod)
    found = {}
    for volume, payload in known.payloads.items():
        for path, file in payload.items():
            runs = not known.source.is_known(file.origin)
            runs = runs or is_run_time(file.origin, known.pod, None, is_template=is_template)
            found[volume, path] = FileFacts(
                size_bytes=None if runs else len(file.data), ownership=file_ownership(file, fs_group=fs_group)
            )
    return found


def _planned_readers(known: Known, chain: Chain, services: Sequence[Service]) -> tuple[Reader, ...]:
    if chain.kind != "file":
        return ()
    pod = known.pod
    file = known.payloads[chain.volume][chain.path]
    credentials: dict[str, Credentials] = {}
    environments = {known.container.name: known.environment}
    for each in all_containers(pod):
        credentials[each.name] = spec_credentials(pod, each)
        if each.name not in environments and any(mount.sub_path_expr for mount in each.volume_mounts):
            other = know(pod, each.name, source=known.source, services=services, is_template=False)
            environments[each.name] = other.environment
    return judge_readers(
        planned_identities(pod, environments),
        chain.volume,
        chain.path,
        file=file_ownership(file, fs_group=fs_group_of(pod)),
        credentials=credentials,
    )

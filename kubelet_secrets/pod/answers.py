"""``why`` asked of a running pod: what follows from the objects as they are, beside what its containers really have.

Pure. The chain is ``explain``'s, made from the node's own objects; here are added what only the node knows: the errors it met,
the versions a container was started with and has, and as whom its processes read. Called by ``inspection``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from kubelet_secrets.access.registry import ContainerIdentity
from kubelet_secrets.api.core import ConfigMap, Pod, Secret, Service
from kubelet_secrets.api.sources import ObjectSnapshot
from kubelet_secrets.control.protocol import WhyVersion, WhyView
from kubelet_secrets.envvars.passing import as_passed
from kubelet_secrets.explain.answer import (
    Known,
    Question,
    ask_file,
    ask_variable,
    know,
    make_view,
    with_other_blocks,
)
from kubelet_secrets.explain.inventory import Inventory
from kubelet_secrets.explain.lookup import NOT_GIVEN, ManifestSource
from kubelet_secrets.explain.model import Problem, Severity
from kubelet_secrets.explain.readers import Credentials, Reader, judge_readers, planned_identities, spec_credentials
from kubelet_secrets.explain.why import Chain, Step, problems_below
from kubelet_secrets.explain.why_file import FileFacts
from kubelet_secrets.pod.environ import EnvVersion
from kubelet_secrets.pod.state import containers_of
from kubelet_secrets.pod.views import ContainerView, PodView
from kubelet_secrets.pod.volumes import FileInfo, VolumeState, failed_mount
from kubelet_secrets.volume.mountpoints import mount_point
from kubelet_secrets.volume.ownership import Ownership
from kubelet_secrets.volume.payload import TrustBundleSource
from kubelet_secrets.volume.store import StoredFile

VOLUME_STAYS = "volume-stays"
RUNS_ON = "container {} runs on with what it has; it could not be started again like this"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKnowledge:
    """What the node knows about one pod besides its view.

    Attributes:
        objects: everything that the pod refers to, with the errors that reading it gave.
        files: the stored files of a volume's current version.
        identities: the pod's containers as the guard knows them.
        credentials: by container name, of those that run.
        bound: mount point → version, for what the asked container holds by subPath.
        revoked: volumes that nobody reads any more, and since when.
        format_time: for the answer.
    """

    objects: ObjectSnapshot
    services: Sequence[Service]
    files: Callable[[str], Sequence[StoredFile]]
    trust_bundles: TrustBundleSource | None = None
    identities: Sequence[ContainerIdentity] = ()
    credentials: Mapping[str, Credentials] = field(default_factory=dict)
    bound: Mapping[str, str] = field(default_factory=dict)
    revoked: Mapping[str, datetime] = field(default_factory=dict)
    format_time: Callable[[datetime], str] = datetime.isoformat


@dataclass(frozen=True, slots=True)
class LiveSource(ManifestSource):
    """The node's own objects; an object that cannot be had is told in the words that the pod's events use."""

    objects: ObjectSnapshot
    node_bundles: TrustBundleSource | None

    @property
    def trust_bundles(self) -> TrustBundleSource | None:
        return self.node_bundles

    def get_secret(self, name: str) -> Secret:
        return self.objects.get_secret(name)

    def get_config_map(self, name: str) -> ConfigMap:
        return self.objects.get_config_map(name)

    def object_hint(self, kind: str, name: str) -> str:
        hint = ManifestSource.object_hint(self, kind, name)
        return "the pod goes on within a second once it exists" if hint == NOT_GIVEN else hint


def answer(view: PodView, container: ContainerView, question: Question, node: NodeKnowledge) -> WhyView:
    """Answer *question* about *container* of *view*.

    Raises:
        UsageError: the spec has no such container (any more).
    """
    pod = view.pod
    namespace = pod.metadata.namespace
    inventory = Inventory()
    for name, secret in node.objects.secrets.items():
        if isinstance(secret, Secret):
            inventory.secrets[namespace, name] = secret
    for name, config_map in node.objects.config_maps.items():
        if isinstance(config_map, ConfigMap):
            inventory.config_maps[namespace, name] = config_map
    source = LiveSource(inventory, namespace, node.objects, node.trust_bundles)
    known = know(pod, container.name, source=source, services=node.services, is_template=False)
    known = _with_facts(known, view, container)
    if question.variable:
        chain = with_other_blocks(ask_variable(known, question.variable), known)
        started = _env_version(container.env.started, question.variable, node)
        current = None if container.env.problem else _env_version(container.env.current, question.variable, node)
        return make_view(
            namespace,
            pod.metadata.name,
            container.name,
            _settled(chain, container),
            started=started,
            current=current,
            stale=_is_stale(container, question.variable),
        )
    return _answer_file(view, container, question.path, known, node)


def _with_facts(known: Known, view: PodView, container: ContainerView) -> Known:
    """*known* with the errors that the node has met in place of those that follow from the objects alone."""
    problems = [each for each in known.problems if not _is_outdated(each, known, view, container)]
    for index, volume in enumerate(known.pod.spec.volumes):
        state = view.volumes.get(volume.name)
        if state is None or not state.problem:
            continue
        spot = f"spec.volumes[{index}]"
        message = failed_mount(volume, state.problem)
        same = problems_below(known.problems, spot, blocking=True)
        problems = [each for each in problems if each not in same]
        where, hint = (same[0].where, same[0].hint) if same else (spot, "")
        # A volume that has been set up once keeps its last good version, and stops no container, restarted ones neither.
        severity, code = (Severity.WARNING, VOLUME_STAYS) if state.is_ready else (Severity.BLOCKS, "volume-fails")
        problems.append(Problem(severity=severity, code=code, message=message, where=where, hint=hint))
    env = container.env
    failure = env.problem or (container.failure.message if container.failure is not None else "")
    if failure and not problems_below(problems, known.base, blocking=True):
        problems.append(Problem(severity=Severity.BLOCKS, code="refused", message=failure, where=known.base))
    environment = known.environment
    if env.current is not None and not env.problem:
        environment = env.current.environment
    return dataclasses.replace(known, problems=tuple(problems), environment=environment)


def _is_outdated(problem: Problem, known: Known, view: PodView, container: ContainerView) -> bool:
    """Whether the node has done already what *problem* says cannot be done: it knows more than the objects tell."""
    if problem.severity is not Severity.BLOCKS:
        return False
    for index, volume in enumerate(known.pod.spec.volumes):
        if problems_below([problem], f"spec.volumes[{index}]", blocking=True):
            state = view.volumes.get(volume.name)
            return state is not None and state.is_ready and not state.problem
    env = container.env
    return container.failure is None and not env.problem and env.current is not None


def _settled(chain: Chain, container: ContainerView) -> Chain:
    """What stops a start does not stop a container that runs."""
    runs = container.instance is not None and container.instance.is_running
    if chain.effect and runs:
        return dataclasses.replace(chain, effect=RUNS_ON.format(container.name))
    return chain


# --- variables -------------------------------------------------------------------------------------------------------


def _env_version(version: EnvVersion | None, name: str, node: NodeKnowledge) -> WhyVersion | None:
    entry = version.environment.entries.get(name) if version is not None else None
    if version is None or entry is None:
        return None
    return WhyVersion(
        version=str(version.number),
        resource_version=entry.origin.resource_version,
        since=node.format_time(version.changed.get(name, version.since)),
        size=len(as_passed(entry.value).encode()),
    )


def _is_stale(container: ContainerView, name: str) -> bool:
    env = container.env
    if env.started is None or env.current is None:
        return False
    return env.started.environment.lookup(name) != env.current.environment.lookup(name)


# --- files -----------------------------------------------------------------------------------------------------------


def _answer_file(view: PodView, container: ContainerView, path: str, known: Known, node: NodeKnowledge) -> WhyView:
    payloads = {
        name: {file.path: file for file in state.files}
        for name, state in view.volumes.items()
        if state.version is not None
    }
    facts: dict[tuple[str, str], FileFacts] = {}
    for name in payloads:
        for stored in node.files(name):
            ownership = Ownership(mode=stored.mode, uid=stored.uid, gid=stored.gid)
            facts[name, stored.path] = FileFacts(size_bytes=stored.size_bytes, ownership=ownership)
    chain = _as_revoked(_as_kept(ask_file(known, path, payloads, facts), known), known, node)
    state = view.volumes.get(chain.volume)
    current = _file_version(state, "", chain, node) if state is not None and state.version is not None else None
    held = _held_version(chain, container, known, node)
    started = _file_version(state, held, chain, node) if state is not None and held else current
    if current is not None and held not in ("", current.version) and not _is_bound_itself(chain, known):
        chain = dataclasses.replace(
            chain,
            kind="nothing",
            rule=f"the directory that the subPath selected was of version {held}, and went with it",
        )
    runs = container.instance is not None and container.instance.is_running
    return make_view(
        known.pod.metadata.namespace,
        known.pod.metadata.name,
        container.name,
        _settled(with_other_blocks(chain, known), container),
        _readers(known, chain, facts, node),
        started=started if runs else None,
        current=current,
        stale=runs and started is not None and _differs(started, current),
    )


def _as_kept(chain: Chain, known: Known) -> Chain:
    """*chain*, and why its volume is not what the objects would make of it."""
    stays = [each for each in known.problems if each.code == VOLUME_STAYS and _is_about(each, chain.volume, known.pod)]
    steps = (Step(where=each.where, text=f"cannot be made anew, so it stays: {each.message}") for each in stays)
    return dataclasses.replace(chain, steps=(*chain.steps, *steps))


def _is_about(problem: Problem, volume: str, pod: Pod) -> bool:
    index = next((index for index, each in enumerate(pod.spec.volumes) if each.name == volume), None)
    return bool(problems_below([problem], f"spec.volumes[{index}]", blocking=False))


def _as_revoked(chain: Chain, known: Known, node: NodeKnowledge) -> Chain:
    """*chain* with what stops its file here and now, unless it is stopped before."""
    since = node.revoked.get(chain.volume)
    if since is None or chain.rule:
        return chain
    pod = known.pod.metadata
    return dataclasses.replace(
        chain,
        rule=f'access to volume "{chain.volume}" was revoked on the node at {node.format_time(since)}',
        effect="every open, read and listing of it is refused with EACCES",
        hint=f"`kubelet-secrets revoke --undo {pod.name} {chain.volume} -n {pod.namespace}` gives it back",
    )


def _held_version(chain: Chain, container: ContainerView, known: Known, node: NodeKnowledge) -> str:
    """The version that the container holds by a subPath; empty when it sees whichever is current."""
    if not chain.frozen:
        return ""
    points = [
        point for point in node.bound if chain.target == point or chain.target.startswith(f"{point.rstrip('/')}/")
    ]
    return node.bound[max(points, key=len)] if points else ""


def _is_bound_itself(chain: Chain, known: Known) -> bool:
    """Whether it is a mount point, and not in a directory that is one."""
    return chain.target in {mount_point(mount.mount_path) for mount in known.container.volume_mounts}


def _file_version(state: VolumeState | None, name: str, chain: Chain, node: NodeKnowledge) -> WhyVersion | None:
    """The version *name* of a volume (the current one when empty), as far as the file of *chain* is concerned."""
    if state is None or state.version is None:
        return None
    editions = {edition.version.name: edition for edition in state.earlier}
    if name in ("", state.version.name):
        since, files = node.format_time(state.version.since), state.files
    elif name in editions:
        since, files = node.format_time(editions[name].version.since), editions[name].files
    else:  # older than this agent
        return WhyVersion(version=name)
    file = next((each for each in files if each.path == chain.path), None)
    if chain.kind == "file" and file is None:
        return WhyVersion(version=name or state.version.name, since=since)
    return WhyVersion(
        version=name or state.version.name,
        resource_version=_resource_version(file),
        since=since,
        size=file.size_bytes if file is not None else None,
    )


def _resource_version(file: FileInfo | None) -> str:
    return file.origin.resource_version if file is not None else ""


def _differs(started: WhyVersion, current: WhyVersion | None) -> bool:
    if current is None or started.version == current.version:
        return False
    if started.resource_version and current.resource_version:
        return (started.resource_version, started.size) != (current.resource_version, current.size)
    return True  # what it held is forgotten: better to say too much


def _readers(
    known: Known, chain: Chain, facts: Mapping[tuple[str, str], FileFacts], node: NodeKnowledge
) -> tuple[Reader, ...]:
    if chain.kind not in ("file", "directory") or not chain.volume:
        return ()
    pod = known.pod
    running = {identity.container: identity for identity in node.identities}
    planned = planned_identities(pod, {known.container.name: known.environment})
    credentials = {container.name: spec_credentials(pod, container) for _, container in containers_of(pod)}
    credentials |= node.credentials
    return judge_readers(
        [running.get(identity.container, identity) for identity in planned],
        chain.volume,
        chain.path,
        file=facts.get((chain.volume, chain.path), FileFacts()).ownership,
        credentials=credentials,
        is_revoked=chain.volume in node.revoked,
    )

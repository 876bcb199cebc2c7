"""The environment of one container: name → value, and where each came from.

Pure. Called by the pod's worker each time a container is about to start, by the agent to tell what the environment *would*
be now, and by ``explain`` offline. Underneath it the runtime puts the image's own ENV.

Values are text in which bytes that are not UTF-8 survive as surrogate escapes (PEP 383), as in ``os.environ``: encode with
``("utf-8", "surrogateescape")`` to get the bytes back. This is one of the few places that unwrap secret values.

Source: pkg/kubelet/kubelet_pods.go, makeEnvironmentVariables; semantics §6.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from kubelet_secrets.api import fieldpath
from kubelet_secrets.api.core import ConfigMap, Container, EnvVarSource, FileKeySelector, Pod, Secret, Service
from kubelet_secrets.api.meta import ObjectMeta
from kubelet_secrets.api.origin import LITERAL, Origin, OriginKind
from kubelet_secrets.api.quantity import InvalidQuantity
from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.resources import ResourceFieldError, env_resource
from kubelet_secrets.api.sources import NodeInfo, ObjectSource, get_optional
from kubelet_secrets.api.staticpod import is_static_pod
from kubelet_secrets.envvars.expansion import expand
from kubelet_secrets.envvars.filekeys import EnvFile, EnvFileError, find_value
from kubelet_secrets.envvars.services import make_service_variables
from kubelet_secrets.errors import ContainerConfigError

T = TypeVar("T", Secret, ConfigMap)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvEntry:
    """One variable. Its ``repr`` shows everything but the value."""

    value: str = field(repr=False)
    origin: Origin
    overridden: tuple[Origin, ...] = ()  # earlier definitions of the same name, oldest first
    expanded_from: tuple[str, ...] = ()  # names whose values are part of this one
    undefined: tuple[str, ...] = ()  # names it refers to that stayed as they were
    is_secret: bool = False  # a secret value is (part of) it; to be masked when shown


@dataclass(frozen=True, slots=True)
class Environment(Mapping[str, EnvEntry]):
    """Name → entry, in a stable order: envFrom, then env, then services. Its ``repr`` shows names only."""

    entries: Mapping[str, EnvEntry] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> EnvEntry:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Environment({', '.join(self.entries)})"

    def lookup(self, name: str) -> str | None:
        """The value of *name*, or None: what :func:`~kubelet_secrets.envvars.expansion.expand` asks."""
        entry = self.entries.get(name)
        return None if entry is None else entry.value

    def to_bytes(self) -> dict[bytes, bytes]:
        """Names and values as the bytes that the container gets. As secret as the values."""
        return {
            name.encode("utf-8", "surrogateescape"): entry.value.encode("utf-8", "surrogateescape")
            for name, entry in self.entries.items()
        }


def make_environment(
    pod: Pod,
    container: Container,
    *,
    sources: ObjectSource,
    services: Sequence[Service] | None,
    node_info: NodeInfo | None,
    pod_ips: tuple[str, ...] = (),
    host_ips: tuple[str, ...] = (),
    env_files: Mapping[tuple[str, str], EnvFile] | None = None,
) -> Environment:
    """Compute the variables *container* of *pod* is started with.

    Order: (1) the services' variables are computed; (2) envFrom, in its order, later sources win; (3) env, in its order,
    over envFrom, each entry seeing what was set before it; (4) services' variables whose names are still free.

    Args:
        sources: Secrets and ConfigMaps of the pod's namespace. Each name is asked for once, unless it is missing.
        services: of all namespaces; None while they have not been read once.
        node_info: None when there is no node object yet; only ``resourceFieldRef`` needs it.
        pod_ips: addresses of the pod's sandbox.
        host_ips: the node's addresses, primary first.
        env_files: (volume name, path) → file, for ``filekeys.wanted_env_files``; a missing entry is a volume not mounted.

    Raises:
        ContainerConfigError: a field, resource, key or env file is missing or wrong; the texts are the kubelet's.
        MissingObject: a required Secret or ConfigMap does not exist.
        SetUpError: whatever else *sources* raises, unchanged.
    """
    links = pod.spec.enable_service_links
    if links is None:
        raise ContainerConfigError("nil pod.spec.enableServiceLinks encountered, cannot construct envvars")
    if services is None and not is_static_pod(pod):
        raise ContainerConfigError("services have not yet been read at least once, cannot construct envvars")
    builder = _Builder(
        pod=pod,
        container=container,
        sources=sources,
        node_info=node_info,
        pod_ips=pod_ips,
        host_ips=host_ips,
        env_files=env_files or {},
    )
    # (1)
    for name, variable in make_service_variables(services or (), pod.metadata.namespace, links=links).items():
        builder.services[name] = EnvEntry(value=variable.value, origin=variable.origin)
    builder.add_env_from()  # (2)
    builder.add_env()  # (3)
    # (4)
    free = {name: entry for name, entry in builder.services.items() if name not in builder.entries}
    return Environment({**builder.entries, **free})


def expand_command(container: Container, environment: Environment) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``command`` and ``args`` of *container* with its final environment.

    Source: ExpandContainerCommandAndArgs. Hooks and probes are not expanded.
    """
    return (
        tuple(expand(word, environment.lookup) for word in container.command),
        tuple(expand(word, environment.lookup) for word in container.args),
    )


def to_text(value: bytes) -> str:
    """Bytes of a value as text from which the same bytes can be made again, UTF-8 or not."""
    return value.decode("utf-8", "surrogateescape")


@dataclass(slots=True, kw_only=True)
class _Builder:
    """The entries so far, and what has been fetched: upstream's tmpEnv and its per-call caches."""

    pod: Pod
    container: Container
    sources: ObjectSource
    node_info: NodeInfo | None
    pod_ips: tuple[str, ...]
    host_ips: tuple[str, ...]
    env_files: Mapping[tuple[str, str], EnvFile]
    services: dict[str, EnvEntry] = field(default_factory=dict)
    entries: dict[str, EnvEntry] = field(default_factory=dict)
    secrets: dict[str, Secret] = field(default_factory=dict)
    config_maps: dict[str, ConfigMap] = field(default_factory=dict)

    def add_env_from(self) -> None:
        for source in self.container.env_from:
            if source.config_map_ref is not None:
                reference = source.config_map_ref
                config_map = self.config_map(reference.name, optional=bool(reference.optional))
                if config_map is not None:
                    for key in sorted(config_map.data):
                        origin = _origin(OriginKind.CONFIG_MAP, config_map.metadata, key)
                        self.set(source.prefix + key, config_map.data[key], origin)
            elif source.secret_ref is not None:
                secret = self.secret(source.secret_ref.name, optional=bool(source.secret_ref.optional))
                if secret is not None:
                    for key in sorted(secret.data):
                        origin = _origin(OriginKind.SECRET, secret.metadata, key)
                        self.set(source.prefix + key, to_text(secret.data[key].reveal()), origin)

    def add_env(self) -> None:
        for variable in self.container.env:
            if variable.value:
                self.set_expanded(variable.name, variable.value)
            elif variable.value_from is not None:
                self.set_from(variable.name, variable.value_from)
            else:
                self.set(variable.name, "", LITERAL)

    def set(self, name: str, value: str, origin: Origin) -> None:
        self.set_entry(name, EnvEntry(value=value, origin=origin, is_secret=origin.is_secret))

    def set_entry(self, name: str, entry: EnvEntry) -> None:
        # A later definition keeps the earlier one's place, as in any dictionary: nothing depends on the order of the result.
        if (before := self.entries.get(name)) is not None:
            entry = EnvEntry(
                value=entry.value,
                origin=entry.origin,
                overridden=(*before.overridden, before.origin),
                expanded_from=entry.expanded_from,
                undefined=entry.undefined,
                is_secret=entry.is_secret,
            )
        self.entries[name] = entry

    def set_expanded(self, name: str, text: str) -> None:
        used: dict[str, EnvEntry] = {}
        undefined: dict[str, None] = {}

        def lookup(reference: str) -> str | None:
            # The variables so far, then the services'.
            entry = self.entries.get(reference) or self.services.get(reference)
            if entry is None:
                undefined[reference] = None
                return None
            used[reference] = entry
            return entry.value

        value = expand(text, lookup)
        entry = EnvEntry(
            value=value,
            origin=LITERAL,
            expanded_from=tuple(used),
            undefined=tuple(undefined),
            is_secret=any(source.is_secret for source in used.values()),
        )
        self.set_entry(name, entry)

    def set_from(self, name: str, source: EnvVarSource) -> None:
        if source.field_ref is not None:
            reference = source.field_ref
            try:
                value = self.field_value(reference.api_version, reference.field_path)
            except fieldpath.FieldPathError as error:
                raise ContainerConfigError(str(error)) from error
            self.set(name, value, Origin(kind=OriginKind.FIELD, key=reference.field_path))
        elif source.resource_field_ref is not None:
            if self.node_info is None:
                raise ContainerConfigError("failed to find node object, expected a node")
            selector = source.resource_field_ref
            try:
                value = env_resource(selector, self.pod, self.container, self.node_info.allocatable)
            except (ResourceFieldError, InvalidQuantity) as error:
                raise ContainerConfigError(str(error)) from error
            self.set(
                name,
                value,
                Origin(kind=OriginKind.RESOURCE_FIELD, name=selector.container_name, key=selector.resource),
            )
        elif source.config_map_key_ref is not None:
            self.set_from_config_map(name, source)
        elif source.secret_key_ref is not None:
            self.set_from_secret(name, source)
        elif source.file_key_ref is not None:
            self.set_from_file(name, source.file_key_ref)
        else:
            self.set(name, "", LITERAL)

    def set_from_config_map(self, name: str, source: EnvVarSource) -> None:
        reference = source.config_map_key_ref
        assert reference is not None
        config_map = self.config_map(reference.name, optional=bool(reference.optional))
        if config_map is None:
            return
        if reference.key in config_map.data:
            origin = _origin(OriginKind.CONFIG_MAP, config_map.metadata, reference.key)
            self.set(name, config_map.data[reference.key], origin)
        elif not reference.optional:
            where = f"{self.pod.metadata.namespace}/{reference.name}"
            raise ContainerConfigError(f"couldn't find key {reference.key} in ConfigMap {where}")

    def set_from_secret(self, name: str, source: EnvVarSource) -> None:
        reference = source.secret_key_ref
        assert reference is not None
        secret = self.secret(reference.name, optional=bool(reference.optional))
        if secret is None:
            return
        if reference.key in secret.data:
            origin = _origin(OriginKind.SECRET, secret.metadata, reference.key)
            self.set(name, to_text(secret.data[reference.key].reveal()), origin)
        elif not reference.optional:
            where = f"{self.pod.metadata.namespace}/{reference.name}"
            raise ContainerConfigError(f"couldn't find key {reference.key} in Secret {where}")

    def set_from_file(self, name: str, reference: FileKeySelector) -> None:
        file = self.env_files.get((reference.volume_name, reference.path))
        if file is None:
            quoted = go_quote(reference.volume_name)
            raise ContainerConfigError(f"cannot find the volume {quoted} referenced by FileKeyRef")
        if file.content is None:  # also when optional: only the key may be missing, not the file
            raise ContainerConfigError("couldn't parse env file")
        try:
            value = to_text(find_value(file.content.reveal(), reference.key))
        except EnvFileError as error:
            raise ContainerConfigError("couldn't parse env file") from error
        if value:
            where = f"{reference.volume_name}:{reference.path}"
            self.set(name, value, Origin(kind=OriginKind.FILE, name=where, key=reference.key))
        elif not reference.optional:
            key, path = go_quote(reference.key), go_quote(file.host_path)
            raise ContainerConfigError(f"environment variable key {key} not found in file {path}")

    def field_value(self, api_version: str, label: str) -> str:
        pod = self.pod
        field_path = fieldpath.convert_label(api_version, label)
        is_ipv6_primary = self.node_info is not None and self.node_info.is_ipv6_primary
        pod_ips = fieldpath.sort_pod_ips(self.pod_ips, is_ipv6_primary=is_ipv6_primary)
        match field_path:
            case "spec.nodeName":
                return pod.spec.node_name
            case "spec.serviceAccountName":
                return pod.spec.service_account_name
            case "status.hostIP":
                return self.host_ips[0] if self.host_ips else ""
            case "status.hostIPs":
                return ",".join(self.host_ips)
            case "status.podIP":
                # An unsorted address is better than none: a pod of one odd address still has a status.podIP.
                return pod_ips[0] if pod_ips else next(iter(self.pod_ips), "")
            case "status.podIPs":
                return ",".join(pod_ips)
            case _:
                return fieldpath.extract_field(pod, field_path)

    def secret(self, name: str, *, optional: bool) -> Secret | None:
        return _fetch(self.secrets, self.sources.get_secret, name, optional=optional)

    def config_map(self, name: str, *, optional: bool) -> ConfigMap | None:
        return _fetch(self.config_maps, self.sources.get_config_map, name, optional=optional)


def _fetch(fetched: dict[str, T], get: Callable[[str], T], name: str, *, optional: bool) -> T | None:
    if name in fetched:
        return fetched[name]
    found = get_optional(get, name, optional=optional)
    if found is not None:
        fetched[name] = found
    return found


def _origin(kind: OriginKind, meta: ObjectMeta, key: str) -> Origin:
    return Origin(kind=kind, namespace=meta.namespace, name=meta.name, key=key, resource_version=meta.resource_version)

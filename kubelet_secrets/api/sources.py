"""What the pure half asks of its surroundings: objects by name, and the node's facts.

The node implements :class:`ObjectSource` with a snapshot that it fetched beforehand, ``explain`` with the manifests it
read, tests with a dictionary. All calls are synchronous and answer from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from kubelet_secrets.api.core import ConfigMap, Quantity, Secret
from kubelet_secrets.errors import MissingObject, SetUpError

T = TypeVar("T")


class ObjectSource(Protocol):
    """The Secrets and ConfigMaps of one pod's namespace."""

    def get_secret(self, name: str) -> Secret:
        """Raises: MissingObject when it does not exist, another SetUpError when that cannot be told."""

    def get_config_map(self, name: str) -> ConfigMap:
        """Raises: MissingObject when it does not exist, another SetUpError when that cannot be told."""


def get_optional(get: Callable[[str], T], name: str, *, optional: bool) -> T | None:
    """Call *get*; None when the object does not exist and may be missing. Any other failure counts, optional or not."""
    try:
        return get(name)
    except MissingObject:
        if not optional:
            raise
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSnapshot:
    """An :class:`ObjectSource` over what was fetched before: per name the object or the error that fetching it gave.

    A name that is not in the snapshot does not exist.
    """

    secrets: Mapping[str, Secret | SetUpError] = field(default_factory=dict)
    config_maps: Mapping[str, ConfigMap | SetUpError] = field(default_factory=dict)

    def get_secret(self, name: str) -> Secret:
        found = self.secrets.get(name)
        if found is None:
            raise MissingObject("secret", name)
        if isinstance(found, SetUpError):
            raise found.with_traceback(None)  # the same error may be raised many times; keep no chain of frames
        return found

    def get_config_map(self, name: str) -> ConfigMap:
        found = self.config_maps.get(name)
        if found is None:
            raise MissingObject("configmap", name)
        if isinstance(found, SetUpError):
            raise found.with_traceback(None)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """What ``fieldRef`` and ``resourceFieldRef`` need to know of the node."""

    name: str = ""
    allocatable: Mapping[str, Quantity] = field(default_factory=dict)  # Node.status.allocatable: cpu, memory, …
    is_ipv6_primary: bool = False  # the family of the node's first address; decides which pod IP comes first

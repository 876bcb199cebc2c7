"""The two kinds the node caches, and how each is asked for, named and described. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from kubelet_secrets.api.core import ConfigMap, Pod, Secret
from kubelet_secrets.api.meta import CONFIG_MAPS, SECRETS, Resource
from kubelet_secrets.api.references import config_map_names, secret_names
from kubelet_secrets.client.answers import ApiObject


class _NodeObject(ApiObject, Protocol):
    """What Secret and ConfigMap have in common."""

    @property
    def immutable(self) -> bool | None: ...


NodeObject = TypeVar("NodeObject", bound=_NodeObject)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectKind(Generic[NodeObject]):
    resource: Resource
    kind: type[NodeObject]
    word: str  # "secret", as in the kubelet's messages
    names_of: Callable[[Pod], tuple[str, ...]]  # in the pod's namespace
    describe: Callable[[NodeObject], str]  # for a log line: counts and sizes, never a value


def _describe_secret(secret: Secret) -> str:
    return f"{len(secret.data)} keys, {sum(map(len, secret.data.values()))} bytes"


def _describe_config_map(config_map: ConfigMap) -> str:
    size_bytes = sum(len(text.encode()) for text in config_map.data.values())
    size_bytes += sum(map(len, config_map.binary_data.values()))
    return f"{len(config_map.data) + len(config_map.binary_data)} keys, {size_bytes} bytes"


SECRET_KIND = ObjectKind(resource=SECRETS, kind=Secret, word="secret", names_of=secret_names, describe=_describe_secret)
CONFIG_MAP_KIND = ObjectKind(
    resource=CONFIG_MAPS, kind=ConfigMap, word="configmap", names_of=config_map_names, describe=_describe_config_map
)

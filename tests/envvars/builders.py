"""What the tests of the environment share: pods, sources and services from plain data."""

from __future__ import annotations

from typing import Any

from kubelet_secrets.api.core import ConfigMap, Pod, Secret, Service
from kubelet_secrets.api.decode import convert
from kubelet_secrets.api.meta import ObjectMeta
from kubelet_secrets.api.sources import NodeInfo, ObjectSnapshot
from kubelet_secrets.envvars.environment import Environment, make_environment
from kubelet_secrets.sensitive import SensitiveBytes

NODE = NodeInfo(name="node-name", allocatable={"cpu": "4", "memory": "8Gi", "ephemeral-storage": "10Gi"})


def make_pod(
    env: list[dict[str, Any]] | None = None, *, namespace: str = "test", links: bool | None = False, **more: Any
) -> Pod:
    """A pod with one container ``c``; *more* goes into that container, except ``meta`` and ``spec``."""
    meta, spec = more.pop("meta", {}), more.pop("spec", {})
    container = {"name": "c", "image": "i", "env": env or [], **more}
    return convert(
        {
            "metadata": {"name": "dapi-test-pod-name", "namespace": namespace, "uid": "uid-1", **meta},
            "spec": {"containers": [container], "enableServiceLinks": links, **spec},
        },
        Pod,
    )


def make_secret(name: str, data: dict[str, bytes | str], **meta: str) -> Secret:
    values = {key: SensitiveBytes(value.encode() if isinstance(value, str) else value) for key, value in data.items()}
    return Secret(metadata=ObjectMeta(name=name, namespace="test", **meta), data=values)


def make_config_map(name: str, data: dict[str, str], **more: Any) -> ConfigMap:
    return convert({"metadata": {"name": name, "namespace": "test"}, "data": data, **more}, ConfigMap)


def make_sources(*objects: Secret | ConfigMap) -> ObjectSnapshot:
    return ObjectSnapshot(
        secrets={each.metadata.name: each for each in objects if isinstance(each, Secret)},
        config_maps={each.metadata.name: each for each in objects if isinstance(each, ConfigMap)},
    )


def make_service(namespace: str, name: str, ip: str, port: int, *more_ports: dict[str, Any]) -> Service:
    spec = {"clusterIP": ip, "ports": [{"protocol": "TCP", "port": port}, *more_ports]}
    return convert({"metadata": {"name": name, "namespace": namespace}, "spec": spec}, Service)


def environment_of(pod: Pod, *objects: Secret | ConfigMap, **more: Any) -> Environment:
    given: dict[str, Any] = {"sources": make_sources(*objects), "services": (), "node_info": NODE, **more}
    return make_environment(pod, pod.spec.containers[0], **given)


def values_of(environment: Environment) -> dict[str, str]:
    return {name: entry.value for name, entry in environment.items()}

"""The ``{NAME}_SERVICE_HOST`` variables: where a container finds the services of its namespace.

Pure. Source: pkg/kubelet/envvars/envvars.go and kubelet_pods.go, getServiceEnvVarMap; semantics §6.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kubelet_secrets.api.core import Service
from kubelet_secrets.api.origin import Origin, OriginKind


@dataclass(frozen=True, slots=True)
class ServiceVariable:
    value: str
    origin: Origin


def make_service_variables(services: Iterable[Service], namespace: str, *, links: bool) -> dict[str, ServiceVariable]:
    """The variables that services give a container.

    Args:
        services: of all namespaces, or at least of ``default`` and *namespace*.
        namespace: the pod's.
        links: ``pod.spec.enableServiceLinks``; without it only ``default/kubernetes`` is told.

    Returns:
        Name → value, services in the order of their names. (Upstream's map has no order.)
    """
    chosen: dict[str, Service] = {}
    for service in services:
        if service.spec.cluster_ip in ("", "None"):
            continue
        meta = service.metadata
        if meta.namespace == "default" and meta.name == "kubernetes":
            chosen.setdefault(meta.name, service)
        elif meta.namespace == namespace and links:
            chosen[meta.name] = service
    variables: dict[str, ServiceVariable] = {}
    for name in sorted(chosen):
        meta = chosen[name].metadata
        origin = Origin(
            kind=OriginKind.SERVICE,
            namespace=meta.namespace,
            name=meta.name,
            resource_version=meta.resource_version,
        )
        for variable, value in _variables_of(chosen[name]):
            variables[variable] = ServiceVariable(value, origin)
    return variables


def _variables_of(service: Service) -> Iterator[tuple[str, str]]:
    prefix, ip, ports = _variable_name(service.metadata.name), service.spec.cluster_ip, service.spec.ports
    yield f"{prefix}_SERVICE_HOST", ip
    if not ports:
        return
    yield f"{prefix}_SERVICE_PORT", str(ports[0].port)
    for port in ports:
        if port.name:
            yield f"{prefix}_SERVICE_PORT_{_variable_name(port.name)}", str(port.port)
    host = f"[{ip}]" if ":" in ip else ip
    for index, port in enumerate(ports):
        protocol = port.protocol or "TCP"
        url = f"{protocol.lower()}://{host}:{port.port}"
        if index == 0:
            yield f"{prefix}_PORT", url
        port_prefix = f"{prefix}_PORT_{port.port}_{protocol.upper()}"
        yield port_prefix, url
        yield f"{port_prefix}_PROTO", protocol.lower()
        yield f"{port_prefix}_PORT", str(port.port)
        yield f"{port_prefix}_ADDR", ip


def _variable_name(name: str) -> str:
    return name.replace("-", "_").upper()

"""``resourceFieldRef``: a container's request or limit, divided and printed.

Pure. Used by the downward API volume and by variables; the two differ in which containers get the node's defaults.

Source: pkg/api/v1/resource/helpers.go and pkg/kubelet/kubelet_resources.go; semantics §4.4.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kubelet_secrets.api import quantity
from kubelet_secrets.api.core import Container, Pod, Quantity, ResourceFieldSelector
from kubelet_secrets.errors import KubeletSecretsError

_DEFAULTED = ("cpu", "memory", "ephemeral-storage")
_POD_LEVEL = ("cpu", "memory")  # what pod-level resources can limit, of those (hugepages are never defaulted)


class ResourceFieldError(KubeletSecretsError):
    """The reference names nothing that can be given; the text is the kubelet's."""


def env_resource(
    selector: ResourceFieldSelector, pod: Pod, container: Container, allocatable: Mapping[str, Quantity]
) -> str:
    """The value for a variable of *container*; without ``containerName`` its own resources are meant.

    A container named explicitly gets the node's defaults only when it is a regular one: the kubelet merges defaults into
    ``spec.containers`` and into the container being started, and looks the name up afterwards.

    Raises:
        ResourceFieldError: unknown container or resource.
        InvalidQuantity: a limit, request or divisor is no quantity.

    Source: containerResourceRuntimeValue, defaultPodLimitsForDownwardAPI.
    """
    defaults = default_limits(pod, allocatable)
    if not selector.container_name:
        return extract_resource(selector, with_default_limits(container, defaults))
    named = find_container(pod, selector.container_name)
    is_regular = any(named is candidate for candidate in pod.spec.containers)
    return extract_resource(selector, with_default_limits(named, defaults) if is_regular else named)


def volume_resource(selector: ResourceFieldSelector, pod: Pod, allocatable: Mapping[str, Quantity]) -> str:
    """The value for a file of a downward API volume.

    Raises:
        ResourceFieldError: unknown container or resource.
        InvalidQuantity: a limit, request or divisor is no quantity.

    Source: ExtractResourceValueByContainerNameAndNodeAllocatable.
    """
    named = find_container(pod, selector.container_name)
    return extract_resource(selector, with_default_limits(named, default_limits(pod, allocatable)))


def default_limits(pod: Pod, allocatable: Mapping[str, Quantity]) -> dict[str, Quantity]:
    """The limits of a container that sets none: the pod's own, else what the node can allocate."""
    defaults = {name: allocatable[name] for name in _DEFAULTED if name in allocatable}
    if pod.spec.resources is not None:
        for name in _POD_LEVEL:
            limit = pod.spec.resources.limits.get(name)
            if limit is not None and not quantity.is_zero(limit):
                defaults[name] = limit
    return defaults


def with_default_limits(container: Container, defaults: Mapping[str, Quantity]) -> Container:
    """*container* with unset or zero limits taken from *defaults*. Source: MergeContainerResourceLimits."""
    limits = dict(container.resources.limits)
    for name, default in defaults.items():
        if name not in limits or quantity.is_zero(limits[name]):
            limits[name] = default
    resources = msgspec.structs.replace(container.resources, limits=limits)
    return msgspec.structs.replace(container, resources=resources)


def find_container(pod: Pod, name: str) -> Container:
    """Regular containers first, then init containers.

    Raises:
        ResourceFieldError: none has that name.
    """
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        if container.name == name:
            return container
    raise ResourceFieldError(f"container {name} not found")


def extract_resource(selector: ResourceFieldSelector, container: Container) -> str:
    """One resource of *container* in units of the divisor, rounded up; "0" when it is not set.

    Raises:
        ResourceFieldError: ``selector.resource`` is none that the downward API knows.

    Source: ExtractContainerResourceValue.
    """
    divisor: Quantity = "1" if quantity.is_zero(selector.divisor) else selector.divisor
    side, _, name = selector.resource.partition(".")
    if side not in ("limits", "requests") or not (name in _DEFAULTED or name.startswith("hugepages-")):
        raise ResourceFieldError(f"unsupported container resource : {selector.resource}")
    resources = container.resources.limits if side == "limits" else container.resources.requests
    amount = resources.get(name, "0")
    if name == "cpu":
        return str(quantity.divide_ceil(quantity.milli_value(amount), quantity.milli_value(divisor)))
    return str(quantity.divide_ceil(quantity.value(amount), quantity.value(divisor)))

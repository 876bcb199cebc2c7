"""The resource quantities of a pod, each with its field: what the API server's decoder reads and everybody after it relies on.

Pure. Called by ``inventory`` for a pod whose fields are of the right types.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubelet_secrets.api.core import Container, DownwardAPIVolumeFile, Pod, Quantity
from kubelet_secrets.api.quantity import InvalidQuantity, parse


def bad_quantity(pod: Pod) -> tuple[str, str] | None:
    """(field, what is wrong with it) of the first quantity of *pod* that is none; None when all are."""
    for field, quantity in _quantities(pod):
        try:
            parse(quantity)
        except InvalidQuantity as error:
            return field, str(error)
    return None


def _quantities(pod: Pod) -> Iterator[tuple[str, Quantity]]:
    spec = pod.spec
    lists = {
        "initContainers": spec.init_containers,
        "containers": spec.containers,
        "ephemeralContainers": spec.ephemeral_containers,
    }
    for name, containers in lists.items():
        for index, container in enumerate(containers):
            yield from _of_container(container, f"spec.{name}[{index}]")
    yield from _of_map(spec.overhead, "spec.overhead")
    if spec.resources is not None:
        yield from _of_map(spec.resources.limits, "spec.resources.limits")
        yield from _of_map(spec.resources.requests, "spec.resources.requests")
    for index, volume in enumerate(spec.volumes):
        field = f"spec.volumes[{index}]"
        if volume.empty_dir is not None and volume.empty_dir.size_limit is not None:
            yield f"{field}.emptyDir.sizeLimit", volume.empty_dir.size_limit
        if volume.downward_api is not None:
            yield from _of_items(volume.downward_api.items, f"{field}.downwardAPI")
        for number, source in enumerate(volume.projected.sources if volume.projected is not None else ()):
            if source.downward_api is not None:
                yield from _of_items(source.downward_api.items, f"{field}.projected.sources[{number}].downwardAPI")


def _of_container(container: Container, field: str) -> Iterator[tuple[str, Quantity]]:
    yield from _of_map(container.resources.limits, f"{field}.resources.limits")
    yield from _of_map(container.resources.requests, f"{field}.resources.requests")
    for index, variable in enumerate(container.env):
        if variable.value_from is not None and variable.value_from.resource_field_ref is not None:
            below = f"{field}.env[{index}].valueFrom.resourceFieldRef.divisor"
            yield below, variable.value_from.resource_field_ref.divisor


def _of_map(quantities: dict[str, Quantity], field: str) -> Iterator[tuple[str, Quantity]]:
    for name, quantity in quantities.items():
        yield f"{field}[{name}]", quantity


def _of_items(items: tuple[DownwardAPIVolumeFile, ...], field: str) -> Iterator[tuple[str, Quantity]]:
    for index, item in enumerate(items):
        if item.resource_field_ref is not None:
            yield f"{field}.items[{index}].resourceFieldRef.divisor", item.resource_field_ref.divisor

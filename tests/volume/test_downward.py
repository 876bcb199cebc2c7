"""Downward API volumes.

Source: pkg/volume/downwardapi/downwardapi_test.go; pkg/api/v1/resource/helpers_test.go; semantics §4.4.
"""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.core import Pod, Volume
from kubelet_secrets.api.decode import convert
from kubelet_secrets.api.sources import NodeInfo, ObjectSnapshot
from kubelet_secrets.errors import SetUpError
from kubelet_secrets.volume.payload import Payload, make_volume_payload

NODE = NodeInfo(allocatable={"cpu": "4", "memory": "8Gi", "ephemeral-storage": "10Gi", "hugepages-2Mi": "1Gi"})


def make_pod(spec: dict[str, Any] | None = None, **meta: Any) -> Pod:
    base = {"metadata": {"name": "test_name", "namespace": "test_ns", "uid": "test_uid", **meta}, "spec": spec or {}}
    return convert(base, Pod)


def payload_of(items: list[dict[str, Any]], pod: Pod) -> Payload:
    volume = convert({"name": "v", "downwardAPI": {"defaultMode": 0o644, "items": items}}, Volume)
    return make_volume_payload(volume, pod, ObjectSnapshot(), node=NODE)


def contents(items: list[dict[str, Any]], pod: Pod) -> dict[str, str]:
    return {path: file.data.reveal().decode() for path, file in payload_of(items, pod).items()}


def field(path: str, field_path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "fieldRef": {"fieldPath": field_path}, **more}


@pytest.mark.parametrize(
    ("field_path", "expected"),
    [
        pytest.param("metadata.labels", 'key1="value1"\nkey2="value2"', id="labels"),
        pytest.param("metadata.annotations", 'a1="value1"\na2="line\\n2 \\"q\\""', id="annotations"),
        pytest.param("metadata.name", "test_name", id="name"),
        pytest.param("metadata.namespace", "test_ns", id="namespace"),
        pytest.param("metadata.uid", "test_uid", id="uid"),
        pytest.param("metadata.labels['key1']", "value1", id="one-label"),
        pytest.param("metadata.annotations['a2']", 'line\n2 "q"', id="one-annotation-raw"),
        pytest.param("metadata.labels['none']", "", id="missing-label"),
    ],
)
def test_field(field_path: str, expected: str) -> None:
    pod = make_pod(labels={"key2": "value2", "key1": "value1"}, annotations={"a2": 'line\n2 "q"', "a1": "value1"})
    assert contents([field("some/path", field_path)], pod) == {"some/path": expected}


def test_pod_without_labels_gives_an_empty_file() -> None:
    assert contents([field("labels", "metadata.labels")], make_pod()) == {"labels": ""}


def test_mode_of_the_item_goes_before_the_default() -> None:
    payload = payload_of([field("a", "metadata.name", mode=0o400), field("b", "metadata.uid")], make_pod())
    assert {path: file.mode for path, file in payload.items()} == {"a": 0o400, "b": 0o644}
    assert str(payload["a"].origin) == "field metadata.name"


def test_path_is_cleaned_before_it_is_checked() -> None:
    assert contents([field("a/../b//c", "metadata.name")], make_pod()) == {"b/c": "test_name"}
    with pytest.raises(SetUpError, match=r"must not contain '\.\.'"):
        contents([field("a/../../b", "metadata.name")], make_pod())


LIMITED = {
    "containers": [
        {
            "name": "c",
            "resources": {
                "limits": {"cpu": "1250m", "memory": "64Mi", "hugepages-2Mi": "4Mi"},
                "requests": {"cpu": "250m", "memory": "1500k", "ephemeral-storage": "1Gi"},
            },
        },
        {"name": "free", "resources": {"limits": {"cpu": "0"}}},
    ],
    "initContainers": [{"name": "init", "resources": {"limits": {"memory": "1Ki"}}}],
}


@pytest.mark.parametrize(
    ("container", "resource", "divisor", "expected"),
    [
        pytest.param("c", "requests.cpu", "1", "1", id="cpu 250m / 1"),
        pytest.param("c", "requests.cpu", "1m", "250", id="cpu 250m / 1m"),
        pytest.param("c", "limits.cpu", "1", "2", id="cpu 1250m / 1"),
        pytest.param("c", "limits.cpu", "0", "2", id="divisor 0 is 1"),
        pytest.param("c", "limits.memory", "1", "67108864", id="memory 64Mi / 1"),
        pytest.param("c", "limits.memory", "1Mi", "64", id="memory 64Mi / 1Mi"),
        pytest.param("c", "requests.memory", "1M", "2", id="memory 1500k / 1M"),
        pytest.param("c", "requests.ephemeral-storage", "1Mi", "1024", id="ephemeral-storage"),
        pytest.param("c", "limits.hugepages-2Mi", "1Mi", "4", id="hugepages"),
        pytest.param("c", "limits.ephemeral-storage", "1Gi", "10", id="unset limit is the node's"),
        pytest.param("free", "limits.cpu", "1", "4", id="zero limit is the node's"),
        pytest.param("free", "limits.memory", "1Gi", "8", id="unset memory is the node's"),
        pytest.param("free", "limits.hugepages-2Mi", "1", "0", id="hugepages have no default"),
        pytest.param("free", "requests.memory", "1", "0", id="unset request is zero"),
        pytest.param("init", "limits.memory", "1", "1024", id="init container"),
        pytest.param("init", "limits.cpu", "1", "4", id="init container gets defaults"),
    ],
)
def test_resource(container: str, resource: str, divisor: str, expected: str) -> None:
    reference = {"containerName": container, "resource": resource, "divisor": divisor}
    payload = payload_of([{"path": "r", "resourceFieldRef": reference}], make_pod(LIMITED))
    assert payload["r"].data.reveal().decode() == expected
    assert str(payload["r"].origin) == f"resourceField {resource} of container {container}"


def test_pod_level_limit_goes_before_the_nodes() -> None:
    pod = make_pod({"containers": [{"name": "c"}], "resources": {"limits": {"cpu": "1500m", "memory": "0"}}})
    items = [
        {"path": name, "resourceFieldRef": {"containerName": "c", "resource": f"limits.{name}"}}
        for name in ("cpu", "memory")
    ]
    assert contents(items, pod) == {"cpu": "2", "memory": str(8 * 2**30)}


@pytest.mark.parametrize(
    ("items", "message"),
    [
        pytest.param([field("a", "metadata.nope")], "unsupported fieldPath: metadata.nope", id="field"),
        pytest.param([field("a", "status.podIP")], "unsupported fieldPath: status.podIP", id="env-only field"),
        pytest.param(
            [{"path": "a", "resourceFieldRef": {"containerName": "x", "resource": "limits.cpu"}}],
            "container x not found",
            id="container",
        ),
        pytest.param(
            [{"path": "a", "resourceFieldRef": {"containerName": "c", "resource": "limits.gpu"}}],
            "unsupported container resource : limits.gpu",
            id="resource",
        ),
        pytest.param(
            [field("a", "metadata.nope"), field("b", "metadata.name"), field("c", "x.y"), field("d", "x.y")],
            "[unsupported fieldPath: metadata.nope, unsupported fieldPath: x.y]",
            id="every item is tried, equal texts are told once",
        ),
    ],
)
def test_item_that_cannot_be_given(items: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(SetUpError) as caught:
        contents(items, make_pod(LIMITED))
    assert str(caught.value) == message

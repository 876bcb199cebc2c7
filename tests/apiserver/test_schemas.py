from __future__ import annotations

import gzip
import importlib.util
import json
from importlib.machinery import SourceFileLoader
from pathlib import Path

from kubelet_secrets.apiserver import resources
from kubelet_secrets.apiserver.schemas import UNKNOWN, document, schema_of

ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_file_is_what_the_generator_makes() -> None:
    loader = SourceFileLoader("generate_openapi", str(ROOT / "scripts" / "generate-openapi"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    generator = importlib.util.module_from_spec(spec)
    loader.exec_module(generator)
    committed = (ROOT / "kubelet_secrets" / "apiserver" / "schemas.json.gz").read_bytes()
    # Compared unpacked: compressors differ between builds of zlib.
    assert json.loads(gzip.decompress(generator.generate())) == json.loads(gzip.decompress(committed))


CONNECTION_OPTIONS = {
    "PodAttachOptions",
    "PodExecOptions",
    "PodPortForwardOptions",
    "NodeProxyOptions",
}  # in the query, never in a body


def test_every_served_kind_has_a_schema() -> None:
    for row in resources.SERVED:
        assert schema_of(row.resource.api_version, row.kind).is_struct, row.kind
        assert row.is_review or schema_of(row.resource.api_version, row.list_kind).is_struct, row.list_kind
        for sub in row.subresources:
            has_schema = schema_of(sub.group_version or row.resource.api_version, sub.kind).is_struct
            assert has_schema or sub.kind in CONNECTION_OPTIONS, sub.kind


def test_references_resolve() -> None:
    names = set(document()["schemas"])
    assert all(name in names for name in document()["kinds"].values())
    text = json.dumps(document()["schemas"])
    assert "$defs" not in text
    assert '"null"' not in text


def test_walking_down() -> None:
    containers = schema_of("v1", "Pod").field("spec").field("containers")
    assert containers.merges
    assert containers.merge_key == "name"
    assert (containers.list_type, containers.map_keys) == ("map", ("name",))
    assert containers.item.field("args").is_atomic
    assert containers.item.field("resources").field("limits").field("cpu").is_int_or_string
    assert schema_of("v1", "Secret").field("data").field("anything").format == "byte"
    assert not schema_of("v1", "Secret").field("nothing").is_known
    assert schema_of("v1", "Nothing") is UNKNOWN

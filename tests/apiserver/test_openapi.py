from __future__ import annotations

import json
from typing import Any

import pytest

from kubelet_secrets.apiserver import openapi, resources
from kubelet_secrets.apiserver.discovery import AGGREGATED_MEDIA_TYPE
from tests.apiserver.harness import Http


def _document(path: str) -> dict[str, Any]:
    document = openapi.find_document(path)
    assert document is not None
    loaded: dict[str, Any] = json.loads(document.body)
    return loaded


def test_the_index_names_one_document_per_group_version() -> None:
    paths = openapi.index()["paths"]
    assert len(paths) == len(resources.group_versions())
    for name, entry in paths.items():
        url, _, hash_value = entry["serverRelativeURL"].partition("?hash=")
        assert url == f"/openapi/v3/{name}"
        document = openapi.find_document(name)
        assert document is not None
        assert document.hash == hash_value


@pytest.mark.parametrize("name", sorted(openapi.index()["paths"]))
def test_documents_are_closed_under_reference(name: str) -> None:
    document = _document(name)
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    for reference in {part.partition('"')[0] for part in text.split('"$ref": "')[1:]}:
        assert reference.rpartition("/")[2] in schemas, reference


def test_patching_a_secret_knows_field_validation() -> None:
    document = _document("api/v1")
    operation = document["paths"]["/api/v1/namespaces/{namespace}/secrets/{name}"]["patch"]
    assert operation["x-kubernetes-group-version-kind"] == {"group": "", "version": "v1", "kind": "Secret"}
    assert "fieldValidation" in [parameter["name"] for parameter in operation["parameters"]]


def test_merge_keys_are_published() -> None:
    pod_spec = _document("api/v1")["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]
    assert pod_spec["properties"]["containers"]["x-kubernetes-patch-merge-key"] == "name"


def test_what_is_not_served_has_no_document() -> None:
    assert openapi.find_document("apis/apps/v1") is None
    assert openapi.find_document("") is None


async def test_the_server_publishes_discovery_and_documents(admin: Http) -> None:
    index = (await admin.get("/openapi/v3")).json
    answer = await admin.get(index["paths"]["api/v1"]["serverRelativeURL"])
    assert answer.status == 200
    assert "immutable" in answer.headers["cache-control"]
    assert (await admin.get("/openapi/v3/apis/none/v1")).status == 404
    assert (await admin.get("/api")).json["versions"] == ["v1"]
    assert (await admin.get("/apis/coordination.k8s.io/v1")).json["kind"] == "APIResourceList"
    assert (await admin.get("/apis/none")).status == 404
    everything = await admin.get("/apis", accept=f"{AGGREGATED_MEDIA_TYPE},application/json")
    assert everything.headers["content-type"] == AGGREGATED_MEDIA_TYPE
    assert everything.json["kind"] == "APIGroupDiscoveryList"

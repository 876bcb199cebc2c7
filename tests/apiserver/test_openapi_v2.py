"""OpenAPI v2: what is in the document, in both of its forms. That kubectl takes it is in ``test_kubectl_repertoire.py``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from kubelet_secrets.apiserver import openapi_v2, schemas
from kubelet_secrets.apiserver.openapi_v2 import PROTOBUF, PROTOBUF_ASKED
from tests.apiserver.harness import Http


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(openapi_v2.json_document().body)
    return loaded


def test_every_reference_leads_to_a_definition(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    assert "#/components" not in text
    references = {part.partition('"')[0] for part in text.split('"$ref": "#/definitions/')[1:]}
    assert references
    assert references <= set(document["definitions"])


def test_every_served_kind_is_there(document: dict[str, Any]) -> None:
    assert set(schemas.document()["kinds"].values()) <= set(document["definitions"])


def test_what_version_2_writes_in_another_way(document: dict[str, Any]) -> None:
    patch = document["paths"]["/api/v1/namespaces/{namespace}/secrets/{name}"]["patch"]
    assert patch["consumes"][0] == "application/json-patch+json"
    assert patch["parameters"][0]["in"] == "body"
    assert {"name": "fieldValidation", "in": "query", "type": "string", "uniqueItems": True} in patch["parameters"]
    definitions = document["definitions"]
    spec = definitions["io.k8s.api.core.v1.Pod"]["properties"]["spec"]
    assert spec["$ref"] == "#/definitions/io.k8s.api.core.v1.PodSpec"
    assert "description" in spec
    port = definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]
    assert port == {"type": "string", "format": "int-or-string"}


def test_the_protobuf_form_says_the_same(document: dict[str, Any]) -> None:
    """Read with descriptors of its own: those that wrote it would agree with themselves."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")

    def message(name: str, /, **fields: tuple[int, str]) -> None:
        made = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            added = made.field.add(name=field_name, number=number, label=field.LABEL_REPEATED)
            added.type = field.TYPE_STRING if kind == "string" else field.TYPE_MESSAGE
            if kind != "string":
                added.type_name = f".t.{kind}"

    message("Document", swagger=(1, "string"), definitions=(9, "Named"))
    message("Named", entries=(1, "Entry"))
    message("Entry", name=(1, "string"), schema=(2, "Schema"))
    message("Schema", ref=(1, "string"), properties=(25, "Named"), extensions=(31, "Extension"))
    message("Extension", name=(1, "string"), any=(2, "Any"))
    message("Any", yaml=(2, "string"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Document"))
    read = made.FromString(openapi_v2.protobuf_document().body)
    assert list(read.swagger) == ["2.0"]
    definitions = {entry.name[0]: entry.schema[0] for entry in read.definitions[0].entries}
    assert set(definitions) == set(document["definitions"])
    spec = {entry.name[0]: entry.schema[0] for entry in definitions["io.k8s.api.core.v1.Pod"].properties[0].entries}
    assert list(spec["spec"].ref) == ["#/definitions/io.k8s.api.core.v1.PodSpec"]
    (kinds,) = (
        each for each in definitions["io.k8s.api.core.v1.Pod"].extensions if "group-version-kind" in each.name[0]
    )
    assert json.loads(kinds.any[0].yaml[0]) == [{"group": "", "version": "v1", "kind": "Pod"}]


async def test_the_server_answers_in_the_form_asked_for(admin: Http) -> None:
    asked = await admin.get("/openapi/v2", accept=PROTOBUF_ASKED)
    assert (asked.status, asked.headers["content-type"]) == (200, PROTOBUF)
    plain = await admin.get("/openapi/v2", accept="application/json")
    assert plain.json["swagger"] == "2.0"
    assert plain.headers["etag"] != asked.headers["etag"]
    assert (await admin.get("/openapi/v2", accept="text/html")).status == 406

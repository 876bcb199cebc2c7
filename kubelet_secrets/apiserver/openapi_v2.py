"""OpenAPI v2: one document of everything, as JSON or in the protobuf that clients of Go ask for.

Pure: the v3 documents of ``openapi.py``, put as version 2 puts it. kubectl falls back to it for what v3 does not name -
``kind: List`` in a manifest, ``explain --output=plaintext-openapiv2`` - and older ones read nothing else.

Source: k8s.io/kube-openapi/pkg/handler (media types, ETag) and pkg/builder3/util (how v2 and v3 differ);
github.com/google/gnostic openapiv2/OpenAPIv2.proto.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from kubelet_secrets.apiserver import openapi, schemas
from kubelet_secrets.apiserver.openapi import Document, Obj
from kubelet_secrets.apiserver.resources import group_versions

PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
# What clients ask for has an @ where the answer's media type, which could not be parsed with one, has a dot.
PROTOBUF_ASKED = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"

_V3, _V2 = "#/components/schemas/", "#/definitions/"
_VENDOR = "x-kubernetes-"

_Field = descriptor_pb2.FieldDescriptorProto
# Of the messages as much as this document uses: number, name, type. Brackets: repeated.
_MESSAGES: Mapping[str, tuple[tuple[int, str, str], ...]] = {
    "Document": ((1, "swagger", "string"), (2, "info", "Info"), (8, "paths", "Paths"), (9, "definitions", "Schemas")),
    "Info": ((1, "title", "string"), (2, "version", "string")),
    "Paths": ((2, "path", "[NamedPathItem]"),),
    "NamedPathItem": ((1, "name", "string"), (2, "value", "PathItem")),
    "PathItem": (
        *((2, "get", "Operation"), (3, "put", "Operation"), (4, "post", "Operation"), (5, "delete", "Operation")),
        *((8, "patch", "Operation"), (9, "parameters", "[ParametersItem]")),
    ),
    "Operation": (
        *((1, "tags", "[string]"), (6, "produces", "[string]"), (7, "consumes", "[string]")),
        *((8, "parameters", "[ParametersItem]"), (9, "responses", "Responses"), (13, "vendor_extension", "[NamedAny]")),
    ),
    "ParametersItem": ((1, "parameter", "Parameter"),),
    "Parameter": ((1, "body_parameter", "BodyParameter"), (2, "non_body_parameter", "NonBodyParameter")),
    "BodyParameter": (*((2, "name", "string"), (3, "in", "string"), (4, "required", "bool"), (5, "schema", "Schema")),),
    "NonBodyParameter": ((3, "query_parameter_sub_schema", "Query"), (4, "path_parameter_sub_schema", "Path")),
    "Query": (
        *((1, "required", "bool"), (2, "in", "string"), (4, "name", "string"), (6, "type", "string")),
        (20, "unique_items", "bool"),
    ),
    "Path": (
        *((1, "required", "bool"), (2, "in", "string"), (4, "name", "string"), (5, "type", "string")),
        (19, "unique_items", "bool"),
    ),
    "Responses": ((1, "response_code", "[NamedResponse]"),),
    "NamedResponse": ((1, "name", "string"), (2, "value", "ResponseValue")),
    "ResponseValue": ((1, "response", "Response"),),
    "Response": ((1, "description", "string"), (2, "schema", "SchemaItem")),
    "SchemaItem": ((1, "schema", "Schema"),),
    "Schemas": ((1, "additional_properties", "[NamedSchema]"),),  # Definitions and Properties
    "NamedSchema": ((1, "name", "string"), (2, "value", "Schema")),
    "NamedAny": ((1, "name", "string"), (2, "value", "Any")),
    "Any": ((2, "yaml", "string"),),
    "Schema": (
        *((1, "_ref", "string"), (2, "format", "string"), (4, "description", "string"), (19, "required", "[string]")),
        *((21, "additional_properties", "AdditionalProperties"), (22, "type", "TypeItem"), (23, "items", "ItemsItem")),
        *((25, "properties", "Schemas"), (31, "vendor_extension", "[NamedAny]")),
    ),
    "AdditionalProperties": ((1, "schema", "Schema"),),
    "TypeItem": ((1, "value", "[string]"),),
    "ItemsItem": ((1, "schema", "[Schema]"),),
}


@cache
def json_document() -> Document:
    """The document as JSON; made once, as it depends on nothing that changes."""
    return _document(msgspec.json.encode(_content()))


@cache
def protobuf_document() -> Document:
    """The same in gnostic's protobuf."""
    return _document(_encode(_content()))


def _document(body: bytes) -> Document:
    return Document(body, hashlib.sha512(body).hexdigest().upper())


# --- content ---------------------------------------------------------------------------------------------------------


@cache
def _content() -> Obj:
    paths: Obj = {}
    definitions: Obj = {}
    for group, version in group_versions():
        document = msgspec.json.decode(openapi.make_document(group, version).body)
        paths.update({path: _path_item(item) for path, item in document["paths"].items()})
        definitions.update({name: _schema(each) for name, each in document["components"]["schemas"].items()})
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": schemas.document()["version"]},
        "paths": dict(sorted(paths.items())),
        "definitions": dict(sorted(definitions.items())),
    }


def _path_item(item: Obj) -> Obj:
    return {
        key: [_parameter(each) for each in entry] if key == "parameters" else _operation(entry)
        for key, entry in item.items()
    }


def _parameter(parameter: Obj) -> Obj:
    rest = {key: entry for key, entry in parameter.items() if key != "schema"}
    return {**rest, **parameter["schema"]}


def _operation(operation: Obj) -> Obj:
    made = {key: entry for key, entry in operation.items() if key != "requestBody"}
    made["parameters"] = [_parameter(each) for each in operation["parameters"]]
    made["produces"] = ["application/json", "application/yaml"]
    made["consumes"] = ["*/*"]
    if body := operation.get("requestBody"):
        made["consumes"] = list(body["content"])
        content = next(iter(body["content"].values()))
        schema = _schema(content.get("schema", {"type": "object"}))
        made["parameters"].insert(0, {"name": "body", "in": "body", "required": True, "schema": schema})
    made["responses"] = {code: _response(each) for code, each in operation["responses"].items()}
    return made


def _response(response: Obj) -> Obj:
    made: Obj = {"description": response["description"]}
    if schema := response["content"]["application/json"].get("schema"):
        made["schema"] = _schema(schema)
    return made


def _schema(node: Obj) -> Obj:
    """A schema of v3 as v2 writes it: what stands beside a reference beside it, no choice of types."""
    made: Obj = {}
    for key, entry in node.items():
        match key:
            case "$ref":
                made["$ref"] = entry.replace(_V3, _V2)
            case "allOf":
                (reference,) = entry
                made["$ref"] = reference["$ref"].replace(_V3, _V2)
            case "oneOf":
                made["type"] = "string"
                if {"type": "integer"} in entry:
                    made["format"] = "int-or-string"
            case "items" | "additionalProperties":
                made[key] = _schema(entry)
            case "properties":
                made[key] = {name: _schema(each) for name, each in entry.items()}
            case _:
                made[key] = entry
    return made


# --- protobuf --------------------------------------------------------------------------------------------------------


def _encode(content: Obj) -> bytes:
    paths = [{"name": path, "value": _path_message(item)} for path, item in content["paths"].items()]
    document = _message_class("Document")(
        swagger=content["swagger"],
        info=content["info"],
        paths={"path": paths},
        definitions=_schemas_message(content["definitions"]),
    )
    encoded: bytes = document.SerializeToString(deterministic=True)
    return encoded


def _path_message(item: Obj) -> Obj:
    return {
        key: [_parameter_message(each) for each in entry] if key == "parameters" else _operation_message(entry)
        for key, entry in item.items()
    }


def _operation_message(operation: Obj) -> Obj:
    responses = [
        {"name": code, "value": {"response": _response_message(each)}} for code, each in operation["responses"].items()
    ]
    return {
        **{key: operation[key] for key in ("tags", "produces", "consumes")},
        "parameters": [_parameter_message(each) for each in operation["parameters"]],
        "responses": {"response_code": responses},
        "vendor_extension": _vendor_message(operation),
    }


def _response_message(response: Obj) -> Obj:
    made: Obj = {"description": response["description"]}
    if "schema" in response:
        made["schema"] = {"schema": _schema_message(response["schema"])}
    return made


def _parameter_message(parameter: Obj) -> Obj:
    place = parameter["in"]
    if place == "body":
        return {"parameter": {"body_parameter": {**parameter, "schema": _schema_message(parameter["schema"])}}}
    named = {"unique_items" if key == "uniqueItems" else key: entry for key, entry in parameter.items()}
    return {"parameter": {"non_body_parameter": {f"{place}_parameter_sub_schema": named}}}


def _schemas_message(named: Mapping[str, Obj]) -> Obj:
    return {"additional_properties": [{"name": name, "value": _schema_message(node)} for name, node in named.items()]}


def _schema_message(node: Obj) -> Obj:
    made: Obj = {key: node[key] for key in ("format", "description", "required") if key in node}
    if "$ref" in node:
        made["_ref"] = node["$ref"]
    if "type" in node:
        made["type"] = {"value": [node["type"]]}
    if "items" in node:
        made["items"] = {"schema": [_schema_message(node["items"])]}
    if "additionalProperties" in node:
        made["additional_properties"] = {"schema": _schema_message(node["additionalProperties"])}
    if "properties" in node:
        made["properties"] = _schemas_message(node["properties"])
    return {**made, "vendor_extension": _vendor_message(node)}


def _vendor_message(node: Obj) -> list[Obj]:
    """Extensions travel as YAML, of which JSON is a part."""
    return [
        {"name": key, "value": {"yaml": msgspec.json.encode(entry).decode() + "\n"}}
        for key, entry in node.items()
        if key.startswith(_VENDOR)
    ]


@cache
def _message_class(name: str) -> type[Any]:
    file = descriptor_pb2.FileDescriptorProto(name="openapi_v2.proto", package="openapi.v2", syntax="proto3")
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for number, field_name, text in fields:
            field = message.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
            if text.startswith("["):
                field.label, text = _Field.LABEL_REPEATED, text[1:-1]
            if text in ("string", "bool"):
                field.type = _Field.TYPE_STRING if text == "string" else _Field.TYPE_BOOL
            else:
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".openapi.v2.{text}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"openapi.v2.{name}"))

"""Secrets, ConfigMaps, metadata. Source of the cases: semantics §1.2-1.5; pkg/apis/core/validation/validation_test.go."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from kubelet_secrets.api.validation.data import decoded_length, validate_config_map, validate_secret
from kubelet_secrets.api.validation.fields import invalid_message, status_causes
from kubelet_secrets.api.validation.metadata import validate_metadata, validate_metadata_update
from kubelet_secrets.api.validation.names import dns1123_subdomain_errors

Obj = dict[str, Any]

KEY_TEXT = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or "
    "'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)


def _secret(data: dict[str, bytes] | None = None, **fields: Any) -> Obj:
    encoded = {key: base64.b64encode(value).decode() for key, value in (data or {}).items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": "default", **fields.pop("metadata", {})},
        "type": "Opaque",
        "data": encoded,
        **fields,
    }


def _config_map(data: dict[str, str], **fields: Any) -> Obj:
    return {"kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}, "data": data, **fields}


def _texts(errors: Any) -> list[str]:
    return [str(error) for error in errors]


@pytest.mark.parametrize("key", ["a", "good", "a-b", "A.b_c-1", ".dotfile", ".hidden", "1234", "x" * 253])
def test_good_keys(key: str) -> None:
    """§1.2"""
    assert validate_secret(_secret({key: b"v"})) == []
    assert validate_config_map(_config_map({key: "v"})) == []


@pytest.mark.parametrize(
    ("key", "details"),
    [
        ("", [KEY_TEXT]),
        ("a b", [KEY_TEXT]),
        ("a/b", [KEY_TEXT]),
        ("a=b", [KEY_TEXT]),
        ("key:1", [KEY_TEXT]),
        ("ok\n", [KEY_TEXT]),
        (".", ["must not be '.'"]),
        ("..", ["must not be '..'"]),
        ("..x", ["must not start with '..'"]),
        ("x" * 254, ["must be no more than 253 characters"]),
        ("x y" * 100, ["must be no more than 253 characters", KEY_TEXT]),
        (".." + "x" * 252, ["must be no more than 253 characters", "must not start with '..'"]),
    ],
)
def test_bad_keys(key: str, details: list[str]) -> None:
    """§1.2: every check that fails is told, in this order."""
    shown = key.replace("\n", "\\n")
    expected = [f'data[{key}]: Invalid value: "{shown}": {detail}' for detail in details]
    assert _texts(validate_secret(_secret({key: b"v"}))) == expected
    assert _texts(validate_config_map(_config_map({key: "v"}))) == expected


MIB = 1 << 20


@pytest.mark.parametrize(
    ("data", "fits"),
    [
        pytest.param({"a": b"x" * MIB}, True, id="exactly"),
        pytest.param({"a": b"x" * MIB, "b": b"y"}, False, id="one-byte-more"),
        pytest.param({"a": b"x" * (MIB - 1), "b" * 200: b"y"}, True, id="keys-do-not-count"),
        pytest.param({"a": b"", "b": b""}, True, id="empty"),
    ],
)
def test_size_of_a_secret_counts_decoded_values(data: dict[str, bytes], fits: bool) -> None:
    """§1.3"""
    expected = [] if fits else ["data: Too long: may not be more than 1048576 bytes"]
    assert _texts(validate_secret(_secret(data))) == expected


@pytest.mark.parametrize(
    ("text", "binary", "fits"),
    [
        pytest.param("é" * (MIB // 2), {}, True, id="bytes-not-characters"),
        pytest.param("é" * (MIB // 2), {"b": "eA=="}, False, id="both-maps-together"),
        pytest.param("", {"b": base64.b64encode(b"x" * MIB).decode()}, True, id="binary-decoded"),
        pytest.param("x" * MIB + "y", {}, False, id="one-byte-more"),
    ],
)
def test_size_of_a_config_map_counts_both_maps(text: str, binary: dict[str, str], fits: bool) -> None:
    """§1.3: an error of the whole object, which has no field path."""
    expected = [] if fits else ["[]: Too long: may not be more than 1048576 bytes"]
    assert _texts(validate_config_map(_config_map({"a": text}, binaryData=binary))) == expected


@pytest.mark.parametrize("length", range(9))
def test_decoded_length(length: int) -> None:
    text = base64.b64encode(b"x" * length).decode()
    assert decoded_length(text) == length
    assert decoded_length(text[:4] + "\r\n" + text[4:]) == length


@pytest.mark.parametrize(
    ("kind", "data", "errors"),
    [
        ("", {}, []),
        ("Opaque", {}, []),
        ("kubernetes.io/dockercfg", {}, ["data[.dockercfg]: Required value"]),
        (
            "kubernetes.io/dockercfg",
            {".dockercfg": b'"canary"'},
            [
                'data[.dockercfg]: Invalid value: "<secret contents redacted>": json: cannot unmarshal string into Go value of '
                "type map[string]interface {}"
            ],
        ),
        ("kubernetes.io/dockerconfigjson", {}, ["data[.dockerconfigjson]: Required value"]),
        (
            "kubernetes.io/dockerconfigjson",
            {".dockercfg": b"{}"},
            ["data[.dockerconfigjson]: Required value"],
        ),
        ("kubernetes.io/dockercfg", {".dockercfg": b'{"r.example": {}}'}, []),
        ("kubernetes.io/dockerconfigjson", {".dockerconfigjson": b'{"auths": {}}'}, []),
        ("kubernetes.io/dockerconfigjson", {".dockerconfigjson": b"null"}, []),
        (
            "kubernetes.io/dockerconfigjson",
            {".dockerconfigjson": b"[]"},
            [
                'data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": json: cannot unmarshal array into Go '
                "value of type map[string]interface {}"
            ],
        ),
        (
            "kubernetes.io/dockerconfigjson",
            {".dockerconfigjson": b"canary"},
            ['data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": invalid character in JSON input'],
        ),
        ("kubernetes.io/basic-auth", {}, ["data[username]: Required value", "data[password]: Required value"]),
        ("kubernetes.io/basic-auth", {"password": b""}, []),
        ("kubernetes.io/basic-auth", {"username": b"u"}, []),
        ("kubernetes.io/ssh-auth", {}, ["data[ssh-privatekey]: Required value"]),
        ("kubernetes.io/ssh-auth", {"ssh-privatekey": b""}, ["data[ssh-privatekey]: Required value"]),
        ("kubernetes.io/ssh-auth", {"ssh-privatekey": b"k"}, []),
        ("kubernetes.io/tls", {}, ["data[tls.crt]: Required value", "data[tls.key]: Required value"]),
        ("kubernetes.io/tls", {"tls.crt": b""}, ["data[tls.key]: Required value"]),
        ("kubernetes.io/tls", {"tls.crt": b"", "tls.key": b""}, []),
        ("bootstrap.kubernetes.io/token", {}, []),
        ("example.com/anything", {}, []),
        (
            "kubernetes.io/service-account-token",
            {},
            ["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        ),
    ],
)
def test_types(kind: str, data: dict[str, bytes], errors: list[str]) -> None:
    """§1.4: the same when it is created and at every update."""
    found = _secret(data, type=kind)
    assert _texts(validate_secret(found)) == errors
    assert _texts(validate_secret(found, found)) == errors


def test_a_service_account_token_names_its_account() -> None:
    metadata = {"annotations": {"kubernetes.io/service-account.name": "sa"}}
    assert validate_secret(_secret(type="kubernetes.io/service-account-token", metadata=metadata)) == []


@pytest.mark.parametrize(
    ("old", "new", "errors"),
    [
        ({"type": "Opaque"}, {"type": "x"}, ['type: Invalid value: "x": field is immutable']),
        ({"immutable": True}, {"immutable": True}, []),
        ({"immutable": True}, {}, ["immutable: Forbidden: field is immutable when `immutable` is set"]),
        (
            {"immutable": True, "data": {}},
            {"immutable": True, "data": {"a": b"x"}},
            ["data: Forbidden: field is immutable when `immutable` is set"],
        ),
        (
            {"immutable": True, "data": {"a": b"x"}},
            {"immutable": False, "data": {}},
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ],
        ),
        ({"data": {}}, {"immutable": True, "data": {"a": b"x"}}, []),
        ({"data": {"a": b"x"}}, {"immutable": True, "data": {"a": b"x"}}, []),
        ({"immutable": False}, {}, []),
        ({"immutable": True}, {"immutable": True, "metadata": {"labels": {"a": "b"}}}, []),
    ],
)
def test_updates(old: Obj, new: Obj, errors: list[str]) -> None:
    """§1.5"""
    assert _texts(validate_secret(_secret(**new), _secret(**old))) == errors


def test_an_immutable_config_map_keeps_its_binary_data() -> None:
    old = _config_map({"a": "b"}, immutable=True, binaryData={"c": "eA=="})
    assert _texts(validate_config_map({**old, "binaryData": {}}, old)) == [
        "binaryData: Forbidden: field is immutable when `immutable` is set"
    ]
    assert _texts(validate_config_map(_config_map({"c": "x"}, binaryData={"c": "eA=="}))) == [
        'data[c]: Invalid value: "c": duplicate of key present in binaryData'
    ]


def test_messages_and_causes() -> None:
    one = validate_secret(_secret({"a b": b"canary"}))
    assert invalid_message("Secret", "x", one) == f'Secret "x" is invalid: data[a b]: Invalid value: "a b": {KEY_TEXT}'
    two = validate_secret(_secret(type="kubernetes.io/basic-auth"))
    message = invalid_message("Secret", "x", two)
    assert message == 'Secret "x" is invalid: [data[username]: Required value, data[password]: Required value]'
    assert status_causes(two)[0] == {
        "reason": "FieldValueRequired",
        "message": "Required value",
        "field": "data[username]",
    }


# --- metadata ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "errors"),
    [
        ({"name": "ok"}, []),
        ({}, ["metadata.name: Required value: name or generateName is required"]),
        (
            {"name": "Not_OK"},
            [
                'metadata.name: Invalid value: "Not_OK": a lowercase RFC 1123 subdomain must consist of lower case '
                "alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character "
                "(e.g. 'example.com', "
                r"regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ],
        ),
        ({"name": "a" * 254}, [f'metadata.name: Invalid value: "{"a" * 254}": must be no more than 253 characters']),
        ({"name": "x", "generateName": "prefix-"}, []),
        (
            {"name": "x", "labels": {"a": "b c"}},
            [
                'metadata.labels: Invalid value: "b c": a valid label must be an empty string or consist of alphanumeric '
                "characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or "
                "'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            ],
        ),
        ({"name": "x", "annotations": {"Upper.Example.com/Key": "any value\n"}}, []),
        (
            {"name": "x", "annotations": {"a": "x" * 262144}},
            ["metadata.annotations: Too long: may not be more than 262144 bytes"],
        ),
        (
            {"name": "x", "finalizers": ["bare"]},
            [
                'metadata.finalizers[0]: Invalid value: "bare": name is neither a standard finalizer name nor is it fully '
                "qualified"
            ],
        ),
        ({"name": "x", "finalizers": ["kubernetes", "example.com/x"]}, []),
        (
            {"name": "x", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]},
            ['metadata.ownerReferences.uid: Invalid value: "": must not be empty'],
        ),
    ],
)
def test_metadata(metadata: Obj, errors: list[str]) -> None:
    found = validate_metadata({"namespace": "default", **metadata}, dns1123_subdomain_errors, is_namespaced=True)
    assert _texts(found) == errors


def test_namespaces_where_they_belong() -> None:
    assert _texts(validate_metadata({"name": "x"}, dns1123_subdomain_errors, is_namespaced=True)) == [
        "metadata.namespace: Required value"
    ]
    found = validate_metadata({"name": "x", "namespace": "y"}, dns1123_subdomain_errors, is_namespaced=False)
    assert _texts(found) == ["metadata.namespace: Forbidden: not allowed on this type"]


def test_metadata_updates() -> None:
    old = {"name": "x", "namespace": "y", "uid": "1"}
    assert validate_metadata_update(old, old) == []
    assert _texts(validate_metadata_update({**old, "uid": "2"}, old)) == [
        'metadata.uid: Invalid value: "2": field is immutable'
    ]
    dying = {**old, "deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert _texts(validate_metadata_update({**dying, "finalizers": ["example.com/x"]}, dying)) == [
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, "
        'found new finalizers []string{"example.com/x"}'
    ]

"""JSON into structs and back: values byte for byte, and no value in any error. Source: encoding/json; semantics §1.1."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.api.core import ConfigMap, Pod, Secret
from kubelet_secrets.api.decode import DecodeError, convert, decode, encode, to_builtins

KEYS = st.from_regex(r"[-._a-zA-Z0-9]{1,20}", fullmatch=True)


def secret(**fields: Any) -> Secret:
    return decode(json.dumps({"kind": "Secret", "metadata": {"name": "x"}, **fields}).encode(), Secret)


@given(st.dictionaries(KEYS, st.binary(max_size=200), max_size=6))
def test_every_byte_survives_the_way_there_and_back(data: dict[str, bytes]) -> None:
    """§1.1: bytes, UTF-8 or not, in base64."""
    written = {key: base64.b64encode(value).decode() for key, value in data.items()}
    found = secret(data=written)
    assert {key: value.reveal() for key, value in found.data.items()} == data
    assert json.loads(encode(found)).get("data", {}) == written
    assert convert(to_builtins(found), Secret).data == found.data


@given(
    st.dictionaries(KEYS, st.text(max_size=50), max_size=4), st.dictionaries(KEYS, st.binary(max_size=50), max_size=4)
)
def test_string_data_wins_and_is_never_given_back(texts: dict[str, str], data: dict[str, bytes]) -> None:
    found = secret(data={key: base64.b64encode(value).decode() for key, value in data.items()}, stringData=texts)
    expected = {**data, **{key: text.encode("utf-8") for key, text in texts.items()}}
    assert {key: value.reveal() for key, value in found.data.items()} == expected
    assert "stringData" not in json.loads(encode(found))


@given(st.binary(min_size=1, max_size=100), st.integers(1, 20))
def test_line_breaks_in_base64_do_not_matter(value: bytes, width: int) -> None:
    """What `base64` prints and a block scalar holds."""
    written = base64.b64encode(value).decode()
    lines = "\r\n".join(written[start : start + width] for start in range(0, len(written), width)) + "\n"
    assert secret(data={"k": lines}).data["k"].reveal() == value


@given(st.text(max_size=30))
def test_what_is_no_base64_is_refused_without_being_shown(text: str) -> None:
    plain = text.replace("\n", "").replace("\r", "")
    try:
        expected = base64.b64decode(plain.encode("ascii"), validate=True)
    except ValueError:  # of which UnicodeEncodeError and binascii.Error are
        with pytest.raises(DecodeError) as caught:
            secret(data={"k": text})
        assert str(caught.value) == "Secret: Invalid base64-encoded string - at `$.data[k]`"
        assert caught.value.__cause__ is None
    else:
        assert secret(data={"k": text}).data["k"].reveal() == expected


@pytest.mark.parametrize("text", ["s3cr3t!!", "YQ", "YQ=", "YQ==YQ==", "Y Q = =", "YQ==\t", "-_=="])
def test_malformed_base64(text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        secret(data={"k": text})
    assert text not in str(caught.value)


def test_null_entries_are_empty_values_and_null_fields_absent() -> None:
    found = secret(data={"a": None}, stringData={"b": None}, type=None, immutable=None)
    assert {key: value.reveal() for key, value in found.data.items()} == {"a": b"", "b": b""}
    assert (found.type, found.immutable) == ("Opaque", None)
    config_map = decode(b'{"data": {"a": null}, "binaryData": null}', ConfigMap)
    assert (config_map.data, config_map.binary_data) == ({"a": ""}, {})


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        ({"data": {"k": 5}}, "Secret: Expected a base64 string - at `$.data[k]`"),
        ({"data": ["s3cr3t"]}, "Secret: Expected `object`, got `array` - at `$.data`"),
        (
            {"data": {"a": "eA==", "b.c[0]": "!", "d": "eA=="}},
            "Secret: Invalid base64-encoded string - at `$.data[b.c[0]]`",
        ),
        ({"stringData": {"a": "x", "b": ["s3cr3t"]}}, "Secret: Expected `str`, got `array` - at `$.stringData[b]`"),
        (
            {"metadata": {"name": "x", "labels": {"a": "1", "b": 2}}},
            "Secret: Expected `str`, got `int` - at `$.metadata.labels[b]`",
        ),
        ({"immutable": "s3cr3t"}, "Secret: Expected `bool | null`, got `str` - at `$.immutable`"),
    ],
)
def test_wrong_types_are_named_by_their_field(obj: dict[str, Any], message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        secret(**obj)
    assert str(caught.value) == message


def test_keys_on_a_path_are_named_at_every_depth() -> None:
    spec = {"containers": [{"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": 1, "memory": []}}}]}
    with pytest.raises(DecodeError, match=re.escape("at `$.spec.containers[1].resources.limits[memory]`")):
        convert({"spec": spec}, Pod)
    with pytest.raises(DecodeError, match=re.escape("Invalid base64 encoded string - at `$.binaryData[b]`")):
        convert({"binaryData": {"a": "eA==", "b": "%"}}, ConfigMap)


def test_unknown_fields_of_a_newer_server_are_passed_over() -> None:
    assert (
        decode(b'{"spec": {"containers": [{"name": "c", "newField": {"a": 1}}]}}', Pod).spec.containers[0].name == "c"
    )


@pytest.mark.parametrize("text", [b"", b"{", b"s3cr3t", b"[]", b'"s3cr3t"', b"\xff"])
def test_what_is_no_object_is_refused_without_being_quoted(text: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(text, Secret)
    assert "s3cr3t" not in str(caught.value)

"""Which files a secret or configMap volume shows, and which words say why not.

Source: pkg/volume/secret/secret_test.go and pkg/volume/configmap/configmap_test.go, TestMakePayload; semantics §2.3.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.api.core import ConfigMap, KeyToPath, Pod, Secret, Volume
from kubelet_secrets.api.decode import convert, decode
from kubelet_secrets.api.meta import ObjectMeta
from kubelet_secrets.api.sources import NodeInfo, ObjectSnapshot
from kubelet_secrets.errors import CacheNotSynced, InvalidPath, MissingKey, MissingObject, SetUpError
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.volume.payload import (
    Payload,
    has_payload,
    make_config_map_payload,
    make_secret_payload,
    make_volume_payload,
    plugin_directory,
)

META = ObjectMeta(name="s", namespace="ns", resource_version="7")
SECRET = Secret(metadata=META, data={"foo": SensitiveBytes(b"foo"), "bar": SensitiveBytes(b"bar")})
CONFIG_MAP = ConfigMap(metadata=META, data={"foo": "foo"}, binary_data={"bar": b"bar"})


def items(*selections: tuple[str, str] | tuple[str, str, int]) -> tuple[KeyToPath, ...]:
    return tuple(KeyToPath(key=s[0], path=s[1], mode=s[2] if len(s) == 3 else None) for s in selections)


def shown(payload: Payload) -> dict[str, tuple[bytes, int]]:
    return {path: (file.data.reveal(), file.mode) for path, file in payload.items()}


# Source: TestMakePayload, the same table for both kinds.
TABLE = [
    pytest.param((), 0o644, False, {"foo": (b"foo", 0o644), "bar": (b"bar", 0o644)}, id="no overrides"),
    pytest.param(items(("foo", "path/to/foo.txt")), 0o644, False, {"path/to/foo.txt": (b"foo", 0o644)}, id="basic 1"),
    pytest.param(
        items(("foo", "path/to/1/2/3/foo.txt")), 0o644, False, {"path/to/1/2/3/foo.txt": (b"foo", 0o644)}, id="subdirs"
    ),
    pytest.param(
        items(("foo", "path/to/1/2/3/foo.txt"), ("bar", "another/path/to/the/esteemed/bar.bin")),
        0o644,
        False,
        {"path/to/1/2/3/foo.txt": (b"foo", 0o644), "another/path/to/the/esteemed/bar.bin": (b"bar", 0o644)},
        id="subdirs 3",
    ),
    pytest.param(
        items(("foo", "foo.txt", 0o400), ("bar", "bar.bin", 0o400)),
        0o644,
        False,
        {"foo.txt": (b"foo", 0o400), "bar.bin": (b"bar", 0o400)},
        id="mapping with Mode",
    ),
    pytest.param(
        items(("foo", "foo.txt"), ("bar", "bar.bin")),
        0o600,
        False,
        {"foo.txt": (b"foo", 0o600), "bar.bin": (b"bar", 0o600)},
        id="mapping with defaultMode",
    ),
    pytest.param(items(("zab", "path/to/zab.txt")), 0o644, True, {}, id="optional non existent key"),
    pytest.param(items(("foo", "a"), ("bar", "a")), 0o644, False, {"a": (b"bar", 0o644)}, id="last item wins"),
    pytest.param(items(("foo", "a"), ("bar", "./a")), 0o644, False, {"a": (b"bar", 0o644)}, id="also when unclean"),
    pytest.param(
        items(("foo", "a"), ("foo", "b", 0)),
        0o644,
        False,
        {"a": (b"foo", 0o644), "b": (b"foo", 0)},
        id="a key twice, mode 0",
    ),
]


@pytest.mark.parametrize(("selection", "default_mode", "optional", "expected"), TABLE)
def test_secret_payload(
    selection: tuple[KeyToPath, ...], default_mode: int, optional: bool, expected: dict[str, tuple[bytes, int]]
) -> None:
    payload = make_secret_payload(selection, SECRET, default_mode=default_mode, optional=optional)
    assert shown(payload) == expected


@pytest.mark.parametrize(("selection", "default_mode", "optional", "expected"), TABLE)
def test_config_map_payload(
    selection: tuple[KeyToPath, ...], default_mode: int, optional: bool, expected: dict[str, tuple[bytes, int]]
) -> None:
    payload = make_config_map_payload(selection, CONFIG_MAP, default_mode=default_mode, optional=optional)
    assert shown(payload) == expected


def test_missing_key_is_named() -> None:
    for optional_other in (items(("zab", "x")), items(("zab", "/also/a/bad/path"))):
        with pytest.raises(MissingKey) as caught:
            make_secret_payload(optional_other, SECRET, default_mode=0o644, optional=False)
        assert str(caught.value) == "references non-existent secret key: zab"
    with pytest.raises(MissingKey) as caught:
        make_config_map_payload(items(("zab", "x")), CONFIG_MAP, default_mode=0o644, optional=False)
    assert str(caught.value) == "configmap references non-existent config key: zab"


@pytest.mark.parametrize("selection", [(), items(("foo", "foo"))])
def test_missing_optional_object_shows_nothing(selection: tuple[KeyToPath, ...]) -> None:
    assert make_secret_payload(selection, None, default_mode=0o644, optional=True) == {}
    assert make_config_map_payload(selection, None, default_mode=0o644, optional=True) == {}


def test_origin_names_object_key_and_version_and_who_was_replaced() -> None:
    payload = make_secret_payload(items(("foo", "a"), ("bar", "a")), SECRET, default_mode=0o644, optional=False)
    origin = payload["a"].origin
    assert (str(origin), origin.namespace, origin.resource_version) == ("secret/s key bar", "ns", "7")
    assert [str(replaced) for replaced in payload["a"].replaced] == ["secret/s key foo"]


def test_data_is_shared_and_hidden() -> None:
    payload = make_secret_payload((), SECRET, default_mode=0o644, optional=False)
    assert payload["foo"].data is SECRET.data["foo"]
    assert "<3 bytes>" in repr(payload)


def test_file_in_the_way_of_a_directory_is_refused() -> None:
    with pytest.raises(InvalidPath) as caught:
        make_secret_payload(items(("foo", "a"), ("bar", "a/b")), SECRET, default_mode=0o644, optional=False)
    assert str(caught.value) == "invalid path: a is both a file and the directory of a/b"


def test_config_map_data_goes_before_binary_data() -> None:
    both = ConfigMap(metadata=META, data={"k": "text"}, binary_data={"k": b"binary"})
    assert shown(make_config_map_payload((), both, default_mode=0o644, optional=False)) == {"k": (b"text", 0o644)}


# --- the door ------------------------------------------------------------------------------------------------------

POD = convert({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [{"name": "c"}]}}, Pod)
FOUND = ObjectSnapshot(secrets={"s": SECRET}, config_maps={"s": CONFIG_MAP})


def volume_payload(source: dict[str, Any], objects: ObjectSnapshot = FOUND) -> Payload:
    return make_volume_payload(convert({"name": "v", **source}, Volume), POD, objects, node=NodeInfo())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param({"secret": {"secretName": "s", "defaultMode": 0o400}}, {"foo", "bar"}, id="secret"),
        pytest.param({"configMap": {"name": "s", "defaultMode": 0o400}}, {"foo", "bar"}, id="configMap"),
        pytest.param({"secret": {"secretName": "none", "defaultMode": 0o400, "optional": True}}, set(), id="optional"),
        pytest.param({"configMap": {"name": "none", "defaultMode": 0o400, "optional": True}}, set(), id="optional-cm"),
    ],
)
def test_door(source: dict[str, Any], expected: set[str]) -> None:
    assert set(volume_payload(source)) == expected


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        pytest.param(
            {"secret": {"secretName": "none", "defaultMode": 0}}, MissingObject, 'secret "none" not found', id="secret"
        ),
        pytest.param(
            {"configMap": {"name": "none", "defaultMode": 0}},
            MissingObject,
            'configmap "none" not found',
            id="configMap",
        ),
        pytest.param(
            {"secret": {"secretName": "s"}},
            SetUpError,
            "no defaultMode used, not even the default value for it",
            id="no-mode",
        ),
        pytest.param(
            {"configMap": {"name": "s"}},
            SetUpError,
            "no defaultMode used, not even the default value for it",
            id="no-mode-cm",
        ),
        pytest.param(
            {"downwardAPI": {}},
            SetUpError,
            "no defaultMode used, not even the default value for it",
            id="no-mode-downward",
        ),
        pytest.param(
            {"projected": {}},
            SetUpError,
            "no defaultMode used, not even the default value for it",
            id="no-mode-projected",
        ),
        pytest.param(
            {"secret": {"secretName": "s", "defaultMode": 0, "items": [{"key": "foo", "path": "..x"}]}},
            InvalidPath,
            "invalid path: must not start with '..': ..x",
            id="path",
        ),
    ],
)
def test_door_refuses(source: dict[str, Any], kind: type[SetUpError], message: str) -> None:
    with pytest.raises(kind) as caught:
        volume_payload(source)
    assert str(caught.value) == message


@pytest.mark.parametrize("optional", [True, False])
def test_optional_forgives_absence_only(optional: bool) -> None:
    objects = ObjectSnapshot(secrets={"s": CacheNotSynced("secret")})
    with pytest.raises(CacheNotSynced) as caught:
        volume_payload({"secret": {"secretName": "s", "defaultMode": 0, "optional": optional}}, objects)
    assert str(caught.value) == "failed to sync secret cache: timed out waiting for the condition"


def test_types_with_and_without_payload() -> None:
    volumes = {
        "secret": "kubernetes.io~secret",
        "configMap": "kubernetes.io~configmap",
        "downwardAPI": "kubernetes.io~downward-api",
        "projected": "kubernetes.io~projected",
        "emptyDir": "kubernetes.io~empty-dir",
    }
    for source, directory in volumes.items():
        volume = convert({"name": "v", source: {}}, Volume)
        assert plugin_directory(volume) == directory
        assert has_payload(volume) == (source != "emptyDir")
    with pytest.raises(ValueError, match="without a directory"):
        plugin_directory(convert({"name": "v", "hostPath": {"path": "/"}}, Volume))


@given(st.dictionaries(st.from_regex(r"[a-z][-._a-z]{0,10}", fullmatch=True), st.binary(max_size=100), max_size=6))
def test_any_bytes_survive_from_json_to_the_file(data: dict[str, bytes]) -> None:
    """base64 in, the same bytes out, UTF-8 or not."""
    import base64
    import json

    wire = {"metadata": {"name": "s"}, "data": {key: base64.b64encode(value).decode() for key, value in data.items()}}
    secret = decode(json.dumps(wire).encode(), Secret)
    payload = make_secret_payload((), secret, default_mode=0o644, optional=False)
    assert {path: file.data.reveal() for path, file in payload.items()} == data


def test_key_with_a_null_value_is_an_empty_file() -> None:
    """``data: {key: }``: a null entry of a Go map is the zero value, not an absent key."""
    secret = convert({"metadata": {"name": "s"}, "data": {"a": None, "b": "Yg=="}, "stringData": {"c": None}}, Secret)
    payload = make_secret_payload((), secret, default_mode=0o644, optional=False)
    assert {path: file.data.reveal() for path, file in payload.items()} == {"a": b"", "b": b"b", "c": b""}
    config_map = convert({"metadata": {"name": "c"}, "data": {"a": None}, "binaryData": {"b": None}}, ConfigMap)
    assert set(make_config_map_payload((), config_map, default_mode=0o644, optional=False)) == {"a", "b"}

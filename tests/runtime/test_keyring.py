"""Pull secrets: parsing, index order, matching. Source: pkg/credentialprovider keyring_test.go, config_test.go;
semantics §9.2, §9.3.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from kubelet_secrets.api.core import Secret
from kubelet_secrets.api.meta import ObjectMeta, PodUID
from kubelet_secrets.runtime.keyring import (
    Keyring,
    KeyringError,
    RegistryCredentials,
    auth_document,
    credential_hash,
    lookup,
    make_keyring,
    matches,
    registry_key,
)
from kubelet_secrets.runtime.nodekeyring import read_node_keyring, search_paths
from kubelet_secrets.sensitive import SensitiveBytes


def secret(document: Any, *, name: str = "s", legacy: bool = False, raw: bytes | None = None) -> Secret:
    key = ".dockercfg" if legacy else ".dockerconfigjson"
    data = raw if raw is not None else json.dumps(document).encode()
    return Secret(
        metadata=ObjectMeta(name=name, namespace="ns", uid=PodUID(f"uid-{name}")),
        type="kubernetes.io/dockercfg" if legacy else "kubernetes.io/dockerconfigjson",
        data={key: SensitiveBytes(data)},
    )


def auth(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def logins(found: tuple[RegistryCredentials, ...]) -> list[tuple[str, bytes]]:
    return [(credentials.username, credentials.password.reveal()) for credentials in found]


@pytest.mark.parametrize(
    ("glob", "target", "expected"),
    [
        ("*.kubernetes.io", "prefix.kubernetes.io", True),
        ("prefix.*.io", "prefix.kubernetes.io", True),
        ("prefix.kubernetes.*", "prefix.kubernetes.io", True),
        ("*-good.kubernetes.io", "prefix-good.kubernetes.io", True),
        ("*.kubernetes.io/blah", "prefix.kubernetes.io/blah", True),
        ("prefix.*.io/foo", "prefix.kubernetes.io/foo/bar", True),
        ("prefix.*.io:1111/foo", "prefix.kubernetes.io:1111/foo/bar", True),
        ("*.kubernetes.io", "kubernetes.io", False),
        ("*.*.kubernetes.io", "prefix.kubernetes.io", False),
        ("*kubernetes.io", "a.kubernetes.io", False),
        ("*kubernetes.io", "kubernetes.io", True),
        ("*.*.*.kubernetes.io", "a.b.c.kubernetes.io", True),
        ("kubernetes.io", "kubernetes.com", False),
        ("k*.io", "quay.io", False),
        ("*.kubernetes.io:1234/blah", "prefix.kubernetes.io:1111/blah", False),
        ("prefix.*.io/foo", "prefix.kubernetes.io:1111/foo/bar", False),
    ],
)
def test_registry_keys_match_label_by_label(glob: str, target: str, expected: bool) -> None:
    assert matches(glob, target) is expected


@pytest.mark.parametrize(
    ("location", "key"),
    [
        ("https://index.docker.io/v1/", "index.docker.io"),
        ("index.docker.io/v2/", "index.docker.io"),
        ("http://quay.io", "quay.io"),
        ("quay.io/", "quay.io"),
        ("quay.io/team", "quay.io/team"),
        ("https://quay.io/v1/team", "quay.io/team"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("https://*.docker.io/v1/", "*.docker.io"),
        ("", None),
        ("a b", None),
    ],
)
def test_registry_keys_are_normalised(location: str, key: str | None) -> None:
    assert registry_key(location) == key


@pytest.mark.parametrize(
    ("key", "image", "expected"),
    [
        ("https://*.docker.io/v1/", "prefix.docker.io/path:1111/foo/bar", True),
        ("https://*.docker.io/v2/", "prefix.docker.io/path:1111/foo/bar", True),
        ("https://prefix.*.io/path:1111", "prefix.docker.io/path/subpath:1111", False),
        ("https://index.docker.io/v1/", "google/docker-registry", True),
        ("https://index.docker.io/v1/", "library/x", True),
        ("https://index.docker.io/v1/", "ubuntu", True),
        ("https://index.docker.io/v1/", "docker.io/x", True),
        ("https://index.docker.io/v1/", "index.docker.io/x", True),
        ("https://index.docker.io/v1/", "world.mesos.org/foo/bar", False),
    ],
)
def test_lookup_by_image(key: str, image: str, expected: bool) -> None:
    keyring = make_keyring([secret({"auths": {key: {"username": "u", "password": "p"}}})])
    assert bool(lookup(keyring, image)) is expected


def test_every_matching_key_is_tried_the_most_specific_first() -> None:
    first = secret({"auths": {"*.io": {"auth": auth("star:1")}, "quay.io": {"auth": auth("host:2")}}}, name="a")
    second = secret(
        {"quay.io/team": {"auth": auth("team:3")}, "quay.io": {"auth": auth("host2:4")}}, name="b", legacy=True
    )
    found = lookup(make_keyring([first, second]), "quay.io/team/app")
    assert logins(found) == [("team", b"3"), ("host", b"2"), ("host2", b"4"), ("star", b"1")]
    assert [each.source.name for each in found if each.source] == ["b", "a", "b", "a"]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        pytest.param({"username": "u", "password": "p", "email": "e"}, ("u", b"p"), id="fields"),
        pytest.param({"auth": auth("u:p:q")}, ("u", b"p:q"), id="first-colon-splits"),
        pytest.param({"username": "x", "password": "y", "auth": auth("u:p")}, ("u", b"p"), id="auth-wins"),
        pytest.param({"auth": auth("user:pass1").rstrip("=")}, ("user", b"pass1"), id="unpadded"),
        pytest.param({"unknown": 1}, ("", b""), id="unknown-fields"),
    ],
)
def test_entries(entry: dict[str, Any], expected: tuple[str, bytes]) -> None:
    assert logins(lookup(make_keyring([secret({"auths": {"quay.io": entry}})]), "quay.io/x")) == [expected]


@pytest.mark.parametrize(
    "ignored",
    [
        pytest.param(Secret(type="Opaque", data={".dockerconfigjson": SensitiveBytes(b"{}")}), id="other-type"),
        pytest.param(Secret(type="kubernetes.io/dockerconfigjson"), id="no-key"),
        pytest.param(secret(None, raw=b""), id="empty-value"),
        pytest.param(secret({"credHelpers": {"quay.io": "x"}}), id="no-auths"),
        pytest.param(secret(None), id="null"),
    ],
)
def test_secrets_without_credentials_are_passed_over(ignored: Secret) -> None:
    assert make_keyring([ignored]) == Keyring()


@pytest.mark.parametrize(
    ("document", "raw", "text"),
    [
        pytest.param(None, b"{s3cr3t", "not valid JSON", id="no-json"),
        pytest.param(["s3cr3t"], None, "not a JSON object", id="no-object"),
        pytest.param({"auths": ["s3cr3t"]}, None, "auths is not an object", id="auths"),
        pytest.param({"auths": {"q.io": "s3cr3t"}}, None, "an entry is not a JSON object", id="entry"),
        pytest.param({"auths": {"q.io": {"password": ["s3cr3t"]}}}, None, "field password is not a string", id="field"),
        pytest.param({"auths": {"q.io": {"auth": "s3cr3t!"}}}, None, "illegal base64 data", id="base64"),
        pytest.param({"auths": {"q.io": {"auth": auth("s3cr3t")}}}, None, "must be formatted as base64", id="no-colon"),
    ],
)
def test_broken_secrets_are_named_and_not_quoted(document: Any, raw: bytes | None, text: str) -> None:
    with pytest.raises(KeyringError, match=text) as caught:
        make_keyring([secret(document, raw=raw)])
    assert '"ns/s"' in str(caught.value)
    assert caught.value.__cause__ is None
    for shown in (str(caught.value), repr(caught.value)):
        assert "s3cr3t" not in shown
        assert auth("s3cr3t") not in shown


def test_the_nodes_first_file_counts_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.joinpath(".docker").mkdir(parents=True)
    paths = list(search_paths(tmp_path, home))
    assert read_node_keyring(paths[:2]) == Keyring()
    paths[4].write_text(json.dumps({"q.io": {"auth": auth("old:1")}}))
    found = lookup(read_node_keyring(paths), "q.io/x")
    assert (logins(found), found[0].source) == ([("old", b"1")], None)
    paths[1].write_text(json.dumps({"auths": {"q.io": {"auth": auth("home:2")}}, "credsStore": "x"}))
    assert logins(lookup(read_node_keyring(paths), "q.io/x")) == [("home", b"2")]
    paths[0].write_text("{s3cr3t")
    with pytest.raises(KeyringError, match="not valid JSON") as caught:
        read_node_keyring(paths)
    assert str(paths[0]) in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_credentials_do_not_show_and_compare_by_login() -> None:
    one = RegistryCredentials(username="u", password=SensitiveBytes(b"s3cr3t"))
    other = lookup(make_keyring([secret({"auths": {"q.io": {"auth": auth("u:s3cr3t")}}})]), "q.io/x")[0]
    assert "s3cr3t" not in repr(one)
    assert one != other
    assert one.same_login(other)
    assert credential_hash(one) == credential_hash(other)
    assert json.loads(auth_document("q.io", one)) == {"auths": {"q.io": {"auth": auth("u:s3cr3t")}}}
    assert json.loads(auth_document("q.io", None)) == {"auths": {}}

"""The registry of the proof, asked as a client asks; that skopeo pulls from it shows in tests/e2e/test_verify.py."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet_secrets.testing.images import build_busybox_image
from kubelet_secrets.verify.pullserver import PullServer, serve_image


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PullServer]:
    layout = tmp_path_factory.mktemp("layout")
    build_busybox_image(layout)
    with serve_image(layout, username="u", password=b'p:"/') as server:
        yield server


def ask(server: PullServer, path: str, login: str | None = 'u:p:"/') -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://{server.address}{path}")
    if login is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize("login", [None, "u:wrong", "other:p", ""])
def test_without_the_password_nothing_is_told(server: PullServer, login: str | None) -> None:
    refused = server.refused
    for path in ("/v2/", "/v2/a/manifests/latest"):
        assert ask(server, path, login)[0] == 401
    assert server.refused == refused + 2


def test_manifest_and_blobs(server: PullServer) -> None:
    assert ask(server, "/v2/") == (200, b"{}")
    status, manifest = ask(server, "/v2/any/name/manifests/any-tag")
    assert status == 200
    for descriptor in (json.loads(manifest)["config"], *json.loads(manifest)["layers"]):
        status, blob = ask(server, f"/v2/any/name/blobs/{descriptor['digest']}")
        assert (status, len(blob)) == (200, descriptor["size"])


@pytest.mark.parametrize(
    "path",
    [
        "/v2/any/blobs/sha256:../../index.json",
        "/v2/any/blobs/sha256:" + "0" * 64,
        "/v2/any/manifests/sha512:" + "0" * 64,
        "/etc/passwd",
        "/v2/%2e%2e/blobs/x",
    ],
)
def test_anything_else_is_not_found(server: PullServer, path: str) -> None:
    assert ask(server, path)[0] == 404


def test_directory_is_not_served(server: PullServer, tmp_path: Path) -> None:
    assert ask(server, f"/v2/any/blobs/sha256:{tmp_path}")[0] == 404

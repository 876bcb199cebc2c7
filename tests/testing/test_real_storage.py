"""What kube-apiserver keeps in etcd is opened here, and it opens what is made here: the same key, path and file.

Source: https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/; the JSON gateway of etcd's API v3.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from kubelet_secrets.api.meta import SECRETS
from kubelet_secrets.apiserver import protobuf
from kubelet_secrets.apiserver.encryption_source import open_source
from kubelet_secrets.apiserver.protobuf_form import encode_protobuf
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import open_client
from kubelet_secrets.testing.controlplane import ControlPlane, find_assets, run_control_plane

DATA = {"plain": base64.b64encode(b"hunter2").decode(), "binary": base64.b64encode(bytes(range(256))).decode(), "e": ""}
KEYS = [{"name": f"key{number}", "secret": base64.b64encode(os.urandom(32)).decode()} for number in (1, 2)]
PROVIDERS: dict[str, dict[str, Any]] = {
    "identity": {"identity": {}},
    **{name: {name: {"keys": KEYS}} for name in ("aescbc", "aesgcm", "secretbox")},
}


@pytest.fixture(scope="module", params=PROVIDERS)
def plane(request: pytest.FixtureRequest) -> Iterator[tuple[ControlPlane, Path]]:
    assets = find_assets()
    assert assets is not None, "not collected otherwise"
    with tempfile.TemporaryDirectory(prefix="ks-plane-") as name:
        file = Path(name, "encryption.json")
        rule = {"resources": ["secrets"], "providers": [PROVIDERS[request.param]]}
        head = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration"}
        file.write_text(json.dumps({**head, "resources": [rule]}))
        with run_control_plane(assets, Path(name), extra=[f"--encryption-provider-config={file}"]) as running:
            yield running, file


def _etcd(plane: ControlPlane, what: str, **fields: bytes) -> list[dict[str, str]]:
    body = json.dumps({name: base64.b64encode(value).decode() for name, value in fields.items()}).encode()
    with urllib.request.urlopen(f"{plane.etcd_url}/v3/kv/{what}", data=body, timeout=30) as answer:
        found: list[dict[str, str]] = json.load(answer).get("kvs", [])
        return found


def _value(entry: dict[str, str]) -> bytes:
    return base64.b64decode(entry["value"])


async def test_what_it_stores_is_opened_here(plane: tuple[ControlPlane, Path]) -> None:
    running, file = plane
    transformer = (await open_source(file)).transformer_for("secrets")
    with trio.fail_after(60):
        async with open_client(load_kubeconfig(running.kubeconfig)) as client:
            body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs"}, "data": DATA}
            await client.create(SECRETS, "default", body)
            live = await client.get(SECRETS, "default", "theirs", dict)
    key = b"/registry/secrets/default/theirs"
    (entry,) = _etcd(running, "range", key=key)
    opened = await transformer.from_storage(_value(entry), context=key)
    assert not opened.is_stale
    stored = protobuf.decode_protobuf(opened.value)
    assert stored["data"] == DATA
    assert stored["metadata"]["uid"] == live["metadata"]["uid"]


@pytest.mark.parametrize("form", ["protobuf", "json"])
async def test_what_is_made_here_it_opens(plane: tuple[ControlPlane, Path], form: str) -> None:
    running, file = plane
    transformer = (await open_source(file)).transformer_for("secrets")
    key = f"/registry/secrets/default/ours-{form}".encode()
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"ours-{form}", "namespace": "default", "uid": f"uid-of-{form}"},
        "data": DATA,
        "type": "Opaque",
    }
    plain = encode_protobuf(secret) if form == "protobuf" else json.dumps(secret).encode()
    assert plain is not None
    _etcd(running, "put", key=key, value=await transformer.to_storage(plain, context=key))
    with trio.fail_after(60):
        async with open_client(load_kubeconfig(running.kubeconfig)) as client:
            read = await client.get(SECRETS, "default", f"ours-{form}", dict)
    assert read["data"] == DATA
    assert (read["metadata"]["uid"], read["type"]) == (f"uid-of-{form}", "Opaque")


async def test_every_object_it_keeps_survives_being_read_and_written(plane: tuple[ControlPlane, Path]) -> None:
    running, _ = plane
    seen: Counter[str] = Counter()
    for entry in _etcd(running, "range", key=b"/registry/", range_end=b"/registry0"):
        value = _value(entry)
        try:
            obj = protobuf.decode_protobuf(value)
        except ValueError:
            continue  # encrypted, JSON, or of a kind that is not served here
        written = encode_protobuf(obj)
        assert written is not None, obj["kind"]
        assert protobuf.decode_protobuf(written) == obj
        seen[obj["kind"]] += 1
    assert {"ClusterRole", "ConfigMap", "Namespace", "Service", "ServiceAccount"} <= set(seen)

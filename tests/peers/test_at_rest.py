"""What this server stores, read by kube-apiserver's own code, and what that stores, read by this server.

The judge is k8s.io/apiserver's encryptionconfig with client-go's scheme (``atrest/main.go``), and for KMS v2 a plugin of
k8s.io/kms. Every resource that is stored, every provider, both media types.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio

from kubelet_secrets.apiserver.journal import open_journal
from kubelet_secrets.apiserver.listing import object_key
from kubelet_secrets.apiserver.negotiation import JSON
from kubelet_secrets.apiserver.protobuf_form import MEDIA_TYPE, encode_protobuf
from kubelet_secrets.apiserver.resources import SERVED, ServedResource
from kubelet_secrets.apiserver.storage import Record
from kubelet_secrets.apiserver.storagepaths import plural_of
from tests.apiserver.harness import Http
from tests.apiserver.test_encryption_server import running
from tests.apiserver.test_protobuf_form import UPSTREAM, telling, upstream

Obj = dict[str, Any]
STORED = {row.plural: row for row in SERVED if not row.is_review}
KEY = base64.b64encode(os.urandom(32)).decode()
PROVIDERS = {
    "identity": "identity: {}",
    "aescbc": f"aescbc: {{keys: [{{name: k, secret: {KEY}}}]}}",
    "aesgcm": f"aesgcm: {{keys: [{{name: k, secret: {KEY}}}]}}",
    "secretbox": f"secretbox: {{keys: [{{name: k, secret: {KEY}}}]}}",
    "kms": "kms: {apiVersion: v2, name: k, endpoint: 'unix://%s'}",
}
EXACT = ("secrets", "configmaps", "leases", "clusterroles")
"""Of these the zeros are compared too. Go shows those of a few structs that have none here, as a node's ``status.nodeInfo``."""
EACH = pytest.mark.parametrize("provider", PROVIDERS)
FORM = pytest.mark.parametrize("form", [pytest.param(JSON, id="json"), pytest.param(MEDIA_TYPE, id="protobuf")])


def ask(program: Path, *arguments: str | Path, lines: Sequence[Obj]) -> list[Obj]:
    """One JSON value in per line, one out."""
    text = "".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n" for line in lines)
    command = [program / "atrest", *arguments]
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["error"] for answer in answers if answer.get("error")] == []
    assert len(answers) == len(lines)
    return answers


@asynccontextmanager
async def configured(peers: Path, directory: Path, provider: str) -> AsyncIterator[Path]:
    """An EncryptionConfiguration for everything; its plugin, if it has one, runs meanwhile."""
    socket, config = directory / "kms.sock", directory / "enc.yaml"
    text = PROVIDERS[provider].replace("%s", str(socket))
    head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"
    config.write_text(f"{head}- resources: ['*.*']\n  providers:\n  - {text}\n")
    async with trio.open_nursery() as nursery:
        if provider == "kms":
            process = await nursery.start(trio.run_process, [peers / "atrest", "kms", socket])
            with trio.fail_after(10):
                while not socket.exists():  # noqa: ASYNC110 - the plugin tells nobody
                    await trio.sleep(0.01)
        yield config
        nursery.cancel_scope.cancel()
        if provider == "kms":
            process.kill()


def collection(row: ServedResource, namespace: str = "default") -> str:
    group, version = row.resource.group, row.resource.version
    root = f"/apis/{group}/{version}" if group else f"/api/{version}"
    return f"{root}/namespaces/{namespace}/{row.plural}" if row.namespaced else f"{root}/{row.plural}"


async def everything(admin: Http) -> dict[str, Obj]:
    """Storage key → object, of every resource, as a client gets it, but for what the store does not hold."""
    found = {}
    for row in STORED.values():
        group, version = row.resource.group, row.resource.version
        answer = await admin.get(f"/apis/{group}/{version}/{row.plural}" if group else f"/api/{version}/{row.plural}")
        for item in answer.json["items"]:
            obj = {"apiVersion": row.resource.api_version, "kind": row.kind, **item}
            del obj["metadata"]["resourceVersion"]
            if row.plural == "resourcequotas":
                obj.pop("status", None)  # a controller counts at its own time
                obj["metadata"].pop("managedFields", None)
            found[object_key(row, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])] = obj
    return found


OBJECTS: dict[str, Obj] = {
    "secrets": {"stringData": {"password": "s3cr3t", "empty": ""}, "immutable": False},
    "configmaps": {"data": {"a": "b"}, "binaryData": {"c": "AP8="}},
    "services": {"spec": {"ports": [{"port": 80, "targetPort": "http"}], "selector": {"a": "b"}}},
    "pods": {"spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1500m"}}}]}},
    "nodes": {"metadata": {"labels": {"a": "b"}}, "spec": {"unschedulable": True}},
    "resourcequotas": {"spec": {"hard": {"pods": "3"}}},
    "leases": {"spec": {"holderIdentity": "x", "renewTime": "2026-01-01T00:00:00.000005Z"}},
}


async def create_each(admin: Http) -> None:
    for plural, fields in OBJECTS.items():
        row = STORED[plural]
        metadata = {"name": "x", **fields.get("metadata", {})}
        body = {"apiVersion": row.resource.api_version, "kind": row.kind, **fields, "metadata": metadata}
        answer = await admin.post(collection(row), body)
        assert answer.status == 201, answer.message


@FORM
@EACH
async def test_kube_apiserver_reads_what_this_server_stores(
    peers: Path, tmp_path: Path, provider: str, form: str
) -> None:
    data = tmp_path / "data"
    with trio.fail_after(60):
        async with configured(peers, tmp_path, provider) as config:
            async with running(data, config, form=form) as (_, admin):
                await create_each(admin)
                objects = await everything(admin)
            with closing(open_journal(data)) as journal:
                rows = dict(journal.live_values())
            # Controllers may have written once more between the list and the end.
            keys = [key for key in rows if key in objects and plural_of(key) != "events"]
            lines = [_line(key, value=base64.b64encode(rows[key]).decode()) for key in keys]
            answers = await trio.to_thread.run_sync(lambda: ask(peers, "read", config, lines=lines))
    assert {plural_of(key) for key in keys} >= set(OBJECTS) | {"namespaces", "serviceaccounts", "clusterroles"}
    assert [answer["key"] for answer in answers if answer["stale"]] == []
    for answer in answers:
        if plural_of(answer["key"]) == "resourcequotas":
            answer["object"].pop("status")
            answer["object"]["metadata"].pop("managedFields")
        assert telling(answer["object"]) == telling(objects[answer["key"]]), answer["key"]
        if plural_of(answer["key"]) in EXACT:
            assert answer["object"] == objects[answer["key"]]


@FORM
@EACH
async def test_this_server_reads_what_kube_apiserver_stores(
    peers: Path, tmp_path: Path, provider: str, form: str
) -> None:
    data = tmp_path / "data"
    with trio.fail_after(60):
        async with running(tmp_path / "first") as (_, admin):
            await create_each(admin)
            objects = await everything(admin)
        async with configured(peers, tmp_path, provider) as config:
            lines = [_line(key, object=obj) for key, obj in objects.items()]
            written = await trio.to_thread.run_sync(lambda: ask(peers, "write", config, form, lines=lines))
            with closing(open_journal(data)) as journal:
                values = [(answer["key"], base64.b64decode(answer["value"])) for answer in written]
                journal.append([Record(key, index, index, value) for index, (key, value) in enumerate(values, 1)])
            async with running(data, config, form=form) as (server, admin):
                stale = [
                    key
                    for key in objects
                    if (record := server.registry.storage.get(key)) is not None
                    and (await server.registry.storage.open(record)).is_stale
                ]
                again = await everything(admin)
    assert stale == []
    for plural in OBJECTS:
        key = object_key(STORED[plural], "default", "x")
        assert telling(again[key]) == telling(objects[key])
        if plural in EXACT:
            assert again[key] == objects[key]


def _line(key: str, **more: Any) -> Obj:
    row = STORED[plural_of(key)]
    return {"group": row.resource.group, "resource": row.plural, "key": key, **more}


@pytest.mark.parametrize("kind", UPSTREAM)
def test_protobuf_of_upstreams_test_objects(peers: Path, kind: str) -> None:
    """The recorded bytes of the ordinary suite are still what the real code writes."""
    obj, _ = upstream(kind)
    (answer,) = ask(peers, "encode", lines=[obj])
    assert base64.b64decode(answer["value"]) == encode_protobuf(obj)

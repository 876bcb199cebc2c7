"""Rotation of encryption keys: the file's stages, and the objects under each key. Source: semantics §11; the task
"Encrypting Confidential Data at Rest" of the Kubernetes documentation."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import yaml

from kubelet_secrets.apiserver import keyrotation
from kubelet_secrets.apiserver.encryptionconfig import parse_configuration
from kubelet_secrets.apiserver.keycount import KeyUse, count_keys, key_of
from kubelet_secrets.apiserver.keyrotation import CannotRotate, Stage
from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from tests.apiserver.harness import SECRETS, Http, http_client, secret
from tests.cli.command import run_cli, the_line

KMS = {"kms": {"apiVersion": "v2", "name": "vault", "endpoint": "unix:///run/kms.sock"}}


def counting(size: int) -> bytes:
    return bytes(range(size))


def configuration(**names: str) -> dict[str, Any]:
    """One entry with secretbox keys of these names."""
    made = keyrotation.make_configuration("secretbox", ["secrets"], counting)
    secret_text = made["resources"][0]["providers"][0]["secretbox"]["keys"][0]["secret"]
    keys = [{"name": name, "secret": secret_text} for name in names.get("keys", "key1").split()]
    made["resources"][0]["providers"][0]["secretbox"]["keys"] = keys
    return made


def names_of(plain: dict[str, Any]) -> list[str]:
    ((_, body),) = plain["resources"][0]["providers"][0].items()
    return [key["name"] for key in body["keys"]]


@pytest.mark.parametrize("cipher", keyrotation.CIPHERS)
def test_new_file_is_one_the_server_takes(cipher: str) -> None:
    made = keyrotation.make_configuration(cipher, ["secrets", "configmaps"], counting)
    parsed = parse_configuration(yaml.safe_dump(made).encode(), "f")
    assert parsed.providers_for("configmaps") is not None
    (key,) = made["resources"][0]["providers"][0][cipher]["keys"]
    assert base64.b64decode(key["secret"]) == counting(32)
    assert made["resources"][0]["providers"][1] == {"identity": {}}


def test_rotation_goes_through_its_stages() -> None:
    plain = configuration()
    seen = []
    for _ in range(3):
        stage = keyrotation.next_stage(plain)
        keyrotation.rotate(plain, stage, counting)
        seen.append((stage, names_of(plain)))
    assert seen == [
        (Stage.ADD, ["key1", "key2"]),
        (Stage.PROMOTE, ["key2", "key1"]),
        (Stage.DROP, ["key2"]),
    ]
    keyrotation.rotate(plain, Stage.ADD, counting)
    assert names_of(plain) == ["key2", "key3"]


def test_every_writing_provider_is_rotated_and_others_are_left() -> None:
    plain = configuration()
    other = keyrotation.make_configuration("aesgcm", ["configmaps"], counting)["resources"][0]
    plain["resources"] += [other, {"resources": ["events"], "providers": [KMS]}]
    lines = keyrotation.rotate(plain, Stage.ADD, counting)
    assert [line.partition(":")[0] for line in lines] == [
        "resources[0].providers[0].secretbox",
        "resources[1].providers[0].aesgcm",
    ]
    assert plain["resources"][2] == {"resources": ["events"], "providers": [KMS]}


@pytest.mark.parametrize(
    ("plain", "stage", "text"),
    [
        (configuration(), Stage.PROMOTE, "there is one key; add another one first"),
        (configuration(), Stage.DROP, "there is one key; add another one first"),
        (configuration(keys="old new"), None, "their names do not tell which is the newer one: give the stage"),
        ({"resources": [{"resources": ["secrets"], "providers": [{"identity": {}}]}]}, None, "nothing is encrypted"),
        ({"resources": [{"resources": ["secrets"], "providers": [KMS]}]}, Stage.ADD, "rotated by the service"),
    ],
)
def test_what_cannot_be_rotated_is_left_as_it_is(plain: dict[str, Any], stage: Stage | None, text: str) -> None:
    before = copy.deepcopy(plain)
    with pytest.raises(CannotRotate, match=text):
        keyrotation.rotate(plain, stage or keyrotation.next_stage(plain), counting)
    assert plain == before


@pytest.mark.parametrize(
    ("stored", "key"),
    [
        (b"k8s:enc:aesgcm:v1:key1:\x00:::", "aesgcm:key1"),
        (b"k8s:enc:kms:v2:vault:\x0a\x00", "kms:vault"),
        (b'{"kind":"Secret"}', "identity"),
        (b"k8s\x00plain protobuf", "identity"),
        (b"k8s:enc:half", "identity"),
    ],
)
def test_key_is_told_by_the_prefix(stored: bytes, key: str) -> None:
    assert key_of(stored) == key


def test_what_is_not_under_the_writing_key_is_stale() -> None:
    parsed = parse_configuration(yaml.safe_dump(configuration(keys="key2 key1")).encode(), "f")
    records = [
        ("/registry/secrets/a/1", b"k8s:enc:secretbox:v1:key2:x"),
        ("/registry/secrets/a/2", b"k8s:enc:secretbox:v1:key1:x"),
        ("/registry/secrets/b/2", b"k8s:enc:secretbox:v1:key1:x"),
        ("/registry/secrets/b/3", b"{}"),
        ("/registry/leases/n/1", b"{}"),
    ]
    assert count_keys(records, parsed) == [
        KeyUse(resource="leases.coordination.k8s.io", key="identity", objects=1, is_current=True),
        KeyUse(resource="secrets", key="identity", objects=1, is_current=False),
        KeyUse(resource="secrets", key="secretbox:key1", objects=2, is_current=False),
        KeyUse(resource="secrets", key="secretbox:key2", objects=1, is_current=True),
    ]


def test_what_no_key_of_the_configuration_opens_is_unreadable() -> None:
    parsed = parse_configuration(yaml.safe_dump(configuration(keys="key2")).encode(), "f")
    lost = [("/registry/secrets/a/1", b"k8s:enc:secretbox:v1:key1:x")]
    expected = KeyUse(resource="secrets", key="secretbox:key1", objects=1, is_current=False, is_readable=False)
    assert count_keys(lost, parsed) == [expected]
    assert count_keys(lost, None) == [expected]


# --- the command -----------------------------------------------------------------------------------------------------


async def cli(*arguments: str | Path) -> Any:
    return await trio.to_thread.run_sync(run_cli, "apiserver", "keys", *arguments)


def secrets_of(file: Path) -> list[str]:
    plain = yaml.safe_load(file.read_text())
    return [key["secret"] for key in plain["resources"][0]["providers"][0]["secretbox"]["keys"]]


async def rewrite(admin: Http) -> None:
    """What the documentation's kubectl pipeline does."""
    for item in (await admin.get("/api/v1/secrets")).json["items"]:
        metadata = item["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/secrets/{metadata['name']}"
        assert (await admin.put(path, item)).status == 200


async def test_whole_rotation_on_a_server_that_is_restarted_between_the_steps(tmp_path: Path) -> None:
    file, data, kubeconfig = tmp_path / "enc.yaml", tmp_path / "data", tmp_path / "kubeconfig"
    made = await cli("new", file)
    assert made.returncode == 0, made.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    said = made.stdout + made.stderr

    async def serve(work: Any) -> None:
        with trio.fail_after(100):
            async with trio.open_nursery() as nursery:
                options = ServerOptions(runs_scheduler=False, data_dir=data, encryption_config=file)
                handle: ServerHandle = await nursery.start(serve_apiserver, options)
                kubeconfig.write_bytes(handle.admin_kubeconfig().reveal())
                async with http_client(handle, handle.authority.issue_admin()) as admin:
                    await work(admin)
                handle.shut_down()

    async def fill(admin: Http) -> None:
        for index in range(3):
            assert (await admin.post(SECRETS, secret(f"s{index}", key="value"))).status == 201

    await serve(fill)
    (first,) = secrets_of(file)
    for stage in ("added", "writes"):
        done = await cli("rotate", file)
        assert done.returncode == 0, done.stderr
        assert stage in done.stdout
        said += done.stdout + done.stderr

    async def check_and_rewrite(admin: Http) -> None:
        counted = await cli("status", "--kubeconfig", kubeconfig, "-o", "json")
        assert counted.returncode == 1
        uses = [use for use in msgspec.json.decode(counted.stdout) if use["resource"] == "secrets"]
        assert uses == [
            {"resource": "secrets", "key": "secretbox:key1", "objects": 3, "current": False, "readable": True}
        ]
        refused = await cli("rotate", file, "--kubeconfig", kubeconfig)
        assert refused.returncode == 1
        assert "3 secrets are still under secretbox:key1" in refused.stderr
        await rewrite(admin)
        counted = await cli("status", "--kubeconfig", kubeconfig)
        assert counted.returncode == 0, counted.stderr
        assert ["secrets", "secretbox:key2", "3"] in [line.split() for line in counted.stdout.splitlines()]

    await serve(check_and_rewrite)
    unnamed = await cli("rotate", file)
    assert "name the server (--kubeconfig) or its --data-dir" in the_line(unnamed)
    done = await cli("rotate", file, "--data-dir", data)  # the server is stopped
    assert done.returncode == 0, done.stderr
    said += done.stdout + done.stderr
    (last,) = secrets_of(file)
    assert last != first

    async def read(admin: Http) -> None:
        assert (await admin.get(f"{SECRETS}/s0")).json["data"] == {"key": "dmFsdWU="}

    await serve(read)
    assert first not in said
    assert last not in said


async def test_lost_key_is_told_and_no_rewriting_is_advised(tmp_path: Path) -> None:
    file, data = tmp_path / "enc.yaml", tmp_path / "data"
    assert (await cli("new", file)).returncode == 0
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            options = ServerOptions(runs_scheduler=False, data_dir=data, encryption_config=file)
            handle: ServerHandle = await nursery.start(serve_apiserver, options)
            async with http_client(handle, handle.authority.issue_admin()) as admin:
                assert (await admin.post(SECRETS, secret("db", key="value"))).status == 201
            handle.shut_down()
    file.write_text(file.read_text().replace("key1", "other"))
    counted = await cli("status", "--data-dir", data, "--encryption-provider-config", file)
    assert counted.returncode == 1
    assert ["secrets", "secretbox:key1", "1", "unreadable"] in [line.split() for line in counted.stdout.splitlines()]
    assert counted.stderr == (
        "1 secrets unreadable: the configuration has no secretbox:key1; put it back to read them\n"
    )


async def test_running_server_keeps_its_directory_to_itself(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            options = ServerOptions(runs_scheduler=False, data_dir=tmp_path)
            handle: ServerHandle = await nursery.start(serve_apiserver, options)
            done = await cli("status", "--data-dir", tmp_path)
            assert the_line(done) == f"kubelet-secrets: data directory {tmp_path}: another server uses it"
            async with http_client(handle, handle.authority.issue_client("jane")) as jane:
                assert (await jane.get("/debug/encryption")).status == 403
            handle.shut_down()


def test_file_is_never_overwritten_and_rubbish_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "enc.yaml"
    file.write_text("kind: Nonsense\nsecret: tops3cret\n")
    done = run_cli("apiserver", "keys", "new", file)
    assert f"{file} exists" in the_line(done)
    done = run_cli("apiserver", "keys", "rotate", file)
    assert "tops3cret" not in the_line(done)
    assert file.read_text() == "kind: Nonsense\nsecret: tops3cret\n"
    bad = run_cli("apiserver", "keys", "new", tmp_path / "other", "--resources", "Secrets")
    assert "resource name should not contain capital letters" in the_line(bad)
    assert not (tmp_path / "other").exists()


def test_server_still_asks_for_its_kubeconfig() -> None:
    done = run_cli("apiserver")
    assert done.returncode == 2
    assert the_line(done).startswith("kubelet-secrets: Missing option '--kubeconfig'")

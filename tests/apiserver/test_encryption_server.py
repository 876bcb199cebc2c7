"""Encryption at rest from outside: what is on the disk, what clients get, how keys are rotated."""

from __future__ import annotations

import base64
import logging
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
import trio.testing
from click.testing import CliRunner
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kubelet_secrets.apiserver import encryption_source
from kubelet_secrets.apiserver.encryption import Identity
from kubelet_secrets.apiserver.encryption_source import EncryptionSource, open_source
from kubelet_secrets.apiserver.journal import open_journal
from kubelet_secrets.apiserver.negotiation import JSON
from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.apiserver.protobuf_form import MEDIA_TYPE
from kubelet_secrets.apiserver.storage import ABSENT, Storage
from kubelet_secrets.cli.apiserver import apiserver as apiserver_command
from kubelet_secrets.errors import HostError, KubeletSecretsError, UsageError
from kubelet_secrets.leakscan import spellings
from tests.apiserver.harness import PODS, SECRETS, Http, http_client, pod, secret
from tests.apiserver.kms_plugin import Plugin
from tests.apiserver.kubectl import OLDEST, find_kubectl, open_kubectl
from tests.apiserver.test_protobuf import SECRET as PROTOBUF_SECRET

KUBECTL = find_kubectl()
PATH = "/registry/secrets/default/db"
KEYS = {name: base64.b64encode(os.urandom(32)).decode() for name in ("key1", "key2")}
IDENTITY = "identity: {}"


def aesgcm(*names: str) -> str:
    listed = ", ".join(f"{{name: {name}, secret: {KEYS[name]}}}" for name in names)
    return f"aesgcm: {{keys: [{listed}]}}"


def secretbox(name: str) -> str:
    return f"secretbox: {{keys: [{{name: {name}, secret: {KEYS[name]}}}]}}"


def write_config(path: Path, *providers: str, resources: str = "secrets") -> Path:
    """Replace the file at *path*, as an editor does."""
    head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"
    listed = "".join(f"  - {provider}\n" for provider in providers)
    temporary = path.with_suffix(".new")
    temporary.write_text(f"{head}- resources: ['{resources}']\n  providers:\n{listed}")
    temporary.rename(path)
    return path


@asynccontextmanager
async def running(
    directory: Path | None, config: Path | None = None, *, reloads: bool = False, form: str = JSON
) -> AsyncIterator[tuple[ServerHandle, Http]]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            options = ServerOptions(
                data_dir=directory,
                encryption_config=config,
                encryption_reloads=reloads,
                storage_media_type=form,
                runs_scheduler=False,
            )
            server: ServerHandle = await nursery.start(serve_apiserver, options)
            async with http_client(server, server.authority.issue_admin()) as admin:
                yield server, admin
            server.shut_down()


def stored(server: ServerHandle, key: str = PATH) -> bytes:
    record = server.registry.storage.get(key)
    assert record is not None
    assert record.stored is not None
    return record.stored


def leaks(directory: Path, value: str) -> list[str]:
    """Files below *directory* that hold *value* in any spelling. Every byte is read, also on a tmpfs."""
    forms = spellings(value.encode()).values()
    contents = {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert "state.db" in contents
    return [name for name, content in contents.items() if any(form in content for form in forms)]


# --- what is on the disk ---------------------------------------------------------------------------------------------


async def test_disk_never_holds_a_value(tmp_path: Path) -> None:
    """Database, write-ahead log and everything else: while it runs, after updates and deletion, after shutdown."""
    canary, later = f"canary-{uuid.uuid4().hex}", f"canary-{uuid.uuid4().hex}"
    config = write_config(tmp_path / "enc.yaml", aesgcm("key1"))
    data = tmp_path / "data"
    async with running(data, config) as (_, admin):
        await admin.post(SECRETS, secret("db", password=canary))
        await admin.post(SECRETS, secret("gone", password=canary))
        await admin.put(f"{SECRETS}/db", secret("db", password=later))
        await admin.patch(f"{SECRETS}/db", {"stringData": {"more": canary}})
        await admin.delete(f"{SECRETS}/gone")
        assert {path.name for path in data.iterdir()} >= {"state.db", "state.db-wal"}
        assert leaks(data, canary) == leaks(data, later) == []
        assert base64.b64decode((await admin.get(f"{SECRETS}/db")).json["data"]["more"]).decode() == canary
    assert leaks(data, canary) == leaks(data, later) == []


async def test_scan_finds_what_is_not_encrypted(tmp_path: Path) -> None:
    """The counter-check of the test above."""
    canary = f"canary-{uuid.uuid4().hex}"
    config = write_config(tmp_path / "enc.yaml", IDENTITY)
    async with running(tmp_path / "data", config) as (_, admin):
        await admin.post(SECRETS, secret("db", password=canary))
        assert leaks(tmp_path / "data", canary) == ["state.db-wal"]
    assert leaks(tmp_path / "data", canary) == ["state.db"]


async def test_directory_without_a_configuration_gets_a_key_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    canary = f"canary-{uuid.uuid4().hex}"
    caplog.set_level(logging.WARNING)
    old_mask = os.umask(0)
    try:
        async with running(tmp_path) as (server, admin):
            await admin.post(SECRETS, secret("db", password=canary))
            assert stored(server).startswith(b"k8s:enc:aesgcm:v1:key1:")
    finally:
        os.umask(old_mask)
    assert leaks(tmp_path, canary) == []
    file = tmp_path / "encryption.yaml"
    assert file.stat().st_mode & 0o777 == 0o600
    [line] = [record.getMessage() for record in caplog.records]
    assert "protects a copy of the database alone, not one of the whole directory" in line
    content = file.read_bytes()
    async with running(tmp_path) as (server, admin):
        assert (await admin.get(f"{SECRETS}/db")).status == 200
    assert file.read_bytes() == content
    assert isinstance((await open_source(file)).transformer_for("configmaps"), Identity)


async def test_plain_values_of_before_are_read_and_encrypted_by_the_next_write(tmp_path: Path) -> None:
    async with running(tmp_path, write_config(tmp_path / "enc.yaml", IDENTITY)) as (server, admin):
        created = (await admin.post(SECRETS, secret("db", k="v"))).json
        assert not stored(server).startswith(b"k8s:enc:")
    async with running(tmp_path) as (server, admin):
        assert (await admin.get(f"{SECRETS}/db")).json == created
        await admin.put(f"{SECRETS}/db", created)
        assert stored(server).startswith(b"k8s:enc:aesgcm:v1:key1:")


async def test_in_memory_server_encrypts_only_what_it_is_told_to(tmp_path: Path) -> None:
    async with running(None) as (server, admin):
        await admin.post(SECRETS, secret("db", k="v"))
        assert not stored(server).startswith(b"k8s:enc:")
    async with running(None, write_config(tmp_path / "enc.yaml", secretbox("key1"))) as (server, admin):
        await admin.post(SECRETS, secret("db", k="v"))
        await admin.post(PODS, pod("p"))
        assert stored(server).startswith(b"k8s:enc:secretbox:v1:key1:")
        assert not stored(server, "/registry/pods/default/p").startswith(b"k8s:enc:")


async def test_everything_can_be_encrypted(tmp_path: Path) -> None:
    config = write_config(tmp_path / "enc.yaml", aesgcm("key1"), resources="*.*")
    data = tmp_path / "data"
    async with running(data, config) as (server, admin):
        await admin.post(PODS, pod("p", node="n1"))
        records = [
            record
            for plural in ("namespaces", "pods", "configmaps", "services")
            for record in server.registry.storage.records(f"/registry/{plural}/")
        ]
        assert len(records) > 5
        assert all((record.stored or b"").startswith(b"k8s:enc:aesgcm:v1:key1:") for record in records)
    async with running(data, config) as (_, admin):
        assert (await admin.get(f"{PODS}/p")).json["spec"]["nodeName"] == "n1"
    with pytest.raises(HostError) as caught:
        await serve_apiserver(ServerOptions(data_dir=data))
    assert (
        str(caught.value)
        == 'unable to transform key "/registry/pods/default/p": identity transformer tried to read encrypted data'
    )


# --- keys ------------------------------------------------------------------------------------------------------------


async def test_second_server_with_the_same_file_reads_the_stored_bytes(tmp_path: Path) -> None:
    config = write_config(tmp_path / "enc.yaml", aesgcm("key1"))
    async with running(tmp_path / "one", config) as (first, admin):
        created = (await admin.post(SECRETS, secret("db", k="v"))).json
        taken = stored(first)
    async with running(tmp_path / "two", config) as (second, admin):
        opened = await (await open_source(config)).transformer_for("secrets").from_storage(taken, context=PATH.encode())
        await second.registry.storage.write(PATH, opened.value, expected=0)
        read = (await admin.get(f"{SECRETS}/db")).json
        assert (read["data"], read["metadata"]["uid"]) == (created["data"], created["metadata"]["uid"])
        assert stored(second) != taken  # another nonce


async def test_wrong_key_is_told_and_shows_nothing(tmp_path: Path) -> None:
    config = write_config(tmp_path / "enc.yaml", aesgcm("key1"))
    async with running(tmp_path / "data", config) as (_, admin):
        created = (await admin.post(SECRETS, secret("db", k="hunter2-value"))).json
    KEYS["impostor"] = KEYS["key2"]
    config.write_text(write_config(tmp_path / "other.yaml", aesgcm("impostor")).read_text().replace("impostor", "key1"))
    async with running(tmp_path / "data", config) as (_, admin):
        failed = "cipher: message authentication failed"
        one = await admin.get(f"{SECRETS}/db")
        assert (one.status, one.message) == (500, f"Internal error occurred: {failed}")
        every = await admin.get("/api/v1/secrets")
        assert (every.status, every.message) == (
            500,
            f'Internal error occurred: unable to transform key "{PATH}": {failed}',
        )
        put = await admin.put(f"{SECRETS}/db", created)
        assert (put.status, put.message) == (500, f"Internal error occurred: {failed}")
        assert (await admin.get(PODS)).status == 200
    write_config(config, secretbox("key2"))
    async with running(tmp_path / "data", config) as (_, admin):
        assert (await admin.get(f"{SECRETS}/db")).message == "Internal error occurred: no matching prefix found"
    write_config(config, aesgcm("key2"))
    async with running(tmp_path / "data", config) as (_, admin):
        no_key = "no matching key was found for the provided AES transformer"
        assert (await admin.get(f"{SECRETS}/db")).message == f"Internal error occurred: {no_key}"
    write_config(config, IDENTITY, resources="configmaps")
    async with running(tmp_path / "data", config) as (_, admin):
        refused = "identity transformer tried to read encrypted data"
        assert (await admin.get(f"{SECRETS}/db")).message == f"Internal error occurred: {refused}"
    write_config(config, aesgcm("key1"))
    async with running(tmp_path / "data", config) as (_, admin):
        assert (await admin.get(f"{SECRETS}/db")).json == created


async def test_unreadable_objects_do_not_stop_the_controllers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_config(tmp_path / "enc.yaml", aesgcm("key1"), resources="configmaps")
    async with running(tmp_path / "data", config):
        pass
    write_config(config, aesgcm("key2"), resources="configmaps")
    async with running(tmp_path / "data", config) as (_, admin):
        assert (await admin.get("/api/v1/namespaces/default/configmaps")).status == 500
        assert (await admin.post(SECRETS, secret("db", k="v"))).status == 201
    path = "/registry/configmaps/default/kube-root-ca.crt"
    failed = f'unable to transform key "{path}": no matching key was found for the provided AES transformer'
    assert f"configmaps controller: {failed}" in caplog.text


async def test_watch_that_meets_an_unreadable_object_names_it(tmp_path: Path) -> None:
    config = write_config(tmp_path / "enc.yaml", aesgcm("key1"))
    async with running(tmp_path / "data", config) as (_, admin):
        await admin.post(SECRETS, secret("db", k="hunter2-value"))
    write_config(config, aesgcm("key2"))
    async with running(tmp_path / "data", config) as (_, admin):
        async with admin.watch("/api/v1/secrets?watch=true") as watch:
            event, status = await watch.next()
    assert (event, status["code"]) == ("ERROR", 500)
    failed = f'unable to transform key "{PATH}": no matching key was found for the provided AES transformer'
    assert status["message"] == f"Internal error occurred: {failed}"


async def store(directory: Path, key: str, value: bytes) -> None:
    """Put bytes into the store of a server that is not running, as somebody else wrote them."""
    with closing(open_journal(directory)) as journal:
        storage = Storage(journal=journal)
        journal.load_into(storage)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(storage.run)
                await storage.write(key, value, expected=ABSENT)
                nursery.cancel_scope.cancel()


async def test_protobuf_of_kube_apiserver_is_read_and_rewritten(tmp_path: Path) -> None:
    """A Secret in the envelope that kube-apiserver stores by default, as AES-GCM with its path as additional data."""
    data, key = tmp_path / "data", base64.b64decode(KEYS["key1"])
    in_default = PROTOBUF_SECRET.replace("12260a120a02646212001a00", "122d0a190a02646212001a0764656661756c74")
    sealed = AESGCM(key).encrypt(bytes(12), bytes.fromhex(in_default), PATH.encode())
    await store(data, PATH, b"k8s:enc:aesgcm:v1:key1:" + bytes(12) + sealed)
    async with running(data, write_config(tmp_path / "enc.yaml", aesgcm("key1"))) as (server, admin):
        found = (await admin.get(f"{SECRETS}/db")).json
        assert (found["kind"], found["metadata"]["name"], found["data"]) == ("Secret", "db", {"password": "cHc="})
        assert [item["data"] for item in (await admin.get(SECRETS)).json["items"]] == [{"password": "cHc="}]
        async with admin.watch("/api/v1/secrets?watch=true") as watch:
            assert (await watch.next())[1]["data"] == {"password": "cHc="}
        assert (await admin.patch(f"{SECRETS}/db", {"metadata": {"labels": {"a": "b"}}})).status == 200
        assert stored(server).startswith(b"k8s:enc:aesgcm:v1:key1:")


async def test_objects_are_stored_as_protobuf_on_request(tmp_path: Path) -> None:
    """kube-apiserver's own flag. Everything goes on as before, and the next write changes what is of the other form."""
    data, config = tmp_path / "data", write_config(tmp_path / "enc.yaml", aesgcm("key1"))

    def plain(server: ServerHandle) -> bytes:
        sealed = stored(server).removeprefix(b"k8s:enc:aesgcm:v1:key1:")
        return AESGCM(base64.b64decode(KEYS["key1"])).decrypt(sealed[:12], sealed[12:], PATH.encode())

    async with running(data, config) as (server, admin):
        body = (await admin.post(SECRETS, secret("db", password="pw"))).json
        assert plain(server).startswith(b'{"kind":"Secret"')
    async with running(data, config, form=MEDIA_TYPE) as (server, admin):
        before = (await admin.get(f"{SECRETS}/db")).json
        assert before == body
        assert (await admin.put(f"{SECRETS}/db", before)).status == 200  # as kubectl replace does
        assert plain(server).startswith(b"k8s\0\x0a\x0c\x0a\x02v1\x12\x06Secret")
        after = (await admin.get(f"{SECRETS}/db")).json
        assert after["metadata"].pop("resourceVersion") > before["metadata"].pop("resourceVersion")
        assert after == before
        assert (await admin.post(PODS, pod("p"))).status == 201
        assert (await admin.get(PODS)).json["items"][0]["spec"]["containers"]
    async with running(data, config) as (server, admin):  # and back
        assert (await admin.get(f"{SECRETS}/db")).json["data"] == before["data"]
        assert (await admin.get(f"{PODS}/p")).status == 200


@pytest.mark.parametrize("garbage", [b"\x07\xff\x00", b"k8s\0\xff", b"[]", b"{}", b'{"metadata":{}}', b""], ids=repr)
async def test_what_a_wrong_key_makes_of_a_value_is_not_served(tmp_path: Path, garbage: bytes) -> None:
    """AES-CBC authenticates nothing: with bad luck the padding fits and only the content is garbage."""
    await store(tmp_path / "data", PATH, garbage)
    async with running(tmp_path / "data", write_config(tmp_path / "enc.yaml", aesgcm("key1"), IDENTITY)) as (_, admin):
        answer = await admin.get(f"{SECRETS}/db")
        said = "the stored data is no object: the key may be a wrong one"
        assert (answer.status, answer.message) == (500, f"Internal error occurred: {said}")
        every = await admin.get(SECRETS)
        assert (every.status, every.message) == (
            500,
            f'Internal error occurred: unable to transform key "{PATH}": {said}',
        )


@pytest.mark.parametrize("plural", ["pods", "clusterroles"])
async def test_server_that_cannot_authorize_names_the_object(tmp_path: Path, plural: str) -> None:
    path = f"/registry/{plural}/x" if plural == "clusterroles" else f"/registry/{plural}/default/x"
    await store(tmp_path / "data", path, b"garbage")
    with pytest.raises(KubeletSecretsError, match=f'unable to transform key "{path}"'):
        await serve_apiserver(ServerOptions(data_dir=tmp_path / "data"))


@pytest.mark.kubectl
@pytest.mark.skipif(KUBECTL is None, reason=f"needs kubectl {'.'.join(map(str, OLDEST))} or later on PATH")
async def test_kubectl_replace_moves_every_secret_to_the_new_key(tmp_path: Path) -> None:
    assert KUBECTL is not None
    config = write_config(tmp_path / "enc.yaml", aesgcm("key1"))
    data = tmp_path / "data"
    async with running(data, config) as (_, admin):
        for number in range(5):
            await admin.post(SECRETS, secret(f"s{number}", k=f"v{number}"))
    write_config(config, aesgcm("key2", "key1"))
    async with running(data, config) as (server, _), open_kubectl(KUBECTL, server, tmp_path) as kubectl:
        before = server.registry.storage.records("/registry/secrets/")
        assert all((record.stored or b"").startswith(b"k8s:enc:aesgcm:v1:key1:") for record in before)
        listed = await kubectl("get", "secrets", "-A", "-o", "json")
        await kubectl("replace", "-f", "-", stdin=listed.out)
        after = server.registry.storage.records("/registry/secrets/")
        assert len(after) == len(before) == 5
        assert all((record.stored or b"").startswith(b"k8s:enc:aesgcm:v1:key2:") for record in after)
    write_config(config, aesgcm("key2"))
    async with running(data, config) as (_, admin):
        assert {item["data"]["k"] for item in (await admin.get(SECRETS)).json["items"]} == {
            base64.b64encode(f"v{number}".encode()).decode() for number in range(5)
        }


# --- reloading -------------------------------------------------------------------------------------------------------


async def write_with(source: EncryptionSource) -> bytes:
    return await source.transformer_for("secrets").to_storage(b"v", context=b"/registry/secrets/ns/n")


async def test_changed_file_counts_at_once(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    config = write_config(tmp_path / "enc.yaml", aesgcm("key1"))
    source = await open_source(config, reloads=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run)
        old = await write_with(source)
        write_config(config, aesgcm("key2", "key1"))
        await trio.sleep(encryption_source.FILE_INTERVAL_S + 0.1)
        assert (await write_with(source)).startswith(b"k8s:enc:aesgcm:v1:key2:")
        opened = await source.transformer_for("secrets").from_storage(old, context=b"/registry/secrets/ns/n")
        assert (opened.value, opened.is_stale) == (b"v", True)
        nursery.cancel_scope.cancel()


async def test_broken_file_is_logged_once_and_the_old_one_kept(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_config(tmp_path / "enc.yaml", aesgcm("key1"))
    source = await open_source(config, reloads=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run)
        config.write_text("")
        await trio.sleep(10 * encryption_source.FILE_INTERVAL_S)
        [line] = [record.getMessage() for record in caplog.records]
        assert line == (
            f'the encryption configuration in force is kept: encryption provider configuration file "{config}" is empty'
        )
        config.unlink()
        await trio.sleep(10 * encryption_source.FILE_INTERVAL_S)
        assert len(caplog.records) == 2
        assert (await write_with(source)).startswith(b"k8s:enc:aesgcm:v1:key1:")
        write_config(config, secretbox("key2"))
        await trio.sleep(2 * encryption_source.FILE_INTERVAL_S)
        assert (await write_with(source)).startswith(b"k8s:enc:secretbox:v1:key2:")
        nursery.cancel_scope.cancel()
    assert not any(secret in caplog.text for secret in KEYS.values())


async def test_without_reloading_the_file_is_read_once(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    config = write_config(tmp_path / "enc.yaml", aesgcm("key1"))
    source = await open_source(config)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run)
        config.unlink()
        await trio.sleep(200)
        assert (await write_with(source)).startswith(b"k8s:enc:aesgcm:v1:key1:")
        nursery.cancel_scope.cancel()


async def test_running_server_takes_a_new_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption_source, "FILE_INTERVAL_S", 0.01)
    config = write_config(tmp_path / "enc.yaml", aesgcm("key1"))
    async with running(tmp_path / "data", config, reloads=True) as (server, admin):
        created = (await admin.post(SECRETS, secret("db", k="v"))).json
        write_config(config, aesgcm("key2", "key1"))
        while stored(server).startswith(b"k8s:enc:aesgcm:v1:key1:"):  # bounded by the server's fail_after
            created = (await admin.put(f"{SECRETS}/db", created)).json
        assert stored(server).startswith(b"k8s:enc:aesgcm:v1:key2:")
        assert (await admin.get(f"{SECRETS}/db")).json == created


# --- a key management service ----------------------------------------------------------------------------------------


async def test_server_with_a_kms_plugin(tmp_path: Path) -> None:
    canary = f"canary-{uuid.uuid4().hex}"
    plugin, config = Plugin(tmp_path / "kms.sock"), tmp_path / "enc.yaml"
    config.write_text(plugin.config)
    async with plugin.running():
        async with running(tmp_path / "data", config) as (server, admin):
            created = (await admin.post(SECRETS, secret("db", k=canary))).json
            assert stored(server).startswith(b"k8s:enc:kms:v2:test:")
            assert leaks(tmp_path / "data", canary) == []
        async with running(tmp_path / "data", config) as (server, admin):
            assert (await admin.get(f"{SECRETS}/db")).json == created
        plugin.error, plugin.failing = (14, "away"), "Decrypt"
        async with running(tmp_path / "data", config) as (server, admin):
            answer = await admin.get(f"{SECRETS}/db")
            assert (answer.status, answer.message) == (
                500,
                "Internal error occurred: failed to decrypt DEK, error: rpc error: code = Unavailable desc = away",
            )
            assert (await admin.post(SECRETS, secret("more", k="v"))).status == 201  # with the seed it has


async def test_plugin_that_is_missing_at_the_start_is_logged_and_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encryption_source, "UNHEALTHY_INTERVAL_S", 0.01)
    monkeypatch.setattr(encryption_source, "HEALTHY_INTERVAL_S", 0.01)
    plugin, config = Plugin(tmp_path / "kms.sock"), tmp_path / "enc.yaml"
    config.write_text(plugin.config)
    async with running(None, config) as (server, admin):
        [line] = [record.getMessage() for record in caplog.records if "kmsv2" in record.getMessage()][:1]
        assert line.startswith("kmsv2 Provider test is not healthy, error: rpc error: code = Unavailable")
        answer = await admin.post(SECRETS, secret("db", k="v"))
        assert (answer.status, answer.message) == (500, "Internal error occurred: got unexpected nil transformer")
        async with plugin.running():
            while (await admin.post(SECRETS, secret("db", k="v"))).status == 500:
                pass  # bounded by the server's fail_after
            assert stored(server).startswith(b"k8s:enc:kms:v2:test:")


async def test_new_configuration_waits_for_its_plugin(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plugin, config = Plugin(tmp_path / "kms.sock"), write_config(tmp_path / "enc.yaml", aesgcm("key1"))
    with trio.fail_after(60):
        source = await open_source(config, reloads=True)
        config.write_text(plugin.config)
        for _ in range(3):
            await source.check_file()
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
            "the encryption configuration in force is kept"
        ]
        assert (await write_with(source)).startswith(b"k8s:enc:aesgcm:v1:key1:")
        async with plugin.running():
            await source.check_file()
            assert (await write_with(source)).startswith(b"k8s:enc:kms:v2:test:")


# --- the command line ------------------------------------------------------------------------------------------------


async def test_unusable_file_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "enc.yaml"
    path.write_text("")
    with pytest.raises(UsageError, match="is empty"):
        await serve_apiserver(ServerOptions(encryption_config=path))


def test_reload_needs_a_file(tmp_path: Path) -> None:
    arguments = ["--kubeconfig", str(tmp_path / "k"), "--encryption-provider-config-automatic-reload"]
    result = CliRunner().invoke(apiserver_command, arguments)
    assert result.exit_code == 2
    assert "must be set with --encryption-provider-config" in result.output


def test_command_reads_the_file(tmp_path: Path) -> None:
    arguments = ["--kubeconfig", str(tmp_path / "k"), "--encryption-provider-config", str(tmp_path / "none.yaml")]
    result = CliRunner().invoke(apiserver_command, [*arguments, "--port", "0"])
    assert isinstance(result.exception, BaseExceptionGroup | UsageError)
    assert not (tmp_path / "k").exists()

"""The whole server: kept on disk, killed, started again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver, write_kubeconfig
from kubelet_secrets.apiserver.storage import ABSENT
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.errors import HostError
from kubelet_secrets.sensitive import SensitiveBytes
from tests.apiserver.harness import PODS, SECRETS, Http, http_client, pod, secret
from tests.apiserver.test_storage import durable


@asynccontextmanager
async def running(directory: Path | None) -> AsyncIterator[tuple[ServerHandle, Http]]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            options = ServerOptions(data_dir=directory, runs_scheduler=False)
            server: ServerHandle = await nursery.start(serve_apiserver, options)
            async with http_client(server, server.authority.issue_admin()) as admin:
                yield server, admin
            server.shut_down()


async def test_restarted_server_goes_on_where_it_was(tmp_path: Path) -> None:
    async with running(tmp_path) as (server, admin):
        created = (await admin.post(SECRETS, secret("kept", k="v"))).json
        await admin.post(PODS, pod("p", node="n1", imagePullSecrets=[{"name": "kept"}]))
        await admin.delete(f"{PODS}/p")  # marked only: a node has it
        certificate, node = server.ca_pem, server.authority.issue_node("n1")
    async with running(tmp_path) as (server, admin):
        assert server.ca_pem == certificate
        assert (await admin.get(f"{SECRETS}/kept")).json == created
        version = created["metadata"]["resourceVersion"]
        async with admin.watch(f"/api/v1/pods?watch=1&resourceVersion={version}") as watch:
            assert await watch.next_names(2) == [("ADDED", "p"), ("MODIFIED", "p")]
        # The old certificate still counts, and what the node may read is known again.
        async with http_client(server, node) as old_node:
            assert (await old_node.get(f"{SECRETS}/kept")).status == 200


async def test_in_memory_server_forgets_and_its_clients_notice(admin: Http, server: ServerHandle) -> None:
    """Revisions of a later server are larger, so a version of an earlier one is too old and never mistaken."""
    version = (await admin.post(SECRETS, secret("s"))).json["metadata"]["resourceVersion"]
    await trio.sleep(0.01)
    async with running(None) as (_, later):
        async with later.watch(f"{SECRETS}?watch=1&resourceVersion={version}") as watch:
            [event] = await watch.rest()
    assert (event["type"], event["object"]["reason"]) == ("ERROR", "Expired")


async def test_data_directory_in_use_is_one_line(tmp_path: Path) -> None:
    async with running(tmp_path):
        with pytest.raises(HostError, match="another server uses it"):
            await serve_apiserver(ServerOptions(data_dir=tmp_path))


async def test_foreign_key_in_the_data_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki" / "ca.crt").write_text("no certificate")
    (tmp_path / "pki" / "ca.key").write_text("no key")
    with pytest.raises(HostError, match="not an ECDSA key with its certificate"):
        await serve_apiserver(ServerOptions(data_dir=tmp_path))


_WRITER = """
import sys, trio
from pathlib import Path
from kubelet_secrets.apiserver.journal import open_journal
from kubelet_secrets.apiserver.storage import ABSENT, Storage

async def main():
    journal = open_journal(Path(sys.argv[1]))
    storage = Storage(journal=journal)
    journal.load_into(storage)
    async def write(task):
        for number in range(1_000_000):
            name = f"{storage.revision}-{task}-{number}"
            await storage.write(f"/registry/secrets/ns/{name}", name.encode(), expected=ABSENT)
            print(name, flush=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        for task in range(3):
            nursery.start_soon(write, task)
trio.run(main)
"""


def _write_until_killed(directory: Path) -> list[str]:
    """Names whose write was acknowledged before the writers died."""
    child = subprocess.Popen([sys.executable, "-c", _WRITER, str(directory)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    lines = []
    try:
        for _ in range(40):
            lines.append(child.stdout.readline())  # noqa: PERF401 - the kill comes when these have been read
    finally:
        child.kill()
        lines += child.communicate()[0].splitlines(keepends=True)
    return [line.strip() for line in lines if line.endswith("\n")]


async def test_acknowledged_writes_survive_sigkill(tmp_path: Path) -> None:
    """Three times over the same directory, killed in the middle of three concurrent writers."""
    acknowledged: list[str] = []
    with trio.fail_after(60):
        for _ in range(3):
            acknowledged += await trio.to_thread.run_sync(_write_until_killed, tmp_path)
    assert len(acknowledged) >= 120
    async with durable(tmp_path) as storage:
        present = {record.key.rpartition("/")[2] for record in storage.records("/registry/secrets/")}
        assert set(acknowledged) <= present
        await storage.write("/registry/secrets/ns/after", b"", expected=ABSENT)


async def test_kubeconfig_is_for_its_owner_alone_and_loads(tmp_path: Path, server: ServerHandle) -> None:
    path = tmp_path / "config"
    old_mask = os.umask(0)
    try:
        write_kubeconfig(path, server.node_kubeconfig("n1"))
    finally:
        os.umask(old_mask)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["config"]
    config = load_kubeconfig(path)
    assert (config.server, config.ca_pem) == (server.url, server.ca_pem)


def test_failed_write_leaves_no_key_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_kubeconfig(tmp_path / "taken", SensitiveBytes(b"key"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


async def test_no_secret_value_reaches_log_or_answer_of_a_failure(
    admin: Http, server: ServerHandle, caplog: pytest.LogCaptureFixture
) -> None:
    """Also at DEBUG, and also when the server itself fails."""
    canary = "c4n4ry-s3cr3t"
    caplog.set_level("DEBUG")
    await admin.post(SECRETS, secret("s", k=canary))
    await admin.get(f"{SECRETS}/s")

    async def break_down(*_: object, **__: object) -> None:
        raise RuntimeError(canary)

    server.registry.update = break_down  # type: ignore[method-assign, assignment]
    answer = await admin.patch(f"{SECRETS}/s", {"stringData": {"k": canary}})
    assert (answer.status, answer.json["reason"]) == (500, "InternalError")
    assert canary not in answer.body.decode()
    server.registry.storage.open = break_down  # type: ignore[method-assign, assignment]
    async with admin.watch(f"{SECRETS}?watch=1") as watch:
        assert await watch.rest() == []  # ended, not left hanging
    ours = [record for record in caplog.records if not record.name.startswith(("httpcore2", "httpx2"))]
    assert all(canary not in record.getMessage() for record in ours)
    assert "RuntimeError" in caplog.text

"""Certificates replaced in time, and what that does to requests under way. Source:
k8s.io/client-go/util/certificate/certificate_manager_test.go; semantics §10.1."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from kubelet_secrets.api.core import ConfigMap
from kubelet_secrets.api.meta import NODES
from kubelet_secrets.client.rest import MERGE_PATCH, ApiClient, open_client
from kubelet_secrets.errors import UsageError
from kubelet_secrets.node import rotation as rotating
from kubelet_secrets.node.certfiles import SERVER, CertificateFiles
from kubelet_secrets.node.certificates import KeyPair, client_template, read_certificate, serving_template
from kubelet_secrets.node.rotation import CertificateRotation
from kubelet_secrets.node.serving import open_serving
from tests.client.h2server import eventually
from tests.node.joining import JoinableCluster, open_joinable, wall_clock


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[JoinableCluster]:
    async with open_joinable(tmp_path) as opened:
        yield opened


class Pairs:
    """What a rotation hands out."""

    def __init__(self, client: ApiClient | None = None) -> None:
        self.used: list[KeyPair] = []
        self.changed = trio.Event()
        self._client = client

    def use(self, pair: KeyPair) -> None:
        if self._client is not None:
            self._client.use_key_pair(pair.certificate_pem, pair.key_pem)
        self.used.append(pair)
        self.changed.set()
        self.changed = trio.Event()


async def test_certificate_is_replaced_when_it_is_due_and_watches_go_on(cluster: JoinableCluster) -> None:
    identity = await cluster.join(await cluster.make_token())
    assert identity.files is not None
    facts = await read_certificate(identity.config.client_cert_pem)
    now = facts.rotation_deadline(0.5) - timedelta(seconds=1)

    def clock() -> datetime:
        return now

    async with open_client(identity.config) as client, trio.open_nursery() as nursery:
        pairs = Pairs(client)
        rotation = CertificateRotation(
            "client certificate",
            client,
            lambda: client_template("n1"),
            identity.files,
            pairs.use,
            clock=clock,
            jitter=lambda: 0.5,
        )
        # A node may watch its own object: what happens to it must be seen by the watch that was there before.
        await client.create(NODES, "", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
        async with client.watch(NODES, "", ConfigMap, field_selector="metadata.name=n1") as events:
            assert (await anext(events)).object.metadata.name == "n1"
            rotating_every_look = trio.Event()
            nursery.start_soon(_run, rotation, rotating_every_look)
            await rotating_every_look.wait()
            assert pairs.used == []
            changed = pairs.changed
            now = facts.rotation_deadline(0.5)
            await changed.wait()
            await client.patch(NODES, "", "n1", {"metadata": {"labels": {"a": "b"}}})  # by the new certificate
            assert (await anext(events)).object.metadata.labels["a"] == "b"  # to the old connection
        nursery.cancel_scope.cancel()
    (pair,) = pairs.used
    kept = identity.files.load()
    assert kept is not None
    assert kept.key_pem == pair.key_pem
    assert pair.certificate_pem != identity.config.client_cert_pem
    assert [each["metadata"]["generateName"] for each in await cluster.requests() if "generateName" in each["metadata"]]


async def _run(rotation: CertificateRotation, started: trio.Event) -> None:
    started.set()
    await rotation.run()


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server runs in real time, so the rotation has to."""
    monkeypatch.setattr(rotating, "_LOOK_S", 0.02)
    monkeypatch.setattr(rotating, "_UNKNOWN_S", 0.02)
    monkeypatch.setattr(rotating, "_BACKOFF_S", (0.02,))


async def test_expired_certificate_is_asked_for_with_the_token_and_with_pauses(
    cluster: JoinableCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """By this clock every certificate that the server signs has expired before it comes, as one did from a real signer."""
    identity = await cluster.join(await cluster.make_token())
    assert identity.files is not None
    facts = await read_certificate(identity.config.client_cert_pem)
    async with open_client(identity.config) as client, trio.open_nursery() as nursery:
        pairs = Pairs()
        rotation = CertificateRotation(
            "client certificate",
            client,
            lambda: client_template("n1"),
            identity.files,
            pairs.use,
            clock=lambda: facts.not_after + timedelta(days=1),
            bootstrap=identity.bootstrap,
        )
        changed = pairs.changed
        nursery.start_soon(rotation.run)
        await changed.wait()
        await eventually(lambda: "the client certificate is new and due again" in caplog.text)
        nursery.cancel_scope.cancel()
    askers = {each["spec"]["username"] for each in await cluster.requests()}
    assert all(name.startswith("system:bootstrap:") for name in askers)


async def test_failures_leave_the_certificate_and_are_tried_again(
    cluster: JoinableCluster, caplog: pytest.LogCaptureFixture
) -> None:
    identity = await cluster.join(await cluster.make_token())
    assert identity.files is not None
    facts = await read_certificate(identity.config.client_cert_pem)
    before = identity.files.load()
    refused = trio.Event()

    def refuse(pair: KeyPair) -> None:
        if not refused.is_set():
            refused.set()
            raise UsageError("the pair cannot be used")
        pairs.use(pair)

    async with open_client(identity.config) as client, trio.open_nursery() as nursery:
        pairs = Pairs()
        changed = pairs.changed
        rotation = CertificateRotation(
            "client certificate",
            client,
            lambda: client_template("n1"),
            identity.files,
            refuse,
            clock=lambda: facts.not_after - timedelta(days=1),
        )
        nursery.start_soon(rotation.run)
        await refused.wait()
        assert identity.files.load() == before
        await changed.wait()
        nursery.cancel_scope.cancel()
    assert "the client certificate was not replaced: the pair cannot be used" in caplog.text


async def test_serving_certificate_is_asked_for_as_soon_as_the_names_are_known(cluster: JoinableCluster) -> None:
    identity = await cluster.join(await cluster.make_token())
    names: list[str] = []
    files = CertificateFiles(cluster.cert_dir, SERVER)
    async with open_client(identity.config) as client, trio.open_nursery() as nursery:
        addresses = [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.0.0.1"}]
        node = {"metadata": {"name": "n1"}, "status": {"addresses": addresses}}
        await client.create(NODES, "", {"apiVersion": "v1", "kind": "Node", **node})
        serving = await open_serving("n1", ["127.0.0.1"])
        self_signed = serving.certificate_pem
        pairs = Pairs()

        def use(pair: KeyPair) -> None:
            serving.use(pair)
            pairs.use(pair)

        rotation = CertificateRotation(
            "serving certificate",
            client,
            lambda: serving_template("n1", names) if names else None,
            files,
            use,
            clock=wall_clock,
        )
        nursery.start_soon(rotation.run)
        changed = pairs.changed
        names += ["n1", "10.0.0.1"]
        await changed.wait()
        assert serving.certificate_pem != self_signed
        assert (await read_certificate(serving.certificate_pem)).names == ("n1", "10.0.0.1")
        # An address that comes later is asked for at once.
        body = [*addresses, {"type": "InternalIP", "address": "fd00::1"}]
        patch = {"status": {"addresses": body}}
        await cluster.admin.patch(NODES, "", "n1", patch, subresource="status", content_type=MERGE_PATCH)
        changed = pairs.changed
        names.append("fd00::1")
        await changed.wait()
        assert (await read_certificate(serving.certificate_pem)).names == ("n1", "10.0.0.1", "fd00::1")
        # The next agent begins with it, and has nothing to wait for.
        assert (await open_serving("n1", [], files=files)).certificate_pem == serving.certificate_pem
        nursery.cancel_scope.cancel()


async def test_delay_leaves_the_machine_to_others(autojump_clock: MockClock, tmp_path: Path) -> None:
    looked: list[float] = []

    def template() -> None:
        looked.append(trio.current_time())

    rotation = CertificateRotation(
        "client certificate",
        None,  # type: ignore[arg-type]  # nothing is asked for
        template,
        CertificateFiles(tmp_path, "kubelet-client"),
        lambda pair: None,
        clock=wall_clock,
    )
    start = trio.current_time()
    with trio.move_on_after(40):
        await rotation.run(delay_s=30)
    assert looked[0] == start + 30

"""A node's first certificate: token, request, approval, files. Semantics §10.1;
source: pkg/kubelet/certificate/bootstrap/bootstrap_test.go."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import trio

from kubelet_secrets.api.core import Node
from kubelet_secrets.api.meta import NODES
from kubelet_secrets.apiserver import general_routes
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import open_client
from kubelet_secrets.errors import HostError, UsageError
from kubelet_secrets.node.bootstrap import find_identity
from kubelet_secrets.node.certfiles import CLIENT, CertificateFiles
from kubelet_secrets.node.certificates import KeyPair, make_self_signed, read_certificate
from kubelet_secrets.node.signing import NotSigned
from tests.client.h2server import eventually
from tests.node.joining import JoinableCluster, open_joinable, wall_clock
from tests.pod.cluster import Door


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[JoinableCluster]:
    async with open_joinable(tmp_path) as opened:
        yield opened


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_token_becomes_the_identity_of_a_node(cluster: JoinableCluster) -> None:
    identity = await cluster.join(await cluster.make_token())
    assert identity.files is not None
    async with open_client(identity.config) as node:
        made = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
        await node.create(NODES, "", made)
        assert (await node.get(NODES, "", "n1", Node)).metadata.name == "n1"
    (request,) = await cluster.requests()
    assert request["metadata"]["name"].startswith("node-csr-")
    assert request["spec"]["signerName"] == "kubernetes.io/kube-apiserver-client-kubelet"
    assert request["spec"]["usages"] == ["digital signature", "client auth"]


async def test_files_are_the_kubelets_and_nobody_elses_to_read(cluster: JoinableCluster) -> None:
    await cluster.join(await cluster.make_token())
    link = cluster.cert_dir / "kubelet-client-current.pem"
    assert link.is_symlink()
    (pem,) = cluster.cert_dir.glob("kubelet-client-2*.pem")
    assert link.resolve() == pem.resolve()
    assert (mode(cluster.cert_dir), mode(pem), mode(cluster.kubeconfig)) == (0o700, 0o600, 0o600)
    assert sorted(each.name for each in cluster.cert_dir.iterdir()) == [pem.name, link.name]
    text = cluster.kubeconfig.read_text()
    assert "token" not in text
    assert "PRIVATE KEY" not in text
    assert f"client-key: {link}" in text


@pytest.mark.parametrize(("version", "more"), [("v1.24.17", ["key encipherment"]), ("v1.25.0", [])])
async def test_old_cluster_is_asked_in_its_words(
    cluster: JoinableCluster, monkeypatch: pytest.MonkeyPatch, version: str, more: list[str]
) -> None:
    """Its controllers look for exactly three usages: a request without the third would never be signed."""
    monkeypatch.setattr(general_routes, "KUBERNETES_VERSION", version)
    await cluster.join(await cluster.make_token())
    (request,) = await cluster.requests()
    assert request["spec"]["usages"] == ["digital signature", "client auth", *more]


async def test_node_that_has_joined_needs_no_token_any_more(cluster: JoinableCluster) -> None:
    token = await cluster.make_token()
    first = await cluster.join(token)
    token.unlink()  # as kubeadm does once a node has joined
    again = await cluster.join(token)
    assert again.config.client_cert_pem == first.config.client_cert_pem
    without = await cluster.join(None)
    assert without.config.client_cert_pem == first.config.client_cert_pem
    assert without.files is not None  # still ours to renew
    assert len(await cluster.requests()) == 1


async def test_kubeconfig_of_somebody_else_is_not_ours_to_renew(cluster: JoinableCluster) -> None:
    cluster.kubeconfig.parent.mkdir()
    cluster.kubeconfig.write_bytes(cluster.server.node_kubeconfig("n1").reveal())
    assert (await cluster.join(None)).files is None


async def test_in_a_pod_the_pods_account_is_who_the_node_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kubeconfig. What the files say is read in test_kubeconfig.py; here there are none."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(UsageError, match=r"cannot read /var/run/secrets/kubernetes\.io/serviceaccount/token"):
        await find_identity(
            kubeconfig=None, bootstrap_kubeconfig=None, cert_dir=tmp_path, node_name="n1", clock=wall_clock
        )


async def test_expired_certificate_is_asked_for_anew(
    cluster: JoinableCluster, caplog: pytest.LogCaptureFixture
) -> None:
    token = await cluster.make_token()
    first = await cluster.join(token)
    facts = await read_certificate(first.config.client_cert_pem)
    later = await find_identity(
        kubeconfig=cluster.kubeconfig,
        bootstrap_kubeconfig=token,
        cert_dir=cluster.cert_dir,
        node_name="n1",
        clock=lambda: facts.not_after + timedelta(seconds=1),
    )
    assert later.config.client_cert_pem != first.config.client_cert_pem
    assert f"the one in {cluster.kubeconfig} has expired" in caplog.text


async def test_kubeconfig_that_cannot_be_used_is_made_anew(cluster: JoinableCluster) -> None:
    cluster.kubeconfig.parent.mkdir()
    cluster.kubeconfig.write_text("kind: Config\n")
    identity = await cluster.join(await cluster.make_token())
    async with open_client(identity.config) as node:
        await node.request_json("GET", "/version")


@pytest.mark.parametrize("is_known", [True, False], ids=["expired", "unknown"])
async def test_token_that_does_not_count(cluster: JoinableCluster, is_known: bool) -> None:
    token = await cluster.make_token(expires_in=timedelta(seconds=-1 if is_known else 3600))
    if not is_known:
        token.write_text(token.read_text().replace("token: ", "token: abcdef.0123456789abcdef #"))
    with pytest.raises(HostError) as caught:
        await cluster.join(token)
    assert str(caught.value) == "cannot create certificate signing request: Unauthorized"
    assert not cluster.kubeconfig.exists()


async def test_token_without_the_right_to_ask(cluster: JoinableCluster) -> None:
    token = await cluster.make_token(groups=())
    with pytest.raises(HostError) as caught:
        await cluster.join(token)
    assert str(caught.value).startswith(
        "cannot create certificate signing request: certificatesigningrequests.certificates.k8s.io is forbidden: User "
        '"system:bootstrap:'
    )


async def test_bootstrap_kubeconfig_that_is_needed_and_missing(cluster: JoinableCluster) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        await cluster.join(cluster.directory / "absent")


async def join_by_hand(cluster: JoinableCluster) -> Path:
    """A token whose requests nobody approves by himself."""
    rbac = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    await cluster.admin.request_json("DELETE", f"{rbac}/kubeadm:node-autoapprove-bootstrap")
    return await cluster.make_token()


async def test_request_is_waited_for_until_somebody_approves_it(cluster: JoinableCluster) -> None:
    token = await join_by_hand(cluster)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cluster.join, token)
        request = await cluster.wait_request()
        assert not request.get("status")
        assert not cluster.kubeconfig.exists()
        await cluster.decide(request["metadata"]["name"], "Approved")
    assert load_kubeconfig(cluster.kubeconfig).client_cert_pem


async def test_restart_while_waiting_finds_its_request_again(cluster: JoinableCluster) -> None:
    token = await join_by_hand(cluster)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cluster.join, token)
        request = await cluster.wait_request()
        nursery.cancel_scope.cancel()
    pending = cluster.cert_dir / "kubelet-client.key.tmp"
    assert mode(pending) == 0o600
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cluster.join, token)
        await cluster.decide(request["metadata"]["name"], "Approved")
    assert len(await cluster.requests()) == 1
    assert not pending.exists()


async def test_denial_is_told_with_its_reason(cluster: JoinableCluster) -> None:
    token = await join_by_hand(cluster)

    async def deny() -> None:
        request = await cluster.wait_request()
        await cluster.decide(request["metadata"]["name"], "Denied")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deny)
        with pytest.raises(NotSigned) as caught:
            await cluster.join(token)
    assert str(caught.value) == ("certificate signing request is denied, reason: ByTest, message: as the test wants")
    assert not cluster.kubeconfig.exists()


async def test_request_that_goes_away_ends_the_wait(cluster: JoinableCluster) -> None:
    token = await join_by_hand(cluster)

    async def remove() -> None:
        name = (await cluster.wait_request())["metadata"]["name"]
        await cluster.admin.request_json("DELETE", f"/apis/certificates.k8s.io/v1/certificatesigningrequests/{name}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(remove)
        with pytest.raises(NotSigned, match=r'csr ".*" was deleted'):
            await cluster.join(token)


async def test_server_that_does_not_answer_is_waited_for(
    cluster: JoinableCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """However long: a node that boots before its control plane is to join when that has come up."""
    token = await cluster.make_token()
    door = Door(cluster.server.port)
    door.is_shut = True
    async with trio.open_nursery() as nursery:
        await nursery.start(door.run)
        token.write_text(token.read_text().replace(f":{cluster.server.port}", f":{door.port}"))

        async def open_door() -> None:
            await eventually(lambda: "failed to connect to apiserver" in caplog.text)
            door.is_shut = False

        nursery.start_soon(open_door)
        identity = await cluster.join(token)
        nursery.cancel_scope.cancel()
    assert identity.config.client_cert_pem


# --- files -----------------------------------------------------------------------------------------------------------


async def test_newest_pair_is_current_and_superseded_ones_go(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path / "pki", CLIENT)
    assert files.load() is None
    now = wall_clock()
    first, second = [await make_self_signed(name, [name]) for name in ("one", "two")]
    files.save(first, now)
    assert files.load() == first
    files.save(second, now + timedelta(hours=1))
    assert files.load() == second
    assert len(list((tmp_path / "pki").iterdir())) == 2


async def test_pair_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path / "pki", CLIENT)
    pair = await make_self_signed("one", ["one"])
    now = wall_clock()
    files.save(pair, now)
    later = now + timedelta(hours=1)
    (tmp_path / "pki" / f"kubelet-client-{later:%Y-%m-%d-%H-%M-%S}.pem").mkdir()
    with pytest.raises(HostError, match="kubelet-client-"):
        files.save(KeyPair(b"", pair.key_pem), later)
    assert files.load() == pair


def test_garbage_is_no_pair(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path, CLIENT)
    (tmp_path / "kubelet-client-current.pem").write_text("nothing")
    assert files.load() is None

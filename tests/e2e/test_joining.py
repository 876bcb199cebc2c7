"""A node that joins a server by the commands a user has: token, request, certificate, pods."""

from __future__ import annotations

import select
import ssl
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from kubelet_secrets.api.core import Node as NodeObject
from kubelet_secrets.api.meta import NODES
from kubelet_secrets.apiserver.pki import load_authority
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.kubeconfigfile import make_kubeconfig
from kubelet_secrets.node.certfiles import CLIENT, CertificateFiles, write_private
from kubelet_secrets.node.certificates import KeyPair, client_template, make_request
from kubelet_secrets.notify import NotifySocket
from tests.cli.command import run_cli, the_line
from tests.e2e.stacks import (
    START_TIMEOUT_S,
    Cluster,
    Command,
    Pair,
    container,
    eventually,
    find_leftovers,
    in_thread,
    mount,
    open_cluster,
    scrub,
    secret_volume,
)

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]
CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


class JoiningPair(Pair):
    """A server, and a node that has nothing but a token."""

    def start(self) -> None:
        self.kubeconfig = self.directory / "admin.kubeconfig"
        self.start_server(port=0)
        self.bootstrap = self.directory / "bootstrap.kubeconfig"
        self.token = self.create_token(self.bootstrap)

    def create_token(self, path: Path, *options: str) -> str:
        arguments = ["token", "create", "--kubeconfig", self.kubeconfig, "--bootstrap-kubeconfig", path, *options]
        done = run_cli(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def agent_arguments(self, bootstrap: Path) -> list[str]:
        return [
            *("-vv", "agent", "--bootstrap-kubeconfig", str(bootstrap), "--rotate-server-certificates"),
            *("--kubelet-port", "0"),
            *self.node_options,
        ]

    def start_agent(self) -> None:
        notifications = NotifySocket()
        arguments = self.agent_arguments(self.bootstrap)
        self.agent = Command(arguments, self.directory / "agent.log", env={"NOTIFY_SOCKET": notifications.address})
        readable, _, _ = select.select([notifications.socket], [], [], START_TIMEOUT_S)
        notifications.close()
        assert readable, self.agent.stderr


@pytest.fixture(scope="module")
def pair(image_dir: Path) -> Iterator[JoiningPair]:
    with tempfile.TemporaryDirectory(prefix="ks-e2e-") as directory:
        made = JoiningPair(Path(directory), image_dir)
        try:
            made.start()
            made.start_agent()
            yield made
        finally:
            for command in (getattr(made, "agent", None), getattr(made, "server", None)):
                if command is not None:
                    command.stop()
            # Who it is stays with the node; everything else is gone.
            left = sorted(each.name for each in made.root_dir.iterdir())
            scrub(made.directory, made.node_name)
        assert left == ["kubeconfig", "pki"]
        assert find_leftovers(made.directory, made.node_name) == []


async def requests(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await cluster.client.request_json("GET", CSRS))["items"]
    return found


async def test_node_joins_with_a_token_and_runs_a_pod_with_a_secret(pair: JoiningPair) -> None:
    async with open_cluster(pair) as cluster:
        await cluster.put_secret("db", {"password": "s3cret"})
        await cluster.run_pod("app", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "db")])
        assert await cluster.exec("app", "cat /v/password") == "s3cret"
        node = await cluster.client.get(NODES, "", pair.node_name, NodeObject)
        assert any(each.type == "Ready" and each.status == "True" for each in node.status.conditions)
        askers = {each["spec"]["signerName"]: each["spec"]["username"] for each in await requests(cluster)}
    token_id = pair.token.partition(".")[0]
    assert askers["kubernetes.io/kube-apiserver-client-kubelet"] == f"system:bootstrap:{token_id}"
    assert pair.token not in pair.agent.stderr + pair.server.stderr


async def test_certificate_of_the_nodes_own_api_is_the_clusters(pair: JoiningPair) -> None:
    """Whoever trusts the cluster's authority knows the kubelet by the node's name."""
    current = pair.root_dir / "pki" / "kubelet-server-current.pem"
    await eventually(current.exists)
    async with open_cluster(pair) as cluster:
        node = await cluster.client.get(NODES, "", pair.node_name, NodeObject)
        ca = (await cluster.client.request_json("GET", "/api/v1/namespaces/default/configmaps/kube-root-ca.crt"))[
            "data"
        ]
    port = node.status.daemon_endpoints.kubelet_endpoint.port
    context = ssl.create_default_context(cadata=ca["ca.crt"])
    with trio.fail_after(60):
        tcp = await trio.open_tcp_stream("127.0.0.1", port)
        tls = trio.SSLStream(tcp, context, server_hostname=pair.node_name)
        await tls.do_handshake()
        shown = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        await trio.aclose_forcefully(tls)
    assert shown.subject.rfc4514_string() == f"CN=system:node:{pair.node_name},O=system:nodes"


async def test_node_that_has_joined_comes_back_without_its_token(pair: JoiningPair) -> None:
    token_id = pair.token.partition(".")[0]
    done = await in_thread(run_cli, "token", "delete", token_id, "--kubeconfig", pair.kubeconfig)
    assert done.returncode == 0, done.stderr
    pair.bootstrap.unlink()
    await in_thread(pair.agent.stop)
    await in_thread(pair.start_agent)
    async with open_cluster(pair) as cluster:
        await cluster.run_pod("again", container())


async def test_token_that_does_not_count_is_said_in_one_line(pair: JoiningPair, image_dir: Path) -> None:
    stranger = pair.directory / "stranger.kubeconfig"
    token = await in_thread(pair.create_token, stranger)
    await in_thread(run_cli, "token", "delete", token, "--kubeconfig", pair.kubeconfig)
    with tempfile.TemporaryDirectory(prefix="ks-e2e-") as directory:
        other = Pair(Path(directory), image_dir)
        arguments = ["agent", "--bootstrap-kubeconfig", str(stranger), "--kubelet-port", "0", *other.node_options]
        done = await in_thread(run_cli, *arguments)
        assert done.returncode == 1
        assert the_line(done) == "kubelet-secrets: cannot create certificate signing request: Unauthorized"
        assert not (other.root_dir / "kubeconfig").exists()


@pytest.mark.slow
async def test_certificate_that_is_due_is_replaced_under_a_running_pod(image_dir: Path) -> None:
    """Slow, for an agent leaves its first half minute to the pods: `pytest -m slow tests/e2e/test_joining.py`."""
    with tempfile.TemporaryDirectory(prefix="ks-e2e-") as directory:
        pair = JoiningPair(Path(directory), image_dir)
        await in_thread(pair.start)
        try:
            files = await give_old_certificate(pair)
            await in_thread(pair.start_agent)
            before = files.current.resolve()
            async with open_cluster(pair) as cluster:
                await cluster.put_secret("db", {"password": "one"})
                volumes = [secret_volume("v", "db")]
                await cluster.run_pod("app", container(volumeMounts=[mount("v", "/v")]), volumes=volumes)
                with trio.fail_after(120):
                    while files.current.resolve() == before:  # noqa: ASYNC110  # a link tells nobody
                        await trio.sleep(0.5)
                await cluster.put_secret("db", {"password": "two"})
                with trio.fail_after(60):
                    while await cluster.exec("app", "cat /v/password") != "two":  # noqa: ASYNC110
                        await trio.sleep(0.1)
                await cluster.run_pod("later", container())
                askers = {each["spec"]["username"] for each in await requests(cluster)}
            assert askers == {f"system:node:{pair.node_name}"}
        finally:
            for command in (getattr(pair, "agent", None), pair.server):
                if command is not None:
                    await in_thread(command.stop)
            scrub(pair.directory, pair.node_name)


async def give_old_certificate(pair: JoiningPair) -> CertificateFiles:
    """Make it a node that joined ten hours ago, with a certificate for eleven."""
    authority = load_authority(pair.directory / "data" / "pki")
    request = await make_request(client_template(pair.node_name))
    now = datetime.now(UTC)
    pem = authority.sign_request(
        x509.load_pem_x509_csr(request.request_pem),
        key_usages=["digital_signature"],
        extended_usages=[ExtendedKeyUsageOID.CLIENT_AUTH],
        not_before=now - timedelta(hours=10),
        not_after=now + timedelta(hours=1),
    )
    files = CertificateFiles(pair.root_dir / "pki", CLIENT)
    files.save(KeyPair(pem, request.key_pem), now)
    user = {"client-certificate": str(files.current), "client-key": str(files.current)}
    write_private(pair.root_dir / "kubeconfig", make_kubeconfig(load_kubeconfig(pair.kubeconfig), user))
    return files

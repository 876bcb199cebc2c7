"""The harness for a real control plane, with programs that stand in for it; see ``programs.py`` for what that shows."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import CONFIG_MAPS, NODES, PODS, SERVICE_ACCOUNTS
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import open_client
from kubelet_secrets.client.version import NEWEST, Version
from kubelet_secrets.errors import Forbidden, HostError, UsageError
from kubelet_secrets.node.bootstrap import find_identity
from kubelet_secrets.node.certificates import make_request, read_certificate, serving_template
from kubelet_secrets.node.signing import request_certificate
from kubelet_secrets.testing.controlplane import (
    Assets,
    ControlPlane,
    Ports,
    apiserver_arguments,
    controller_manager_arguments,
    etcd_arguments,
    find_assets,
    program_version,
    run_control_plane,
    scheduler_arguments,
)
from kubelet_secrets.testing.standins import StandIns
from tests.node.joining import open_joinable
from tests.testing.programs import arguments_of, write_programs

PORTS = Ports(client=1, peer=2, api=3, controller_manager=4, scheduler=5)


def test_programs_are_those_of_the_directory_that_the_environment_names(tmp_path: Path) -> None:
    assert find_assets({}) is None
    with pytest.raises(UsageError, match=f"KUBEBUILDER_ASSETS: there is no program etcd in {tmp_path}"):
        find_assets({"KUBEBUILDER_ASSETS": str(tmp_path)})
    write_programs(tmp_path)
    found = find_assets({"KUBEBUILDER_ASSETS": str(tmp_path)})
    assert found == Assets(etcd=tmp_path / "etcd", apiserver=tmp_path / "kube-apiserver")


def test_control_plane_is_what_a_node_meets_in_a_cluster() -> None:
    """Who checks the node, and who it has to check: semantics §10."""
    flags = dict(each.removeprefix("--").split("=", 1) for each in apiserver_arguments(Path("/d"), PORTS))
    assert flags["authorization-mode"] == "Node,RBAC"
    assert flags["enable-admission-plugins"] == "NodeRestriction"
    assert flags["enable-bootstrap-token-auth"] == "true"
    assert flags["etcd-servers"] == f"http://127.0.0.1:{PORTS.client}"
    assert flags["secure-port"] == "3"
    assert flags["kubelet-client-certificate"] == "/d/kubelet-client.crt"
    # What one program writes the other reads.
    manager = dict(each.removeprefix("--").split("=", 1) for each in controller_manager_arguments(Path("/d"), PORTS))
    assert manager["service-account-private-key-file"] == flags["service-account-signing-key-file"]
    assert manager["cluster-signing-cert-file"] == flags["client-ca-file"] == manager["root-ca-file"]
    etcd = dict(each.removeprefix("--").split("=", 1) for each in etcd_arguments(Path("/d"), PORTS))
    assert etcd["listen-client-urls"] == etcd["advertise-client-urls"] == flags["etcd-servers"]
    assert "--secure-port=5" in scheduler_arguments(Path("/d"), PORTS)


@pytest.mark.parametrize(
    ("version", "signer", "has_port"),
    [(Version(1, 20), "bootstrapsigner", True), (Version(1, 27), "bootstrapsigner", False)]
    + [(each, "bootstrap-signer-controller", False) for each in (Version(1, 28), NEWEST)],
    ids=str,
)
def test_flags_are_those_of_the_programs_version(version: Version, signer: str, has_port: bool) -> None:
    """An unknown flag or controller ends the program, and the port without TLS is everybody's on this machine."""
    manager = controller_manager_arguments(Path("/d"), PORTS, version)
    assert signer in next(each for each in manager if each.startswith("--controllers=")).split(",")
    assert ("--port=0" in manager) is has_port
    assert ("--port=0" in scheduler_arguments(Path("/d"), PORTS, version)) is has_port


def test_program_tells_its_version(tmp_path: Path) -> None:
    program = tmp_path / "kube-scheduler"
    program.write_text("#!/bin/sh\n[ $1 = --version ] && echo Kubernetes v1.20.2\n")
    program.chmod(0o755)
    assert program_version(program) == Version(1, 20)
    program.write_text("#!/bin/sh\necho unknown flag\n")
    with pytest.raises(HostError, match="kube-scheduler --version: not a version"):
        program_version(program)
    with pytest.raises(HostError, match="No such file"):
        program_version(tmp_path / "none")


def test_further_flags_come_last_and_win() -> None:
    assert apiserver_arguments(Path("/d"), PORTS, ["--profiling=true"])[-1] == "--profiling=true"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    directory = tmp_path / "plane"
    directory.mkdir()
    assets = find_assets({"KUBEBUILDER_ASSETS": str(write_programs(tmp_path))})
    assert assets is not None
    with run_control_plane(assets, directory) as running:
        yield running


def test_node_joins_and_outlives_its_control_plane(plane: ControlPlane, tmp_path: Path) -> None:
    """Everything at once, for starting it takes seconds: programs, credentials, joining, an outage, the end."""
    called = arguments_of(tmp_path, "kube-apiserver")
    assert int(called["secure-port"]) == plane.port
    assert arguments_of(tmp_path, "etcd")["data-dir"] == str(tmp_path / "plane" / "etcd")
    serving = x509.load_pem_x509_certificate(Path(called["tls-cert-file"]).read_bytes())
    names = serving.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)
    public = serialization.load_pem_public_key(Path(called["service-account-key-file"]).read_bytes())
    private = Path(called["service-account-signing-key-file"]).read_bytes()
    assert serialization.load_pem_private_key(private, None).public_key() == public
    for key in (tmp_path / "plane").glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600, key
    assert (plane.has_controllers, plane.has_scheduler) == (True, False)

    bootstrap = tmp_path / "bootstrap"
    plane.make_bootstrap_kubeconfig(bootstrap)

    async def join() -> None:
        with trio.fail_after(60):
            identity = await find_identity(
                kubeconfig=tmp_path / "kubeconfig",
                bootstrap_kubeconfig=bootstrap,
                cert_dir=tmp_path / "pki",
                node_name="n1",
                clock=lambda: datetime.now(UTC),
            )
            async with open_client(identity.config) as node:
                found = await node.list(PODS, "", Pod, field_selector="spec.nodeName=n1")
                assert len(found) == 0
                with pytest.raises(Forbidden):
                    await node.list(NODES, "", dict)
            async with open_client(load_kubeconfig(plane.kubeconfig)) as admin:
                await admin.get(SERVICE_ACCOUNTS, "default", "default", dict)
                await admin.get(CONFIG_MAPS, "default", "kube-root-ca.crt", dict)

    trio.run(join)
    plane.stop_apiserver(at_once=True)
    plane.start_apiserver()

    async def ask() -> None:
        async with open_client(load_kubeconfig(tmp_path / "kubeconfig")) as node:
            await node.request_json("GET", "/version")

    trio.run(ask)
    pids = plane.pids
    plane.stop()
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


def test_program_that_ends_is_named_with_its_last_words(tmp_path: Path) -> None:
    directory = tmp_path / "plane"
    directory.mkdir()
    assets = find_assets({"KUBEBUILDER_ASSETS": str(write_programs(tmp_path))})
    assert assets is not None
    assets.etcd.write_text("#!/bin/sh\necho unknown flag: --some-flag >&2\nexit 2\n")
    assets.apiserver.write_text("#!/bin/sh\nexec sleep 600\n")
    with (
        pytest.raises(HostError, match="etcd ended with 2: unknown flag: --some-flag"),
        run_control_plane(assets, directory),
    ):
        pass
    done = subprocess.run(["pgrep", "-f", str(assets.apiserver)], capture_output=True, check=False)
    assert done.stdout == b""


async def test_stand_ins_approve_what_a_test_needs_signed(tmp_path: Path) -> None:
    """Serving certificates nobody approves by himself in a cluster, and here no Node has told its addresses yet."""
    async with open_joinable(tmp_path) as cluster:
        bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
        await cluster.admin.request_json("DELETE", f"{bindings}/kubeadm:node-autoapprove-bootstrap")
        stand_ins = StandIns(cluster.admin, cluster.server.authority)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stand_ins.run)
            identity = await cluster.join(await cluster.make_token())
            async with open_client(identity.config) as node:
                template = serving_template("n1", ["n1", "192.0.2.7"])
                request = await make_request(template)
                pem = await request_certificate(node, template, request, is_first=False, timeout_s=30)
            nursery.cancel_scope.cancel()
        assert set((await read_certificate(pem)).names) == {"n1", "192.0.2.7"}
        reasons = [each["status"]["conditions"][0]["reason"] for each in await cluster.requests()]
        assert reasons == ["Tested", "Tested"]

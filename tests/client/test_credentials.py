"""Where tokens and certificates come from, and when fresh ones are fetched."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from kubelet_secrets.api.core import Secret
from kubelet_secrets.api.meta import SECRETS
from kubelet_secrets.client.credentials import Credentials
from kubelet_secrets.client.kubeconfig import ClusterConfig, ExecConfig, load_kubeconfig
from kubelet_secrets.client.rest import open_client
from kubelet_secrets.errors import ApiUnavailable, UsageError
from kubelet_secrets.sensitive import SensitiveBytes
from tests.client.h2server import AUTHORITY, CA_PEM, ServerStream, serve

PLUGIN = """#!/bin/sh
echo "$KUBERNETES_EXEC_INFO" > {directory}/info
echo run >> {directory}/runs
{body}
"""


def plugin(directory: Path, body: str, **settings: Any) -> ExecConfig:
    path = directory / "plugin"
    path.write_text(PLUGIN.format(directory=directory, body=body))
    path.chmod(0o755)
    return ExecConfig(command=str(path), **settings)


def credential(**status: str) -> str:
    document = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    return f"cat <<'END'\n{json.dumps(document)}\nEND"


def runs(directory: Path) -> int:
    return (directory / "runs").read_text().count("run")


async def test_plugin_gives_a_token_and_is_told_of_the_cluster(tmp_path: Path) -> None:
    executed = plugin(tmp_path, credential(token="t-1"), provide_cluster_info=True, env=(("A", "1"),))
    config = ClusterConfig(server="https://10.0.0.1", ca_pem=b"PEM", tls_server_name="k", exec=executed)
    credentials = Credentials(config)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(credentials.authorize)
    authorization = await credentials.authorize()
    assert authorization.header == "Bearer t-1"
    assert "t-1" not in repr(authorization)
    assert runs(tmp_path) == 1
    info = json.loads((tmp_path / "info").read_text())
    assert info == {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "spec": {
            "interactive": False,
            "cluster": {
                "server": "https://10.0.0.1",
                "tls-server-name": "k",
                "insecure-skip-tls-verify": False,
                "certificate-authority-data": "UEVN",
            },
        },
    }


async def test_expired_credential_is_fetched_again(tmp_path: Path) -> None:
    executed = plugin(tmp_path, credential(token="t", expirationTimestamp="2020-01-01T00:00:00Z"))
    credentials = Credentials(ClusterConfig(server="https://x", exec=executed))
    await credentials.authorize()
    await credentials.authorize()
    assert runs(tmp_path) == 2


async def test_refused_credential_is_fetched_once_for_all_who_were_refused(tmp_path: Path) -> None:
    executed = plugin(tmp_path, f"n=$(wc -l < {tmp_path}/runs)\n" + credential(token="t-$n").replace("'END'", "END"))
    credentials = Credentials(ClusterConfig(server="https://x", exec=executed))
    refused = await credentials.authorize()
    results: list[bool] = []

    async def renew() -> None:
        results.append(await credentials.renew(refused.generation))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(renew)
    assert results == [True] * 10
    assert runs(tmp_path) == 2
    assert (await credentials.authorize()).header == "Bearer t-2"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("exit 3", "failed with exit code 3"),
        ("echo canary", "printed no ExecCredential"),
        ('echo \'{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1beta1"}\'', "API version"),
        (credential(), "didn't return a token or cert/key pair"),
        (credential(clientCertificateData="canary"), "only certificate or key"),
    ],
)
async def test_plugin_that_fails_makes_the_server_unavailable(tmp_path: Path, body: str, problem: str) -> None:
    credentials = Credentials(ClusterConfig(server="https://x", exec=plugin(tmp_path, body)))
    with pytest.raises(ApiUnavailable) as caught:
        await credentials.authorize()
    assert problem in str(caught.value)
    assert "canary" not in str(caught.value)


async def test_plugin_that_cannot_be_run(tmp_path: Path) -> None:
    plugin = ExecConfig(command=str(tmp_path / "gone"), install_hint="install it from example.org")
    credentials = Credentials(ClusterConfig(server="https://x", exec=plugin))
    with pytest.raises(ApiUnavailable, match=r"no such file.*; install it from example\.org"):
        await credentials.authorize()


async def test_plugin_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubelet_secrets.client.credentials.PLUGIN_TIMEOUT_S", 0.1)
    credentials = Credentials(ClusterConfig(server="https://x", exec=plugin(tmp_path, "exec sleep 600")))
    with trio.fail_after(60), pytest.raises(ApiUnavailable, match="took longer than"):
        await credentials.authorize()


async def test_certificates_of_a_plugin_are_used(tmp_path: Path) -> None:
    """Each run of the plugin, as after a 401, may bring others: connections change to them."""
    is_refusing = False

    async def refuse_once(stream: ServerStream) -> None:
        nonlocal is_refusing
        if is_refusing:
            is_refusing = False
            await stream.answer(401, b"{}")
        else:
            await whoami(stream)

    with trio.fail_after(60):
        async with serve(refuse_once) as server:
            cert, key = key_pair("first@example.org")
            body = credential(clientCertificateData=cert.decode(), clientKeyData=key.reveal().decode())
            executed = plugin(tmp_path, body)
            async with open_client(ClusterConfig(server=server.url, ca_pem=CA_PEM, exec=executed)) as client:
                first = (await client.get(SECRETS, "s", "x", Secret)).metadata.name
                assert first
                cert, key = key_pair("second@example.org")
                plugin(tmp_path, credential(clientCertificateData=cert.decode(), clientKeyData=key.reveal().decode()))
                assert (await client.get(SECRETS, "s", "x", Secret)).metadata.name == first
                is_refusing = True
                assert (await client.get(SECRETS, "s", "x", Secret)).metadata.name not in ("", first)


async def test_name_and_password_are_basic_authentication() -> None:
    config = ClusterConfig(server="https://x", username="jane", password=SensitiveBytes(b"canary"))
    authorization = await Credentials(config).authorize()
    assert authorization.header == "Basic amFuZTpjYW5hcnk="
    assert "canary" not in repr(config)
    assert "amFuZTpjYW5hcnk" not in repr(authorization)


async def test_token_file_is_read_again_after_a_minute(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    credentials = Credentials(ClusterConfig(server="https://x", token_file=token))
    assert (await credentials.authorize()).header == "Bearer one"
    token.write_text("two\n")
    await trio.sleep(59)
    assert (await credentials.authorize()).header == "Bearer one"
    await trio.sleep(2)
    assert (await credentials.authorize()).header == "Bearer two"
    token.unlink()
    await trio.sleep(61)
    assert (await credentials.authorize()).header == "Bearer two"


def key_pair(name: str) -> tuple[bytes, SensitiveBytes]:
    issued = AUTHORITY.issue_cert(name)
    return b"".join(pem.bytes() for pem in issued.cert_chain_pems), SensitiveBytes(issued.private_key_pem.bytes())


async def whoami(stream: ServerStream) -> None:
    """Answers with the serial number of the client's certificate."""
    tls = stream.connection.io
    assert isinstance(tls, trio.SSLStream)
    certificate = tls.getpeercert()
    serial = certificate["serialNumber"] if certificate else ""
    await stream.answer(200, json.dumps({"metadata": {"name": serial}}).encode())


async def test_rotated_certificate_is_used_by_new_connections_and_the_old_ones_drain() -> None:
    (old_cert, old_key), (new_cert, new_key) = key_pair("old@example.org"), key_pair("new@example.org")
    with trio.fail_after(60):
        async with serve(whoami) as server:
            config = ClusterConfig(server=server.url, ca_pem=CA_PEM, client_cert_pem=old_cert, client_key_pem=old_key)
            async with open_client(config) as client:
                first = (await client.get(SECRETS, "s", "x", Secret)).metadata.name
                assert first
                assert (await client.get(SECRETS, "s", "x", Secret)).metadata.name == first
                client.use_key_pair(new_cert, new_key)
                second = (await client.get(SECRETS, "s", "x", Secret)).metadata.name
                assert second not in ("", first)
                assert server.accepted == 2
                with pytest.raises(UsageError):
                    client.use_key_pair(old_cert, new_key)
                assert (await client.get(SECRETS, "s", "x", Secret)).metadata.name == second


async def test_changed_certificate_files_are_noticed(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    cert_file, key_file = tmp_path / "c.pem", tmp_path / "k.pem"
    (old_cert, old_key), (new_cert, new_key) = key_pair("old@example.org"), key_pair("new@example.org")
    cert_file.write_bytes(old_cert)
    key_file.write_bytes(old_key.reveal())
    config = ClusterConfig(
        server="https://x",
        client_cert_pem=old_cert,
        client_key_pem=old_key,
        client_cert_file=cert_file,
        client_key_file=key_file,
    )
    credentials = Credentials(config)
    changes: list[str] = []
    credentials.on_key_pair_changed = lambda: changes.append("changed")
    await credentials.authorize()
    cert_file.write_bytes(new_cert)  # half of a rotation: the pair does not fit
    await trio.sleep(61)
    await credentials.authorize()
    assert changes == []
    key_file.write_bytes(new_key.reveal())
    await trio.sleep(61)
    await credentials.authorize()
    await trio.sleep(61)
    await credentials.authorize()
    assert changes == ["changed"]


async def test_certificate_changed_on_disk_drops_no_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests ride with the new one from then on; a watch that stands goes on over the old connection."""
    monkeypatch.setattr("kubelet_secrets.client.credentials._FILE_PERIOD_S", 0)  # look at each request
    cert_file, key_file = tmp_path / "c.pem", tmp_path / "k.pem"
    happened = trio.Event()

    async def answer(stream: ServerStream) -> None:
        if "watch=true" not in stream.path:
            await whoami(stream)
            return
        await stream.respond(200, {"content-type": "application/json"})
        await happened.wait()
        await stream.send(b'{"type": "ADDED", "object": {"metadata": {"name": "late"}}}\n')
        await trio.sleep_forever()

    def write(name: str) -> None:
        cert, key = key_pair(name)
        cert_file.write_bytes(cert)
        key_file.write_bytes(key.reveal())

    write("old@example.org")
    document = {
        "kind": "Config",
        "current-context": "m",
        "contexts": [{"name": "m", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"client-certificate": "c.pem", "client-key": "k.pem"}}],
    }
    with trio.fail_after(60):
        async with serve(answer) as server:
            cluster = {"server": server.url, "certificate-authority-data": base64.b64encode(CA_PEM).decode()}
            document["clusters"] = [{"name": "c", "cluster": cluster}]
            (tmp_path / "kubeconfig").write_text(json.dumps(document))
            async with open_client(load_kubeconfig(tmp_path / "kubeconfig")) as client:
                first = (await client.get(SECRETS, "s", "x", Secret)).metadata.name
                async with client.watch(SECRETS, "s", Secret) as events:
                    write("new@example.org")
                    assert (await client.get(SECRETS, "s", "x", Secret)).metadata.name not in ("", first)
                    happened.set()
                    assert (await anext(events)).object.metadata.name == "late"


async def test_changed_authority_is_noticed(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """A cluster that changes its authority puts old and new side by side for a while; nodes must not need a restart."""
    ca_file = tmp_path / "ca.crt"
    ca_file.write_bytes(CA_PEM)
    credentials = Credentials(ClusterConfig(server="https://x", ca_pem=CA_PEM, ca_file=ca_file))
    changes: list[str] = []
    credentials.on_key_pair_changed = lambda: changes.append("changed")
    await credentials.authorize()
    ca_file.write_bytes(CA_PEM + trustme.CA().cert_pem.bytes())
    await trio.sleep(61)
    await credentials.authorize()
    assert changes == ["changed"]
    assert len(credentials.make_context().get_ca_certs()) == 2
    ca_file.write_bytes(b"half a file")
    await trio.sleep(61)
    await credentials.authorize()
    assert len(credentials.make_context().get_ca_certs()) == 2


def test_certificate_of_another_authority_is_loaded_all_the_same() -> None:
    """Whether the server trusts it is the server's business."""
    issued = trustme.CA().issue_cert("x")
    config = ClusterConfig(
        server="https://x",
        client_cert_pem=issued.cert_chain_pems[0].bytes(),
        client_key_pem=SensitiveBytes(issued.private_key_pem.bytes()),
    )
    Credentials(config).make_context()

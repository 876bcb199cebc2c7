"""Every manifest in ``examples/`` does what its comment says, on one node at the same time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kubelet_secrets.api.core import Pod
from kubelet_secrets.control.protocol import AuditView
from tests.cli.command import REPOSITORY, run_cli
from tests.e2e.stacks import Cluster, Stack, eventually, receive

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.yaml"))


def documents() -> list[dict[str, object]]:
    return [document for path in EXAMPLES for document in yaml.safe_load_all(path.read_text())]


POD_NAMES = [document["metadata"]["name"] for document in documents() if document["kind"] == "Pod"]  # type: ignore[index]


@pytest.fixture(scope="module")
def stack(make_stack: object) -> Stack:
    """As the documentation says it: ``up -f examples/``."""
    return make_stack("-f", str(REPOSITORY / "examples"))  # type: ignore[operator]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_offline_answer_finds_nothing_wrong(path: Path) -> None:
    done = run_cli("explain", "-f", path, "-o", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["blocked"] is False


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_says_what_it_is_for(path: Path) -> None:
    comment = path.read_text().split("apiVersion")[0]
    assert "# Why: " in comment
    assert comment.startswith("# ")


@pytest.mark.parametrize("name", POD_NAMES)
async def test_pod_runs(cluster: Cluster, name: str) -> None:
    await cluster.wait_ready(name)


async def test_basic_auth_envfrom(cluster: Cluster) -> None:
    assert await cluster.logs("basic-auth-envfrom", "mailer", until="\n") == "sending as mailer\n"
    names = await cluster.exec("basic-auth-envfrom", "tr '\\0' '\\n' </proc/1/environ | grep ^SMTP_ | sort")
    assert names == "SMTP_password=stamp-and-letter\nSMTP_username=mailer\n"


async def test_database_password_env(cluster: Cluster) -> None:
    url = await cluster.exec("database-password-env", "tr '\\0' '\\n' </proc/1/environ | sed -n s/^DATABASE_URL=//p")
    assert url == "postgres://orders:s3cret-orders@db.example.com/orders\n"
    await cluster.put_secret("orders-db", {"password": "rotated"})
    await eventually(lambda: "stale" in cluster.stack.cli("env", "database-password-env").stdout)


async def test_dotfile_key(cluster: Cluster) -> None:
    assert ".netrc" in await cluster.logs("dotfile-key", "reporter", until=".netrc")
    assert "reports.example.com" in await cluster.exec("dotfile-key", "cat /etc/reporter/.netrc")


async def test_one_may_not_see(cluster: Cluster) -> None:
    pod = await cluster.wait_ready("one-may-not-see")
    assert await cluster.logs("one-may-not-see", "signer", until="\n") == "29 /keys/key\n"
    done = await cluster.try_exec("one-may-not-see", "cat /keys/key", "frontend")
    assert b"No such file" in done.stderr
    path = cluster.volume_dir(pod, "key") / "key"
    refused = await trio.run_process(["cat", str(path)], check=False, capture_stderr=True)
    assert b"Permission denied" in refused.stderr
    records = cluster.stack.ask("audit", AuditView, follow=False, denied=True)
    assert any(each.pod == "one-may-not-see" for each in records)


async def test_optional_late(cluster: Cluster) -> None:
    assert (await cluster.logs("optional-late", until="off")).startswith("tracing is off")
    await cluster.put_secret("tracing", {"api-key": "abc"})
    assert (await cluster.logs("optional-late", until="on\n")).endswith("tracing is on\n")


async def test_prod_and_test(cluster: Cluster) -> None:
    for stage, password in (("prod", "keep-this-one-safe"), ("test", "test")):
        assert await cluster.exec(f"db-client-{stage}", "cat /etc/db/password") == password
        assert await cluster.logs(f"db-client-{stage}", "client", until="\n") == "connecting as app\n"


async def test_ssh_client(cluster: Cluster) -> None:
    listing = await cluster.exec("ssh-client", "stat -L -c '%a %n' /root/.ssh/id_ed25519 /root/.ssh/id_ed25519.pub")
    assert listing == "400 /root/.ssh/id_ed25519\n444 /root/.ssh/id_ed25519.pub\n"


async def test_tls_server_shows_its_new_certificate_without_a_restart(cluster: Cluster) -> None:
    pod = await cluster.wait_ready("tls-server")
    first = await cluster.logs("tls-server", "client", until="the server shows a certificate of")
    certificate, key = make_certificate("localhost" + "x" * 20)  # of another length than the first one
    ask = (
        "import socket, ssl; c = ssl._create_unverified_context(); "
        's = c.wrap_socket(socket.create_connection(("127.0.0.1", 8443))); '
        "print(s.getpeercert(binary_form=True).hex())"
    )
    inside = f"exec /usr/bin/python3 -c '{ask}'"
    before = await cluster.exec("tls-server", inside, "client")
    async with cluster.started("tls-server", f"echo; until [ \"$({inside})\" != {before.strip()} ]; do :; done; {inside}",
                               "client") as watcher:  # fmt: skip
        await receive(watcher, "\n")
        await cluster.put_secret("web-tls", {"tls.crt": certificate, "tls.key": key})
        der = x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.DER)
        await receive(watcher, der.hex() + "\n")
    shown = f"the server shows a certificate of {len(der)} bytes\n"
    assert (await cluster.logs("tls-server", "client", until=shown)).startswith(first)
    after: Pod = await cluster.pod("tls-server")
    assert [each.restart_count for each in after.status.container_statuses] == [0, 0]
    assert {each.container_id for each in after.status.container_statuses} == {
        each.container_id for each in pod.status.container_statuses
    }


def make_certificate(name: str) -> tuple[bytes, bytes]:
    """A self-signed pair, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def test_each_example_is_looked_at() -> None:
    text = Path(__file__).read_text()
    assert [path.stem for path in EXAMPLES if f"test_{path.stem.replace('-', '_')}" not in text] == []

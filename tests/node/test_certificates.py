"""Keys, requests and certificates of a node. Semantics §10.1."""

from __future__ import annotations

import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kubelet_secrets.errors import HostError, UsageError
from kubelet_secrets.node.certificates import (
    CertificateFacts,
    KeyPair,
    client_template,
    make_request,
    make_self_signed,
    read_certificate,
    serving_template,
)
from kubelet_secrets.node.serving import open_serving
from kubelet_secrets.sensitive import SensitiveBytes
from tests.cli.command import REPOSITORY

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


async def test_client_request_names_the_node_and_nothing_else() -> None:
    made = await make_request(client_template("n1"))
    request = x509.load_pem_x509_csr(made.request_pem)
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=system:node:n1,O=system:nodes"
    assert len(request.extensions) == 0
    assert isinstance(request.public_key(), ec.EllipticCurvePublicKey)
    key = serialization.load_pem_private_key(made.key_pem.reveal(), password=None)
    assert key.public_key() == request.public_key()


async def test_name_of_a_request_follows_from_the_key() -> None:
    """A node that was restarted while it waited finds its request again."""
    first = await make_request(client_template("n1"))
    again = await make_request(client_template("n1"), first.key_pem)
    assert again.key_pem == first.key_pem
    assert again.name == first.name
    assert first.name.startswith("node-csr-")
    assert len(first.name) == len("node-csr-") + 43  # SHA-512/256, base64 without padding
    assert (await make_request(client_template("n2"), first.key_pem)).name != first.name


async def test_serving_request_has_the_addresses() -> None:
    made = await make_request(serving_template("n1", ["n1.example.org", "10.0.0.1", "fd00::1"]))
    names = x509.load_pem_x509_csr(made.request_pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [str(entry.value) for entry in names.value] == ["n1.example.org", "10.0.0.1", "fd00::1"]


async def test_certificate_is_read() -> None:
    pair = await make_self_signed("n1@self-signed", ["n1", "127.0.0.1"])
    facts = await read_certificate(pair.certificate_pem)
    assert facts.common_name == "n1@self-signed"
    assert facts.names == ("n1", "127.0.0.1")
    assert facts.not_after - facts.not_before == timedelta(days=365, minutes=5)
    assert facts.organizations == ()


async def test_what_is_no_certificate_is_an_error_that_does_not_quote_it() -> None:
    with pytest.raises(HostError) as caught:
        await read_certificate(b"tops3cret")
    assert "tops3cret" not in str(caught.value)


@pytest.mark.parametrize(("jitter", "hours"), [(0.0, 70), (0.5, 80), (1.0, 90)])
def test_rotation_is_due_at_70_to_90_percent_of_life(jitter: float, hours: int) -> None:
    facts = CertificateFacts(
        not_before=NOON, not_after=NOON + timedelta(hours=100), common_name="", organizations=(), names=()
    )
    assert facts.rotation_deadline(jitter) == NOON + timedelta(hours=hours)


def test_certificate_fits_a_template_that_asks_for_less() -> None:
    facts = CertificateFacts(
        not_before=NOON,
        not_after=NOON,
        common_name="system:node:n1",
        organizations=("system:nodes",),
        names=("n1", "10.0.0.1"),
    )
    assert facts.fits(client_template("n1"))
    assert facts.fits(serving_template("n1", ["10.0.0.1"]))
    assert not facts.fits(serving_template("n1", ["10.0.0.2"]))
    assert not facts.fits(client_template("n2"))


async def shown_certificate(context: ssl.SSLContext) -> bytes:
    """The certificate (DER) that a server with *context* shows."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    left, right = trio.testing.memory_stream_pair()
    server_side = trio.SSLStream(right, context, server_side=True)
    client_side = trio.SSLStream(left, client, server_hostname="n1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server_side.do_handshake)
        await client_side.do_handshake()
    shown = client_side.getpeercert(binary_form=True)
    assert shown is not None
    return bytes(shown)


async def test_server_shows_its_own_certificate_until_it_is_given_another() -> None:
    with trio.fail_after(60):
        serving = await open_serving("n1", ["127.0.0.1"])
        own = await shown_certificate(serving.context)
        assert x509.load_der_x509_certificate(own).subject.rfc4514_string() == "CN=n1@self-signed"
        context = serving.context
        serving.use(await make_self_signed("system:node:n1", ["n1"]))
        given = await shown_certificate(context)
        assert x509.load_der_x509_certificate(given).subject.rfc4514_string() == "CN=system:node:n1"


async def test_certificate_that_cannot_be_used_leaves_the_last_one() -> None:
    with trio.fail_after(60):
        serving = await open_serving("n1", [])
        before = await shown_certificate(serving.context)
        other = await make_self_signed("n1", ["n1"])
        with pytest.raises(UsageError, match="cannot be used"):
            serving.use(KeyPair(serving.certificate_pem, other.key_pem))
        with pytest.raises(UsageError, match="cannot be used"):
            serving.use(KeyPair(b"", SensitiveBytes(b"")))
        assert await shown_certificate(serving.context) == before


def test_agent_does_without_the_cryptography_library() -> None:
    """It takes 11 MB of the agent's memory and a tenth of a second of its time: the key maker is there to spare both."""
    script = "import sys, kubelet_secrets.agent; sys.exit('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False, cwd=REPOSITORY)
    assert done.returncode == 0

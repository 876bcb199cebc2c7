"""Real certificates, as kube-controller-manager signs them, and authorities that have nothing to do with them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from kubelet_secrets.apiserver.pki import CertificateAuthority
from kubelet_secrets.client.kubeconfig import ClusterConfig
from kubelet_secrets.node.certificates import client_template, make_request
from kubelet_secrets.node.clientauthority import own_authority

OTHERS = trustme.CA().cert_pem.bytes()


async def make_config(
    authority: CertificateAuthority, *, usage: ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH, days: int = 1
) -> ClusterConfig:
    """The kubeconfig of a node that *authority* has let in."""
    request = await make_request(client_template("n1"))
    now = datetime.now(UTC)
    pem = authority.sign_request(
        x509.load_pem_x509_csr(request.request_pem),
        key_usages=["digital_signature"],
        extended_usages=[usage],
        not_before=now - timedelta(days=10),
        not_after=now + timedelta(days=days),
    )
    return ClusterConfig(
        server="https://x", ca_pem=authority.certificate_pem, client_cert_pem=pem, client_key_pem=request.key_pem
    )


async def test_authority_that_has_signed_the_nodes_certificate_vouches_for_clients() -> None:
    authority = CertificateAuthority.create()
    config = await make_config(authority)
    assert own_authority(config) == authority.certificate_pem
    assert (
        own_authority(replace(config, ca_pem=OTHERS + authority.certificate_pem + OTHERS)) == authority.certificate_pem
    )


@pytest.mark.parametrize("ca_pem", [OTHERS, b"", b"garbage"], ids=["another", "the-systems", "garbage"])
async def test_authority_of_the_server_alone_does_not(ca_pem: bytes) -> None:
    """A company's authority for web servers must not be able to name administrators."""
    config = await make_config(CertificateAuthority.create())
    assert own_authority(replace(config, ca_pem=ca_pem)) == b""


async def test_certificate_that_does_not_count_counts_for_nothing() -> None:
    authority = CertificateAuthority.create()
    assert own_authority(await make_config(authority, days=-1)) == b""
    assert own_authority(await make_config(authority, usage=ExtendedKeyUsageOID.SERVER_AUTH)) == b""
    assert own_authority(ClusterConfig(server="https://x", ca_pem=authority.certificate_pem)) == b""

"""Who a client certificate stands for."""

from __future__ import annotations

import ssl

import trio
import trio.testing
import trustme

from kubelet_secrets.apiserver.pki import CertificateAuthority
from kubelet_secrets.client.tls import load_key_pair
from kubelet_secrets.kubeletapi.authn import UserInfo, certificate_user


async def test_certificate_is_a_name_and_groups() -> None:
    """Through a real handshake: what ``ssl`` tells of a certificate that it has verified."""
    clients, servers = CertificateAuthority.create(), trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    servers.issue_cert("kubelet").configure_cert(server)
    server.load_verify_locations(cadata=clients.certificate_pem.decode())
    server.verify_mode = ssl.CERT_OPTIONAL
    client = ssl.create_default_context()
    servers.configure_trust(client)
    pair = clients.issue_client("jane", ("dev", "ops"))
    load_key_pair(client, pair.certificate_pem, pair.key_pem)
    left, right = trio.testing.memory_stream_pair()
    answering = trio.SSLStream(right, server, server_side=True)
    asking = trio.SSLStream(left, client, server_hostname="kubelet")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answering.do_handshake)
            await asking.do_handshake()
    assert certificate_user(answering.getpeercert()) == UserInfo("jane", ("dev", "ops", "system:authenticated"))
    assert certificate_user({}) == UserInfo("", ("system:authenticated",))

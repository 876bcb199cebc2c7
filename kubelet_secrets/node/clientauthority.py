"""Who vouches for the clients of the node's own API when nobody has said: whoever has signed the node's own certificate.

An API server that knows this node by its client certificate trusts that authority with client certificates, so the node may do
the same with those that it is shown. The kubeconfig names authorities for another purpose, to check the *server* by: which of
them has signed ours too, a handshake in memory tells (the cryptography library would cost the agent 11 MB for good).

Called by the composition root. Differs from the kubelet, which takes client certificates only with ``clientCAFile``; kubeadm
names there what is found here.
"""

from __future__ import annotations

import ssl

from kubelet_secrets.client.kubeconfig import ClusterConfig
from kubelet_secrets.client.tls import each_certificate, load_key_pair
from kubelet_secrets.sensitive import SensitiveBytes

_MOST_FLIGHTS = 8  # of a handshake; TLS 1.3 has three


def own_authority(config: ClusterConfig) -> bytes:
    """Those of *config*'s authorities, as PEM, that have signed its client certificate; empty when there is none.

    An expired certificate counts for nothing, and neither does one that is not for clients.
    """
    if not config.client_cert_pem or config.client_key_pem is None:
        return b""
    return b"".join(
        each
        for each in each_certificate(config.ca_pem)
        if _has_signed(each, config.client_cert_pem, config.client_key_pem)
    )


def _has_signed(authority_pem: bytes, cert_pem: bytes, key_pem: SensitiveBytes) -> bool:
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        server_context.load_verify_locations(cadata=authority_pem.decode("ascii"))
        server_context.verify_mode = ssl.CERT_REQUIRED
        for context in (server_context, client_context):
            load_key_pair(context, cert_pem, key_pem)
        server = server_context.wrap_bio(to_server, to_client, server_side=True)
        client = client_context.wrap_bio(to_client, to_server)
        for _ in range(_MOST_FLIGHTS):
            _advance(client)
            if _advance(server):
                return True
    except (ssl.SSLError, UnicodeDecodeError, ValueError):
        pass  # not signed by it, or nothing that could be
    return False


def _advance(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True

"""The certificate that the node's HTTP server shows: self-signed until the cluster has issued one (``kubelet-serving``).

:attr:`ServingCertificate.context` stays one object for the life of the agent; handshakes take whatever certificate it has at
that moment, so the server never needs to be told of a new one. Built by the composition root, used by the node's server.

Source: pkg/kubelet/certificate/kubelet.go (NewKubeletServerCertificateManager); semantics §10.1, §12.1.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence

from kubelet_secrets.client.tls import load_key_pair
from kubelet_secrets.errors import HostError, UsageError
from kubelet_secrets.node.certfiles import CertificateFiles
from kubelet_secrets.node.certificates import KeyPair, make_self_signed

logger = logging.getLogger(__name__)


class ServingCertificate:
    """Made by :func:`open_serving`.

    Attributes:
        context: for the listener. Clients are asked for a certificate when there is an authority to check it by.
    """

    def __init__(self, pair: KeyPair, client_ca_pem: bytes) -> None:
        self.context = _make_context(client_ca_pem)
        self.certificate_pem = b""
        self.use(pair)

    def use(self, pair: KeyPair) -> None:
        """Show this certificate from the next handshake on.

        Raises:
            UsageError: it cannot be used; the last one stays.
        """
        try:
            load_key_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pair.certificate_pem, pair.key_pem)
        except ssl.SSLError as error:
            reason = error.reason or "not PEM"
            raise UsageError(f"serving certificate: cannot be used ({reason})") from None
        load_key_pair(self.context, pair.certificate_pem, pair.key_pem)
        self.certificate_pem = pair.certificate_pem


async def open_serving(
    node_name: str, names: Sequence[str], *, client_ca_pem: bytes = b"", files: CertificateFiles | None = None
) -> ServingCertificate:
    """Begin with the certificate that an earlier agent was given, or with a self-signed one.

    Args:
        names: host name and addresses by which the node is reached.
        client_ca_pem: who vouches for clients (``clientCAFile``); empty: certificates are not asked for.
        files: where an issued one is kept; whether it is still good is for its rotation to see.
    """
    try:
        kept = files.load() if files is not None else None
        if kept is not None:
            return ServingCertificate(kept, client_ca_pem)
    except (HostError, UsageError) as error:
        logger.warning("beginning with a self-signed serving certificate: %s", error)
    pair = await make_self_signed(f"{node_name}@self-signed", [node_name, *names])
    return ServingCertificate(pair, client_ca_pem)


def _make_context(client_ca_pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])  # commands in containers begin with an upgrade, which HTTP/2 has not
    if client_ca_pem:
        try:
            context.load_verify_locations(cadata=client_ca_pem.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError, ValueError):
            raise UsageError("client certificate authority: no PEM certificate in it") from None
        context.verify_mode = ssl.CERT_OPTIONAL
    return context

"""TLS contexts whose private key never has a path on a disk. Used by ``kubeconfig.py`` and by the node's own TLS server."""

from __future__ import annotations

import re
import ssl

from kubelet_secrets.errors import UsageError
from kubelet_secrets.memoryfile import memory_file
from kubelet_secrets.sensitive import SensitiveBytes

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----[ \t]*\r?\n?", re.DOTALL)


def make_client_context(
    *,
    ca_pem: bytes = b"",
    client_cert_pem: bytes = b"",
    client_key_pem: SensitiveBytes | None = None,
    insecure_skip_verify: bool = False,
    source: str = "TLS settings",
) -> ssl.SSLContext:
    """Make a context for connecting to an API server.

    Args:
        ca_pem: the authorities to trust; empty means the system's.
        client_cert_pem, client_key_pem: this client's certificate (chain) and key, both or neither.
        insecure_skip_verify: trust any server certificate, as ``kubectl --insecure-skip-tls-verify``.
        source: where the settings come from, for the message of an error.

    Raises:
        UsageError: something is not PEM, or certificate and key do not belong together. The text quotes neither.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_pem:
        try:
            context.load_verify_locations(cadata=ca_pem.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError, ValueError):
            raise UsageError(f"{source}: certificate-authority: no PEM certificate in it") from None
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if client_key_pem is not None and client_cert_pem:
        try:
            load_key_pair(context, client_cert_pem, client_key_pem)
        except ssl.SSLError as error:
            reason = error.reason or "not PEM, or encrypted"
            raise UsageError(f"{source}: client-certificate and client-key: cannot be used ({reason})") from None
    return context


def split_pem(content: bytes) -> tuple[bytes, bytes]:
    """Certificates and everything else of one PEM file: the kubelet keeps a certificate and its key together.

    Returns:
        (certificates, the rest). A file without any PEM block is all rest.
    """
    return b"".join(each_certificate(content)), _CERTIFICATE.sub(b"", content)


def each_certificate(content: bytes) -> list[bytes]:
    """The certificates of a PEM file, one by one."""
    return [match[0] for match in _CERTIFICATE.finditer(content)]


def load_key_pair(context: ssl.SSLContext, cert_pem: bytes, key_pem: SensitiveBytes) -> None:
    """``context.load_cert_chain`` from memory.

    OpenSSL's Python binding wants file names, so the pair passes through a memory file for the length of this call.

    Raises:
        ssl.SSLError: not PEM, encrypted, or key and certificate do not match.
    """
    with memory_file(cert_pem + b"\n" + key_pem.reveal()) as path:
        # An encrypted key must fail: without a password given OpenSSL would ask on the terminal.
        context.load_cert_chain(path, password=lambda: b"")

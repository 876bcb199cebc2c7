"""The server's own certificate authority: serving certificate, client certificates, kubeconfigs.

One authority signs both sides (upstream's ``ca.crt`` of kubeadm does the same). Keys are ECDSA P-256; they stay
:class:`SensitiveBytes` until OpenSSL reads them through a memfd, or they are written to a file of their owner's.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kubelet_secrets.errors import HostError, UsageError
from kubelet_secrets.memoryfile import memory_file
from kubelet_secrets.sensitive import SensitiveBytes

CA_LIFETIME = timedelta(days=3650)
CERTIFICATE_LIFETIME = timedelta(days=365)
_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with its private key, both PEM."""

    certificate_pem: bytes
    key_pem: SensitiveBytes


class CertificateAuthority:
    """Signs with one key.

    Attributes:
        certificate_pem: what clients and servers trust.
    """

    def __init__(self, pair: KeyPair) -> None:
        """Raises: UsageError: the pair is no certificate authority, or its key is of another kind than ECDSA."""
        self._certificate = x509.load_pem_x509_certificate(pair.certificate_pem)
        key = serialization.load_pem_private_key(pair.key_pem.reveal(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UsageError("the certificate authority's key must be an ECDSA key")
        self._key = key
        self.pair = pair

    def __repr__(self) -> str:
        return f"<CertificateAuthority {self._certificate.subject.rfc4514_string()}>"

    @property
    def certificate_pem(self) -> bytes:
        return self.pair.certificate_pem

    @classmethod
    def create(cls, common_name: str = "kubelet-secrets") -> CertificateAuthority:
        """A new authority, valid for ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage("digital_signature", "key_cert_sign", "crl_sign"), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(_pair(certificate, key))

    def issue_server(self, names: Sequence[str]) -> KeyPair:
        """A serving certificate for *names* (host names and IP addresses)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in dict.fromkeys(names)])
        builder = self._builder(subject, key.public_key(), CERTIFICATE_LIFETIME, ExtendedKeyUsageOID.SERVER_AUTH)
        return _pair(builder.add_extension(alternatives, critical=False).sign(self._key, hashes.SHA256()), key)

    def issue_client(self, user: str, groups: Sequence[str] = ()) -> KeyPair:
        """A client certificate: *user* as common name, *groups* as organisations."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups),
                x509.NameAttribute(NameOID.COMMON_NAME, user),
            ]
        )
        builder = self._builder(subject, key.public_key(), CERTIFICATE_LIFETIME, ExtendedKeyUsageOID.CLIENT_AUTH)
        return _pair(builder.sign(self._key, hashes.SHA256()), key)

    def issue_admin(self) -> KeyPair:
        return self.issue_client("kubernetes-admin", ("system:masters",))

    def issue_node(self, node_name: str) -> KeyPair:
        return self.issue_client(f"system:node:{node_name}", ("system:nodes",))

    def sign_request(
        self,
        request: x509.CertificateSigningRequest,
        *,
        key_usages: Sequence[str],
        extended_usages: Sequence[x509.ObjectIdentifier],
        not_before: datetime,
        not_after: datetime,
    ) -> bytes:
        """A certificate for the key of *request*, PEM: its alternative names, its subject as far as everybody reads it in the
        same way (:func:`_plain_subject`), and no other extension of it.

        Args:
            key_usages: names of parameters of ``x509.KeyUsage``; none leaves the key's use open.
            not_after: cut to the end of the authority itself.
        """
        alternatives = [
            extension for extension in request.extensions if isinstance(extension.value, x509.SubjectAlternativeName)
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(_plain_subject(request.subject))
            .issuer_name(self._certificate.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(min(not_after, self._certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if key_usages:  # an extension with none of them set is invalid, and OpenSSL refuses the certificate
            builder = builder.add_extension(_key_usage(*key_usages), critical=True)
        if extended_usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(list(extended_usages)), critical=False)
        for extension in alternatives:
            builder = builder.add_extension(extension.value, critical=extension.critical)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _builder(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        lifetime: timedelta,
        usage: x509.ObjectIdentifier,
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            # Without it OpenSSL 3's strict verification (Python 3.13) refuses the chain.
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


_KEY_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def _key_usage(*usages: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in usages for usage in _KEY_USAGES})


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        SensitiveBytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        ),
    )


_SUBJECT = frozenset(
    [
        *(NameOID.COUNTRY_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.LOCALITY_NAME),
        *(NameOID.STATE_OR_PROVINCE_NAME, NameOID.STREET_ADDRESS, NameOID.POSTAL_CODE, NameOID.SERIAL_NUMBER),
    ]
)


def _plain_subject(asked_for: x509.Name) -> x509.Name:
    """What Go makes of a subject that it copies: the attributes it knows, and one common name, the last.

    Two of them would let a request be judged by one and its certificate be believed for the other.
    Source: crypto/x509/pkix, FillFromRDNSequence and ToRDNSequence.
    """
    known = [attribute for attribute in asked_for if attribute.oid in _SUBJECT]
    return x509.Name([*known, *asked_for.get_attributes_for_oid(NameOID.COMMON_NAME)[-1:]])


def server_context(serving: KeyPair, client_ca_pem: bytes) -> ssl.SSLContext:
    """TLS for the listener: HTTP/2 first, a client certificate asked for and, when there is one, verified."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=client_ca_pem.decode("ascii"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["h2", "http/1.1"])
    with memory_file(serving.certificate_pem) as certificate, memory_file(serving.key_pem.reveal()) as key:
        context.load_cert_chain(certificate, key)
    return context


def kubelet_client_context(client: KeyPair, ca_pem: bytes | None) -> ssl.SSLContext:
    """TLS towards a kubelet; without an authority its certificate is not looked at."""
    context = ssl.create_default_context(cadata=ca_pem.decode("ascii") if ca_pem else None)
    if not ca_pem:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    with memory_file(client.certificate_pem) as certificate, memory_file(client.key_pem.reveal()) as key:
        context.load_cert_chain(certificate, key)
    return context


def kubeconfig(
    server: str, ca_pem: bytes, client: KeyPair, *, user: str = "admin", cluster: str = "kubelet-secrets"
) -> SensitiveBytes:
    """A kubeconfig with everything inside; as secret as the key in it."""
    context = f"{user}@{cluster}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": cluster, "cluster": {"server": server, "certificate-authority-data": _base64(ca_pem)}},
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _base64(client.certificate_pem),
                    "client-key-data": _base64(client.key_pem.reveal()),
                },
            },
        ],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": user, "namespace": "default"}}],
        "current-context": context,
    }
    return SensitiveBytes(yaml.safe_dump(config, sort_keys=False).encode())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


# --- files -----------------------------------------------------------------------------------------------------------


def load_authority(directory: Path) -> CertificateAuthority:
    """The authority kept in *directory* (``ca.crt``, ``ca.key``), made there the first time.

    Raises:
        HostError: the files cannot be read or written, or hold something else.
    """
    certificate, key = directory / "ca.crt", directory / "ca.key"
    try:
        if not key.exists():
            authority = CertificateAuthority.create()
            directory.mkdir(mode=0o700, exist_ok=True)
            write_private(certificate, SensitiveBytes(authority.certificate_pem))
            # The key last: with it the pair is whole.
            write_private(key, authority.pair.key_pem)
            return authority
        pair = KeyPair(certificate.read_bytes(), SensitiveBytes(key.read_bytes()))
    except OSError as error:
        raise HostError(f"certificate authority in {directory}: {error.strerror}") from None
    try:
        return CertificateAuthority(pair)
    except (ValueError, UsageError):
        raise HostError(f"certificate authority in {directory}: not an ECDSA key with its certificate") from None


def write_private(path: Path, content: SensitiveBytes) -> None:
    """Write a file for its owner alone: created 0600 beside *path*, then renamed over it.

    Raises:
        OSError
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content.reveal())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise

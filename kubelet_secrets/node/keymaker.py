"""Makes keys, requests for certificates and self-signed certificates, and reads certificates: ``python -m`` this, as a child.

A process of its own, because the agent answers the kernel's opens: importing ``cryptography`` would keep them waiting for a
tenth of a second and cost the agent a sixth of its memory for good, for something that happens a few times a year. One job as
JSON on standard input, one answer on standard output; a private key passes through that pipe and nothing else.

Not here: who asks the API server for a signature (``signing.py``). Started by ``certificates.py``; its functions do no I/O.

Source: k8s.io/client-go util/cert/csr.go; pkg/kubelet/certificate/bootstrap (digestedName); semantics §10.1.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kubelet_secrets.fusefs.hardening import harden_process

SELF_SIGNED_LIFETIME = timedelta(days=365)
_CLOCK_SKEW = timedelta(minutes=5)
_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

Job = dict[str, Any]


def make_request(
    key_pem: bytes | None, common_name: str, organizations: Sequence[str], names: Sequence[str], usages: Sequence[str]
) -> Job:
    """A PKCS #10 request, with a new ECDSA P-256 key unless *key_pem* is one.

    Returns:
        ``key`` and ``request``, PEM; ``name``: what upstream calls the request of a node that joins, the same for the same key.
    """
    key = _load(key_pem)
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(common_name, organizations))
    if names:
        builder = builder.add_extension(_alternatives(names), critical=False)
    request = builder.sign(key, hashes.SHA256())
    return {
        "key": _key_pem(key),
        "request": request.public_bytes(serialization.Encoding.PEM).decode(),
        "name": _digested_name(key, common_name, organizations, usages),
    }


def self_sign(common_name: str, names: Sequence[str]) -> Job:
    """A serving certificate for a year that nobody else vouches for, with a new key.

    Returns:
        ``key`` and ``certificate``, PEM.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(common_name, ())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + SELF_SIGNED_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_alternatives(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    return {"key": _key_pem(key), "certificate": certificate.public_bytes(serialization.Encoding.PEM).decode()}


def read_certificate(certificate_pem: bytes) -> Job:
    """What the first certificate of a chain says: ``notBefore`` and ``notAfter`` in seconds since 1970, the subject, the names.

    Raises:
        ValueError: not a PEM certificate.
    """
    certificate = x509.load_pem_x509_certificates(certificate_pem)[0]
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [
            *alternatives.get_values_for_type(x509.DNSName),
            *map(str, alternatives.get_values_for_type(x509.IPAddress)),
        ]
    except x509.ExtensionNotFound:
        names = []
    common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    organizations = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return {
        "notBefore": certificate.not_valid_before_utc.timestamp(),
        "notAfter": certificate.not_valid_after_utc.timestamp(),
        "commonName": str(common_names[0].value) if common_names else "",
        "organizations": [str(entry.value) for entry in organizations],
        "names": names,
    }


def _subject(common_name: str, organizations: Sequence[str]) -> x509.Name:
    return x509.Name(
        [
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organizations),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _alternatives(names: Sequence[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_general_name(name) for name in dict.fromkeys(names)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _load(key_pem: bytes | None) -> ec.EllipticCurvePrivateKey:
    if key_pem is not None:
        key = serialization.load_pem_private_key(key_pem, password=None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
    return ec.generate_private_key(ec.SECP256R1())


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


def _digested_name(
    key: ec.EllipticCurvePrivateKey, common_name: str, organizations: Sequence[str], usages: Sequence[str]
) -> str:
    digest = hashlib.new("sha512_256")
    for part in (key.public_key().public_bytes(*_SPKI), *map(str.encode, (common_name, *organizations, *usages))):
        digest.update(_encode(part) + b"|")
    return f"node-csr-{_encode(digest.digest()).decode()}"


def _encode(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def main() -> None:
    harden_process()
    job = json.load(sys.stdin)
    match job.pop("do"):
        case "request":
            key = job.pop("key")
            answer = make_request(key.encode() if key else None, **job)
        case "self-sign":
            answer = self_sign(**job)
        case "read":
            answer = read_certificate(job["certificate"].encode())
        case other:
            raise ValueError(f"no such job: {other}")
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()

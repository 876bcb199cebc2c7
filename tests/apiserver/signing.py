"""Requests for certificates, as tests make them."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kubelet_secrets.apiserver.pki import KeyPair
from kubelet_secrets.sensitive import SensitiveBytes

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
CLIENT = "kubernetes.io/kube-apiserver-client"
CLIENT_USAGES = ("digital signature", "client auth")
SERVING_USAGES = ("digital signature", "server auth")
KEY = ec.generate_private_key(ec.SECP256R1())


def encoded_request(
    common_name: str = "system:node:n1",
    organizations: Sequence[str] = ("system:nodes",),
    names: Sequence[x509.GeneralName] = (),
    *,
    before: str = "",
) -> str:
    """``spec.request`` of a request by :data:`KEY`; *before* is one more common name, before the other."""
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organizations]
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name(
            [*subject, *(x509.NameAttribute(NameOID.COMMON_NAME, name) for name in (before, common_name) if name)]
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
    return base64.b64encode(builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)).decode()


def csr(
    name: str,
    *,
    signer: str = KUBELET_CLIENT,
    usages: Sequence[str] = CLIENT_USAGES,
    request: str = "",
    **spec: Any,
) -> dict[str, Any]:
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {"request": request or encoded_request(), "signerName": signer, "usages": list(usages), **spec},
    }


def addresses(*names: str) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def approval(kind: str = "Approved", **fields: str) -> dict[str, Any]:
    """The patch of ``/approval``."""
    return {"status": {"conditions": [{"type": kind, "status": "True", "reason": "ByTest", **fields}]}}


def certificate_in(obj: dict[str, Any]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(obj["status"]["certificate"]))


def pair_of(obj: dict[str, Any]) -> KeyPair:
    """The signed certificate with its key."""
    key = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyPair(base64.b64decode(obj["status"]["certificate"]), SensitiveBytes(key))

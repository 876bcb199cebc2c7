"""What a certificate or a bootstrap token says about its own end.

Pure. Looks into values - the one part of ``explain`` that does - and gives dates and yes or no, never a value.

Source: semantics §1.4 (kubernetes.io/tls), §1.6 (bootstrap tokens).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from kubelet_secrets.api.core import Secret
from kubelet_secrets.api.times import parse_rfc3339

_TOKEN_NAME = re.compile(r"bootstrap-token-([a-z0-9]{6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """Of the first certificate in ``tls.crt``, which is the server's own."""

    not_before: datetime
    not_after: datetime
    fits_key: bool | None  # None: the key cannot be read


def read_certificate(secret: Secret) -> CertificateFacts | None:
    """The facts of a ``kubernetes.io/tls`` Secret, or None when ``tls.crt`` holds no PEM certificate."""
    # Here, not above: a tenth of a second that manifests without such a Secret need not pay.
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    certificate_pem, key_pem = secret.data.get("tls.crt"), secret.data.get("tls.key")
    if certificate_pem is None:
        return None
    try:
        certificate = x509.load_pem_x509_certificates(certificate_pem.reveal())[0]
    except ValueError:
        return None
    fits_key: bool | None = None
    if key_pem is not None:
        spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        try:
            key = load_pem_private_key(key_pem.reveal(), password=None)
            fits_key = key.public_key().public_bytes(*spki) == certificate.public_key().public_bytes(*spki)
        except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: the key is encrypted
            fits_key = None
    return CertificateFacts(
        not_before=certificate.not_valid_before_utc, not_after=certificate.not_valid_after_utc, fits_key=fits_key
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """Of a ``bootstrap.kubernetes.io/token`` Secret."""

    expiration: datetime | None  # None: never, or unreadable
    is_readable: bool  # False: the expiration is there and no date; such a token counts as expired
    fault: str = ""  # why it authenticates nobody whatever the date, as the authenticator's log would say


def read_bootstrap_token(secret: Secret) -> TokenFacts:
    """Source: plugin/pkg/auth/authenticator/token/bootstrap/bootstrap.go."""
    data = {key: value.reveal().decode("utf-8", "replace") for key, value in secret.data.items()}
    written = data.get("expiration", "")
    expiration = parse_rfc3339(written)
    return TokenFacts(
        expiration=expiration.astimezone(UTC) if expiration is not None else None,
        is_readable=not written or expiration is not None,
        fault=_token_fault(secret, data),
    )


def _token_fault(secret: Secret, data: dict[str, str]) -> str:
    name = _TOKEN_NAME.fullmatch(secret.metadata.name)
    if secret.metadata.namespace != "kube-system":
        return "is not in namespace kube-system"
    if name is None:
        return "is not named bootstrap-token-<token-id>"
    if data.get("token-id") != name[1]:
        return "has invalid value for key token-id"
    if not re.fullmatch(r"[a-z0-9]{16}", data.get("token-secret", "")):
        return "has invalid value for key token-secret"
    if data.get("usage-bootstrap-authentication") != "true":
        return "is not marked usage-bootstrap-authentication=true"
    groups = [group for group in data.get("auth-extra-groups", "").split(",") if group]
    if any(not re.fullmatch(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]", group) for group in groups):
        return "has invalid value for key auth-extra-groups"
    return ""

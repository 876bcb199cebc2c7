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
from kubelet_secrets.sensitive import SensitiveBytes

_LOOK_BYTES = 100  # a certificate's header, with white space before it
_TOKEN_NAME = re.compile(r"bootstrap-token-([a-z0-9]{6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateDates:
    """Of one certificate."""

    not_before: datetime
    not_after: datetime


def is_pem(value: SensitiveBytes) -> bool:
    """Whether *value* sets out to be PEM certificates; what merely contains one is not looked into."""
    return value.reveal()[:_LOOK_BYTES].lstrip().startswith(b"-----BEGIN CERTIFICATE-----")


def read_dates(value: SensitiveBytes) -> tuple[CertificateDates, ...]:
    """The dates of each PEM certificate in *value*, in order; empty when one cannot be read, or there is none."""
    # Here, not above: a tenth of a second that manifests without certificates need not pay.
    from cryptography import x509

    try:
        certificates = x509.load_pem_x509_certificates(value.reveal())
    except ValueError:
        return ()
    return tuple(
        CertificateDates(not_before=each.not_valid_before_utc, not_after=each.not_valid_after_utc)
        for each in certificates
    )


def fits_key(certificate_pem: SensitiveBytes, key_pem: SensitiveBytes) -> bool | None:
    """Whether the first certificate, which is the server's own, is for this key; None when one of them cannot be read."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        certificate = x509.load_pem_x509_certificates(certificate_pem.reveal())[0]
        key = load_pem_private_key(key_pem.reveal(), password=None)
        return key.public_key().public_bytes(*spki) == certificate.public_key().public_bytes(*spki)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: the key is encrypted
        return None


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

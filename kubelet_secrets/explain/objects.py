"""Problems of Secrets and ConfigMaps themselves, whoever uses them. What the API refuses is told by ``rules``.

Pure. Source: semantics §1.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from kubelet_secrets.api.core import Secret
from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.explain.certificates import read_bootstrap_token, read_certificate
from kubelet_secrets.explain.inventory import Inventory, Manifest
from kubelet_secrets.explain.model import Problem, Severity

MAX_SIZE_BYTES = 1024 * 1024
_LARGE_SIZE_BYTES = MAX_SIZE_BYTES * 9 // 10


def object_problems(inventory: Inventory, *, now: datetime, expires_within: timedelta) -> Iterator[Problem]:
    """Everything that can be said of the objects alone.

    Args:
        now: with a time zone.
        expires_within: a certificate or token that ends sooner than this is told.
    """
    for manifest in inventory.repeated:
        yield Problem(
            severity=Severity.WARNING,
            code="defined-twice",
            message="an earlier manifest defines the same object; this one replaces it",
            where=f"{manifest.where} ({manifest.source})",
        )
    for manifest in inventory.manifests:
        key = (manifest.namespace, manifest.name)
        if manifest.kind == "ConfigMap":
            config_map = inventory.config_maps[key]
            size = sum(len(text.encode("utf-8", "surrogateescape")) for text in config_map.data.values())
            size += sum(map(len, config_map.binary_data.values()))
            yield from _size_problems(manifest, size)
            yield from _immutable_problems(manifest, config_map.immutable)
            continue
        secret = inventory.secrets[key]
        yield from _size_problems(manifest, sum(map(len, secret.data.values())))
        yield from _immutable_problems(manifest, secret.immutable)
        if secret.type == "kubernetes.io/tls":
            yield from _certificate_problems(manifest, secret, now, expires_within)
        elif secret.type == "bootstrap.kubernetes.io/token":
            yield from _token_problems(manifest, secret, now, expires_within)


def _size_problems(manifest: Manifest, size_bytes: int) -> Iterator[Problem]:
    if _LARGE_SIZE_BYTES < size_bytes <= MAX_SIZE_BYTES:  # beyond it, the API's rules say so
        yield Problem(
            severity=Severity.WARNING,
            code="nearly-too-large",
            message=f"{size_bytes} of at most {MAX_SIZE_BYTES} bytes are used",
            where=manifest.where,
        )


def _immutable_problems(manifest: Manifest, immutable: bool | None) -> Iterator[Problem]:
    if immutable:
        yield Problem(
            severity=Severity.NOTE,
            code="immutable",
            message="immutable: its data can never be changed, and nodes keep the copy they have while a pod uses it",
            where=manifest.where,
            hint="to rotate it, create one under another name and change the pods to refer to that",
        )


def _certificate_problems(
    manifest: Manifest, secret: Secret, now: datetime, expires_within: timedelta
) -> Iterator[Problem]:
    where = f"{manifest.where}: data[tls.crt]"
    if "tls.crt" not in secret.data:
        return  # the API's own rules say so
    facts = read_certificate(secret)
    if facts is None:
        yield Problem(
            severity=Severity.WARNING, code="certificate-unreadable", message="not a PEM certificate", where=where
        )
        return
    if facts.not_after <= now:
        message = f"the certificate expired on {rfc3339(facts.not_after)}"
        yield Problem(severity=Severity.WARNING, code="certificate-expired", message=message, where=where)
    elif facts.not_after <= now + expires_within:
        days = (facts.not_after - now).days
        message = f"the certificate expires on {rfc3339(facts.not_after)}, in {days} days"
        yield Problem(severity=Severity.WARNING, code="certificate-expires", message=message, where=where)
    if facts.not_before > now:
        message = f"the certificate is not valid before {rfc3339(facts.not_before)}"
        yield Problem(severity=Severity.WARNING, code="certificate-not-yet-valid", message=message, where=where)
    if facts.fits_key is False:
        yield Problem(
            severity=Severity.WARNING,
            code="certificate-key-mismatch",
            message="tls: private key does not match public key",
            where=f"{manifest.where}: data[tls.key]",
        )


def _token_problems(manifest: Manifest, secret: Secret, now: datetime, expires_within: timedelta) -> Iterator[Problem]:
    facts = read_bootstrap_token(secret)
    if facts.fault:
        message = f"nobody can join with this token: it {facts.fault}"
        yield Problem(severity=Severity.WARNING, code="bootstrap-token-invalid", message=message, where=manifest.where)
    where = f"{manifest.where}: data[expiration]"
    if not facts.is_readable:
        message = "the expiration is not an RFC 3339 time; the token counts as expired"
        yield Problem(severity=Severity.WARNING, code="bootstrap-token-expired", message=message, where=where)
    elif facts.expiration is not None and facts.expiration <= now:
        message = f"the bootstrap token expired on {rfc3339(facts.expiration)}"
        yield Problem(severity=Severity.WARNING, code="bootstrap-token-expired", message=message, where=where)
    elif facts.expiration is not None and facts.expiration <= now + min(expires_within, timedelta(days=1)):
        # Tokens live for a day by default: a month's warning would be no warning.
        message = f"the bootstrap token expires on {rfc3339(facts.expiration)}"
        yield Problem(severity=Severity.NOTE, code="bootstrap-token-expires", message=message, where=where)

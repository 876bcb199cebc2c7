"""Problems of Secrets and ConfigMaps themselves, whoever uses them. What the API refuses is told by ``rules``.

Pure. Source: semantics §1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from kubelet_secrets.api.core import Secret
from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.explain.certificates import (
    CertificateDates,
    fits_key,
    is_pem,
    read_bootstrap_token,
    read_dates,
)
from kubelet_secrets.explain.inventory import Inventory, Manifest
from kubelet_secrets.explain.model import Problem, Severity
from kubelet_secrets.sensitive import SensitiveBytes

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
            texts = {key: text.encode("utf-8", "surrogateescape") for key, text in config_map.data.items()}
            values = {key: SensitiveBytes(value) for key, value in {**config_map.binary_data, **texts}.items()}
            yield from _certificate_problems(manifest, values, "", now, expires_within)
            continue
        secret = inventory.secrets[key]
        yield from _size_problems(manifest, sum(map(len, secret.data.values())))
        yield from _immutable_problems(manifest, secret.immutable)
        yield from _certificate_problems(manifest, secret.data, secret.type, now, expires_within)
        if secret.type == "bootstrap.kubernetes.io/token":
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
    manifest: Manifest, values: Mapping[str, SensitiveBytes], secret_type: str, now: datetime, expires_within: timedelta
) -> Iterator[Problem]:
    """Of every value that is PEM certificates: a server's own, its chain, the authorities it trusts."""
    is_tls = secret_type == "kubernetes.io/tls"
    for key, value in values.items():
        where = f"{manifest.where}: data[{key}]"
        is_servers_own = is_tls and key == "tls.crt"
        dates = read_dates(value) if is_servers_own or is_pem(value) else ()
        if dates:
            yield from _date_problems(where, dates, now, expires_within)
        elif is_servers_own:
            yield Problem(
                severity=Severity.WARNING, code="certificate-unreadable", message="not a PEM certificate", where=where
            )
    if is_tls and {"tls.crt", "tls.key"} <= values.keys() and fits_key(values["tls.crt"], values["tls.key"]) is False:
        yield Problem(
            severity=Severity.WARNING,
            code="certificate-key-mismatch",
            message="tls: private key does not match public key",
            where=f"{manifest.where}: data[tls.key]",
        )


def _date_problems(
    where: str, dates: Sequence[CertificateDates], now: datetime, expires_within: timedelta
) -> Iterator[Problem]:
    """One problem of a kind: of several certificates, that of the one which is first to matter."""
    ends = sorted(each.not_after for each in dates)
    past = [end for end in ends if end <= now]
    soon = [end for end in ends if now < end <= now + expires_within]
    future = sorted(each.not_before for each in dates if each.not_before > now)

    def problem(code: str, found: Sequence[datetime], one: str, several: str, after: str = "") -> Problem:
        subject = "the certificate" if len(dates) == 1 else f"{len(found)} of {len(dates)} certificates"
        verb = one if len(found) == 1 else several
        message = f"{subject} {verb} {rfc3339(found[0])}{after}"
        return Problem(severity=Severity.WARNING, code=code, message=message, where=where)

    if past:
        yield problem("certificate-expired", past, "expired on", "have expired, the first on")
    if soon:
        after = f", in {(soon[0] - now).days} days"
        yield problem("certificate-expires", soon, "expires on", "expire, the first on", after)
    if future:
        yield problem("certificate-not-yet-valid", future, "is not valid before", "are not valid yet, the first before")


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

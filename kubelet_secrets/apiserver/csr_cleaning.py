"""Removes requests that nobody waits for any more: issued or denied an hour ago, pending since a day, certificate expired.

Source: pkg/controller/certificates/cleaner/cleaner.go.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cryptography import x509

from kubelet_secrets.api.times import parse_rfc3339
from kubelet_secrets.apiserver import csr
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.csr_approving import REQUESTS
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.errors import NotFound

log = logging.getLogger(__name__)

INTERVAL_S = 3600.0
DONE_AFTER = timedelta(hours=1)
PENDING_AFTER = timedelta(hours=24)


class Cleaner:
    """See the module's text."""

    def __init__(self, registry: Registry, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._registry = registry
        self._now = now

    async def sweep(self) -> None:
        """Look at every request once. Raises: ApiError."""
        now = self._now()
        for item in (await self._registry.list_objects(Selection(REQUESTS))).items:
            name = item.object["metadata"]["name"]
            if reason := outlived(item.object, now):
                log.info("cleaning CSR %s as it is %s", name, reason)
                try:
                    await self._registry.delete(REQUESTS, "", name)
                except NotFound:
                    pass


def outlived(request: Object, now: datetime) -> str:
    """Why *request* has to go; empty when it stays."""
    certificate = csr.certificate_of(request)
    if certificate and csr.has_condition(request, "Approved") and _not_after(certificate, now) < now:
        return "issued and its certificate is expired"
    conditions = (request.get("status") or {}).get("conditions") or []
    for condition in conditions:
        updated = parse_rfc3339(condition.get("lastUpdateTime"))
        if updated is None or now - updated <= DONE_AFTER:
            continue
        if condition.get("type") == "Denied":
            return f"more than {DONE_AFTER} old and denied"
        if condition.get("type") == "Failed":
            return f"more than {DONE_AFTER} old and failed"
        if condition.get("type") == "Approved" and certificate:
            return f"more than {DONE_AFTER} old and approved"
    created = parse_rfc3339(request["metadata"].get("creationTimestamp"))
    if not conditions and created is not None and now - created > PENDING_AFTER:
        return f"more than {PENDING_AFTER} old and unhandled"
    return ""


def _not_after(certificate: str, now: datetime) -> datetime:
    """When the certificate ends; *now* when nobody can tell, which keeps the request until its time is over."""
    try:
        return x509.load_pem_x509_certificates(base64.b64decode(certificate))[0].not_valid_after_utc
    except ValueError:
        return now

"""Signs approved requests with the server's certificate authority, for the three signers that are the API server's own.

A request that its signer does not accept gets the condition Failed, and is not looked at again.

Source: pkg/controller/certificates/signer/signer.go, authority/{authority,policies}.go.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from kubelet_secrets.api.validation.signingrequests import MIN_EXPIRATION_S, parse_request
from kubelet_secrets.apiserver import csr
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.csr_approving import REQUESTS
from kubelet_secrets.apiserver.pki import CertificateAuthority
from kubelet_secrets.apiserver.registry import IN_PROCESS, Registry
from kubelet_secrets.apiserver.watch import DELETED
from kubelet_secrets.errors import NotFound

log = logging.getLogger(__name__)

SIGNERS = (csr.CLIENT_SIGNER, csr.KUBELET_CLIENT_SIGNER, csr.KUBELET_SERVING_SIGNER)
DURATION = timedelta(days=365)  # --cluster-signing-duration
BACKDATE = timedelta(minutes=5)
SHORT = timedelta(hours=8)  # below that, backdating the end would take more than a percent of it
_STATUS = replace(IN_PROCESS, subresource="status")

# These four are all that ``csr.fault`` lets through.
_KEY_USAGES = {"digital signature": "digital_signature", "key encipherment": "key_encipherment"}
_EXTENDED_USAGES = {"client auth": ExtendedKeyUsageOID.CLIENT_AUTH, "server auth": ExtendedKeyUsageOID.SERVER_AUTH}


class Signer:
    """See the module's text. :meth:`handle` is given every request, now and as it changes.

    Args:
        now: the clock, for the validity of certificates.
    """

    def __init__(
        self,
        registry: Registry,
        authority: CertificateAuthority,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._registry = registry
        self._authority = authority
        self._now = now

    async def handle(self, kind: str, obj: Object) -> None:
        """Sign *obj* if it is approved and one of ours. Raises: ApiError."""
        spec = obj["spec"]
        if kind == DELETED or spec["signerName"] not in SIGNERS or csr.certificate_of(obj):
            return
        if not csr.has_condition(obj, "Approved") or csr.has_condition(obj, "Denied", "Failed"):
            return
        request = parse_request(spec["request"])
        failure = csr.fault(request, spec["usages"], spec["signerName"])

        def finish(live: Object) -> Object:
            status = live.setdefault("status", {})
            if status.get("certificate") or csr.has_condition(live, "Failed"):
                return live
            if failure:
                condition = {
                    "type": "Failed",
                    "status": "True",
                    "reason": "SignerValidationFailure",
                    "message": failure,
                }
                status.setdefault("conditions", []).append(condition)
            else:
                pem = sign(self._authority, request, spec["usages"], spec.get("expirationSeconds"), self._now())
                status["certificate"] = base64.b64encode(pem).decode("ascii")
            return live

        try:
            await self._registry.update(REQUESTS, "", obj["metadata"]["name"], finish, _STATUS)
        except NotFound:
            return
        log.info("%s certificate request %s", "failed" if failure else "signed", obj["metadata"]["name"])


def sign(
    authority: CertificateAuthority,
    request: x509.CertificateSigningRequest,
    usages: Sequence[str],
    expiration_s: int | None,
    now: datetime,
) -> bytes:
    """A certificate of what *request* says, PEM: subject and alternative names as they are, all other extensions ours.

    Args:
        expiration_s: as asked for; at least ten minutes are given, and at most a year.
    """
    lifetime = DURATION
    if expiration_s is not None:
        lifetime = min(max(timedelta(seconds=expiration_s), timedelta(seconds=MIN_EXPIRATION_S)), DURATION)
    return authority.sign_request(
        request,
        key_usages=[_KEY_USAGES[usage] for usage in usages if usage in _KEY_USAGES],
        extended_usages=[_EXTENDED_USAGES[usage] for usage in sorted(usages) if usage in _EXTENDED_USAGES],
        not_before=now - BACKDATE,
        not_after=now + lifetime if lifetime < SHORT else now + lifetime - BACKDATE,
    )

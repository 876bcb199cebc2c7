"""Who may approve and sign certificates: by signer, not by request; and nobody gets into ``system:masters`` this way.

Three of upstream's admission plugins, with their names and texts.

Source: plugin/pkg/admission/certificates/{approval,signing,subjectrestriction}/admission.go; pkg/certauthorization.
"""

from __future__ import annotations

from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.validation.signingrequests import parse_request
from kubelet_secrets.apiserver import csr, statuses
from kubelet_secrets.apiserver.admission import Finder, Plugin
from kubelet_secrets.apiserver.attributes import Attributes, User
from kubelet_secrets.apiserver.authz import Authorizers
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.requestinfo import RequestInfo
from kubelet_secrets.errors import Forbidden

_GROUP, _KIND = "certificates.k8s.io", "CertificateSigningRequest"
_MASTERS = "system:masters"


class CertificateApproval(Plugin):
    """Approving or denying needs the verb ``approve`` on the request's signer."""

    def __init__(self, authorizers: Authorizers) -> None:
        self._authorizers = authorizers

    async def validate(self, attributes: Attributes, finder: Finder) -> None:
        old = attributes.old
        if attributes.row.kind != _KIND or attributes.subresource != "approval" or old is None:
            return
        signer = _signer(old)
        if not await is_authorized_for_signer(self._authorizers, attributes.user, "approve", signer):
            raise _forbid(attributes, f"user not permitted to approve requests with signerName {go_quote(signer)}")


class CertificateSigning(Plugin):
    """Issuing, or saying that it failed, needs the verb ``sign`` on the request's signer."""

    def __init__(self, authorizers: Authorizers) -> None:
        self._authorizers = authorizers

    async def validate(self, attributes: Attributes, finder: Finder) -> None:
        new, old = attributes.obj, attributes.old
        if attributes.row.kind != _KIND or attributes.subresource != "status" or new is None or old is None:
            return
        if csr.certificate_of(new) == csr.certificate_of(old) and _conditions(new) == _conditions(old):
            return
        signer = _signer(old)
        if not await is_authorized_for_signer(self._authorizers, attributes.user, "sign", signer):
            raise _forbid(attributes, f"user not permitted to sign requests with signerName {go_quote(signer)}")


class CertificateSubjectRestriction(Plugin):
    """The signer of clients signs nobody into ``system:masters``."""

    async def validate(self, attributes: Attributes, finder: Finder) -> None:
        new = attributes.obj
        if attributes.row.kind != _KIND or attributes.verb != "create" or attributes.subresource or new is None:
            return
        if _signer(new) != csr.CLIENT_SIGNER:
            return
        try:
            request = parse_request((new.get("spec") or {}).get("request") or "")
        except ValueError as error:
            raise _forbid(attributes, f"failed to parse CSR: {error}") from None
        if _MASTERS in csr.organizations(request):
            raise _forbid(attributes, f"use of {csr.CLIENT_SIGNER} signer with {_MASTERS} group is not allowed")


async def is_authorized_for_signer(authorizers: Authorizers, user: User, verb: str, signer: str) -> bool:
    """Whether *user* may *verb* this signer, or every signer of its domain (``example.com/*``)."""
    for name in (signer, f"{signer.partition('/')[0]}/*"):
        request = RequestInfo(
            path="", verb=verb, is_resource=True, group=_GROUP, version="*", plural="signers", name=name
        )
        if (await authorizers.authorize(user, request)).is_allowed:
            return True
    return False


def _forbid(attributes: Attributes, message: str) -> Forbidden:
    return statuses.forbidden(attributes.row, attributes.name, message)


def _signer(request: Object) -> str:
    return str((request.get("spec") or {}).get("signerName") or "")


def _conditions(request: Object) -> list[Object]:
    return (request.get("status") or {}).get("conditions") or []

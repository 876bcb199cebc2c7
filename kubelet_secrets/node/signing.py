"""Has a certificate signed by the cluster: a CertificateSigningRequest, and patience.

Called by ``bootstrap.py`` for a node's first certificate and by ``rotation.py`` for every later one. Errors have
upstream's texts.

Source: k8s.io/client-go/util/certificate/csr/csr.go; semantics §10.1. Differs: controllers before 1.25 neither approve nor
sign for a node that does not ask for ``key encipherment``, which has no meaning for its key and which a kubelet has left out
since 1.27; here an old cluster is asked for it (kubernetes/kubernetes#109077).
"""

from __future__ import annotations

import base64
import logging
from typing import Any

import trio

from kubelet_secrets.api.meta import CERTIFICATE_SIGNING_REQUESTS, ApiStruct, ObjectMeta
from kubelet_secrets.client.answers import EventType
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.client.version import Version, server_version
from kubelet_secrets.errors import (
    AlreadyExists,
    ApiError,
    ApiUnavailable,
    Expired,
    HostError,
    NotFound,
    TooManyRequests,
)
from kubelet_secrets.node.certificates import Request, Template

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_WATCH_S = 300
_ENCIPHERMENT_OPTIONAL = Version(1, 25)
_ENCIPHERMENT = "key encipherment"


class NotSigned(HostError):
    """There will be no certificate for this request; the message says why."""


class _Condition(ApiStruct, frozen=True):
    type: str = ""
    reason: str = ""
    message: str = ""


class _Spec(ApiStruct, frozen=True):
    signer_name: str = ""
    usages: tuple[str, ...] = ()


class _Status(ApiStruct, frozen=True):
    conditions: tuple[_Condition, ...] = ()
    certificate: str = ""


class SigningRequest(ApiStruct, frozen=True):
    """What of the API object is looked at."""

    metadata: ObjectMeta = ObjectMeta()
    spec: _Spec = _Spec()
    status: _Status = _Status()


async def request_certificate(
    client: ApiClient, template: Template, request: Request, *, is_first: bool, timeout_s: float
) -> bytes:
    """Ask for a certificate and wait for it.

    Args:
        is_first: the request gets the name that follows from its key, and one of that name from before is waited for.
        timeout_s: how long somebody may take to approve it.

    Returns:
        PEM.

    Raises:
        NotSigned: denied, failed, deleted, or not signed within *timeout_s*.
        HostError: the API server refuses the request; its text begins with ``cannot create``.

    An API server that does not answer is waited for.

    Cancellation: the request stays with the API server.
    """
    while True:
        try:
            name, uid = await _create(client, template, request, is_first=is_first)
            break
        except ApiUnavailable as error:
            logger.info("creating a certificate signing request: %s", error)
            await trio.sleep(_RETRY_S)
    logger.info("waiting for certificate signing request %s to be signed", name)
    with trio.move_on_after(timeout_s):
        return await _wait_signed(client, name, uid)
    raise NotSigned(f"certificate signing request {name} was not signed within {timeout_s:g} s: is it approved?")


async def _create(client: ApiClient, template: Template, request: Request, *, is_first: bool) -> tuple[str, str]:
    """(name, uid) of the request, which may have been there.

    Raises:
        ApiUnavailable: no answer, or one that says no more than to come back later.
    """
    usages = list(template.usages)
    if await server_version(client) < _ENCIPHERMENT_OPTIONAL:
        usages.append(_ENCIPHERMENT)
    obj: dict[str, Any] = {
        "apiVersion": CERTIFICATE_SIGNING_REQUESTS.api_version,
        "kind": CERTIFICATE_SIGNING_REQUESTS.kind,
        "metadata": {"name": request.name} if is_first else {"generateName": "csr-"},
        "spec": {
            "request": base64.b64encode(request.request_pem).decode("ascii"),
            "signerName": template.signer,
            "usages": usages,
        },
    }
    try:
        made = await client.create(CERTIFICATE_SIGNING_REQUESTS, "", obj)
        return made["metadata"]["name"], made["metadata"]["uid"]
    except AlreadyExists:
        logger.info("csr for this node already exists, reusing")
        found = await client.get(CERTIFICATE_SIGNING_REQUESTS, "", request.name, SigningRequest)
        if (found.spec.signer_name, list(found.spec.usages)) != (template.signer, usages):
            raise NotSigned(f"retrieved csr is not compatible: {request.name} is for another signer or use") from None
        return found.metadata.name, found.metadata.uid
    except ApiError as error:
        if isinstance(error, TooManyRequests) or error.code >= 500:
            raise ApiUnavailable(str(error)) from None
        raise HostError(f"cannot create certificate signing request: {error}") from None


async def _wait_signed(client: ApiClient, name: str, uid: str) -> bytes:
    """Look at every state of the request, whatever becomes of the connection, until there is a certificate.

    Raises:
        NotSigned: there will be none.
    """
    while True:
        try:
            found = await client.get(CERTIFICATE_SIGNING_REQUESTS, "", name, SigningRequest)
            if (certificate := _outcome(found, uid)) is not None:
                return certificate
            async with client.watch(
                CERTIFICATE_SIGNING_REQUESTS,
                "",
                SigningRequest,
                field_selector=f"metadata.name={name}",
                resource_version=found.metadata.resource_version,
                timeout_s=_WATCH_S,
            ) as events:
                async for event in events:
                    if event.type is EventType.DELETED:
                        raise NotSigned(f'csr "{name}" was deleted')
                    if event.type is EventType.BOOKMARK:
                        continue
                    if (certificate := _outcome(event.object, uid)) is not None:
                        return certificate
        except NotFound:
            raise NotSigned(f'csr "{name}" was deleted') from None
        except Expired:
            continue
        except (ApiError, ApiUnavailable) as error:
            logger.info("waiting for certificate signing request %s: %s", name, error)
            await trio.sleep(_RETRY_S)


def _outcome(found: SigningRequest, uid: str) -> bytes | None:
    """The certificate, or None as long as nobody has decided. Raises: NotSigned: somebody has, against it."""
    if found.metadata.uid != uid:
        raise NotSigned(f'csr "{found.metadata.name}" changed UIDs')
    for condition in found.status.conditions:
        outcome = {"Denied": "is denied", "Failed": "failed"}.get(condition.type)
        if outcome is not None:
            reason = f"reason: {condition.reason}, message: {condition.message}"
            raise NotSigned(f"certificate signing request {outcome}, {reason}")
    return base64.b64decode(found.status.certificate) if found.status.certificate else None

"""``serviceaccounts/NAME/token``: a TokenRequest in, the same with a signed token out.

Admission has seen the request before: that a node asks for its own pods only is ``node_restriction.py``'s rule.

Source: pkg/registry/core/serviceaccount/storage/token.go; pkg/apis/authentication/validation; semantics §4.2.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kubelet_secrets import errors
from kubelet_secrets.api import meta
from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import METADATA, SPEC, FieldError
from kubelet_secrets.apiserver import statuses, strictness
from kubelet_secrets.apiserver.attributes import Attributes, Write
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.requestinfo import RequestInfo
from kubelet_secrets.apiserver.resources import ServedResource, served
from kubelet_secrets.apiserver.tokens import (
    EXTENDED_LIFETIME_S,
    WARN_ONLY_LIFETIME_S,
    Reference,
    TokenIssuer,
    TokenSubject,
    make_claims,
)

API_VERSION, KIND = "authentication.k8s.io/v1", "TokenRequest"
DEFAULT_LIFETIME_S = 3600
_MIN_LIFETIME_S = 600
_MAX_LIFETIME_S = 1 << 32
_PODS, _NODES, _SECRETS = served(meta.PODS), served(meta.NODES), served(meta.SECRETS)


async def create_token(
    registry: Registry, row: ServedResource, info: RequestInfo, body: Object, write: Write, issuer: TokenIssuer
) -> Object:
    """Issue a token for the account that *info* names.

    Raises:
        NotFound: the account, or the object to bind to.
        Invalid: 400 or 422.
        Conflict: the object to bind to has another uid by now.
        Forbidden: by admission.
    """
    _check_kind(body)
    spec = body.setdefault("spec", {})
    spec.setdefault("expirationSeconds", DEFAULT_LIFETIME_S)
    await registry.admit(
        Attributes(
            verb="create",
            row=row,
            namespace=info.namespace,
            name=info.name,
            subresource=info.subresource,
            user=write.user,
            obj=body,
            old=None,
            is_dry_run=write.is_dry_run,
        )
    )
    metadata = body.setdefault("metadata", {})
    _raise_if(_name_errors(metadata, info), info.name)
    account = (await registry.get(row, info.namespace, info.name)).object
    audiences = tuple(spec.get("audiences") or issuer.audiences)
    lifetime_s: int = spec["expirationSeconds"]
    _raise_if(_lifetime_errors(lifetime_s), "")
    now = datetime.now(UTC)  # before the token is made: the expiration told is not later than the token's own
    subject = await _subject(registry, account, spec.get("boundObjectRef"))
    granted_s, warn_after_s = lifetime_s, 0
    if subject.pod is not None and lifetime_s == WARN_ONLY_LIFETIME_S and audiences == issuer.audiences:
        granted_s, warn_after_s = EXTENDED_LIFETIME_S, lifetime_s
    claims = make_claims(
        subject, audiences=audiences, issuer=issuer.issuer, now=now, lifetime_s=granted_s, warn_after_s=warn_after_s
    )
    return {
        "kind": KIND,
        "apiVersion": API_VERSION,
        "metadata": {"name": info.name, "namespace": info.namespace, "creationTimestamp": rfc3339(now)},
        "spec": {**spec, "audiences": list(audiences)},
        "status": {
            "token": issuer.sign(claims).reveal().decode("ascii"),
            "expirationTimestamp": rfc3339(now + timedelta(seconds=lifetime_s)),
        },
    }


def _check_kind(body: Object) -> None:
    given = (body.setdefault("apiVersion", API_VERSION), body.setdefault("kind", KIND))
    if given != (API_VERSION, KIND):
        raise statuses.bad_request(
            f"the API version and kind in the data ({given[0]}, {given[1]}) do not match the expected ones "
            f"({API_VERSION}, {KIND})"
        )
    if cause := strictness.decode_error(body, API_VERSION, KIND):
        raise statuses.bad_request(cause)


def _name_errors(metadata: Object, info: RequestInfo) -> list[FieldError]:
    found = []
    for field, expected in (("name", info.name), ("namespace", info.namespace)):
        given = metadata.get(field)
        if given and given != expected:
            found.append(
                fields.invalid(METADATA.child(field), given, f"must match the service account {field} if specified")
            )
    return found[:1]


def _lifetime_errors(lifetime_s: int) -> list[FieldError]:
    path = SPEC.child("expirationSeconds")
    if lifetime_s < _MIN_LIFETIME_S:
        return [fields.invalid(path, lifetime_s, "may not specify a duration less than 10 minutes")]
    if lifetime_s > _MAX_LIFETIME_S:
        return [fields.invalid(path, lifetime_s, "may not specify a duration larger than 2^32 seconds")]
    return []


def _raise_if(found: list[FieldError], name: str) -> None:
    if found:
        message = fields.invalid_message("TokenRequest.authentication.k8s.io", name, found)
        details = {
            "name": name,
            "group": "authentication.k8s.io",
            "kind": KIND,
            "causes": fields.status_causes(found),
        }
        raise errors.Invalid(message, code=422, reason="Invalid", details=details)


async def _subject(registry: Registry, account: Object, reference: Object | None) -> TokenSubject:
    """What the token is bound to. Its node is written down too, so that a reader need not ask for the pod."""
    namespace = account["metadata"]["namespace"]
    pod = node = secret = None
    if reference is not None:
        api_version, kind, name = (reference.get(field) or "" for field in ("apiVersion", "kind", "name"))
        match api_version, kind:
            case "v1", "Pod":
                found = (await registry.get(_PODS, namespace, name)).object
                pod = _reference(found)
                _check_account(account, found)
                node = await _node_of(registry, found)
            case "v1", "Node":
                found = (await registry.get(_NODES, "", name)).object
                node = _reference(found)
            case "v1", "Secret":
                found = (await registry.get(_SECRETS, namespace, name)).object
                secret = _reference(found)
            case _:
                group, _, version = api_version.rpartition("/")
                raise statuses.bad_request(f"cannot bind token to object of type {group}/{version}, Kind={kind}")
        wanted, uid = reference.get("uid"), found["metadata"]["uid"]
        if wanted and wanted != uid:
            cause = (
                f"the UID in the bound object reference ({wanted}) does not match the UID in record. "
                "The object might have been deleted and then recreated"
            )
            message = f'Operation cannot be fulfilled on {kind} "{name}": {cause}'
            raise errors.Conflict(message, code=409, reason="Conflict", details={"name": name, "kind": kind})
    return TokenSubject(namespace=namespace, account=_reference(account), pod=pod, node=node, secret=secret)


def _check_account(account: Object, pod: Object) -> None:
    name = account["metadata"]["name"]
    if pod["spec"].get("serviceAccountName") != name:
        raise statuses.bad_request(
            f'cannot bind token for serviceaccount "{name}" to pod running with different serviceaccount name.'
        )


async def _node_of(registry: Registry, pod: Object) -> Reference | None:
    name = pod["spec"].get("nodeName")
    if not name:
        return None
    node = await registry.find(_NODES, "", name)
    return _reference(node.object) if node is not None else Reference(name)


def _reference(obj: Object) -> Reference:
    return Reference(obj["metadata"]["name"], obj["metadata"]["uid"])

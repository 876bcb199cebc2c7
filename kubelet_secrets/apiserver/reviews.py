"""Access reviews: questions to the server about itself, POSTed as objects that are answered and not stored.

Who may do this? ``SelfSubjectAccessReview``, ``SubjectAccessReview``, ``LocalSubjectAccessReview``. What may I do here?
``SelfSubjectRulesReview``. Who am I, and whose token is this? ``SelfSubjectReview``, ``TokenReview``. They ask the very
authorizers and authenticators that requests go through. Who may ask is decided before, by role.

Source: pkg/registry/authorization/{selfsubjectaccessreview,subjectaccessreview,localsubjectaccessreview,selfsubjectrulesreview,
util}; pkg/registry/authentication/{tokenreview,selfsubjectreview}; pkg/apis/authorization/validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kubelet_secrets import errors
from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import SPEC, FieldError, Path
from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.attributes import User
from kubelet_secrets.apiserver.authn import Authenticators, Credentials
from kubelet_secrets.apiserver.authz import Authorizers
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.node_authorizer import node_name
from kubelet_secrets.apiserver.rbac import rule_to_plain
from kubelet_secrets.apiserver.rbac_authorizer import RbacAuthorizer
from kubelet_secrets.apiserver.requestinfo import RequestInfo
from kubelet_secrets.apiserver.resources import ServedResource
from kubelet_secrets.apiserver.tokens import InvalidToken, TokenIssuer

_RESOURCE, _OTHER = SPEC.child("resourceAttributes"), SPEC.child("nonResourceAttributes")


class Reviews:
    """See the module's text."""

    def __init__(
        self, authenticators: Authenticators, authorizers: Authorizers, rbac: RbacAuthorizer, issuer: TokenIssuer
    ) -> None:
        self._authenticators = authenticators
        self._authorizers = authorizers
        self._rbac = rbac
        self._issuer = issuer

    async def answer(self, row: ServedResource, namespace: str, review: Object, user: User) -> Object:
        """*review* with its ``status``.

        Args:
            review: of the right kind and field types; changed.
            namespace: of the request, for a LocalSubjectAccessReview.
            user: who asks.

        Raises:
            Invalid: 400 or 422: the question makes no sense.
        """
        spec = review.setdefault("spec", {}) or {}
        match row.kind:
            case "SelfSubjectAccessReview":
                _raise_if(row, _attribute_errors(spec))
                status = await self._access(user, spec)
            case "SubjectAccessReview":
                _raise_if(row, _attribute_errors(spec) + _subject_errors(spec))
                status = await self._access(_user_of(spec), spec)
            case "LocalSubjectAccessReview":
                _raise_if(row, _attribute_errors(spec) + _subject_errors(spec) + _local_errors(spec, namespace))
                status = await self._access(_user_of(spec), spec)
            case "SelfSubjectRulesReview":
                status = self._rules(user, spec.get("namespace") or "")
            case "SelfSubjectReview":
                status = {"userInfo": user_info(user)}
            case "TokenReview":
                status = await self._token(spec)
            case _:
                raise AssertionError(f"{row.kind} is no review")
        review["status"] = status
        return review

    async def _access(self, user: User, spec: Object) -> Object:
        verdict = await self._authorizers.authorize(user, _request_of(spec))
        return {"allowed": verdict.is_allowed, **({"reason": verdict.reason} if verdict.reason else {})}

    def _rules(self, user: User, namespace: str) -> Object:
        if not namespace:
            raise statuses.bad_request("no namespace on request")
        found = self._rbac.resolve(user, namespace)
        problems = list(found.errors)
        if node_name(user):
            problems.insert(0, "node authorizer does not support user rule resolution")
        rules = [rule_to_plain(rule) for rule in found.rules]
        status: Object = {
            "resourceRules": [rule for rule in rules if "resources" in rule],
            "nonResourceRules": [rule for rule in rules if "nonResourceURLs" in rule],
            "incomplete": bool(node_name(user)),
        }
        if problems:
            status["evaluationError"] = errors.aggregate_message(problems)
        return status

    async def _token(self, spec: Object) -> Object:
        token = spec.get("token") or ""
        if not token:
            raise statuses.bad_request("token is required for TokenReview in authentication")
        audiences: tuple[str, ...] = tuple(spec.get("audiences") or ())
        user = await self._authenticators.identify(Credentials(None, token, audiences))
        if user is None:
            return {"user": {}, "error": "invalid bearer token"}
        accepted = self._audiences(token, audiences)
        if audiences and not accepted:
            return {"user": {}, "error": "the token is for none of the audiences asked about"}
        return {"authenticated": True, "user": user_info(user), "audiences": accepted or list(self._issuer.audiences)}

    def _audiences(self, token: str, wanted: Sequence[str]) -> list[str]:
        """Those of *wanted* that the token is for. One that does not say is for the API server."""
        meant: Sequence[str] = self._issuer.audiences
        if self._issuer.is_own(token):
            try:
                claimed = self._issuer.verify(token, wanted)["aud"]
            except InvalidToken:
                return []
            meant = [claimed] if isinstance(claimed, str) else claimed
        return [audience for audience in wanted if audience in meant]


def user_info(user: User) -> Object:
    """``authentication.k8s.io`` UserInfo."""
    info: Object = {"username": user.name}
    if user.uid:
        info["uid"] = user.uid
    if user.groups:
        info["groups"] = list(user.groups)
    if user.extra:
        info["extra"] = {key: list(values) for key, values in user.extra.items()}
    return info


def _user_of(spec: Object) -> User:
    extra = {str(key).lower(): tuple(values or ()) for key, values in (spec.get("extra") or {}).items()}
    return User(spec.get("user") or "", tuple(spec.get("groups") or ()), spec.get("uid") or "", extra)


def _request_of(spec: Object) -> RequestInfo:
    other = spec.get("nonResourceAttributes")
    if other is not None:
        return RequestInfo(path=other.get("path") or "", verb=other.get("verb") or "")
    given = spec["resourceAttributes"]
    return RequestInfo(
        path="",
        is_resource=True,
        verb=given.get("verb") or "",
        group=given.get("group") or "",
        version=given.get("version") or "",
        plural=given.get("resource") or "",
        subresource=given.get("subresource") or "",
        namespace=given.get("namespace") or "",
        name=given.get("name") or "",
        field_selector=_field_selector(given.get("fieldSelector") or {}),
    )


def _field_selector(given: Object) -> str:
    """The selector of the attributes as one of a request; what cannot be said that way is left out, which asks for more."""
    if given.get("rawSelector"):
        return str(given["rawSelector"])
    exact = (
        f"{entry.get('key')}={entry['values'][0]}"
        for entry in given.get("requirements") or ()
        if entry.get("operator") == "In" and len(entry.get("values") or ()) == 1
    )
    return ",".join(exact)


def _attribute_errors(spec: Object) -> list[FieldError]:
    resource, other = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if resource is not None and other is not None:
        return [fields.invalid(_OTHER, other, "cannot be specified in combination with resourceAttributes")]
    if resource is None and other is None:
        text = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        return [fields.invalid(_RESOURCE, None, text)]
    return []


def _subject_errors(spec: Object) -> list[FieldError]:
    if spec.get("user") or spec.get("groups"):
        return []
    return [fields.invalid(SPEC.child("user"), "", "at least one of user or group must be specified")]


def _local_errors(spec: Object, namespace: str) -> list[FieldError]:
    resource: Any = spec.get("resourceAttributes")
    found = []
    if resource is not None and resource.get("namespace") != namespace:
        path = Path("spec.resourceAttributes.namespace")
        found.append(fields.invalid(path, resource.get("namespace") or "", "must match metadata.namespace"))
    if spec.get("nonResourceAttributes") is not None:
        found.append(fields.invalid(_OTHER, spec["nonResourceAttributes"], "disallowed on this kind of request"))
    return found


def _raise_if(row: ServedResource, found: list[FieldError]) -> None:
    if found:
        message = fields.invalid_message(f"{row.kind}.{row.resource.group}", "", found)
        raise statuses.invalid(row, "", message, fields.status_causes(found))

"""May this user do this: a sequence of authorizers, of which the first that allows decides; nobody allowing means 403.

Here are the two that decide without data, and the words of a denial. The others are ``node_authorizer.py`` and
``rbac_authorizer.py``.

Source: k8s.io/apiserver pkg/authorization/union, pkg/endpoints/handlers/responsewriters/errors.go (Forbidden,
forbiddenMessage).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kubelet_secrets import errors
from kubelet_secrets.apiserver.attributes import User
from kubelet_secrets.apiserver.requestinfo import RequestInfo


@dataclass(frozen=True, slots=True)
class Verdict:
    """An authorizer's answer. Without permission it is "no opinion": the next one is asked."""

    is_allowed: bool
    reason: str = ""  # why, for an access review; why not, for the error's text too


ALLOW = Verdict(True)
NO_OPINION = Verdict(False)


class Authorizer(Protocol):
    async def authorize(self, user: User, request: RequestInfo) -> Verdict: ...


class PrivilegedGroups:
    """``system:masters`` may do everything."""

    async def authorize(self, user: User, request: RequestInfo) -> Verdict:
        return ALLOW if "system:masters" in user.groups else NO_OPINION


class HealthPaths:
    """Whoever has come this far may ask whether the server lives: probes must not depend on roles.

    Source: kube-apiserver's ``--authorization-always-allow-paths`` and its default; pkg/authorization/path.
    """

    _PATHS = ("/healthz", "/livez", "/readyz")

    async def authorize(self, user: User, request: RequestInfo) -> Verdict:
        return ALLOW if not request.is_resource and request.path in self._PATHS else NO_OPINION


class Authorizers:
    """The sequence."""

    def __init__(self, authorizers: Sequence[Authorizer]) -> None:
        self._authorizers = tuple(authorizers)

    async def authorize(self, user: User, request: RequestInfo) -> Verdict:
        """The first permission, or a refusal with every authorizer's reason."""
        reasons = []
        for authorizer in self._authorizers:
            verdict = await authorizer.authorize(user, request)
            if verdict.is_allowed:
                return verdict
            if verdict.reason:
                reasons.append(verdict.reason)
        return Verdict(False, "\n".join(reasons))

    async def check(self, user: User, request: RequestInfo) -> None:
        """Raises: Forbidden, with upstream's text."""
        verdict = await self.authorize(user, request)
        if not verdict.is_allowed:
            raise denial(user, request, verdict.reason)


def denial(user: User, request: RequestInfo, reason: str) -> errors.Forbidden:
    """``secrets "x" is forbidden: User "u" cannot get resource "secrets" in API group "" in the namespace "n": reason``."""
    if not request.is_resource:
        message = f'forbidden: User "{user.name}" cannot {request.verb} path "{request.path}"'
        return errors.Forbidden(_with(message, reason), code=403, reason="Forbidden")
    subject = f"{request.plural}.{request.group}" if request.group else request.plural
    if request.name:
        subject += f' "{request.name}"'
    resource = f"{request.plural}/{request.subresource}" if request.subresource else request.plural
    scope = f'in the namespace "{request.namespace}"' if request.namespace else "at the cluster scope"
    message = (
        f'{subject} is forbidden: User "{user.name}" cannot {request.verb} resource "{resource}" '
        f'in API group "{request.group}" {scope}'
    )
    details = {"name": request.name, "group": request.group, "kind": request.plural}
    return errors.Forbidden(_with(message, reason), code=403, reason="Forbidden", details=details)


def _with(message: str, reason: str) -> str:
    return f"{message}: {reason}" if reason else message

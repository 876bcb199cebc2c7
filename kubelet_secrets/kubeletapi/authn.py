"""Who asks the kubelet: a client certificate, verified by the listener, or a bearer token that the API server reviews.

Anonymous requests are refused, as everywhere by default. Source: pkg/kubelet/server/auth.go, cmd/kubelet/app/auth.go
(webhook cache TTLs of the kubelet's configuration); semantics §12.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import trio

from kubelet_secrets.api.meta import Resource
from kubelet_secrets.errors import ApiError, ApiUnavailable
from kubelet_secrets.kubeletapi.http1 import HttpRequest

TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)
TOKEN_TTL_S = 120.0
LARGEST_CACHE = 1024


class Creator(Protocol):
    """What of ``client.rest.ApiClient`` is needed here."""

    async def create(self, resource: Resource, namespace: str, obj: Mapping[str, Any]) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class UserInfo:
    """Who asks."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Authenticator:
    """Asks the API server about tokens, and remembers its answers for two minutes. Tokens are kept as digests only."""

    def __init__(self, client: Creator) -> None:
        self._client = client
        self._known: dict[bytes, tuple[float, UserInfo]] = {}

    async def authenticate(self, request: HttpRequest) -> UserInfo | None:
        """None: nobody knows who that is."""
        if request.certificate is not None:
            user = certificate_user(request.certificate)
            if user.name:  # a certificate that names nobody is none: a token may say more
                return user
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        return await self._review(token.strip())

    async def _review(self, token: str) -> UserInfo | None:
        digest, now = hashlib.sha256(token.encode("latin-1")).digest(), trio.current_time()
        known = self._known.get(digest)
        if known is not None and known[0] > now:
            return known[1]
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        try:
            status = (await self._client.create(TOKEN_REVIEWS, "", body)).get("status") or {}
        except (ApiError, ApiUnavailable):
            return None
        if not status.get("authenticated"):
            return None
        user = status.get("user") or {}
        found = UserInfo(
            str(user.get("username", "")),
            tuple(user.get("groups") or ()),
            str(user.get("uid", "")),
            {key: tuple(values) for key, values in (user.get("extra") or {}).items()},
        )
        if len(self._known) >= LARGEST_CACHE:
            self._known.clear()
        self._known[digest] = (now + TOKEN_TTL_S, found)
        return found


def certificate_user(certificate: Mapping[str, Any]) -> UserInfo:
    """Name and groups of a verified certificate: its common name, its organizations.

    Args:
        certificate: as ``ssl`` describes it. Not as ``cryptography`` would: importing that costs the agent 11 MB for good.
    """
    subject = [pair for name in certificate.get("subject") or () for pair in name]
    names = [value for field, value in subject if field == "commonName"]
    groups = tuple(value for field, value in subject if field == "organizationName")
    return UserInfo(names[-1] if names else "", (*groups, "system:authenticated"))

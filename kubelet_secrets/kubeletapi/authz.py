"""What somebody may ask of the kubelet: a SubjectAccessReview about a subresource of the Node.

Source: pkg/kubelet/server/auth.go (GetRequestAttributes), server.go (InstallAuthRequiredFilter); KEP-2862; semantics §12.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from kubelet_secrets.api.meta import Resource
from kubelet_secrets.errors import ApiError, ApiUnavailable
from kubelet_secrets.kubeletapi.authn import LARGEST_CACHE, Creator, UserInfo

ACCESS_REVIEWS = Resource("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False)
ALLOWED_TTL_S = 300.0
DENIED_TTL_S = 30.0

_VERBS = {"POST": "create", "GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_COARSE = (
    ("/stats", "stats"),
    ("/metrics", "metrics"),
    ("/logs", "log"),
    ("/checkpoint", "checkpoint"),
    ("/statusz", "statusz"),
    ("/flagz", "configz"),
)
_FINE = (("/pods", "pods"), ("/runningpods", "pods"), ("/healthz", "healthz"), ("/configz", "configz"))
EVERYTHING = "proxy"


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a request asks for.

    Attributes:
        subresources: of the Node; one of them is enough, tried in this order.
    """

    verb: str
    subresources: tuple[str, ...]


def attributes_of(method: str, path: str) -> Attributes:
    """Pure."""
    verb = _VERBS.get(method, "")
    for prefix, subresource in _COARSE:
        if _is_below(path, prefix):
            return Attributes(verb, (subresource,))
    for prefix, subresource in _FINE:
        if _is_below(path, prefix):
            return Attributes(verb, (subresource, EVERYTHING))
    return Attributes(verb, (EVERYTHING,))


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")


def forbidden_text(user: UserInfo, attributes: Attributes) -> str:
    return f"Forbidden ({_described(user, attributes)})\n"


def error_text(user: UserInfo, attributes: Attributes) -> str:
    return f"Authorization error ({_described(user, attributes)})"


def _described(user: UserInfo, attributes: Attributes) -> str:
    found = " ".join(attributes.subresources)
    return f"user={user.name}, verb={attributes.verb}, resource=nodes, subresource(s)=[{found}]"


class NotAuthorizable(Exception):
    """Nobody can say whether somebody may; the text is the API server's or the client's."""


class Authorizer:
    """Asks the API server, and remembers a yes for five minutes, a no for thirty seconds."""

    def __init__(self, client: Creator, node_name: str) -> None:
        self._client = client
        self._node_name = node_name
        self._known: dict[tuple[str, tuple[str, ...], str, str], tuple[float, bool]] = {}

    async def is_allowed(self, user: UserInfo, attributes: Attributes) -> bool:
        """Whether *user* may.

        Raises:
            NotAuthorizable: the API server cannot be asked, and has not said before.
        """
        for subresource in attributes.subresources:
            if await self._ask(user, attributes.verb, subresource):
                return True
        return False

    async def _ask(self, user: UserInfo, verb: str, subresource: str) -> bool:
        key, now = (user.name, user.groups, verb, subresource), trio.current_time()
        known = self._known.get(key)
        if known is not None and known[0] > now:
            return known[1]
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.name,
                "groups": list(user.groups),
                "uid": user.uid,
                "extra": {key: list(values) for key, values in user.extra.items()},
                "resourceAttributes": {
                    "verb": verb,
                    "version": "v1",
                    "resource": "nodes",
                    "subresource": subresource,
                    "name": self._node_name,
                },
            },
        }
        try:
            answer = await self._client.create(ACCESS_REVIEWS, "", body)
        except (ApiError, ApiUnavailable) as error:
            raise NotAuthorizable(str(error)) from None
        allowed = bool((answer.get("status") or {}).get("allowed"))
        if len(self._known) >= LARGEST_CACHE:
            self._known.clear()
        self._known[key] = (now + (ALLOWED_TTL_S if allowed else DENIED_TTL_S), allowed)
        return allowed

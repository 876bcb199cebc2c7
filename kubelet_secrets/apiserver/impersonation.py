"""Acting as somebody else: ``kubectl --as jane --as-group dev``, for those who have the verb ``impersonate`` on each part.

Between authentication and authorization: what follows, admission included, sees the impersonated user only.

Source: k8s.io/apiserver pkg/endpoints/filters/impersonation.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import unquote

from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.attributes import User
from kubelet_secrets.apiserver.authz import Authorizers
from kubelet_secrets.apiserver.rbac import ACCOUNT_PREFIX, account_groups
from kubelet_secrets.apiserver.requestinfo import RequestInfo

_EXTRA = "impersonate-extra-"
_AUTHENTICATED, _UNAUTHENTICATED, _ANONYMOUS = "system:authenticated", "system:unauthenticated", "system:anonymous"
_GROUP = "authentication.k8s.io"


async def impersonate(user: User, headers: Sequence[tuple[str, str]], authorizers: Authorizers) -> User:
    """Whom *user* acts as in a request with these *headers* (names in lower case); *user* when none asks for it.

    Raises:
        Forbidden: for the first part that *user* may not take on.
        Invalid: 400: groups, uid or extra without a user name.
    """
    wanted = _wanted(headers)
    if wanted is None:
        return user
    for request in _requests(wanted):
        await authorizers.check(user, request)
    return _complete(wanted)


def _wanted(headers: Sequence[tuple[str, str]]) -> User | None:
    name = uid = ""
    groups: list[str] = []
    extra: dict[str, tuple[str, ...]] = {}
    for header, value in headers:
        if header == "impersonate-user":
            name = value
        elif header == "impersonate-uid":
            uid = value
        elif header == "impersonate-group":
            groups.append(value)
        elif header.startswith(_EXTRA):
            key = unquote(header.removeprefix(_EXTRA)).lower()
            extra[key] = (*extra.get(key, ()), value)
    if not name:
        if uid or groups or extra:
            raise statuses.bad_request("requested impersonation of groups, uid or extra without impersonating a user")
        return None
    return User(name, tuple(groups), uid, extra)


def _requests(wanted: User) -> Iterator[RequestInfo]:
    """What has to be allowed, one by one."""
    namespace, account = _account(wanted.name)
    if account:
        yield _request("serviceaccounts", account, namespace=namespace)
    else:
        yield _request("users", wanted.name)
    for group in wanted.groups:
        yield _request("groups", group)
    if wanted.uid:
        yield _request("uids", wanted.uid, group=_GROUP)
    for key, values in wanted.extra.items():
        for value in values:
            yield _request("userextras", value, group=_GROUP, subresource=key)


def _request(plural: str, name: str, *, group: str = "", namespace: str = "", subresource: str = "") -> RequestInfo:
    return RequestInfo(
        path="",
        verb="impersonate",
        is_resource=True,
        group=group,
        version="v1",
        plural=plural,
        subresource=subresource,
        namespace=namespace,
        name=name,
    )


def _account(name: str) -> tuple[str, str]:
    """Namespace and name of a service account's user name; empty for anybody else's."""
    parts = name.removeprefix(ACCOUNT_PREFIX).split(":") if name.startswith(ACCOUNT_PREFIX) else []
    return (parts[0], parts[1]) if len(parts) == 2 and all(parts) else ("", "")


def _complete(wanted: User) -> User:
    """With the groups that come by themselves: a service account's when none was named, and whether it is authenticated."""
    groups = list(wanted.groups)
    namespace, account = _account(wanted.name)
    if account and not groups:
        groups += account_groups(namespace)
    if wanted.name == _ANONYMOUS:
        if not groups:
            groups.append(_UNAUTHENTICATED)
    elif _AUTHENTICATED not in groups and _UNAUTHENTICATED not in groups:
        groups.append(_AUTHENTICATED)
    return User(wanted.name, tuple(groups), wanted.uid, wanted.extra)

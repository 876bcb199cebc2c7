"""Bearer tokens of service accounts: who they are, as long as account and pod are still there.

Source: pkg/serviceaccount/{jwt.go, claims.go (validator.Validate), util.go (UserInfo)}.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from kubelet_secrets.api import meta
from kubelet_secrets.api.times import parse_rfc3339
from kubelet_secrets.apiserver.admission import Finder
from kubelet_secrets.apiserver.attributes import User
from kubelet_secrets.apiserver.authn import Credentials
from kubelet_secrets.apiserver.bootstrap_authn import value_of
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.rbac import account_groups, account_user
from kubelet_secrets.apiserver.resources import ServedResource, served
from kubelet_secrets.apiserver.tokens import InvalidToken, TokenIssuer

log = logging.getLogger(__name__)

_LEEWAY = timedelta(minutes=1)  # how long after its deletion an object's tokens stay good
_PREFIX = "authentication.kubernetes.io/"
_ACCOUNTS, _PODS = served(meta.SERVICE_ACCOUNTS), served(meta.PODS)
_NODES, _SECRETS = served(meta.NODES), served(meta.SECRETS)


class ServiceAccountAuthenticator:
    """See the module's text. A token of another issuer is not this authenticator's; a bad one of its own nobody's."""

    def __init__(self, issuer: TokenIssuer, finder: Finder) -> None:
        self._issuer = issuer
        self._finder = finder

    async def authenticate(self, credentials: Credentials) -> User | None:
        token = credentials.bearer_token
        if token is None:
            return None
        try:
            if self._issuer.is_legacy(token):
                return await self._legacy_user(token, credentials.audiences)
            if self._issuer.is_own(token):
                return await self._user_of(self._issuer.verify(token, credentials.audiences))
            return None
        except InvalidToken as reason:
            log.info("invalid service account token: %s", reason)
            return None

    async def _user_of(self, claims: Object) -> User:
        own = claims.get("kubernetes.io")
        if not isinstance(own, dict) or not isinstance(own.get("serviceaccount"), dict):
            raise InvalidToken("claims could not be validated due to unexpected private claim")
        namespace, account = str(own.get("namespace", "")), own["serviceaccount"]
        name, uid = str(account.get("name", "")), str(account.get("uid", ""))
        if claims["sub"] != f"system:serviceaccount:{namespace}:{name}":
            raise InvalidToken("service account name claim does not match subject")
        await self._check(_ACCOUNTS, namespace, account, "service account")
        extra = {}
        if claims.get("jti"):
            extra["credential-id"] = f"JTI={claims['jti']}"
        pod, node = own.get("pod"), own.get("node")
        if own.get("secret") is not None:
            await self._check(_SECRETS, namespace, own["secret"], "secret")
        if pod is not None:
            await self._check(_PODS, namespace, pod, "pod")
            extra |= {"pod-name": pod["name"], "pod-uid": pod["uid"]}
        elif node is not None:  # a node named beside a pod is a remark; alone it is what the token is bound to
            await self._check(_NODES, "", node, "node")
        if node is not None:
            extra["node-name"] = node["name"]
            if node.get("uid"):
                extra["node-uid"] = node["uid"]
        return User(
            claims["sub"],
            ("system:serviceaccounts", f"system:serviceaccounts:{namespace}"),
            uid,
            {_PREFIX + key: (str(value),) for key, value in extra.items()},
        )

    async def _legacy_user(self, token: str, audiences: Sequence[str]) -> User:
        """Whose token from a Secret it is: as long as it stands there. Source: pkg/serviceaccount/legacy.go, Validate."""
        if audiences and not set(audiences) & set(self._issuer.audiences):
            raise InvalidToken("the token is for the API server")
        said = self._issuer.verify_legacy(token)
        found = await self._finder.find(_SECRETS, said.namespace, said.secret)
        if found is None or "deletionTimestamp" in found.object["metadata"]:
            raise InvalidToken("service account token has been invalidated")
        data = found.object.get("data") or {}
        if not hmac.compare_digest(value_of(data, "token"), token.encode("utf-8", "replace")):
            raise InvalidToken("service account token does not match server's copy")
        account = {"name": said.account.name, "uid": said.account.uid}
        await self._check(_ACCOUNTS, said.namespace, account, "service account")
        return User(
            account_user(said.namespace, said.account.name), account_groups(said.namespace), said.account.uid, {}
        )

    async def _check(self, row: ServedResource, namespace: str, claim: dict[str, Any], what: str) -> None:
        """Raises: InvalidToken: the object is gone, or another one has its name."""
        found = await self._finder.find(row, namespace, str(claim.get("name", "")))
        if found is None:
            raise InvalidToken(f"{what} does not exist: service account token has been invalidated")
        metadata = found.object["metadata"]
        if metadata["uid"] != claim.get("uid"):
            raise InvalidToken(f"{what} UID ({metadata['uid']}) does not match claim ({claim.get('uid')})")
        deleted_at = parse_rfc3339(metadata.get("deletionTimestamp"))
        if deleted_at is not None and deleted_at < datetime.now(UTC) - _LEEWAY:
            raise InvalidToken(f"{what} has been deleted")

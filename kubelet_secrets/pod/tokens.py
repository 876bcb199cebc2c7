"""Bound service account tokens: requested, cached, refreshed before they expire.

Used by ``pod/volumes.py`` for ``serviceAccountToken`` projections. Source: pkg/kubelet/token/token_manager.go; semantics §4.2.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kubelet_secrets.api.core import Pod, ServiceAccountTokenProjection, Volume
from kubelet_secrets.api.meta import SERVICE_ACCOUNTS, PodUID
from kubelet_secrets.api.times import parse_rfc3339
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.errors import ApiError, ApiUnavailable, SetUpError
from kubelet_secrets.sensitive import SensitiveBytes

logger = logging.getLogger(__name__)

MAX_AGE = timedelta(hours=24)
MAX_JITTER_S = 10.0
DEFAULT_LIFETIME_S = 3600
KEPT_EXPIRED = timedelta(minutes=1)  # upstream's collector runs so often; what it has removed was never there


@dataclass(frozen=True, slots=True)
class _Key:
    """What makes two requests the same. ``str()`` is upstream's cache key, which shows in one error text."""

    account: str
    namespace: str
    audiences: tuple[str, ...]
    lifetime_s: int
    pod_name: str
    pod_uid: PodUID

    def __str__(self) -> str:
        quoted = ", ".join(json.dumps(each) for each in self.audiences)
        audiences = f"[]string{{{quoted}}}" if self.audiences else "[]string(nil)"
        bound = (
            f'v1.BoundObjectReference{{Kind:"Pod", APIVersion:"v1", Name:{json.dumps(self.pod_name)}, '
            f"UID:{json.dumps(self.pod_uid)}}}"
        )
        return f'"{self.account}"/"{self.namespace}"/{audiences}/{self.lifetime_s}/{bound}'


@dataclass(frozen=True, slots=True)
class _Token:
    value: SensitiveBytes
    expires_at: datetime
    lifetime_s: int

    def is_expired(self, now: datetime) -> bool:
        return now > self.expires_at

    def wants_refresh(self, now: datetime, jitter_s: float) -> bool:
        """After 24 hours, or when less than a fifth of its life is left."""
        jitter = timedelta(seconds=jitter_s)
        issued_at = self.expires_at - timedelta(seconds=self.lifetime_s)
        fifth = timedelta(seconds=self.lifetime_s * 0.2)
        return now > issued_at + MAX_AGE - jitter or now > self.expires_at - fifth - jitter


@dataclass(frozen=True, slots=True)
class TokenSnapshot:
    """Tokens fetched for one payload: a ``volume.payload.TokenSource``."""

    found: Mapping[tuple[str, int | None], SensitiveBytes | SetUpError] = field(default_factory=dict)

    def get_token(self, projection: ServiceAccountTokenProjection) -> SensitiveBytes:
        result = self.found.get((projection.audience, projection.expiration_seconds))
        if result is None:
            raise SetUpError("failed to fetch token: it was not asked for")
        if isinstance(result, SetUpError):
            raise result.with_traceback(None)
        return result


class TokenManager:
    """The tokens of this node's pods. Nothing of them is written anywhere but into the volumes that ask for them."""

    def __init__(self, client: ApiClient, *, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._clock = clock
        self._tokens: dict[_Key, _Token] = {}

    async def snapshot(self, pod: Pod, volume: Volume) -> TokenSnapshot:
        """Tokens for every projection of *volume*, fresh ones where that is due. Failures are kept, not raised."""
        found: dict[tuple[str, int | None], SensitiveBytes | SetUpError] = {}
        for projection in token_projections(volume):
            try:
                value: SensitiveBytes | SetUpError = await self.get(pod, projection)
            except SetUpError as error:
                value = error
            found[projection.audience, projection.expiration_seconds] = value
        return TokenSnapshot(found)

    async def get(self, pod: Pod, projection: ServiceAccountTokenProjection) -> SensitiveBytes:
        """A token that is good for at least a fifth of its life, or for as long as the API server stays away.

        Raises:
            SetUpError: there is none and none can be had.
        """
        key = _Key(
            account=pod.spec.service_account_name,
            namespace=pod.metadata.namespace,
            audiences=(projection.audience,) if projection.audience else (),
            lifetime_s=projection.expiration_seconds or DEFAULT_LIFETIME_S,
            pod_name=pod.metadata.name,
            pod_uid=PodUID(pod.metadata.uid),
        )
        now = self._clock()
        self._tokens = {each: token for each, token in self._tokens.items() if now <= token.expires_at + KEPT_EXPIRED}
        known = self._tokens.get(key)
        if known is not None and not known.wants_refresh(now, random.uniform(0, MAX_JITTER_S)):
            return known.value
        try:
            token = await self._request(key)
        except (ApiError, ApiUnavailable) as error:
            if known is None:
                raise SetUpError(f"failed to fetch token: {error}") from error
            if known.is_expired(now):
                raise SetUpError(f"token {key} expired and refresh failed: {error}") from error
            logger.warning("couldn't update token of %s/%s: %s", key.namespace, key.account, error)
            return known.value
        self._tokens[key] = token
        return token.value

    def forget(self, pod_uid: PodUID) -> None:
        """Drop the tokens of a pod whose volumes are gone."""
        self._tokens = {key: token for key, token in self._tokens.items() if key.pod_uid != pod_uid}

    async def _request(self, key: _Key) -> _Token:
        bound = {"kind": "Pod", "apiVersion": "v1", "name": key.pod_name, "uid": key.pod_uid}
        request = {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "spec": {
                "audiences": list(key.audiences) or None,
                "expirationSeconds": key.lifetime_s,
                "boundObjectRef": bound,
            },
        }
        answer = await self._client.create(
            SERVICE_ACCOUNTS, key.namespace, request, name=key.account, subresource="token"
        )
        status = answer.get("status") or {}
        expires_at = parse_rfc3339(status.get("expirationTimestamp"))
        if expires_at is None or not isinstance(status.get("token"), str):
            raise ApiUnavailable("the API server's TokenRequest carries no token")
        # The server may shorten or extend what was asked for.
        granted_s = (answer.get("spec") or {}).get("expirationSeconds") or key.lifetime_s
        return _Token(SensitiveBytes(status["token"].encode()), expires_at, int(granted_s))


def token_projections(volume: Volume) -> list[ServiceAccountTokenProjection]:
    """The ``serviceAccountToken`` sources of *volume*."""
    sources = volume.projected.sources if volume.projected is not None else ()
    return [each.service_account_token for each in sources if each.service_account_token is not None]

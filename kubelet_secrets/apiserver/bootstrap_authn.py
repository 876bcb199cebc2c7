"""Bootstrap tokens: bearer tokens ``id.secret`` that stand for a Secret in kube-system, for nodes that are about to join.

:func:`judge` decides and does no I/O; :class:`BootstrapTokenAuthenticator` finds the Secret. Whoever is refused learns nothing:
the reason is in the log only, and names no value.

Source: plugin/pkg/auth/authenticator/token/bootstrap/bootstrap.go; k8s.io/cluster-bootstrap/util/{tokens,secrets};
semantics §1.6.
"""

from __future__ import annotations

import base64
import hmac
import logging
import re
from datetime import UTC, datetime

from kubelet_secrets.api import meta
from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.times import parse_rfc3339
from kubelet_secrets.apiserver.admission import Finder
from kubelet_secrets.apiserver.attributes import User
from kubelet_secrets.apiserver.authn import Credentials
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.resources import served
from kubelet_secrets.errors import KubeletSecretsError

log = logging.getLogger(__name__)

NAMESPACE = "kube-system"
NAME_PREFIX = "bootstrap-token-"
SECRET_TYPE = "bootstrap.kubernetes.io/token"
USER_PREFIX = "system:bootstrap:"
GROUP = "system:bootstrappers"
_TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_EXTRA_GROUP = r"\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z"  # Go's spelling, for the text
_EXTRA_GROUP_PATTERN = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_SECRETS = served(meta.SECRETS)


class TokenRefused(KubeletSecretsError):
    """Why a bootstrap token does not count: upstream's log text, without a value."""


class BootstrapTokenAuthenticator:
    """See the module's text. A token of another form is not this authenticator's."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    async def authenticate(self, credentials: Credentials) -> User | None:
        """Raises: ApiError: the Secret cannot be read, which says nothing about the token."""
        match = _TOKEN.fullmatch(credentials.bearer_token or "")
        if match is None:
            return None
        token_id, token_secret = match.groups()
        found = await self._finder.find(_SECRETS, NAMESPACE, NAME_PREFIX + token_id)
        if found is None:
            log.info("no bootstrap secret matches the bearer token")
            return None
        try:
            return judge(found.object, token_id, token_secret, datetime.now(UTC))
        except TokenRefused as reason:
            log.info("%s", reason)
            return None


def judge(secret: Object, token_id: str, token_secret: str, now: datetime) -> User:
    """Who comes with the token of this *secret*.

    Args:
        secret: as stored: values are base64.

    Raises:
        TokenRefused: by the first rule it breaks.
    """
    metadata, data = secret["metadata"], secret.get("data")
    subject = f"Bootstrap secret {metadata['namespace']}/{metadata['name']} matching bearer token"
    if metadata.get("deletionTimestamp"):
        raise TokenRefused(f"{subject} is deleted and awaiting removal")
    if secret.get("type") != SECRET_TYPE or data is None:
        raise TokenRefused(f"{subject} has invalid type, expected {SECRET_TYPE}.")
    if not hmac.compare_digest(value_of(data, "token-secret"), token_secret.encode("ascii")):
        raise TokenRefused(f"{subject} has invalid value for key token-secret.")
    if value_of(data, "token-id") != token_id.encode("ascii"):
        raise TokenRefused(f"{subject} has invalid value for key token-id.")
    if is_expired(data, now):
        raise TokenRefused(f"{subject} has expired.")
    if value_of(data, "usage-bootstrap-authentication") != b"true":
        raise TokenRefused(f"{subject} not marked usage-bootstrap-authentication=true.")
    try:
        groups = extra_groups(data)
    except ValueError as error:
        raise TokenRefused(f"{subject} has invalid value for key auth-extra-groups: {error}.") from None
    return User(USER_PREFIX + token_id, tuple(sorted({GROUP, *groups})))


def is_expired(data: Object, now: datetime) -> bool:
    """Whether the token's time is over. None set is never; one that cannot be read is over."""
    text = value_of(data, "expiration").decode("utf-8", "replace")
    if not text:
        return False
    expires = parse_rfc3339(text) if _RFC3339.fullmatch(text) else None
    return expires is None or expires <= now


def extra_groups(data: Object) -> list[str]:
    """The groups in ``auth-extra-groups``. Raises: ValueError: one is not below ``system:bootstrappers:``."""
    text = value_of(data, "auth-extra-groups").decode("utf-8", "replace")
    groups = text.split(",") if text else []
    for group in groups:
        if not _EXTRA_GROUP_PATTERN.fullmatch(group):
            raise ValueError(f"bootstrap group {go_quote(group)} is invalid (must match {_EXTRA_GROUP})")
    return groups


def value_of(data: Object, key: str) -> bytes:
    """A value of a Secret as stored; empty when it is missing."""
    return base64.b64decode(data.get(key) or "")

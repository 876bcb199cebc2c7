"""Bootstrap tokens as kubeadm writes them: ``id.secret``, and the Secret in kube-system that stands for it.

Pure. Made by ``kubelet-secrets token`` and ``stack.py``; whether a token counts is decided by the API server alone
(``apiserver/bootstrap_authn.py``).

Source: k8s.io/cluster-bootstrap/token/{api/types.go,util/helpers.go}; cmd/kubeadm/app/apis/bootstraptoken/v1/utils.go;
semantics §1.6.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubelet_secrets.api.core import Secret
from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.times import parse_rfc3339, rfc3339
from kubelet_secrets.sensitive import SensitiveBytes

NAMESPACE, NAME_PREFIX, SECRET_TYPE = "kube-system", "bootstrap-token-", "bootstrap.kubernetes.io/token"
DEFAULT_GROUP = "system:bootstrappers:kubeadm:default-node-token"
USAGES = ("signing", "authentication")
ID_PATTERN, TOKEN_PATTERN = r"\A([a-z0-9]{6})\z", r"\A([a-z0-9]{6})\.([a-z0-9]{16})\z"  # Go's spelling, for messages
GROUP_PATTERN = r"\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z"
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_USAGE_PREFIX = "usage-bootstrap-"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapToken:
    """One token, with what its Secret says about it."""

    id: str  # not secret: it names the Secret
    secret: SensitiveBytes
    description: str = ""
    expires: datetime | None = None  # None: never
    usages: tuple[str, ...] = USAGES
    groups: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its Secret."""
        return NAME_PREFIX + self.id

    @property
    def text(self) -> SensitiveBytes:
        """The bearer token, ``id.secret``."""
        return SensitiveBytes(self.id.encode("ascii") + b"." + self.secret.reveal())


def generate(choose: Callable[[str], str]) -> tuple[str, SensitiveBytes]:
    """A new token's id and secret.

    Args:
        choose: picks one character by a source of randomness that nobody can foretell: ``secrets.choice``.
    """
    characters = "".join(choose(_ALPHABET) for _ in range(22))
    return characters[:6], SensitiveBytes(characters[6:].encode("ascii"))


def is_id(text: str) -> bool:
    return re.fullmatch(r"[a-z0-9]{6}", text) is not None


def parse(text: str) -> tuple[str, SensitiveBytes]:
    """``id.secret`` as its two halves. Raises: ValueError: something else; the text quotes nothing of it."""
    match = re.fullmatch(r"([a-z0-9]{6})\.([a-z0-9]{16})", text)
    if match is None:
        raise ValueError(f"the bootstrap token is not of the form {go_quote(TOKEN_PATTERN)}")
    return match[1], SensitiveBytes(match[2].encode("ascii"))


def usage_problem(usages: Sequence[str]) -> str:
    """Why these usages cannot be; empty when they can. Source: ValidateUsages."""
    unknown = sorted(set(usages) - set(USAGES))
    if not unknown:
        return ""
    return f"invalid bootstrap token usage string: {','.join(unknown)}, valid usage options: {', '.join(USAGES)}"


def group_problem(groups: Sequence[str]) -> str:
    """Why these groups cannot be; empty when they can. Source: ValidateBootstrapGroupName."""
    for group in groups:
        if not re.fullmatch(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]", group):
            return f"bootstrap group {go_quote(group)} is invalid (must match {GROUP_PATTERN})"
    return ""


def make_secret(token: BootstrapToken) -> dict[str, Any]:
    """The Secret of *token*, as secret as the token."""
    data = {"token-id": token.id, "token-secret": token.secret.reveal().decode("ascii")}
    if token.description:
        data["description"] = token.description
    if token.expires is not None:
        data["expiration"] = rfc3339(token.expires)
    for usage in token.usages:
        data[f"{_USAGE_PREFIX}{usage}"] = "true"
    if token.groups:
        data["auth-extra-groups"] = ",".join(token.groups)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": token.name, "namespace": NAMESPACE},
        "type": SECRET_TYPE,
        "stringData": data,
    }


def is_signed(content: str, signature: str, token: BootstrapToken) -> bool:
    """Whether *signature* (``header..signature``, a detached JSON Web Signature) is this token's of *content*.

    Source: k8s.io/cluster-bootstrap/token/jws, DetachedTokenIsValid.
    """
    header, _, encoded = signature.partition("..")
    try:
        described = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
        given = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except (binascii.Error, ValueError):
        return False
    if not isinstance(described, dict) or (described.get("alg"), described.get("kid")) != ("HS256", token.id):
        return False
    payload = base64.urlsafe_b64encode(content.encode()).rstrip(b"=")
    wanted = hmac.digest(token.secret.reveal(), header.encode("ascii", "replace") + b"." + payload, "sha256")
    return hmac.compare_digest(wanted, given)


def read_secret(secret: Secret) -> BootstrapToken:
    """The token that *secret* stands for.

    Raises:
        ValueError: it stands for none; upstream's text, without a value.

    Source: BootstrapTokenFromSecret.
    """
    data = {key: value.reveal().decode("utf-8", "replace") for key, value in secret.data.items()}
    name, token_id, token_secret = secret.metadata.name, data.get("token-id", ""), data.get("token-secret", "")
    if not token_id:
        raise ValueError(f"bootstrap Token Secret has no token-id data: {name}")
    if name != NAME_PREFIX + token_id:
        raise ValueError(
            f"bootstrap token name is not of the form '{NAME_PREFIX}(token-id)'. Actual: {go_quote(name)}. "
            f"Expected: {go_quote(NAME_PREFIX + token_id)}"
        )
    if not token_secret:
        raise ValueError(f"bootstrap Token Secret has no token-secret data: {name}")
    if not is_id(token_id) or not re.fullmatch(r"[a-z0-9]{16}", token_secret):
        raise ValueError(f"bootstrap Token Secret {name} could not be parsed")
    expires = parse_rfc3339(data.get("expiration"))
    if data.get("expiration") and expires is None:
        raise ValueError(f"can't parse expiration time of bootstrap token {go_quote(name)}")
    usages = (
        key.removeprefix(_USAGE_PREFIX)
        for key, value in data.items()
        if key.startswith(_USAGE_PREFIX) and value == "true"
    )
    return BootstrapToken(
        id=token_id,
        secret=SensitiveBytes(token_secret.encode("ascii")),
        description=data.get("description", ""),
        expires=expires,
        usages=tuple(sorted(usages)),
        groups=tuple(sorted(filter(None, data.get("auth-extra-groups", "").split(",")))),
    )

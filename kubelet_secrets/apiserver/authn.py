"""Who is asking: client certificates and static bearer tokens; nobody at all is ``system:anonymous``, where that is allowed.

A certificate has been verified by TLS against the client CA before it gets here; a wrong one never gets past the handshake.
Further authenticators (``account_authn.py``, ``bootstrap_authn.py``) join the sequence given to :class:`Authenticators`.

Source: k8s.io/apiserver pkg/authentication/request/{x509,bearertoken,union,anonymous}; KEP-4633 for anonymous paths.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from kubelet_secrets.apiserver import csr, statuses
from kubelet_secrets.apiserver.attributes import User

ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
PUBLIC_PATHS = frozenset(
    [
        *("/healthz", "/livez", "/readyz", "/version", "/version/"),
        "/api/v1/namespaces/kube-public/configmaps/cluster-info",  # what a node that joins reads first, if it is published
    ]
)
"""Where requests without credentials are heard. What they may do there is up to the authorizers."""
CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"
_AUTHENTICATED = "system:authenticated"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request carries."""

    certificate_pem: str | None = None  # the client's own certificate, verified by TLS
    bearer_token: str | None = None
    audiences: tuple[str, ...] = ()  # whom the token has to be for, one of them at least; none: the API server

    def __repr__(self) -> str:
        has_token = self.bearer_token is not None
        return f"<Credentials certificate={self.certificate_pem is not None} token={has_token}>"


class Authenticator(Protocol):
    async def authenticate(self, credentials: Credentials) -> User | None:
        """The user, without ``system:authenticated``; None when these credentials are not this authenticator's."""
        ...


@dataclass(frozen=True, slots=True)
class StaticToken:
    """One line of upstream's ``--token-auth-file``."""

    token: str
    user: str
    groups: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<StaticToken user={self.user!r}>"


class CertificateAuthenticator:
    """Common name → user, organisations → groups; as long as the certificate lasts, though its connection may last longer."""

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        # By PEM, with its end: a connection repeats its certificate with every request.
        self._users: dict[str, tuple[User, datetime]] = {}
        self._now = now

    async def authenticate(self, credentials: Credentials) -> User | None:
        pem = credentials.certificate_pem
        if pem is None:
            return None
        known = self._users.get(pem)
        if known is None:
            if len(self._users) > 256:
                self._users.clear()
            certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
            known = self._users[pem] = user_of_certificate(certificate), certificate.not_valid_after_utc
        user, end = known
        return user if user.name and self._now() <= end else None


def user_of_certificate(certificate: x509.Certificate) -> User:
    """The identity a certificate stands for. ``extra`` tells which certificate it was, as audit logs and CSRs then do."""
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    extra = {CREDENTIAL_ID: (f"X509SHA256={fingerprint}",)}
    return User(csr.common_name(certificate), tuple(csr.organizations(certificate)), extra=extra)


class TokenAuthenticator:
    """Tokens given in the server's options, compared in constant time."""

    def __init__(self, tokens: Sequence[StaticToken]) -> None:
        self._tokens = tuple(tokens)

    async def authenticate(self, credentials: Credentials) -> User | None:
        token = credentials.bearer_token
        if token is None:
            return None
        for known in self._tokens:
            if hmac.compare_digest(known.token.encode(), token.encode()):
                return User(known.user, known.groups)
        return None


class Authenticators:
    """The first authenticator that knows the credentials decides.

    Args:
        anonymous_paths: where requests without credentials are those of ``system:anonymous``; None: everywhere.
    """

    def __init__(
        self, authenticators: Sequence[Authenticator], *, anonymous_paths: frozenset[str] | None = PUBLIC_PATHS
    ) -> None:
        self._authenticators = tuple(authenticators)
        self._anonymous_paths = anonymous_paths

    async def authenticate(self, credentials: Credentials, path: str = "") -> User:
        """Raises: Unauthorized: a bearer token nobody knows, or no credentials for a *path* that needs them."""
        user = await self.identify(credentials)
        if user is not None:
            return user
        if credentials.bearer_token is None and (self._anonymous_paths is None or path in self._anonymous_paths):
            return ANONYMOUS
        raise statuses.unauthorized()

    async def identify(self, credentials: Credentials) -> User | None:
        """The user with all groups, or None when nobody knows the credentials."""
        for authenticator in self._authenticators:
            user = await authenticator.authenticate(credentials)
            if user is not None:
                groups = user.groups if _AUTHENTICATED in user.groups else (*user.groups, _AUTHENTICATED)
                return User(user.name, groups, user.uid, user.extra)
        return None

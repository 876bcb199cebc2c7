"""Service account tokens as JWTs: which claims they carry, signing, checking a signature, the public key for others.

Nothing of the cluster is looked at here: whether an account or a pod may have a token is ``token_request.py``'s, whether they
still exist is ``account_authn.py``'s business. A token is a secret from the moment it is signed.

Source: pkg/serviceaccount/{claims.go (Claims), jwt.go, openidmetadata.go}; RFC 7519, RFC 7638 is *not* used: upstream's key id
is the hash of the whole public key.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.pki import write_private
from kubelet_secrets.errors import HostError
from kubelet_secrets.sensitive import SensitiveBytes

LEGACY_ISSUER = "kubernetes/serviceaccount"  # of tokens kept in Secrets
DEFAULT_ISSUER = "https://kubernetes.default.svc.cluster.local"
EXTENDED_LIFETIME_S = 365 * 24 * 3600  # of tokens for the API server that old clients read once and never again
WARN_ONLY_LIFETIME_S = 3607  # by which such tokens are recognised
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


class InvalidToken(Exception):
    """Not a token of this issuer, or one that has expired. The text says why, and holds nothing of the token."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An object in a token's claims."""

    name: str
    uid: str = ""

    def as_claim(self) -> Object:
        return {"name": self.name, "uid": self.uid} if self.uid else {"name": self.name}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSubject:
    """What a token stands for."""

    namespace: str
    account: Reference
    pod: Reference | None = None
    node: Reference | None = None
    secret: Reference | None = None


def make_claims(
    subject: TokenSubject,
    *,
    audiences: tuple[str, ...],
    issuer: str,
    now: datetime,
    lifetime_s: int,
    warn_after_s: int = 0,
) -> Object:
    """The content of a token.

    Args:
        warn_after_s: when its use is worth a remark, though it is still good; 0 for never.
    """
    issued_at = int(now.timestamp())
    kubernetes: Object = {"namespace": subject.namespace, "serviceaccount": subject.account.as_claim()}
    for field, bound in (("pod", subject.pod), ("node", subject.node), ("secret", subject.secret)):
        if bound is not None:
            kubernetes[field] = bound.as_claim()
    if warn_after_s:
        kubernetes["warnafter"] = issued_at + warn_after_s
    return {
        "aud": list(audiences),
        "exp": issued_at + lifetime_s,
        "iat": issued_at,
        "iss": issuer,
        "jti": str(uuid.uuid4()),
        "kubernetes.io": kubernetes,
        "nbf": issued_at,
        "sub": f"system:serviceaccount:{subject.namespace}:{subject.account.name}",
    }


_LEGACY_CLAIM = "kubernetes.io/serviceaccount/"


def make_legacy_claims(namespace: str, account: Reference, secret_name: str) -> Object:
    """The content of a token that is kept in a Secret, and lasts as long. Source: pkg/serviceaccount/legacy.go."""
    return {
        "iss": LEGACY_ISSUER,
        f"{_LEGACY_CLAIM}namespace": namespace,
        f"{_LEGACY_CLAIM}secret.name": secret_name,
        f"{_LEGACY_CLAIM}service-account.name": account.name,
        f"{_LEGACY_CLAIM}service-account.uid": account.uid,
        "sub": f"system:serviceaccount:{namespace}:{account.name}",
    }


@dataclass(frozen=True, slots=True)
class LegacyToken:
    """What a token from a Secret says."""

    namespace: str
    secret: str
    account: Reference


class TokenIssuer:
    """Signs with one key, and knows its own signature again.

    Attributes:
        issuer: the ``iss`` of every token.
        audiences: the API server's own: what a token is for when nothing else was asked.

    Raises:
        ValueError: the key is neither RSA nor ECDSA over a curve that JWTs know.
    """

    def __init__(self, key_pem: SensitiveBytes, *, issuer: str = DEFAULT_ISSUER) -> None:
        key = serialization.load_pem_private_key(key_pem.reveal(), password=None)
        if isinstance(key, rsa.RSAPrivateKey):
            self._algorithm = "RS256"
        elif isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
            self._algorithm = _CURVES[key.curve.name]
        else:
            raise ValueError("service account tokens are signed with an RSA or ECDSA key")
        self._key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = key
        der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self._key_id = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode("ascii")
        self.issuer = issuer
        self.audiences = (issuer,)

    def __repr__(self) -> str:
        return f"<TokenIssuer {self.issuer} {self._algorithm} key {self._key_id}>"

    @classmethod
    def create(cls) -> TokenIssuer:
        """One with a key of its own, that ends with the process."""
        return cls(_new_key())

    def sign(self, claims: Mapping[str, Any]) -> SensitiveBytes:
        headers = {"kid": self._key_id, "typ": None}  # upstream's tokens carry no type
        return SensitiveBytes(jwt.encode(dict(claims), self._key, self._algorithm, headers=headers).encode("ascii"))

    def is_own(self, token: str) -> bool:
        """Whether *token* says to be from this issuer; nothing is proven by that."""
        return _issuer_of(token) == self.issuer

    def is_legacy(self, token: str) -> bool:
        """Whether *token* says to be one that is kept in a Secret; nothing is proven by that."""
        return _issuer_of(token) == LEGACY_ISSUER

    def verify_legacy(self, token: str) -> LegacyToken:
        """What a token says that this key has signed, and that is kept in a Secret.

        Raises:
            InvalidToken
        """
        try:
            claims = jwt.decode(
                token,
                self._key.public_key(),
                algorithms=[self._algorithm],
                issuer=LEGACY_ISSUER,
                options={"require": ["iss", "sub"], "verify_aud": False},
            )
        except jwt.PyJWTError as error:
            raise InvalidToken(type(error).__name__) from None
        fields = ("namespace", "secret.name", "service-account.name", "service-account.uid")
        namespace, secret, name, uid = (str(claims.get(_LEGACY_CLAIM + field) or "") for field in fields)
        if not (namespace and secret and name and uid):
            raise InvalidToken("legacy claims are missing")
        if claims["sub"] != f"system:serviceaccount:{namespace}:{name}":
            raise InvalidToken("service account name claim does not match subject")
        return LegacyToken(namespace, secret, Reference(name, uid))

    def verify(self, token: str, audiences: Sequence[str] = ()) -> Object:
        """The claims of a token that this key has signed for one of *audiences*, and that has not expired.

        Args:
            audiences: none: :attr:`audiences`.

        Raises:
            InvalidToken
        """
        try:
            claims: Object = jwt.decode(
                token,
                self._key.public_key(),
                algorithms=[self._algorithm],
                audience=list(audiences or self.audiences),
                issuer=self.issuer,
                options={"require": ["exp", "iss", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise InvalidToken("service account token has expired") from None
        except jwt.PyJWTError as error:
            raise InvalidToken(type(error).__name__) from None  # its text may quote claims
        return claims

    def jwks(self) -> Object:
        """The public key, as ``/openid/v1/jwks`` publishes it."""
        public = self._key.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            key: Object = RSAAlgorithm.to_jwk(public, as_dict=True)
        else:
            key = ECAlgorithm.to_jwk(public, as_dict=True)
        key.pop("key_ops", None)
        return {"keys": [{"use": "sig", **key, "kid": self._key_id, "alg": self._algorithm}]}

    def discovery(self, base_url: str) -> Object:
        """``/.well-known/openid-configuration``: where a relying party finds the key."""
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{base_url}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [self._algorithm],
        }


def _issuer_of(token: str) -> object:
    try:
        return jwt.decode(token, options={"verify_signature": False}).get("iss")
    except jwt.PyJWTError:
        return None


def load_issuer(directory: Path) -> TokenIssuer:
    """The issuer whose key is kept in *directory* as ``sa.key``, made there the first time.

    Raises:
        HostError: the file cannot be read or written, or holds something else.
    """
    path = directory / "sa.key"
    try:
        if not path.exists():
            directory.mkdir(mode=0o700, exist_ok=True)
            write_private(path, _new_key())
        content = SensitiveBytes(path.read_bytes())
    except OSError as error:
        raise HostError(f"service account key {path}: {error.strerror}") from None
    try:
        return TokenIssuer(content)
    except (ValueError, TypeError):  # TypeError: the key is encrypted
        raise HostError(f"service account key {path}: not an RSA or ECDSA key in PEM") from None


def _new_key() -> SensitiveBytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return SensitiveBytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )

"""Image pull credentials, pure: what a pull secret says, and which of it fits an image.

Passwords are :class:`SensitiveBytes` from the moment of decoding; they are unwrapped here only to be
encoded or hashed. Pulling, and reading files of the node, are not here.

Source: pkg/credentialprovider: config.go (parsing), keyring.go (index, glob match, lookup), secrets/secrets.go
(MakeDockerKeyring).
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from kubelet_secrets.api.core import Secret
from kubelet_secrets.errors import KubeletSecretsError
from kubelet_secrets.sensitive import SensitiveBytes

DOCKER_CONFIG_KEY = ".dockercfg"
DOCKER_CONFIG_TYPE = "kubernetes.io/dockercfg"
DOCKER_CONFIG_JSON_KEY = ".dockerconfigjson"
DOCKER_CONFIG_JSON_TYPE = "kubernetes.io/dockerconfigjson"

_DEFAULT_REGISTRY_KEY = "index.docker.io"


class KeyringError(KubeletSecretsError):
    """A pull secret cannot be read; the container waits with this text. Never quotes the secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialSource:
    """The secret a credential came from (KEP-2535 records it); None in :class:`RegistryCredentials` for the node's own."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryCredentials:
    username: str = ""
    password: SensitiveBytes = field(default_factory=lambda: SensitiveBytes(b""))
    source: CredentialSource | None = None  # None: the node's own

    def same_login(self, other: RegistryCredentials) -> bool:
        """Whether both would log in the same way, wherever they came from."""
        return self.username == other.username and self.password == other.password


@dataclass(frozen=True, slots=True)
class Keyring:
    """Credentials by registry key, ready for :func:`lookup`.

    Attributes:
        entries: normalised key (``host[:port][/path]``, may hold ``*``) → credentials in the order their secrets came.
    """

    entries: tuple[tuple[str, tuple[RegistryCredentials, ...]], ...] = ()


def make_keyring(secrets: Iterable[Secret]) -> Keyring:
    """Collect what the pull secrets of a pod hold; secrets of other types, or without the key, are passed over.

    Raises:
        KeyringError: one cannot be parsed.

    Source: credentialprovider/secrets, MakeDockerKeyring; keyring.go, BasicDockerKeyring.Add.
    """
    return _index(entry for secret in secrets for entry in _read_secret(secret))


def parse_docker_config(data: SensitiveBytes, where: str, *, legacy: bool) -> Keyring:
    """The keyring of one docker configuration file; its credentials have no *source*.

    Args:
        where: names the file in errors.
        legacy: the ``.dockercfg`` form: registries at the top, no ``auths``.

    Raises:
        KeyringError: it cannot be parsed.
    """
    return _index(_read_document(data, where, None, legacy=legacy))


def _index(entries: Iterable[tuple[str, RegistryCredentials]]) -> Keyring:
    index: dict[str, list[RegistryCredentials]] = {}
    for location, credentials in entries:
        key = registry_key(location)
        if key is not None:
            index.setdefault(key, []).append(credentials)
    # Reverse order puts the longer, more specific keys first, and globs after letters and digits.
    return Keyring(tuple((key, tuple(index[key])) for key in sorted(index, reverse=True)))


def lookup(keyring: Keyring, image: str) -> tuple[RegistryCredentials, ...]:
    """Every credential that fits, in the order to try them; empty means one anonymous pull.

    Args:
        image: the repository as the pod spells it, without tag and digest.

    Source: keyring.go, BasicDockerKeyring.Lookup.
    """
    found: list[RegistryCredentials] = []
    for key, credentials in keyring.entries:
        if matches(key, image):
            found += credentials
    if not found and _is_default_registry(image):
        found += dict(keyring.entries).get(_DEFAULT_REGISTRY_KEY, ())
    return tuple(found)


def registry_key(location: str) -> str | None:
    """Normalise a key of a docker config: ``https://index.docker.io/v1/`` → ``index.docker.io``. None when unusable."""
    text = location if location.startswith(("https://", "http://")) else "https://" + location
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    if not parts.netloc or any(c.isspace() for c in text):
        return None
    # Docker writes the API version into the key; Kubernetes matches on the path, so it has to go.
    path = parts.path[3:] if parts.path.startswith(("/v1/", "/v2/")) else parts.path
    return parts.netloc if path in ("", "/") else parts.netloc + path


def matches(glob: str, target: str) -> bool:
    """Whether a registry key covers an image repository.

    Ports must be equal; the host matches label by label, so a ``*`` never crosses a dot; the path is a plain prefix.

    Source: keyring.go, URLsMatch.
    """
    glob_host, glob_port, glob_path = _split(glob)
    host, port, path = _split(target)
    glob_labels, labels = glob_host.split("."), host.split(".")
    if glob_port != port or len(glob_labels) != len(labels):
        return False
    if not path.startswith(glob_path):
        return False
    return all(fnmatch.fnmatchcase(label, pattern) for pattern, label in zip(glob_labels, labels, strict=True))


def credential_hash(credentials: RegistryCredentials) -> str:
    """SHA-256 of the login as KEP-2535 pull records keep it: the JSON of the CRI's AuthConfig.

    Source: pkg/kubelet/images/pullmanager, hashImagePullSecret.
    """
    login: dict[str, str] = {}
    if credentials.username:
        login["username"] = credentials.username
    if len(credentials.password):
        login["password"] = credentials.password.reveal().decode(errors="surrogateescape")
    text = json.dumps(login, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def auth_document(domain: str, credentials: RegistryCredentials | None) -> bytes:
    """The content of a credentials file for one registry, as containers-auth.json(5) has it. Secret; None logs in nowhere."""
    auths: dict[str, dict[str, str]] = {}
    if credentials is not None:
        pair = credentials.username.encode(errors="surrogateescape") + b":" + credentials.password.reveal()
        auths[domain] = {"auth": base64.b64encode(pair).decode()}
    return json.dumps({"auths": auths}).encode()


def _read_secret(secret: Secret) -> list[tuple[str, RegistryCredentials]]:
    source = CredentialSource(
        namespace=secret.metadata.namespace, name=secret.metadata.name, uid=str(secret.metadata.uid)
    )
    where = f'secret "{source.namespace}/{source.name}"'
    if secret.type == DOCKER_CONFIG_JSON_TYPE and len(secret.data.get(DOCKER_CONFIG_JSON_KEY, b"")):
        return _read_document(secret.data[DOCKER_CONFIG_JSON_KEY], where, source, legacy=False)
    if secret.type == DOCKER_CONFIG_TYPE and len(secret.data.get(DOCKER_CONFIG_KEY, b"")):
        return _read_document(secret.data[DOCKER_CONFIG_KEY], where, source, legacy=True)
    return []


def _read_document(
    data: SensitiveBytes, where: str, source: CredentialSource | None, *, legacy: bool
) -> list[tuple[str, RegistryCredentials]]:
    document = _parse_json(data, where)
    entries = document if legacy else (document.get("auths") or {})
    if not isinstance(entries, dict):
        raise KeyringError(f"{where}: auths is not an object")
    return [(location, _read_entry(entry, source, where)) for location, entry in entries.items()]


def _parse_json(data: SensitiveBytes, where: str) -> dict[str, Any]:
    # "from None" throughout: the decoder's exceptions carry the document they could not read.
    try:
        document = json.loads(data.reveal())
    except ValueError:
        raise KeyringError(f"{where}: the docker configuration is not valid JSON") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise KeyringError(f"{where}: the docker configuration is not a JSON object")
    return document


def _read_entry(entry: object, source: CredentialSource | None, where: str) -> RegistryCredentials:
    if entry is None:
        entry = {}
    if not isinstance(entry, dict):
        raise KeyringError(f"{where}: an entry is not a JSON object")
    fields = {}
    for name in ("username", "password", "auth"):
        value = entry.get(name)
        if value is not None and not isinstance(value, str):
            raise KeyringError(f"{where}: field {name} is not a string")
        fields[name] = value or ""
    username, password = fields["username"], fields["password"].encode("utf-8", "surrogatepass")
    if fields["auth"]:
        username, password = _decode_auth(fields["auth"], where)
    return RegistryCredentials(username=username, password=SensitiveBytes(password), source=source)


def _decode_auth(text: str, where: str) -> tuple[str, bytes]:
    """base64(user:password), padded or not.

    Source: config.go, decodeDockerConfigFieldAuth (an ``=`` at the end chooses the padded alphabet).
    """
    try:
        padded = text if text.endswith("=") else text + "=" * (-len(text) % 4)
        decoded = base64.b64decode(padded, validate=True)
    except (binascii.Error, ValueError):
        raise KeyringError(f"{where}: illegal base64 data in field auth") from None
    username, colon, password = decoded.partition(b":")
    if not colon:
        raise KeyringError(f"{where}: unable to parse auth field, must be formatted as base64(username:password)")
    return username.decode(errors="surrogateescape"), password


def _split(location: str) -> tuple[str, str, str]:
    """Host, port and path of a key or an image repository; the first slash ends the host."""
    authority, slash, path = location.partition("/")
    host, colon, port = authority.rpartition(":")
    if not colon or not port.isdigit():
        host, port = authority, ""
    return host, port, slash + path


def _is_default_registry(image: str) -> bool:
    """Source: keyring.go, isDefaultRegistryMatch."""
    first, slash, _ = image.partition("/")
    if not first:
        return False
    if not slash:
        return True  # a name like "ubuntu"
    if first in ("docker.io", "index.docker.io"):
        return True
    return "." not in first and ":" not in first

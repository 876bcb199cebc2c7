"""kube-apiserver's ``EncryptionConfiguration``: which providers write and read each resource, from YAML to plain data.

Pure but for :func:`read_content`, which reads the file. Not here: the rules a file has to keep
(``encryptionrules.py``), the providers themselves (``encryption_providers.py``, ``kms.py``). Called by
``encryption_source.py``.

Source: k8s.io/apiserver pkg/apis/apiserver/v1/types_encryption.go, pkg/server/options/encryptionconfig/config.go.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import msgspec
import yaml

from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.apiserver import encryptionrules
from kubelet_secrets.apiserver.encryptionrules import ConfigurationFile, ProviderEntry
from kubelet_secrets.errors import UsageError, aggregate_message
from kubelet_secrets.sensitive import SensitiveBytes

_VERSIONS = ("apiserver.config.k8s.io/v1",)
_KIND = "EncryptionConfiguration"
_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
ALL_RESOURCES = "*.*"


class Cipher(Enum):
    """Providers with keys of their own; the value is the provider's name in the file and in the stored prefix."""

    AESCBC = "aescbc"
    AESGCM = "aesgcm"
    SECRETBOX = "secretbox"


@dataclass(frozen=True, slots=True)
class Key:
    """One key."""

    name: str
    secret: SensitiveBytes


@dataclass(frozen=True, slots=True)
class CipherProvider:
    """Keys for one cipher; the first one writes, all read."""

    cipher: Cipher
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class IdentityProvider:
    """No encryption."""


@dataclass(frozen=True, slots=True)
class KmsProvider:
    """A key management service, KMS v2, behind a unix socket."""

    name: str
    endpoint: str  # "unix:///run/kms.sock"; "unix:///@name" is the abstract socket "@name"
    timeout_s: float


ProviderConfig = CipherProvider | IdentityProvider | KmsProvider


@dataclass(frozen=True, slots=True)
class EncryptionConfiguration:
    """A valid configuration.

    Attributes:
        overrides: group resource as the file names it (``secrets``, ``*.apps``, ``*.``, ``*.*``) → its providers, of which
            the first one writes.
    """

    overrides: Mapping[str, tuple[ProviderConfig, ...]]

    def providers_for(self, plural: str, group: str = "") -> tuple[ProviderConfig, ...] | None:
        """The providers of one resource: by its name, by its group, by ``*.*``; None when nothing covers it.

        Source: encryptionconfig/config.go, transformerFromOverrides.
        """
        exact = f"{plural}.{group}" if group else plural
        for name in (exact, f"*.{group}", ALL_RESOURCES):
            if name in self.overrides:
                return self.overrides[name]
        return None

    def kms_providers(self) -> tuple[KmsProvider, ...]:
        """Every distinct key management service."""
        found = (provider for providers in self.overrides.values() for provider in providers)
        return tuple(dict.fromkeys(provider for provider in found if isinstance(provider, KmsProvider)))


def read_content(path: Path) -> bytes:
    """Raises: UsageError: the file cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        text = (error.strerror or "unreadable").lower()
        raise UsageError(
            f"error opening encryption provider configuration file {go_quote(str(path))}: {text}"
        ) from None


def parse_configuration(content: bytes, path: str, *, reloads: bool = False) -> EncryptionConfiguration:
    """Make a configuration of a file's *content*.

    Args:
        path: for messages.
        reloads: the server will read the file again when it changes: names of key management services must then be unique.

    Raises:
        UsageError: naming the file and the field, never quoting a key.
    """
    name = go_quote(path)
    if not content:
        raise UsageError(f"encryption provider configuration file {name} is empty")
    file = _decode(content, name)
    errors = encryptionrules.validate(file, reloads=reloads)
    if errors:
        text = aggregate_message([str(error) for error in errors])
        raise UsageError(f"encryption provider configuration file {name}: {text}")
    try:
        return EncryptionConfiguration(_overrides(file))
    except ValueError as error:
        raise UsageError(f"encryption provider configuration file {name}: {error}") from None


def _decode(content: bytes, name: str) -> ConfigurationFile:
    problem = f"error decoding encryption provider configuration file {name}"
    try:
        plain = yaml.load(content, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        # Its own text quotes the line; that may be a key.
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{problem}: not YAML{line}") from None
    except (yaml.YAMLError, ValueError):
        raise UsageError(f"{problem}: not YAML") from None
    if not isinstance(plain, dict):
        raise UsageError(f"{problem}: not an object")
    version, kind = plain.get("apiVersion"), plain.get("kind")
    if not isinstance(kind, str) or not kind:
        raise UsageError(f"{problem}: Object 'Kind' is missing")
    if not isinstance(version, str) or not version:
        raise UsageError(f"{problem}: Object 'apiVersion' is missing")
    if version not in _VERSIONS or kind != _KIND:
        raise UsageError(f"{problem}: no kind {go_quote(kind)} is registered for version {go_quote(version)}")
    try:
        return msgspec.convert(plain, ConfigurationFile)
    except msgspec.ValidationError as error:
        raise UsageError(f"{problem}: strict decoding error: {error}") from None


def _overrides(file: ConfigurationFile) -> Mapping[str, tuple[ProviderConfig, ...]]:
    """Raises: ValueError: an earlier wildcard covers a later resource, or KMS v1 is asked for."""
    overrides: dict[str, tuple[ProviderConfig, ...]] = {}
    for entry in file.resources or ():
        providers = tuple(_provider(provider) for provider in entry.providers or ())
        for resource in entry.resources or ():
            group = resource.partition(".")[2]
            for rule in (f"*.{group}", ALL_RESOURCES):
                if rule in overrides:
                    raise ValueError(f"resource {go_quote(resource)} is masked by earlier rule {go_quote(rule)}")
            canonical = resource if group or resource == "*." else resource.removesuffix(".")
            overrides[canonical] = (*overrides.get(canonical, ()), *providers)
    return overrides


def _provider(entry: ProviderEntry) -> ProviderConfig:
    if entry.kms is not None:
        if entry.kms.api_version == "v1":
            # Upstream's answer as long as the feature gate KMSv1 is off, which is its default.
            raise ValueError(
                "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead."
            )
        timeout_s = encryptionrules.parse_timeout(entry.kms.timeout)
        return KmsProvider(entry.kms.name, entry.kms.endpoint, timeout_s)
    for cipher, keys in (
        (Cipher.AESGCM, entry.aesgcm),
        (Cipher.AESCBC, entry.aescbc),
        (Cipher.SECRETBOX, entry.secretbox),
    ):
        if keys is not None:
            return CipherProvider(cipher, _keys(keys.keys or ()))
    return IdentityProvider()


def _keys(entries: Sequence[encryptionrules.KeyEntry]) -> tuple[Key, ...]:
    return tuple(Key(entry.name, SensitiveBytes(base64.b64decode(entry.secret))) for entry in entries)

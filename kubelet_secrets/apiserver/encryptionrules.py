"""The shape of an ``EncryptionConfiguration`` file and the rules it has to keep, with upstream's words.

Pure. Called by ``encryptionconfig.py`` alone. Messages name fields; a key's bytes are ``REDACTED``, as upstream prints them.

Source: k8s.io/apiserver pkg/apis/apiserver/validation/validation_encryption.go.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.times import parse_go_duration
from kubelet_secrets.api.validation.fields import FieldError, Path, invalid, required

AES_KEY_SIZES = (16, 24, 32)
SECRETBOX_KEY_SIZES = (32,)
DEFAULT_TIMEOUT = "3s"
_REDACTED = "REDACTED"
_NOT_SERVED = ("apiserveripinfo", "serviceipallocations", "servicenodeportallocations")


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class KeyEntry(_Entry, frozen=True):
    name: str = ""
    secret: str = ""  # base64

    def __repr__(self) -> str:
        return f"KeyEntry({self.name!r})"


class KeysEntry(_Entry, frozen=True):
    keys: list[KeyEntry] | None = None


class IdentityEntry(_Entry, frozen=True):
    pass


class KmsEntry(_Entry, frozen=True, rename={"api_version": "apiVersion"}):
    api_version: str = "v1"
    name: str = ""
    cachesize: int | None = None
    endpoint: str = ""
    timeout: str | None = None


class ProviderEntry(_Entry, frozen=True):
    aesgcm: KeysEntry | None = None
    aescbc: KeysEntry | None = None
    secretbox: KeysEntry | None = None
    identity: IdentityEntry | None = None
    kms: KmsEntry | None = None


class ResourceEntry(_Entry, frozen=True):
    resources: list[str] | None = None
    providers: list[ProviderEntry] | None = None


class ConfigurationFile(_Entry, frozen=True, rename={"api_version": "apiVersion"}):
    """The file as decoded; absent lists are None."""

    api_version: str
    kind: str
    resources: list[ResourceEntry] | None = None


def validate(file: ConfigurationFile, *, reloads: bool) -> list[FieldError]:
    """Every broken rule, in upstream's order.

    Args:
        reloads: names of KMS v1 providers must be unique too.
    """
    root = Path("resources")
    if not file.resources:
        return [_at_least_one(root, root.text)]
    errors: list[FieldError] = []
    kms_names: set[str] = set()
    for i, entry in enumerate(file.resources):
        resources_path, providers_path = root.index(i).child("resources"), root.index(i).child("providers")
        resources = entry.resources or []
        if not resources:
            errors.append(_at_least_one(resources_path, resources_path.text))
        errors += _overlaps(resources, resources_path)
        errors += _resource_names(resources, resources_path)
        if not entry.providers:
            errors.append(_at_least_one(providers_path, providers_path.text))
        for j, provider in enumerate(entry.providers or ()):
            errors += _provider(provider, providers_path.index(j), kms_names, reloads)
            if provider.kms is not None:
                kms_names.add(provider.kms.name)
    return errors


def _at_least_one(path: Path, what: str) -> FieldError:
    return required(path, f"at least one {what} is required")


def _group_resource(text: str) -> tuple[str, str]:
    """(resource, group). Source: apimachinery schema.ParseGroupResource."""
    resource, _, group = text.partition(".")
    return resource, group


def _overlaps(resources: Sequence[str], path: Path) -> list[FieldError]:
    parsed = [_group_resource(resource) for resource in resources]
    has_duplicate = has_overlap = False
    for i, first in enumerate(parsed):
        for j, second in enumerate(parsed):
            if i == j:
                continue
            if first == second and not has_duplicate:
                has_duplicate = True
                continue
            is_in_one_group = first[1] == second[1]
            if first == ("*", "*") or (is_in_one_group and "*" in (first[0], second[0])):
                has_overlap = True
    errors = []
    if has_duplicate:
        errors.append(invalid(path, list(resources), "the same resource cannot be specified multiple times"))
    if has_overlap:
        detail = (
            "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they "
            "will be masked"
        )
        errors.append(invalid(path, list(resources), detail))
    return errors


def _resource_names(resources: Sequence[str], path: Path) -> list[FieldError]:
    problems = ((path.index(j), resource, _name_problem(resource)) for j, resource in enumerate(resources))
    return [invalid(where, resource, problem) for where, resource, problem in problems if problem]


def _name_problem(name: str) -> str:
    if any(letter.isupper() for letter in name):
        return "resource name should not contain capital letters"
    if name == "*":
        return "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"
    if name in _NOT_SERVED:
        return "resources which do not have REST API/s cannot be encrypted"
    resource, group = _group_resource(name)
    if group == "events.k8s.io":
        return (
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the "
            "config file"
        )
    if group == "extensions":
        return "'extensions' group has been removed and cannot be used for encryption"
    if group == "*" and resource != "*":
        return "encrypting the same resource across groups is not supported"
    return ""


def _provider(provider: ProviderEntry, path: Path, kms_names: set[str], reloads: bool) -> list[FieldError]:
    given = {name: entry for name in ProviderEntry.__struct_fields__ if (entry := getattr(provider, name)) is not None}
    errors = []
    # The value is what was given, by name: upstream prints a Go struct of pointers.
    if not given:
        detail = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"
        errors.append(invalid(path, {}, detail))
    elif len(given) > 1:
        detail = "more than one provider specified in a single element, should split into different list elements"
        errors.append(invalid(path, sorted(given), detail))
    if provider.kms is not None:
        errors += _kms(provider.kms, path.child("kms"), kms_names, reloads)
    elif provider.aesgcm is not None:
        errors += _keys(provider.aesgcm, path.child("aesgcm", "keys"), AES_KEY_SIZES)
    elif provider.aescbc is not None:
        errors += _keys(provider.aescbc, path.child("aescbc", "keys"), AES_KEY_SIZES)
    elif provider.secretbox is not None:
        errors += _keys(provider.secretbox, path.child("secretbox", "keys"), SECRETBOX_KEY_SIZES)
    return errors


def _keys(entry: KeysEntry, path: Path, sizes: Sequence[int]) -> list[FieldError]:
    if not entry.keys:
        return [_at_least_one(path, "keys")]
    return [error for i, key in enumerate(entry.keys) for error in _key(key, path.index(i), sizes)]


def _key(key: KeyEntry, path: Path, sizes: Sequence[int]) -> list[FieldError]:
    errors = []
    if not key.name:
        errors.append(required(path.child("name"), "name is a mandatory field for a key"))
    if not key.secret:
        return [*errors, required(path.child("secret"), "secret is a mandatory field for a key")]
    try:
        # Go's decoder skips line ends, and nothing else.
        size = len(base64.b64decode(key.secret.replace("\n", "").replace("\r", ""), validate=True))
    except (binascii.Error, ValueError):
        return [*errors, invalid(path.child("secret"), _REDACTED, "secrets must be base64 encoded")]
    if size not in sizes:
        expected = " ".join(map(str, sizes))
        detail = f"secret is not of the expected length, got {size}, expected one of [{expected}]"
        errors.append(invalid(path.child("secret"), _REDACTED, detail))
    return errors


def _kms(kms: KmsEntry, path: Path, names: set[str], reloads: bool) -> list[FieldError]:
    is_v1 = kms.api_version == "v1"
    errors = []
    name_path = path.child("name")
    if not kms.name:
        errors.append(required(name_path, "name is a mandatory field for a provider"))
    if not is_v1 and ":" in kms.name:
        errors.append(invalid(name_path, kms.name, f"invalid KMS provider name {kms.name}, must not contain ':'"))
    if (reloads or not is_v1) and kms.name in names:
        errors.append(invalid(name_path, kms.name, f"duplicate KMS provider name {kms.name}, names must be unique"))
    if _timeout_is_wrong(kms.timeout):
        errors.append(invalid(path.child("timeout"), kms.timeout, "timeout should be a positive value"))
    errors += _endpoint(kms.endpoint, path.child("endpoint"))
    size_path = path.child("cachesize")
    if not is_v1 and kms.cachesize is not None:
        errors.append(invalid(size_path, kms.cachesize, "cachesize is not supported in v2"))
    if is_v1 and kms.cachesize == 0:
        errors.append(invalid(size_path, 0, "cachesize should be a positive value, or negative to disable"))
    version_path, version = path.child("apiVersion"), kms.api_version
    if version not in ("v1", "v2"):
        detail = f"unsupported apiVersion {version} for KMS provider, only v1 and v2 are supported"
        errors.append(invalid(version_path, version, detail))
    return errors


def _timeout_is_wrong(text: str | None) -> bool:
    try:
        return parse_timeout(text) <= 0
    except ValueError:
        return True


def parse_timeout(text: str | None) -> float:
    """Seconds of a Go duration (``3s``, ``1m30s``, ``250ms``); the default for None.

    Raises:
        ValueError: it is none.
    """
    return parse_go_duration(DEFAULT_TIMEOUT if text is None else text)


def _endpoint(endpoint: str, path: Path) -> list[FieldError]:
    if not endpoint:
        return [invalid(path, "", "endpoint is a mandatory field for a kms")]
    try:
        scheme = urlsplit(endpoint).scheme
    except ValueError as error:
        return [invalid(path, endpoint, f"invalid endpoint for kms provider, error: {error}")]
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in endpoint):
        detail = f"parse {go_quote(endpoint)}: net/url: invalid control character in URL"
        return [invalid(path, endpoint, f"invalid endpoint for kms provider, error: {detail}")]
    if scheme != "unix":
        return [
            invalid(path, endpoint, f"unsupported scheme {go_quote(scheme)} for KMS provider, only unix is supported")
        ]
    return []

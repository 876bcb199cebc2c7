"""Which stored objects lie under which key, and how many of them a rotation has still to reach.

Pure: read off the prefix of each stored value; nothing is decrypted. Asked by ``/debug/encryption`` of a running server and,
for a data directory whose server is stopped, by ``kubelet-secrets apiserver keys status``.

Source: k8s.io/apiserver pkg/server/options/encryptionconfig (the prefixes); semantics §11.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from kubelet_secrets.apiserver.encryptionconfig import CipherProvider, EncryptionConfiguration, KmsProvider
from kubelet_secrets.apiserver.resources import SERVED
from kubelet_secrets.apiserver.storagepaths import plural_of

PLAIN = "identity"
_GROUPS = {row.plural: row.resource.group for row in SERVED}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """The objects of one resource under one key."""

    resource: str  # "secrets", "leases.coordination.k8s.io"
    key: str  # "aesgcm:key1", "kms:name", "identity"
    objects: int
    is_current: bool  # what the configuration writes with; others are stale: their next write changes them
    is_readable: bool = True  # the configuration has a key of that name; without it the objects are lost


def count_keys(records: Iterable[tuple[str, bytes]], configuration: EncryptionConfiguration | None) -> list[KeyUse]:
    """Count *records*, by resource and key.

    Args:
        records: (storage key, stored bytes) of every object there is.
        configuration: None: nothing is encrypted.
    """
    counted = Counter((plural_of(path), key_of(stored)) for path, stored in records)
    found = []
    for (plural, key), objects in sorted(counted.items()):
        group = _GROUPS.get(plural, "")
        resource = f"{plural}.{group}" if group else plural
        known = _keys(configuration, plural, group)
        found.append(
            KeyUse(resource=resource, key=key, objects=objects, is_current=key == known[0], is_readable=key in known)
        )
    return found


def key_of(stored: bytes) -> str:
    """Whose a stored value is: ``k8s:enc:aesgcm:v1:key1:…`` → ``aesgcm:key1``."""
    parts = stored[:2048].split(b":", 5)
    if len(parts) < 6 or parts[:2] != [b"k8s", b"enc"]:
        return PLAIN
    return f"{parts[2].decode('utf-8', 'replace')}:{parts[4].decode('utf-8', 'replace')}"


def _keys(configuration: EncryptionConfiguration | None, plural: str, group: str) -> list[str]:
    """What reads the values of a resource, in the words of :func:`key_of`; the first one writes."""
    found = []
    for provider in (configuration.providers_for(plural, group) if configuration is not None else None) or ():
        match provider:
            case CipherProvider(cipher=cipher, keys=keys):
                found += [f"{cipher.value}:{key.name}" for key in keys]
            case KmsProvider(name=name):
                found.append(f"kms:{name}")
            case _:
                found.append(PLAIN)
    return found or [PLAIN]

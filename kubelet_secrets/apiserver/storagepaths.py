"""Where an object lies in the store: etcd's keys, as kube-apiserver has them. Pure.

The key is part of what protects an encrypted value (``encryption.py``), so it is kube-apiserver's to the letter, with the two
names that it has kept from its first days. The servers before format 2 of the journal did not know these;
:func:`former_key` says under which key one of their values was encrypted.

Source: pkg/kubeapiserver/default_storage_factory_builder.go, SpecialDefaultResourcePrefixes; k8s.io/apiserver
pkg/registry/generic/registry/store.go, NamespaceKeyFunc.
"""

from __future__ import annotations

from types import MappingProxyType

ROOT = "/registry/"
FORMER_PREFIXES = MappingProxyType({"nodes": f"{ROOT}nodes/", "services": f"{ROOT}services/"})
"""Of the resources whose keys were others once: plural → what they began with."""
_PREFIXES = {"nodes": f"{ROOT}minions/", "services": f"{ROOT}services/specs/"}
_PLURALS = {prefix: plural for plural, prefix in _PREFIXES.items()}


def prefix_of(plural: str, namespace: str = "") -> str:
    """What the keys of a resource begin with, or those of one namespace: ``/registry/secrets/``, ``/registry/minions/``."""
    prefix = _PREFIXES.get(plural) or f"{ROOT}{plural}/"
    return f"{prefix}{namespace}/" if namespace else prefix


def split_key(key: str) -> tuple[str, str, str]:
    """``/registry/secrets/default/x`` → plural, namespace (empty for cluster-wide kinds), name."""
    plural, rest = _split(key)
    namespace, _, name = rest.rpartition("/")
    return plural, namespace, name


def plural_of(key: str) -> str:
    """The resource of a key, or of what keys begin with."""
    return _split(key)[0]


def former_key(key: str) -> str | None:
    """The key that the object of *key* had before format 2; None when that was the same."""
    plural, rest = _split(key)
    prefix = FORMER_PREFIXES.get(plural)
    return prefix + rest if prefix is not None else None


def _split(key: str) -> tuple[str, str]:
    for prefix, plural in _PLURALS.items():
        if key.startswith(prefix):
            return plural, key[len(prefix) :]
    plural, _, rest = key[len(ROOT) :].partition("/")
    return plural, rest

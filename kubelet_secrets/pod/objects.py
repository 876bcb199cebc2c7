"""A pod's objects, fetched before the pure half is asked: the bridge from the caches to ``ObjectSnapshot``.

``envvars`` and ``volume`` answer from memory; whoever calls them fetches here first. Errors are kept per name, so that the
pure half decides what they mean (an optional object may be missing).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

import trio

from kubelet_secrets.api.core import ConfigMap, Secret
from kubelet_secrets.api.sources import ObjectSnapshot
from kubelet_secrets.errors import SetUpError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class ObjectGetter(Protocol[T_co]):
    """The part of ``cache.manager.ObjectManager`` that reading needs."""

    async def get(self, namespace: str, name: str) -> T_co: ...


async def fetch_objects(
    secrets: ObjectGetter[Secret],
    config_maps: ObjectGetter[ConfigMap],
    namespace: str,
    *,
    secret_names: Iterable[str] = (),
    config_map_names: Iterable[str] = (),
) -> ObjectSnapshot:
    """Read the named objects of *namespace*, all at once.

    Takes no time for objects that are cached, and at most the caches' one second for those that are not yet.

    Returns:
        A snapshot that holds, per name, the object or the error that reading it gave.
    """
    return ObjectSnapshot(
        secrets=await _fetch(secrets, namespace, list(secret_names)),
        config_maps=await _fetch(config_maps, namespace, list(config_map_names)),
    )


async def _fetch(getter: ObjectGetter[T], namespace: str, names: list[str]) -> dict[str, T | SetUpError]:
    found: dict[str, T | SetUpError] = {}

    async def fetch_one(name: str) -> None:
        try:
            found[name] = await getter.get(namespace, name)
        except SetUpError as error:
            found[name] = error

    if len(names) == 1:  # the usual case needs no nursery
        await fetch_one(names[0])
        return found
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(fetch_one, name)
    return found

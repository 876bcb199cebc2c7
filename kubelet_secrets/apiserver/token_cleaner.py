"""Deletes bootstrap tokens when their time is over, each at its own moment.

Source: pkg/controller/bootstrap/tokencleaner.go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

import trio

from kubelet_secrets.api import meta
from kubelet_secrets.api.times import parse_rfc3339
from kubelet_secrets.apiserver.attributes import DeleteOptions
from kubelet_secrets.apiserver.bootstrap_authn import NAMESPACE, SECRET_TYPE, is_expired, value_of
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.loops import contained
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.resources import served
from kubelet_secrets.apiserver.watch import DELETED
from kubelet_secrets.errors import Conflict, NotFound

log = logging.getLogger(__name__)

SECRETS = served(meta.SECRETS)
_LOOK_S = 60.0  # at least so often: the machine may have slept, or its clock been set
_SOON_S = 0.05


class TokenCleaner:
    """See the module's text. :meth:`handle` is given every Secret of kube-system, now and as it changes."""

    def __init__(self, registry: Registry, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._registry = registry
        self._now = now
        self._tokens: dict[str, Object] = {}  # those that end, by name
        self._changed = trio.Event()

    async def handle(self, kind: str, secret: Object) -> None:
        """Note when *secret* ends, if it does."""
        name = secret["metadata"]["name"]
        self._tokens.pop(name, None)
        data = secret.get("data") or {}
        if kind != DELETED and secret.get("type") == SECRET_TYPE and value_of(data, "expiration"):
            self._tokens[name] = secret
            self._changed.set()

    async def run(self) -> None:
        """Delete what has expired, until cancelled."""
        while True:
            now = self._now()
            for name, secret in list(self._tokens.items()):
                with contained(f"expiry of bootstrap token {name}"):
                    if is_expired(secret["data"], now):
                        del self._tokens[name]
                        await self._delete(name, secret["metadata"]["uid"])
            self._changed = trio.Event()
            with trio.move_on_after(self._pause_s(now)):
                await self._changed.wait()

    def _pause_s(self, now: datetime) -> float:
        ends = (
            parse_rfc3339(value_of(each["data"], "expiration").decode("utf-8", "replace"))
            for each in self._tokens.values()
        )
        first = min((end for end in ends if end is not None), default=None)
        return _LOOK_S if first is None else min(_LOOK_S, max(_SOON_S, (first - now).total_seconds()))

    async def _delete(self, name: str, uid: str) -> None:
        log.info("deleting expired bootstrap token %s", name)
        try:
            await self._registry.delete(SECRETS, NAMESPACE, name, DeleteOptions(uid=uid))
        except (NotFound, Conflict):
            pass  # gone already, or another one of that name by now

"""``QuotaController``: keeps ``status`` of every ResourceQuota at what its namespace holds.

A quota is counted anew when its spec changes, when something in its namespace is deleted or a pod there ends, and every five
minutes. Creations need no count: admission has added them (``quota_admission.py``).

Source: pkg/controller/resourcequota/resource_quota_controller.go, resource_quota_monitor.go.
"""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

import trio

from kubelet_secrets.apiserver import quota
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.loops import contained, follow, sweep_every
from kubelet_secrets.apiserver.quota_admission import QUOTAS, STATUS_WRITE
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.resources import ServedResource
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.apiserver.storage import Change
from kubelet_secrets.apiserver.storagepaths import prefix_of, split_key
from kubelet_secrets.apiserver.watch import DELETED

FULL_COUNT_S = 300.0
_SETTLE_S = 0.05  # a namespace that is emptied is counted a few times, not once per object
_BY_PLURAL = {row.plural: row for row in quota.COUNTED}


class QuotaController:
    """The controller of one server; listens to its storage from construction on."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._dirty: set[str] = set()  # namespaces
        self._wake = trio.Event()
        registry.storage.add_listener(self._observe)

    async def run(self) -> None:
        """Count until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, self._registry, QUOTAS, self._note_quota)
            nursery.start_soon(sweep_every, FULL_COUNT_S, self._mark_all)
            while True:
                await self._wake.wait()
                await trio.sleep(_SETTLE_S)
                self._wake = trio.Event()
                namespaces, self._dirty = self._dirty, set()
                for namespace in namespaces:
                    with contained(f"quota of namespace {namespace}"):  # the next full count tries again
                        await self._count(namespace)

    def _observe(self, change: Change) -> None:
        plural, namespace, _ = split_key(change.key)
        if change.previous is None or plural not in _BY_PLURAL:
            return
        if (change.value is None or plural in ("pods", "services")) and self._has_quota(namespace):
            self._mark(namespace)

    def _has_quota(self, namespace: str) -> bool:
        return bool(self._registry.storage.records(prefix_of(QUOTAS.plural, namespace)))

    def _mark(self, namespace: str) -> None:
        self._dirty.add(namespace)
        self._wake.set()

    async def _note_quota(self, kind: str, obj: Object) -> None:
        if kind != DELETED and (obj.get("spec") or {}).get("hard", {}) != (obj.get("status") or {}).get("hard"):
            self._mark(obj["metadata"]["namespace"])

    async def _mark_all(self) -> None:
        for record in self._registry.storage.records(prefix_of(QUOTAS.plural)):
            self._mark(split_key(record.key)[1])

    async def _count(self, namespace: str) -> None:
        quotas = [item.object for item in (await self._registry.list_objects(Selection(QUOTAS, namespace))).items]
        wanted = {name for each in quotas for name in (each.get("spec") or {}).get("hard") or ()}
        objects: dict[str, list[Object]] = {}
        for row in quota.COUNTED:
            if wanted & quota.names_of(row):
                page = await self._registry.list_objects(Selection(row, namespace))
                objects[row.plural] = [item.object for item in page.items]
        for each in quotas:
            await self._update(each, objects)

    async def _update(self, found: Object, objects: dict[str, list[Object]]) -> None:
        total: defaultdict[str, Fraction] = defaultdict(Fraction)
        for plural, held in objects.items():
            row: ServedResource = _BY_PLURAL[plural]
            for obj in held:
                if quota.is_about(found, row, obj):
                    for name, amount in quota.usage_of(row, obj).items():
                        total[name] += amount

        def change(live: Object) -> Object:
            hard = (live.get("spec") or {}).get("hard") or {}
            live["status"] = {"hard": hard, "used": {name: quota.text_of(name, total[name]) for name in hard}}
            return live

        metadata = found["metadata"]
        await self._registry.update(QUOTAS, metadata["namespace"], metadata["name"], change, STATUS_WRITE)

"""The admission plugin ``ResourceQuota``: nothing is created beyond what its namespace's quotas allow.

The amount is taken from a quota - added to its ``status.used`` - before the object is stored, so that of two writers at once
only one gets the last place. What was taken for a write that then failed comes back with the controller's next full count.

Source: k8s.io/apiserver pkg/admission/plugin/resourcequota/{admission,controller}.go.
"""

from __future__ import annotations

from fractions import Fraction

from kubelet_secrets.apiserver import quota, statuses
from kubelet_secrets.apiserver.admission import Finder, Plugin
from kubelet_secrets.apiserver.attributes import Attributes, User, Write
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.resources import RESOURCE_QUOTAS, served
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.errors import NotFound

QUOTAS = served(RESOURCE_QUOTAS)
STATUS_WRITE = Write(user=User("system:apiserver", ("system:masters", "system:authenticated")), subresource="status")


class ResourceQuota(Plugin):
    """See the module's text. Comes last in the chain: what another plugin or a rule refuses takes nothing."""

    async def validate(self, attributes: Attributes, finder: Finder) -> None:
        row, obj = attributes.row, attributes.obj
        is_resize = row.kind == "Pod" and attributes.subresource == "resize"
        if obj is None or (attributes.subresource and not is_resize) or not row.namespaced or row.is_review:
            return
        # Of updates only those of a Service can take more, whose type may change, and those that resize a pod.
        if attributes.verb != "create" and row.kind != "Service" and not is_resize:
            return
        delta = quota.usage_of(row, obj)
        if attributes.old is not None:
            before = quota.usage_of(row, attributes.old)
            delta = {name: amount - before.get(name, Fraction(0)) for name, amount in delta.items()}
        page = await finder.list_objects(Selection(QUOTAS, attributes.namespace))
        found = [each for each in (item.object for item in page.items) if quota.is_about(each, row, obj)]
        for each in found:
            self._check_said(attributes, each)
            self._check(attributes, each, delta)
        if attributes.is_dry_run:
            return
        for each in found:
            if any(name in ((each.get("status") or {}).get("hard") or ()) for name in delta):
                await self._take(attributes, finder, each["metadata"]["name"], delta)

    def _check_said(self, attributes: Attributes, found: Object) -> None:
        hard = (found.get("status") or {}).get("hard") or {}
        if attributes.row.kind != "Pod" or attributes.obj is None:
            return
        if missing := quota.missing_compute(attributes.obj, set(hard) & quota.names_of(attributes.row)):
            raise statuses.forbidden(
                attributes.row,
                attributes.name,
                f"failed quota: {found['metadata']['name']}: must specify {missing}",
            )

    def _check(self, attributes: Attributes, found: Object, delta: quota.Usage) -> None:
        if cause := quota.exceeded(found, delta):
            raise statuses.forbidden(attributes.row, attributes.name, cause)

    async def _take(self, attributes: Attributes, finder: Finder, name: str, delta: quota.Usage) -> None:
        def change(live: Object) -> Object:
            self._check(attributes, live, delta)  # again, on what is there now
            status = live.get("status") or {}
            used = dict(status.get("used") or {})
            for each, amount in delta.items():
                if amount and each in (status.get("hard") or ()):
                    used[each] = quota.text_of(each, quota.parse_amounts(used)[each] + amount)
            live["status"] = {**status, "used": used}
            return live

        try:
            await finder.update(QUOTAS, attributes.namespace, name, change, STATUS_WRITE)
        except NotFound:
            pass  # deleted since it was listed: no limit any more

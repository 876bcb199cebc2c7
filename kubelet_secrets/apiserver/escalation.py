"""Nobody gives away more than they have: writes of roles and bindings by those who are not allowed to escalate or bind.

An admission plugin, though upstream does it in the REST storage of these kinds: here it stands before the field rules just as
well, and sees the same object.

Source: pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased/storage.go; pkg/registry/rbac/
{escalation_check.go, helpers.go}.
"""

from __future__ import annotations

from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.admission import Finder, Plugin
from kubelet_secrets.apiserver.attributes import Attributes
from kubelet_secrets.apiserver.authz import Authorizers
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.rbac import GROUP, Rule, parse_binding, parse_rules
from kubelet_secrets.apiserver.rbac_authorizer import RbacAuthorizer
from kubelet_secrets.apiserver.rbac_cover import EVERYTHING, escalation_text, missing
from kubelet_secrets.apiserver.requestinfo import RequestInfo
from kubelet_secrets.apiserver.resources import CLUSTER_ROLES, ROLES, ServedResource, served

_GC_FIELDS = ("finalizers", "ownerReferences", "managedFields", "resourceVersion", "generation")


class RbacEscalation(Plugin):
    """See the module's text.

    Args:
        rbac: what the writer has.
        authorizers: all of them, for the verbs ``escalate`` and ``bind``.
    """

    def __init__(self, rbac: RbacAuthorizer, authorizers: Authorizers) -> None:
        self._rbac = rbac
        self._authorizers = authorizers

    async def validate(self, attributes: Attributes, finder: Finder) -> None:
        row, new = attributes.row, attributes.obj
        if row.resource.group != GROUP or new is None or "system:masters" in attributes.user.groups:
            return
        if attributes.old is not None and _changes_housekeeping_only(new, attributes.old):
            return
        if row.kind in ("Role", "ClusterRole"):
            await self._check_role(attributes, new)
        else:
            await self._check_binding(attributes, new, finder)

    async def _check_role(self, attributes: Attributes, role: Object) -> None:
        # The URL of a create names nothing, so only a permission for any name counts there.
        name = attributes.name if attributes.verb == "update" else ""
        if await self._may(attributes, "escalate", attributes.row.plural, name):
            return
        self._confirm(attributes, parse_rules(role.get("rules")))
        if role.get("aggregationRule") is not None or (attributes.old or {}).get("aggregationRule") is not None:
            owned = self._rbac.resolve(attributes.user, attributes.namespace).rules
            if missing(owned, EVERYTHING):
                cause = "must have cluster-admin privileges to use an aggregationRule"
                raise statuses.forbidden(attributes.row, attributes.name, cause)

    async def _check_binding(self, attributes: Attributes, obj: Object, finder: Finder) -> None:
        binding = parse_binding(attributes.namespace, attributes.name, obj)
        role_row = _ROLE_ROWS.get(binding.role_kind)
        if role_row is None or (role_row.namespaced and not attributes.namespace):
            return  # the field rules refuse it
        if await self._may(attributes, "bind", role_row.plural, binding.role_name):
            return
        found = await finder.find(role_row, *binding.role_key)
        if found is None:
            raise statuses.not_found(role_row, binding.role_name)
        self._confirm(attributes, parse_rules(found.object.get("rules")))

    async def _may(self, attributes: Attributes, verb: str, plural: str, name: str) -> bool:
        request = RequestInfo(
            path="",
            verb=verb,
            is_resource=True,
            group=GROUP,
            version="*",
            plural=plural,
            namespace=attributes.namespace,
            name=name,
        )
        return (await self._authorizers.authorize(attributes.user, request)).is_allowed

    def _confirm(self, attributes: Attributes, wanted: tuple[Rule, ...]) -> None:
        """Raises: Forbidden: *wanted* goes beyond what the writer has."""
        found = self._rbac.resolve(attributes.user, attributes.namespace)
        lacking = missing(found.rules, wanted)
        if lacking:
            cause = escalation_text(attributes.user, lacking, found.errors)
            raise statuses.forbidden(attributes.row, attributes.name, cause)


_ROLE_ROWS: dict[str, ServedResource] = {"Role": served(ROLES), "ClusterRole": served(CLUSTER_ROLES)}


def _changes_housekeeping_only(new: Object, old: Object) -> bool:
    """Only fields that garbage collection writes differ. Source: IsOnlyMutatingGCFields."""
    return _without_housekeeping(new) == _without_housekeeping(old)


def _without_housekeeping(obj: Object) -> Object:
    metadata = {name: value for name, value in obj["metadata"].items() if name not in _GC_FIELDS}
    return {**obj, "metadata": metadata}

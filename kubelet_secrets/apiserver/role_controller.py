"""Keeps roles as they should be: the default ones at every start, and aggregated ones as the roles they gather change.

Source: pkg/registry/rbac/rest/storage_rbac.go (PostStartHook), pkg/controller/clusterroleaggregation.
"""

from __future__ import annotations

import copy
from typing import Any

from kubelet_secrets.api.selectors import LabelRequirement, LabelSelector, Operator
from kubelet_secrets.apiserver import default_roles
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.resources import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, served
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.errors import NotFound

ROLES, BINDINGS = served(CLUSTER_ROLES), served(CLUSTER_ROLE_BINDINGS)


async def ensure_default_roles(registry: Registry) -> None:
    """Create or complete the default roles and bindings, and fill the aggregated ones."""
    for role in default_roles.CLUSTER_ROLES:
        await _ensure_role(registry, role)
    for binding in default_roles.CLUSTER_ROLE_BINDINGS:
        await _ensure_binding(registry, binding)
    await aggregate(registry)


async def _ensure_role(registry: Registry, wanted: Object) -> None:
    name = wanted["metadata"]["name"]
    if await registry.find(ROLES, "", name) is None:
        await registry.create(ROLES, "", copy.deepcopy(wanted))
        return
    await registry.update(ROLES, "", name, lambda live: default_roles.reconcile_role(live, wanted) or live)


async def _ensure_binding(registry: Registry, wanted: Object) -> None:
    name = wanted["metadata"]["name"]
    found = await registry.find(BINDINGS, "", name)
    if found is not None and default_roles.binds_another_role(found.object, wanted):
        await registry.delete(BINDINGS, "", name)
        found = None
    if found is None:
        await registry.create(BINDINGS, "", copy.deepcopy(wanted))
        return
    await registry.update(BINDINGS, "", name, lambda live: default_roles.reconcile_binding(live, wanted) or live)


async def aggregate(registry: Registry) -> None:
    """Give every aggregated ClusterRole the rules of those it selects, until none changes: they gather each other."""
    changed = True
    while changed:
        changed = False
        roles = [item.object for item in (await registry.list_objects(Selection(ROLES))).items]
        for role in roles:
            if role.get("aggregationRule") is None:
                continue
            rules = aggregated_rules(role, roles)
            if rules != (role.get("rules") or []):
                changed |= await _set_rules(registry, role["metadata"]["name"], rules)


async def _set_rules(registry: Registry, name: str, rules: list[Object]) -> bool:
    def change(live: Object) -> Object:
        return {**live, "rules": rules}

    try:
        await registry.update(ROLES, "", name, change)
    except NotFound:
        return False
    return True


def aggregated_rules(role: Object, roles: list[Object]) -> list[Object]:
    """What *role* gathers from *roles*: each rule once, by the selectors' order and then by name."""
    found: list[Object] = []
    for selector in role["aggregationRule"].get("clusterRoleSelectors") or ():
        chosen = [other for other in roles if selects(selector, other["metadata"].get("labels") or {})]
        for other in sorted(chosen, key=lambda entry: str(entry["metadata"]["name"])):
            if other["metadata"]["name"] != role["metadata"]["name"]:
                found += [rule for rule in other.get("rules") or () if rule not in found]
    return found


_OPERATORS = {
    "In": Operator.IN,
    "NotIn": Operator.NOT_IN,
    "Exists": Operator.EXISTS,
    "DoesNotExist": Operator.DOES_NOT_EXIST,
}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a ``meta/v1`` LabelSelector matches; one that breaks the rules, as an older server let in, matches nothing."""
    requirements = [
        LabelRequirement(key, Operator.EQUALS, (value,)) for key, value in (selector.get("matchLabels") or {}).items()
    ]
    for expression in selector.get("matchExpressions") or ():
        operator = _OPERATORS.get(expression.get("operator", ""))
        if operator is None or not expression.get("key"):
            return False
        requirements.append(LabelRequirement(expression["key"], operator, tuple(expression.get("values") or ())))
    return LabelSelector(tuple(requirements)).matches(labels)

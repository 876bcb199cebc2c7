"""Whether somebody who has these rules has those too: what nobody may exceed in giving rights away.

Pure. Called by ``escalation.py``, and for reconciling the default roles by ``default_roles.py``.

Source: k8s.io/component-helpers/auth/rbac/validation/policy_comparator.go; pkg/registry/rbac/validation/{rule.go,
policy_compact.go}; pkg/apis/rbac/v1/helpers.go, CompactString.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.apiserver.attributes import User
from kubelet_secrets.apiserver.rbac import Rule, url_covers

EVERYTHING = (
    Rule(verbs=("*",), api_groups=("*",), resources=("*",)),
    Rule(verbs=("*",), non_resource_urls=("*",)),
)
"""What ``cluster-admin`` may do."""


def missing(owned: Sequence[Rule], wanted: Sequence[Rule]) -> list[Rule]:
    """The parts of *wanted* that *owned* does not cover, each with one verb and one resource or path."""
    return [part for rule in wanted for part in _break_down(rule) if not any(_covers(owner, part) for owner in owned)]


def escalation_text(user: User, lacking: Sequence[Rule], errors: Sequence[str] = ()) -> str:
    """Why *user* may not grant what is *lacking*, as upstream says it."""
    groups = " ".join(map(go_quote, user.groups))
    lines = "\n".join(sorted({describe(rule) for rule in compact(lacking)}))
    text = (
        f"user {go_quote(user.name)} (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n"
        f"{lines}"
    )
    return f"{text}; resolution errors: [{' '.join(errors)}]" if errors else text


def compact(rules: Sequence[Rule]) -> list[Rule]:
    """The same rules with the verbs of one resource put together."""
    others: list[Rule] = []
    simple: dict[tuple[str, str, tuple[str, ...]], Rule] = {}
    for rule in rules:
        is_simple = len(rule.api_groups) == len(rule.resources) == 1 and len(rule.resource_names) <= 1
        if not is_simple or rule.non_resource_urls:
            others.append(rule)
            continue
        key = (rule.api_groups[0], rule.resources[0], rule.resource_names)
        known = simple.get(key)
        verbs = (*known.verbs, *rule.verbs) if known is not None else rule.verbs
        simple[key] = replace(rule, verbs=tuple(dict.fromkeys(verbs)))
    return [*others, *simple.values()]


def describe(rule: Rule) -> str:
    """``{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}``."""
    parts = (
        ("APIGroups", rule.api_groups),
        ("Resources", rule.resources),
        ("NonResourceURLs", rule.non_resource_urls),
        ("ResourceNames", rule.resource_names),
        ("Verbs", rule.verbs),
    )
    return "{" + ", ".join(f"{name}:[{' '.join(map(go_quote, values))}]" for name, values in parts if values) + "}"


def _break_down(rule: Rule) -> Iterator[Rule]:
    names: list[tuple[str, ...]] = [(name,) for name in rule.resource_names] or [()]
    for group in rule.api_groups:
        for resource in rule.resources:
            for verb in rule.verbs:
                for name in names:
                    yield Rule(verbs=(verb,), api_groups=(group,), resources=(resource,), resource_names=name)
    for url in rule.non_resource_urls:
        for verb in rule.verbs:
            yield Rule(verbs=(verb,), non_resource_urls=(url,))


def _covers(owner: Rule, part: Rule) -> bool:
    return (
        _has_all(owner.verbs, part.verbs)
        and _has_all(owner.api_groups, part.api_groups)
        and all(_covers_resource(owner.resources, resource) for resource in part.resources)
        and all(any(url_covers(pattern, url) for pattern in owner.non_resource_urls) for url in part.non_resource_urls)
        and (
            not owner.resource_names
            or (bool(part.resource_names) and set(part.resource_names) <= set(owner.resource_names))
        )
    )


def _covers_resource(owned: tuple[str, ...], resource: str) -> bool:
    if "*" in owned or resource in owned:
        return True
    _, slash, subresource = resource.partition("/")
    return bool(slash) and f"*/{subresource}" in owned


def _has_all(owned: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return "*" in owned or set(wanted) <= set(owned)

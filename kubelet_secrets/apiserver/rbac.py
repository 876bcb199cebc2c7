"""Role-based access control as data and decisions: rules, subjects, bindings, and what they add up to for one user.

Pure. ``rbac_authorizer.py`` keeps a :class:`Policy` up to date and answers requests from it, ``exposure.py`` turns the same
evaluation round ("who can?"). Whether a rule may be given away is ``rbac_cover.py``.

Source: plugin/pkg/auth/authorizer/rbac/{rbac.go, subject_locator.go}; pkg/apis/rbac/v1/evaluation_helpers.go;
pkg/registry/rbac/validation/rule.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.apiserver.attributes import User
from kubelet_secrets.apiserver.requestinfo import RequestInfo

Obj = Mapping[str, Any]

GROUP = "rbac.authorization.k8s.io"
ACCOUNT_PREFIX = "system:serviceaccount:"
ALL_ACCOUNTS = "system:serviceaccounts"
_ALL = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A PolicyRule. Either about resources or about paths."""

    verbs: tuple[str, ...] = ()
    api_groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()  # "pods", "pods/exec", "*/scale", "*"
    resource_names: tuple[str, ...] = ()  # empty: any
    non_resource_urls: tuple[str, ...] = ()  # "/healthz", "/api/*"

    def allows(self, request: RequestInfo) -> bool:
        """Whether this rule alone permits *request*."""
        if not _has(self.verbs, request.verb):
            return False
        if not request.is_resource:
            return any(url_covers(url, request.path) for url in self.non_resource_urls)
        return (
            _has(self.api_groups, request.group)
            and self._names_resource(request)
            and (not self.resource_names or request.name in self.resource_names)
        )

    def _names_resource(self, request: RequestInfo) -> bool:
        if not request.subresource:
            return _has(self.resources, request.plural)
        combined, any_parent = f"{request.plural}/{request.subresource}", f"*/{request.subresource}"
        return any(entry in (_ALL, combined, any_parent) for entry in self.resources)


def url_covers(pattern: str, path: str) -> bool:
    """Whether *path* (or a narrower pattern) is within *pattern*; a star counts at the end only."""
    return pattern in (_ALL, path) or (pattern.endswith("*") and path.startswith(pattern.rstrip("*")))


def _has(entries: tuple[str, ...], value: str) -> bool:
    return _ALL in entries or value in entries


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a binding is for."""

    kind: str  # "User", "Group" or "ServiceAccount"
    name: str
    namespace: str = ""  # of a service account

    def matches(self, user: User, binding_namespace: str = "") -> bool:
        """Whether *user* is this subject, or a member of this group."""
        match self.kind:
            case "User":
                return user.name == self.name
            case "Group":
                return self.name in user.groups
            case "ServiceAccount":
                return user.name == account_user(self.namespace or binding_namespace, self.name)
        return False

    def describe(self, binding_namespace: str = "") -> str:
        """``Group "dev"``, ``ServiceAccount "robot/default"``: upstream puts the name first."""
        if self.kind == "ServiceAccount":
            return f"{self.kind} {go_quote(f'{self.name}/{self.namespace or binding_namespace}')}"
        return f"{self.kind} {go_quote(self.name)}"


def account_user(namespace: str, name: str) -> str:
    """The user name of a service account."""
    return f"{ACCOUNT_PREFIX}{namespace}:{name}"


def account_groups(namespace: str) -> tuple[str, str]:
    """The groups of every service account of *namespace*."""
    return (ALL_ACCOUNTS, f"{ALL_ACCOUNTS}:{namespace}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A RoleBinding, or with an empty namespace a ClusterRoleBinding."""

    namespace: str
    name: str
    role_kind: str  # "Role" or "ClusterRole"
    role_name: str
    subjects: tuple[Subject, ...] = ()

    @property
    def kind(self) -> str:
        return "RoleBinding" if self.namespace else "ClusterRoleBinding"

    @property
    def role_key(self) -> tuple[str, str]:
        """Where :class:`Policy` keeps the role."""
        return (self.namespace if self.role_kind == "Role" else "", self.role_name)

    def describe(self, subject: Subject) -> str:
        """As in the reason of a permission: ``ClusterRoleBinding "x" of ClusterRole "y" to Group "z"``."""
        name = f"{self.name}/{self.namespace}" if self.namespace else self.name
        role = f"{self.role_kind} {go_quote(self.role_name)}"
        return f"{self.kind} {go_quote(name)} of {role} to {subject.describe(self.namespace)}"


@dataclass(frozen=True, slots=True)
class Grant:
    """One rule that a subject has, and from where."""

    binding: Binding
    subject: Subject
    rule: Rule


@dataclass(slots=True)
class Policy:
    """Every role and binding there is."""

    roles: dict[tuple[str, str], tuple[Rule, ...]] = field(default_factory=dict)
    """(namespace, name) → rules; a ClusterRole has the empty namespace."""
    bindings: dict[str, dict[str, Binding]] = field(default_factory=dict)
    """namespace → name → binding; ClusterRoleBindings have the empty namespace."""

    def set_role(self, namespace: str, name: str, role: Obj | None) -> None:
        """Take in a Role or ClusterRole; None removes it."""
        if role is None:
            self.roles.pop((namespace, name), None)
        else:
            self.roles[namespace, name] = parse_rules(role.get("rules"))

    def set_binding(self, namespace: str, name: str, binding: Obj | None) -> None:
        """Take in a RoleBinding or ClusterRoleBinding; None removes it."""
        here = self.bindings.setdefault(namespace, {})
        if binding is None:
            here.pop(name, None)
        else:
            here[name] = parse_binding(namespace, name, binding)

    def bindings_in(self, namespace: str) -> Iterator[Binding]:
        """The bindings that count for requests in *namespace*: the cluster's, then its own."""
        yield from self.bindings.get("", {}).values()
        if namespace:
            yield from self.bindings.get(namespace, {}).values()

    def rules_of(self, binding: Binding) -> tuple[Rule, ...]:
        """Raises: MissingRole: what the binding refers to is not there."""
        rules = self.roles.get(binding.role_key)
        if rules is None:
            raise MissingRole(f"{binding.role_kind.lower()}.{GROUP} {go_quote(binding.role_name)} not found")
        return rules


class MissingRole(Exception):
    """A binding to a role that does not exist; the text is upstream's lister's."""


@dataclass(slots=True)
class Resolution:
    """What a user has in a namespace."""

    grants: list[Grant] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # bindings that led nowhere

    @property
    def rules(self) -> list[Rule]:
        return [grant.rule for grant in self.grants]


def resolve(policy: Policy, user: User, namespace: str) -> Resolution:
    """Every rule *user* has for requests in *namespace* (empty: cluster-wide requests)."""
    found = Resolution()
    for binding in policy.bindings_in(namespace):
        subject = next((entry for entry in binding.subjects if entry.matches(user, binding.namespace)), None)
        if subject is None:
            continue
        try:
            rules = policy.rules_of(binding)
        except MissingRole as error:
            found.errors.append(str(error))
            continue
        found.grants += [Grant(binding, subject, rule) for rule in rules]
    return found


def find_grant(grants: Iterable[Grant], request: RequestInfo) -> Grant | None:
    """The first grant that permits *request*."""
    return next((grant for grant in grants if grant.rule.allows(request)), None)


def parse_rules(rules: Any) -> tuple[Rule, ...]:
    """The rules of a role's plain data."""
    return tuple(
        Rule(
            verbs=tuple(rule.get("verbs") or ()),
            api_groups=tuple(rule.get("apiGroups") or ()),
            resources=tuple(rule.get("resources") or ()),
            resource_names=tuple(rule.get("resourceNames") or ()),
            non_resource_urls=tuple(rule.get("nonResourceURLs") or ()),
        )
        for rule in rules or ()
    )


def rule_to_plain(rule: Rule) -> dict[str, Any]:
    """A rule as the API writes it: empty fields are left out."""
    plain = {
        "verbs": rule.verbs,
        "apiGroups": rule.api_groups,
        "resources": rule.resources,
        "resourceNames": rule.resource_names,
        "nonResourceURLs": rule.non_resource_urls,
    }
    return {name: list(values) for name, values in plain.items() if values}


def parse_binding(namespace: str, name: str, binding: Obj) -> Binding:
    """A binding's plain data."""
    role = binding.get("roleRef") or {}
    return Binding(
        namespace=namespace,
        name=name,
        role_kind=str(role.get("kind", "")),
        role_name=str(role.get("name", "")),
        subjects=tuple(
            Subject(str(entry.get("kind", "")), str(entry.get("name", "")), str(entry.get("namespace") or ""))
            for entry in binding.get("subjects") or ()
        ),
    )

"""Whether a pod may be on a node: its nodeSelector, its required node affinity, the node's taints. Pure.

Source: k8s.io/component-helpers/scheduling/corev1 (nodeaffinity, helpers.go).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kubelet_secrets.api.core import Pod, Taint, Toleration
from kubelet_secrets.api.selectors import LabelRequirement, Operator

_OPERATORS = {
    "In": Operator.IN,
    "NotIn": Operator.NOT_IN,
    "Exists": Operator.EXISTS,
    "DoesNotExist": Operator.DOES_NOT_EXIST,
    "Gt": Operator.GREATER_THAN,
    "Lt": Operator.LESS_THAN,
}


def matches_node(pod: Pod, *, name: str, labels: Mapping[str, str]) -> bool:
    """Whether the node *name* is one that *pod* has to be on."""
    if any(labels.get(key) != value for key, value in pod.spec.node_selector.items()):
        return False
    affinity = (pod.spec.affinity or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(_matches_term(term or {}, name, labels) for term in required.get("nodeSelectorTerms") or ())


def _matches_term(term: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> bool:
    """All of a term has to match; an empty one matches nothing."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    return all(_matches(each, labels) for each in expressions) and all(
        _matches(each, {"metadata.name": name}) for each in fields
    )


def _matches(requirement: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    operator = _OPERATORS.get(str(requirement.get("operator")))
    values = tuple(str(each) for each in requirement.get("values") or ())
    if operator is None or (operator in (Operator.GREATER_THAN, Operator.LESS_THAN) and len(values) != 1):
        return False  # as a term that cannot be parsed
    return LabelRequirement(str(requirement.get("key", "")), operator, values).matches(labels)


def untolerated_taint(taints: Sequence[Taint], tolerations: Sequence[Toleration], effect: str) -> Taint | None:
    """The first taint of that *effect* which no toleration covers."""
    for taint in taints:
        if taint.effect == effect and not any(_tolerates(each, taint) for each in tolerations):
            return taint
    return None


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect not in ("", taint.effect) or toleration.key not in ("", taint.key):
        return False
    if toleration.operator == "Exists":
        return True
    return toleration.operator in ("", "Equal") and toleration.value == taint.value

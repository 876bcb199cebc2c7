"""A pod's quality-of-service class, of its manifest as a plain dictionary. Pure.

Of typed pods it is ``pod/qos.py``'s. Source: pkg/apis/core/helper/qos, ComputePodQOS: of cpu and memory only.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from kubelet_secrets.api import quantity


def qos_class(spec: Mapping[str, Any]) -> str:
    """``Guaranteed``, ``Burstable`` or ``BestEffort``. Pod-level resources, where there are any, decide alone."""
    own = spec.get("resources") or {}
    groups = [
        each.get("resources") or {} for field in ("initContainers", "containers") for each in spec.get(field) or ()
    ]
    if own.get("limits") or own.get("requests"):
        groups = [own]
    is_guaranteed, has_any = True, False
    for resources in groups:
        limits, requests = _compute(resources.get("limits")), _compute(resources.get("requests"))
        has_any = has_any or bool(limits or requests)
        is_guaranteed = is_guaranteed and len(limits) == 2 and {**limits, **requests} == limits
    if not has_any:
        return "BestEffort"
    return "Guaranteed" if is_guaranteed else "Burstable"


def _compute(amounts: Mapping[str, Any] | None) -> dict[str, Fraction]:
    """The cpu and memory of *amounts* that are not zero. What is no quantity is left out: the rules refuse it later."""
    found = {}
    for name in ("cpu", "memory"):
        try:
            amount = quantity.parse((amounts or {}).get(name, 0))
        except ValueError:
            continue
        if amount:
            found[name] = amount
    return found

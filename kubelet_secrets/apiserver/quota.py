"""What a ResourceQuota counts: how much of each resource an object takes, which objects a quota is about, what exceeds it.

Pure. Amounts are exact. ``quota_admission.py`` asks before a write, ``quota_controller.py`` counts what there is.

Source: pkg/quota/v1/evaluator/core/{pods,services}.go, pkg/quota/v1/generic/evaluator.go; k8s.io/apiserver pkg/quota/v1.
Differs: what is not served here (claims, extended resources of pods) is not counted, so a limit on it stays unused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction

from kubelet_secrets.api import quantity
from kubelet_secrets.api.core import Quantity
from kubelet_secrets.api.qosclass import qos_class
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.resources import SERVED, ServedResource
from kubelet_secrets.apiserver.strategy import TERMINAL_PHASES

Usage = dict[str, Fraction]

COUNTED = tuple(row for row in SERVED if row.namespaced and not row.is_review)
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_BY_SHORT_NAME = frozenset({"pods", "services", "secrets", "configmaps", "resourcequotas"})


def count_name(row: ServedResource) -> str:
    """``count/secrets``, ``count/leases.coordination.k8s.io``."""
    return f"count/{row.group_resource}"


def names_of(row: ServedResource) -> frozenset[str]:
    """Every resource that an object of *row* can take."""
    names = {count_name(row)}
    if row.resource.group == "" and row.plural in _BY_SHORT_NAME:
        names.add(row.plural)
    if row.kind == "Service":
        names |= {"services.nodeports", "services.loadbalancers"}
    if row.kind == "Pod":
        names |= {f"{prefix}{name}" for prefix in ("", "requests.", "limits.") for name in _COMPUTE}
    return frozenset(names)


def usage_of(row: ServedResource, obj: Object) -> Usage:
    """What one object takes; finished pods take only their place in the store."""
    used: Usage = {count_name(row): Fraction(1)}
    if row.kind == "Pod":
        if (obj.get("status") or {}).get("phase") not in TERMINAL_PHASES:
            used["pods"] = Fraction(1)
            used.update(_pod_compute(obj))
    elif row.kind == "Service":
        used.update(_service_usage(obj))
    elif row.resource.group == "" and row.plural in _BY_SHORT_NAME:
        used[row.plural] = Fraction(1)
    return used


def _service_usage(service: Object) -> Usage:
    spec = service.get("spec") or {}
    ports = spec.get("ports") or ()
    used = {"services": Fraction(1)}
    match spec.get("type"):
        case "NodePort":
            used["services.nodeports"] = Fraction(len(ports))
        case "LoadBalancer":
            used["services.loadbalancers"] = Fraction(1)
            if spec.get("allocateLoadBalancerNodePorts") is not False:
                used["services.nodeports"] = Fraction(len(ports))
    return used


def _pod_compute(pod: Object) -> Usage:
    spec = pod.get("spec") or {}
    requests, limits = _pod_sum(spec, "requests"), _pod_sum(spec, "limits")
    used: Usage = {}
    for name, amount in requests.items():
        used[name] = used[f"requests.{name}"] = amount
    used.update({f"limits.{name}": amount for name, amount in limits.items()})
    return used


def _pod_sum(spec: Object, which: str) -> Usage:
    """Source: k8s.io/component-helpers resource/helpers.go, PodRequests and PodLimits."""
    running: defaultdict[str, Fraction] = defaultdict(Fraction)
    for container in spec.get("containers") or ():
        _add(running, _amounts(container.get("resources"), which))
    sidecars: defaultdict[str, Fraction] = defaultdict(Fraction)
    peak: Usage = {}
    for container in spec.get("initContainers") or ():
        amounts = _amounts(container.get("resources"), which)
        at_once = defaultdict(Fraction, sidecars)
        _add(at_once, amounts)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, amounts)
            _add(running, amounts)
        peak = {name: max(peak.get(name, Fraction(0)), at_once[name]) for name in {*peak, *at_once}}
    total = {name: max(running[name], peak.get(name, Fraction(0))) for name in {*running, *peak}}
    total.update(_amounts(spec.get("resources"), which))  # of the whole pod, when it says so itself
    for name, amount in _amounts({which: spec.get("overhead")}, which).items():
        if which == "requests" or name in total:
            total[name] = total.get(name, Fraction(0)) + amount
    return total


def _add(total: defaultdict[str, Fraction], amounts: Usage) -> None:
    for name, amount in amounts.items():
        total[name] += amount


def _amounts(resources: Object | None, which: str) -> Usage:
    named = (resources or {}).get(which) or {}
    return {name: quantity.parse(named[name]) for name in _COMPUTE if name in named}


def missing_compute(pod: Object, wanted: Iterable[str]) -> str:
    """``limits.cpu for: c1,c2; memory for: c1``: what a quota counts and containers do not say. Empty when they do."""
    found: list[str] = []
    spec = pod.get("spec") or {}
    for name in sorted(wanted):
        which, _, resource = name.rpartition(".")
        if resource not in ("cpu", "memory"):
            continue
        silent = sorted(
            container["name"]
            for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
            if resource not in ((container.get("resources") or {}).get(which or "requests") or {})
        )
        if silent:
            found.append(f"{name} for: {','.join(silent)}")
    return "; ".join(found)


# --- scopes ----------------------------------------------------------------------------------------------------------


def is_about(quota: Object, row: ServedResource, obj: Object) -> bool:
    """Whether *obj* is in the scopes of *quota*. Scopes are of pods: a quota with any counts nothing else."""
    spec = quota.get("spec") or {}
    expressions = [{"scopeName": scope, "operator": "Exists"} for scope in spec.get("scopes") or ()]
    expressions += (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    if not expressions:
        return True
    return row.kind == "Pod" and all(_matches(each, obj) for each in expressions)


def _matches(expression: Object, pod: Object) -> bool:
    spec = pod.get("spec") or {}
    match expression["scopeName"]:
        case "Terminating":
            return spec.get("activeDeadlineSeconds") is not None
        case "NotTerminating":
            return spec.get("activeDeadlineSeconds") is None
        case "BestEffort":
            return qos_class(spec) == "BestEffort"
        case "NotBestEffort":
            return qos_class(spec) != "BestEffort"
    name, values = spec.get("priorityClassName") or "", expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return name in values
        case "NotIn":
            return name not in values
        case "Exists":
            return bool(name)
        case _:
            return not name


# --- amounts ---------------------------------------------------------------------------------------------------------


def parse_amounts(named: Mapping[str, Quantity] | None) -> Usage:
    return {name: quantity.parse(amount) for name, amount in (named or {}).items()}


def text_of(name: str, amount: Fraction) -> str:
    """An amount as ``status.used`` has it: ``500m`` of cpu, ``128Mi`` of memory, plain numbers of objects."""
    if name.endswith("cpu"):
        return quantity.canonical(f"{quantity.divide_ceil(amount.numerator * 1000, amount.denominator)}m")
    whole = quantity.divide_ceil(amount.numerator, amount.denominator)
    if whole % 1024 == 0 and name.endswith(("memory", "storage")):
        return quantity.canonical(f"{whole // 1024}Ki")
    return str(whole)


def exceeded(quota: Object, delta: Usage) -> str:
    """Why *delta* more is too much for *quota*, or empty.

    The text is ``exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2``: the resources that are too much.
    """
    status = quota.get("status") or {}
    hard, used = parse_amounts(status.get("hard")), parse_amounts(status.get("used"))
    asked = {name: amount for name, amount in delta.items() if name in hard and amount > 0}
    name = quota["metadata"]["name"]
    if unknown := sorted(set(asked) - set(used)):
        return f"status unknown for quota: {name}, resources: {','.join(unknown)}"
    failed = sorted(each for each in asked if used[each] + asked[each] > hard[each])
    if not failed:
        return ""
    requested = ",".join(f"{each}={text_of(each, asked[each])}" for each in failed)
    have = ",".join(f"{each}={quantity.canonical(status['used'][each])}" for each in failed)
    limited = ",".join(f"{each}={quantity.canonical(status['hard'][each])}" for each in failed)
    return f"exceeded quota: {name}, requested: {requested}, used: {have}, limited: {limited}"

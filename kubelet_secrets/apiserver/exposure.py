"""Who gets at a Secret: RBAC read backwards, from one object to everybody whom some binding leads to it.

Pure. Four ways, in the order of how directly they lead there: reading it through the API; creating pods in its namespace, which
may mount any Secret there; running a command in a pod that has it, by the API server or past it by the kubelet; being the node
of a pod that refers to it. Bindings are told as they are: a group is not resolved into its members, for the API server does
not know them. Called by ``cli/who_can.py``.

Source: https://kubernetes.io/docs/concepts/security/rbac-good-practices/ and /docs/concepts/configuration/secret/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.references import all_containers, env_secret_names, secret_names, volume_secret_names
from kubelet_secrets.apiserver.rbac import Binding, MissingRole, Policy, Rule, Subject
from kubelet_secrets.apiserver.requestinfo import RequestInfo


class Way(Enum):
    """How somebody gets at it."""

    READ = "read"
    CREATE_PODS = "create pods"
    EXEC = "exec"
    NODE = "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """One way for one subject, and where it comes from."""

    way: Way
    subject: Subject  # of a node: kind "Node"
    verbs: tuple[str, ...]  # "get"; with its resource where that is not the Secret: "create pods"
    pods: tuple[str, ...] = ()  # those it leads through
    binding: Binding | None = None  # None: no binding, but the Node authorizer or system:masters


@dataclass(frozen=True, slots=True)
class Exposures:
    """Every way there is."""

    found: tuple[Exposure, ...]
    broken: tuple[str, ...]  # bindings whose role is missing: nobody gets anything by them


# Answers that hold the data: of a patch too, even of an empty one, and of a deletecollection.
_NAMED_READS = ("get", "list", "watch", "patch")
_WORKLOADS = (
    ("apps", ("daemonsets", "deployments", "replicasets", "statefulsets")),
    ("batch", ("cronjobs", "jobs")),
    ("", ("replicationcontrollers",)),
)
_MASTERS = Subject("Group", "system:masters")


def find_exposures(policy: Policy, namespace: str, name: str, pods: Sequence[Pod]) -> Exposures:
    """Everybody who gets at the Secret *namespace*/*name*.

    Args:
        policy: every cluster role and binding, and those of *namespace*.
        pods: of *namespace*.
    """
    inside = {pod.metadata.name: pod.spec.node_name for pod in pods if name in _names_inside(pod)}
    found = [Exposure(way=Way.READ, subject=_MASTERS, verbs=("*",))]
    broken = []
    for binding in policy.bindings_in(namespace):
        try:
            rules = policy.rules_of(binding)
        except MissingRole as error:
            broken.append(f"{binding.kind} {binding.name}: {error}")
            continue
        ways = list(_ways(rules, namespace, name, inside, is_cluster_wide=not binding.namespace))
        found += [
            Exposure(way=way, subject=_placed(subject, binding), verbs=verbs, pods=through, binding=binding)
            for subject in binding.subjects
            for way, verbs, through in ways
        ]
    found += _by_node(name, pods)
    order = list(Way)
    found.sort(key=lambda entry: order.index(entry.way))  # stable: bindings stay together
    return Exposures(tuple(found), tuple(broken))


def _ways(
    rules: Sequence[Rule], namespace: str, name: str, inside: Mapping[str, str], *, is_cluster_wide: bool
) -> Iterator[tuple[Way, tuple[str, ...], tuple[str, ...]]]:
    """What one role leads to: way, verbs, pods. *inside* are the pods that have the Secret, each with its node."""
    verbs = [verb for verb in _NAMED_READS if _allow(rules, verb, "", "secrets", namespace, name)]
    if _allow(rules, "deletecollection", "", "secrets", namespace):
        verbs.append("deletecollection")
    if verbs:
        yield Way.READ, tuple(verbs), ()
    if makes := tuple(_pod_making(rules, namespace)):
        yield Way.CREATE_PODS, makes, ()
    through: dict[tuple[str, ...], list[str]] = {}
    for pod, node in sorted(inside.items()):
        streams = [
            f"create {resource}"
            for resource in ("pods/exec", "pods/attach")
            if _allow(rules, "create", "", resource, namespace, pod)
        ]
        if node and is_cluster_wide:
            # To whom a kubelet gives its whole API, past the API server's exec; a GET is enough for a WebSocket.
            streams += [
                f"{verb} nodes/proxy" for verb in ("create", "get") if _allow(rules, verb, "", "nodes/proxy", "", node)
            ]
        if streams:
            through.setdefault(tuple(streams), []).append(pod)
    for verbs_there, names in through.items():
        yield Way.EXEC, verbs_there, tuple(names)


def _pod_making(rules: Sequence[Rule], namespace: str) -> Iterator[str]:
    if _allow(rules, "create", "", "pods", namespace):
        yield "create pods"
    for verb in ("patch", "update"):
        # An ephemeral container's environment may take from any Secret, so any pod will do.
        if _allow(rules, verb, "", "pods/ephemeralcontainers", namespace):
            yield f"{verb} pods/ephemeralcontainers"
    for group, resources in _WORKLOADS:
        for resource in resources:
            for verb in ("create", "patch", "update"):
                if _allow(rules, verb, group, resource, namespace):
                    yield f"{verb} {resource}"


def _allow(rules: Iterable[Rule], verb: str, group: str, resource: str, namespace: str, name: str = "") -> bool:
    plural, _, subresource = resource.partition("/")
    request = RequestInfo(
        path="",
        verb=verb,
        is_resource=True,
        group=group,
        plural=plural,
        subresource=subresource,
        namespace=namespace,
        name=name,
    )
    return any(rule.allows(request) for rule in rules)


def _placed(subject: Subject, binding: Binding) -> Subject:
    if subject.kind == "ServiceAccount" and not subject.namespace:
        return Subject(subject.kind, subject.name, binding.namespace)
    return subject


def _names_inside(pod: Pod) -> set[str]:
    """The Secrets that can be seen from within: mounted, or in the environment. Not those for pulling images."""
    names = {name for volume in pod.spec.volumes for name in volume_secret_names(pod, volume.name)}
    return names.union(*(env_secret_names(container) for container in all_containers(pod)))


def _by_node(name: str, pods: Sequence[Pod]) -> list[Exposure]:
    """The nodes that the Node authorizer lets read it."""
    through: dict[str, list[str]] = {}
    for pod in pods:
        is_mirror = "kubernetes.io/config.mirror" in pod.metadata.annotations
        if pod.spec.node_name and not is_mirror and name in secret_names(pod):
            through.setdefault(pod.spec.node_name, []).append(pod.metadata.name)
    return [
        Exposure(way=Way.NODE, subject=Subject("Node", node), verbs=("get", "list", "watch"), pods=tuple(sorted(names)))
        for node, names in sorted(through.items())
    ]

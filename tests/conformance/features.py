"""Which rows are about something that older API servers, or kubelets, do not have: they are skipped there, and say why.

The version is the first that has the feature on by default; a row that does not stand here has to pass on every server.
Source: https://kubernetes.io/docs/reference/command-line-tools-reference/feature-gates/ and its page of removed gates.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubelet_secrets.client.version import NEWEST, Version


@dataclass(frozen=True, slots=True)
class Feature:
    """What was added to Kubernetes.

    Attributes:
        since: the first minor version that the rows can pass on.
        rows: beginnings of titles.
        is_nodes: a matter of the node alone; otherwise API server and node have to have it.
    """

    name: str
    since: Version
    rows: tuple[str, ...]
    is_nodes: bool = False


_ACCOUNTS = "[sig-auth] ServiceAccounts"
_DOWNWARD = "[sig-node] Downward API"

FEATURES = (
    Feature(
        "hugepages in the downward API",
        Version(1, 22),
        (
            f"{_DOWNWARD} [Disruptive] should provide container's limits.hugepages",
            f"{_DOWNWARD} [Disruptive] should provide default limits.hugepages",
        ),
    ),
    Feature("accounts without Secrets", Version(1, 24), (f"{_ACCOUNTS} no secret-based service account token",)),
    Feature(
        "status.hostIPs",
        Version(1, 29),
        (f"{_DOWNWARD} should provide hostIPs", "[sig-node] Pods should get a host IP"),
    ),
    Feature("tokens that name their node", Version(1, 30), (f"{_ACCOUNTS} should mount an API token into pods",)),
    Feature("recursive read-only mounts", Version(1, 31), ("Mount recursive read-only",)),
    Feature(
        "names of variables in all of ASCII",
        Version(1, 32),
        (
            "Variable Expansion allow almost all printable ASCII",
            "[sig-node] Secrets should be consumable as environment variable names variable names with various prefixes",
            "[sig-node] ConfigMap should be consumable as environment variable names when configmap keys start with a digit",
        ),
    ),
    Feature("pod-level resources", Version(1, 34), (f"{_DOWNWARD} [Feature:PodLevelResources]",)),
    Feature(
        "generations of pods",
        Version(1, 34),
        ("[sig-node] Pods Extended pod generation", "Ephemeral Containers"),  # the latter look at the generation too
    ),
    Feature("fileKeyRef", Version(1, 35), ("FileKeyRef",)),
    Feature(
        "memory-backed volumes of their own size",
        Version(1, 22),
        ("EmptyDir volumes pod should support memory backed volumes of specified size",),
        is_nodes=True,
    ),
    Feature("PodReadyToStartContainers", Version(1, 29), ("Pod conditions managed by Kubelet a pod",), is_nodes=True),
    Feature("KEP-2535", Version(1, 35), ("Ensure Credential Pulled Images",), is_nodes=True),
)


def lack(title: str, server: Version, node: Version = NEWEST) -> str:
    """Why the row cannot pass on *server* with *node*; "" when it has to."""
    for feature in FEATURES:
        older = min(node, NEWEST if feature.is_nodes else server)
        if older < feature.since and title.startswith(feature.rows):
            who = "node" if older == node else "API server"
            return f"needs Kubernetes ≥ {feature.since} ({feature.name}): the {who} is {older}"
    return ""

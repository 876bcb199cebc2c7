"""What the kubelet's registration flags say: labels, taints, addresses. Pure, and with the kubelet's rules and words.

Used by ``cli/agent.py``, which has the user mend what is wrong, and for the labels by nobody else: which of them a node may
set on its own object is NodeRestriction's (semantics §10.3), and asking for others would only be refused at registration.

Source: cmd/kubelet/app/options/options.go (ValidateKubeletFlags), pkg/kubelet/apis/well_known_labels.go,
pkg/util/taints/taints.go (ParseTaints), cmd/kubelet/app/server.go (parseNodeIPs), pkg/kubelet/nodestatus (validateNodeIP).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from kubelet_secrets.api.core import Taint
from kubelet_secrets.api.validation.names import label_value_errors, qualified_name_errors

ALLOWED_LABELS = (
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
)
ALLOWED_PREFIXES = ("kubelet.kubernetes.io", "node.kubernetes.io")
_DOMAINS = ("kubernetes.io", "k8s.io")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


class InvalidFlag(ValueError):
    """The text is for the user."""


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """``key=value`` pairs, separated by commas.

    Raises:
        InvalidFlag: no such pair, no label, or one that no node may give itself.
    """
    labels: dict[str, str] = {}
    for pair in _entries(texts):
        key, separator, value = pair.partition("=")
        if not separator:
            raise InvalidFlag(f"{pair!r} is not of the form key=value")
        labels[key.strip()] = value.strip()
    for key, value in labels.items():
        errors = qualified_name_errors(key) or label_value_errors(value)
        if errors:
            raise InvalidFlag(f"{key}={value}: {errors[0]}")
    if foreign := sorted(key for key in labels if not _may_set(key)):
        raise InvalidFlag(
            f"unknown 'kubernetes.io' or 'k8s.io' labels: {foreign}; labels in the 'kubernetes.io' namespace must begin with "
            f"an allowed prefix ({', '.join(ALLOWED_PREFIXES)}) or be in the specifically allowed set "
            f"({', '.join(ALLOWED_LABELS)})"
        )
    return labels


def _may_set(key: str) -> bool:
    domain = key.rpartition("/")[0]
    is_reserved = any(domain == each or domain.endswith(f".{each}") for each in _DOMAINS)
    is_allowed = any(domain == each or domain.endswith(f".{each}") for each in ALLOWED_PREFIXES)
    return not is_reserved or is_allowed or key in ALLOWED_LABELS


def parse_taints(texts: Iterable[str]) -> tuple[Taint, ...]:
    """``key=value:effect`` or ``key:effect``, separated by commas.

    Raises:
        InvalidFlag: no taint, or one key and effect twice.
    """
    taints: list[Taint] = []
    for text in _entries(texts):
        name, separator, effect = text.rpartition(":")
        if not separator or effect not in _EFFECTS:
            raise InvalidFlag(f"{text!r}: no effect of a taint ({', '.join(_EFFECTS)}) after the colon")
        key, _, value = name.partition("=")
        if errors := qualified_name_errors(key) or label_value_errors(value):
            raise InvalidFlag(f"{text!r}: {errors[0]}")
        if any((each.key, each.effect) == (key, effect) for each in taints):
            raise InvalidFlag(f"duplicated taints with the same key and effect: {text!r}")
        taints.append(Taint(key=key, value=value, effect=effect))
    return tuple(taints)


def parse_addresses(text: str) -> tuple[str, ...]:
    """One address of this node, or one of each family: ``10.0.0.7,2001:db8::7``.

    Raises:
        InvalidFlag: no address, none that others could reach, or two of one family.
    """
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    for each in _entries([text]):
        try:
            address = ipaddress.ip_address(each)
        except ValueError:
            raise InvalidFlag(f"bad --node-ip {each!r}; must be an IP address or a dual-stack pair of IPs") from None
        for what, is_so in (
            ("loopback", address.is_loopback),
            ("a multicast", address.is_multicast),
            ("a link-local unicast", address.is_link_local),
            ("an all zeros", address.is_unspecified),
        ):
            if is_so:
                raise InvalidFlag(f"nodeIP can't be {what} address: {each}")
        found.append(address)
    if not 1 <= len(found) <= 2 or len({each.version for each in found}) != len(found):
        raise InvalidFlag(f"bad --node-ip {text!r}; must contain either a single IP or a dual-stack pair of IPs")
    return tuple(map(str, found))


def _entries(texts: Iterable[str]) -> list[str]:
    return [entry.strip() for text in texts for entry in text.split(",") if entry.strip()]

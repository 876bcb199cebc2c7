"""The registration flags. Source: options_test.go (TestValidateKubeletFlags), taints_test.go (TestParseTaints)."""

from __future__ import annotations

import re

import pytest

from kubelet_secrets.apiserver.node_restriction import forbidden_labels
from kubelet_secrets.node.flags import (
    ALLOWED_LABELS,
    ALLOWED_PREFIXES,
    InvalidFlag,
    parse_addresses,
    parse_labels,
    parse_taints,
)


def test_labels_are_pairs() -> None:
    assert parse_labels(["rack=7,tier=", "example.org/zone=a"]) == {"rack": "7", "tier": "", "example.org/zone": "a"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("rack", "'rack' is not of the form key=value", id="no-pair"),
        pytest.param("-rack=7", "-rack=7: ", id="key"),
        pytest.param("rack=a b", "rack=a b: ", id="value"),
        pytest.param(
            "kubernetes.io/role=x", "unknown 'kubernetes.io' or 'k8s.io' labels: ['kubernetes.io/role']", id="domain"
        ),
        pytest.param("node-role.kubernetes.io/worker=", "node-role.kubernetes.io/worker", id="role"),
        pytest.param("node-restriction.kubernetes.io/x=", "node-restriction.kubernetes.io/x", id="restriction"),
        pytest.param("x.k8s.io/y=", "x.k8s.io/y", id="k8s-io"),
    ],
)
def test_what_is_no_label_of_a_node(text: str, problem: str) -> None:
    with pytest.raises(InvalidFlag, match=re.escape(problem)):
        parse_labels([text])


def test_labels_let_through_here_are_let_through_by_the_api_server() -> None:
    """NodeRestriction would refuse the whole Node because of one label."""
    allowed = [
        *ALLOWED_LABELS,
        *(f"{prefix}/x" for prefix in ALLOWED_PREFIXES),
        "a.node.kubernetes.io/x",
        "free",
        "a.b/c",
    ]
    labels = parse_labels(f"{key}=1" for key in allowed)
    assert forbidden_labels(labels, {}) == []


def test_taints() -> None:
    found = parse_taints(["dedicated=db:NoSchedule,flaky:NoExecute", "dedicated=db:PreferNoSchedule"])
    assert [(each.key, each.value, each.effect) for each in found] == [
        ("dedicated", "db", "NoSchedule"),
        ("flaky", "", "NoExecute"),
        ("dedicated", "db", "PreferNoSchedule"),
    ]


@pytest.mark.parametrize(
    "text", ["dedicated=db", "dedicated:Never", ":NoSchedule", "a=b c:NoSchedule", "a:NoExecute,a=1:NoExecute"]
)
def test_what_is_no_taint(text: str) -> None:
    with pytest.raises(InvalidFlag):
        parse_taints([text])


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("192.0.2.7", ("192.0.2.7",)),
        ("2001:DB8::7", ("2001:db8::7",)),
        ("192.0.2.7, 2001:db8::7", ("192.0.2.7", "2001:db8::7")),
    ],
)
def test_addresses(text: str, addresses: tuple[str, ...]) -> None:
    assert parse_addresses(text) == addresses


@pytest.mark.parametrize(
    "text", ["", "vm", "127.0.0.1", "0.0.0.0", "224.0.0.1", "fe80::1", "192.0.2.7,192.0.2.8", "192.0.2.7,::1"]
)
def test_what_is_no_address_of_a_node(text: str) -> None:
    with pytest.raises(InvalidFlag):
        parse_addresses(text)

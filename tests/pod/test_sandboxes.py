"""Source: kuberuntime_sandbox_test.go, kubelet_pods_test.go (TestGeneratePodHostNameAndDomain)."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.core import HostAlias
from kubelet_secrets.pod.sandboxes import make_sandbox_settings, pod_hostname, sandbox_refusal, wants_cluster_dns
from kubelet_secrets.runtime.sandbox import SandboxSettings
from tests.pod.builders import make_pod


def settings(**spec: Any) -> SandboxSettings:
    return make_sandbox_settings(
        make_pod(**spec),
        host_ips=("192.0.2.7",),
        node_resolv_conf="nameserver 192.0.2.53\nsearch example.org\n",
        cluster_domain="cluster.local",
    )


def test_plain_pod() -> None:
    made = settings()
    assert (made.hostname, made.domain, made.host_network) == ("web", "", False)
    assert made.resolv_conf == "search example.org\nnameserver 192.0.2.53\n"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, True),
        ({"host_network": True}, False),
        ({"host_network": True, "dns_policy": "ClusterFirstWithHostNet"}, True),
        ({"dns_policy": "Default"}, False),
        ({"dns_policy": "None"}, False),
    ],
)
def test_pods_that_want_the_clusters_dns(spec: dict[str, Any], expected: bool) -> None:
    assert wants_cluster_dns(make_pod(**spec)) is expected


def test_hostname_and_subdomain() -> None:
    made = settings(hostname="one", subdomain="set")
    assert (made.hostname, made.domain) == ("one", "one.set.default.svc.cluster.local")
    assert settings(hostname="one", subdomain="set", set_hostname_as_fqdn=True).hostname == made.domain


@pytest.mark.parametrize(
    ("spec", "refusal"),
    [
        pytest.param({}, "", id="plain"),
        pytest.param({"host_users": True}, "", id="users-of-the-host"),
        pytest.param(
            {"host_users": False},
            'can\'t set `spec.hostUsers: false`, RuntimeClass handler "" does not support user namespaces',
            id="user-namespace",
        ),
        pytest.param(
            {"runtime_class_name": "gvisor"},
            'failed to get sandbox runtime: no runtime for "gvisor" is configured',
            id="runtime-class",
        ),
        pytest.param({"hostname": "h" * 37, "subdomain": "s"}, "", id="long-domain"),
        pytest.param(
            {"hostname": "h" * 37, "subdomain": "s", "set_hostname_as_fqdn": True},
            "Failed to construct FQDN from pod hostname and cluster domain, FQDN "
            f"{'h' * 37}.s.default.svc.cluster.local is too long (64 characters is the max, 65 characters requested)",
            id="long-domain-as-hostname",
        ),
    ],
)
def test_sandbox_that_this_node_does_not_make(spec: dict[str, Any], refusal: str) -> None:
    assert sandbox_refusal(make_pod(**spec), cluster_domain="cluster.local") == refusal


def test_dns_config_without_a_policy() -> None:
    made = settings(
        dns_policy="None", dns_config={"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]}
    )
    assert made.resolv_conf == "nameserver 1.1.1.1\noptions ndots:2\n"


def test_host_aliases() -> None:
    assert settings(host_aliases=(HostAlias(ip="192.0.2.9", hostnames=("a", "b")),)).host_aliases == (
        ("192.0.2.9", ("a", "b")),
    )


@pytest.mark.parametrize(
    ("hostname", "expected"),
    [pytest.param("x" * 70, "x" * 63, id="cut"), pytest.param("x" * 62 + "-y", "x" * 62, id="no-dash-at-the-end")],
)
def test_long_hostname(hostname: str, expected: str) -> None:
    assert pod_hostname(make_pod(hostname=hostname)) == expected

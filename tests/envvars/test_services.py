"""Service variables. Source: pkg/kubelet/envvars/envvars_test.go; semantics §6.3."""

from __future__ import annotations

import pytest

from kubelet_secrets.api.core import Service
from kubelet_secrets.envvars.services import make_service_variables
from tests.envvars.builders import make_service


def variables(service: Service) -> dict[str, str]:
    made = make_service_variables([service], service.metadata.namespace, links=True)
    return {name: variable.value for name, variable in made.items()}


def test_first_port_and_named_ports() -> None:
    service = make_service(
        "test",
        "foo-bar",
        "1.2.3.4",
        8080,
        {"name": "u-d-p-1", "port": 8081, "protocol": "UDP"},
        {"name": "t", "port": 8082, "protocol": ""},
    )
    assert variables(service) == {
        "FOO_BAR_SERVICE_HOST": "1.2.3.4",
        "FOO_BAR_SERVICE_PORT": "8080",
        "FOO_BAR_SERVICE_PORT_U_D_P_1": "8081",
        "FOO_BAR_SERVICE_PORT_T": "8082",
        "FOO_BAR_PORT": "tcp://1.2.3.4:8080",
        "FOO_BAR_PORT_8080_TCP": "tcp://1.2.3.4:8080",
        "FOO_BAR_PORT_8080_TCP_PROTO": "tcp",
        "FOO_BAR_PORT_8080_TCP_PORT": "8080",
        "FOO_BAR_PORT_8080_TCP_ADDR": "1.2.3.4",
        "FOO_BAR_PORT_8081_UDP": "udp://1.2.3.4:8081",
        "FOO_BAR_PORT_8081_UDP_PROTO": "udp",
        "FOO_BAR_PORT_8081_UDP_PORT": "8081",
        "FOO_BAR_PORT_8081_UDP_ADDR": "1.2.3.4",
        "FOO_BAR_PORT_8082_TCP": "tcp://1.2.3.4:8082",
        "FOO_BAR_PORT_8082_TCP_PROTO": "tcp",
        "FOO_BAR_PORT_8082_TCP_PORT": "8082",
        "FOO_BAR_PORT_8082_TCP_ADDR": "1.2.3.4",
    }


def test_ipv6_address_is_bracketed_in_urls_only() -> None:
    made = variables(make_service("test", "super-ipv6", "2001:DB8::", 9000))
    assert made["SUPER_IPV6_SERVICE_HOST"] == "2001:DB8::"
    assert made["SUPER_IPV6_PORT"] == "tcp://[2001:DB8::]:9000"
    assert made["SUPER_IPV6_PORT_9000_TCP_ADDR"] == "2001:DB8::"


@pytest.mark.parametrize("ip", ["", "None"])
def test_headless_service_gives_nothing(ip: str) -> None:
    assert variables(make_service("test", "headless", ip, 80)) == {}


def test_kubernetes_of_the_own_namespace_replaces_the_default_one_with_links() -> None:
    default, own = make_service("default", "kubernetes", "1.1.1.1", 1), make_service("ns", "kubernetes", "2.2.2.2", 2)
    for services in ([default, own], [own, default]):
        linked = make_service_variables(services, "ns", links=True)
        assert linked["KUBERNETES_SERVICE_HOST"].value == "2.2.2.2"
        assert linked["KUBERNETES_SERVICE_HOST"].origin.namespace == "ns"
        assert make_service_variables(services, "ns", links=False)["KUBERNETES_SERVICE_HOST"].value == "1.1.1.1"


def test_service_of_another_namespace_is_left_out() -> None:
    assert make_service_variables([make_service("other", "db", "1.1.1.1", 1)], "ns", links=True) == {}

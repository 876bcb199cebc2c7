"""Source: pkg/kubelet/client/kubelet_client.go; kubeadm's --kubelet-preferred-address-types; semantics §12.1."""

from __future__ import annotations

import pytest

from kubelet_secrets.apiserver.kubelet_client import KubeletAddress, address_of

HOSTNAME, INTERNAL, EXTERNAL = (
    {"type": "Hostname", "address": "n1"},
    {"type": "InternalIP", "address": "10.0.0.7"},
    {"type": "ExternalIP", "address": "192.0.2.7"},
)


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        pytest.param([HOSTNAME, EXTERNAL, INTERNAL], "10.0.0.7", id="internal-address-first"),
        pytest.param([HOSTNAME, EXTERNAL], "192.0.2.7", id="then-the-external-one"),
        pytest.param([{"type": "InternalIP", "address": ""}, HOSTNAME], "n1", id="then-its-name"),
    ],
)
def test_how_a_node_is_reached(addresses: list[dict[str, str]], expected: str) -> None:
    node = {"status": {"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": 4000}}}}
    assert address_of(node, is_local=False) == KubeletAddress(expected, 4000)
    assert address_of(node, is_local=True) == KubeletAddress("127.0.0.1", 4000)


def test_node_that_says_nothing_cannot_be_reached() -> None:
    assert address_of({"status": {}}, is_local=False) is None
    assert address_of({"status": {"addresses": [HOSTNAME]}}, is_local=False) == KubeletAddress("n1", 10250)

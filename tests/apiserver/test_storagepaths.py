"""Where objects lie: what etcd holds beside a kube-apiserver."""

from __future__ import annotations

import pytest

from kubelet_secrets.apiserver.listing import object_key
from kubelet_secrets.apiserver.resources import SERVED
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.apiserver.storagepaths import former_key, plural_of, split_key

ROWS = {row.plural: row for row in SERVED}


@pytest.mark.parametrize(
    ("plural", "namespace", "key"),
    [
        ("secrets", "default", "/registry/secrets/default/x"),
        ("nodes", "", "/registry/minions/x"),
        ("services", "default", "/registry/services/specs/default/x"),
        ("services", "specs", "/registry/services/specs/specs/x"),
        ("leases", "kube-node-lease", "/registry/leases/kube-node-lease/x"),
        ("clusterrolebindings", "", "/registry/clusterrolebindings/x"),
        ("certificatesigningrequests", "", "/registry/certificatesigningrequests/x"),
    ],
)
def test_keys(plural: str, namespace: str, key: str) -> None:
    assert object_key(ROWS[plural], namespace, "x") == key
    assert split_key(key) == (plural, namespace, "x")
    assert key.startswith(Selection(ROWS[plural], namespace).prefix)
    assert plural_of(Selection(ROWS[plural]).prefix) == plural


def test_former_keys() -> None:
    assert former_key("/registry/minions/x") == "/registry/nodes/x"
    assert former_key("/registry/services/specs/default/x") == "/registry/services/default/x"
    assert former_key("/registry/secrets/minions/x") is None

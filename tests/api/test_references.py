"""What a pod refers to. Source: pkg/api/v1/pod/util_test.go, TestPodSecrets and TestPodConfigmaps; semantics §7.1."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.decode import convert
from kubelet_secrets.api.references import config_map_names, secret_names, volume_secret_names


def pod(**spec: Any) -> Pod:
    return convert({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [], **spec}}, Pod)


def env_of(kind: str, name: str) -> dict[str, Any]:
    return {"name": "c", "env": [{"name": "A", "valueFrom": {f"{kind}KeyRef": {"name": name, "key": "k"}}}]}


CONTAINERS = ("initContainers", "containers", "ephemeralContainers")


@pytest.mark.parametrize("field", CONTAINERS)
@pytest.mark.parametrize(("kind", "names"), [("secret", secret_names), ("configMap", config_map_names)])
def test_every_kind_of_container_counts(field: str, kind: str, names: Any) -> None:
    whole = {"name": "d", "envFrom": [{f"{kind}Ref": {"name": "from"}}]}
    assert set(names(pod(**{field: [env_of(kind, "one"), whole]}))) == {"one", "from"}
    assert names(pod(**{field: [env_of("configMap" if kind == "secret" else "secret", "one")]})) == ()


@pytest.mark.parametrize(
    "source",
    [
        {"secret": {"secretName": "s"}},
        {"projected": {"sources": [{"secret": {"name": "s"}}, {"configMap": {"name": "c"}}]}},
        {"azureFile": {"secretName": "s", "shareName": "x"}},
        {"cephfs": {"monitors": ["m"], "secretRef": {"name": "s"}}},
        {"cinder": {"volumeID": "v", "secretRef": {"name": "s"}}},
        {"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}},
        {"flexVolume": {"driver": "d", "secretRef": {"name": "s"}}},
        {"iscsi": {"iqn": "i", "secretRef": {"name": "s"}}},
        {"rbd": {"image": "i", "secretRef": {"name": "s"}}},
        {"scaleIO": {"gateway": "g", "secretRef": {"name": "s"}}},
        {"storageos": {"volumeName": "v", "secretRef": {"name": "s"}}},
    ],
    ids=lambda source: next(iter(source)),
)
def test_every_volume_with_a_secret_counts(source: dict[str, Any]) -> None:
    made = pod(volumes=[{"name": "v", **source}, {"name": "w", "emptyDir": {}}])
    assert secret_names(made) == ("s",)
    assert volume_secret_names(made, "v") == ("s",)
    assert volume_secret_names(made, "w") == ()


@pytest.mark.parametrize(
    "source",
    [{"cephfs": {"monitors": ["m"]}}, {"azureFile": {"shareName": "x"}}, {"rbd": {"secretRef": None}}],
    ids=lambda source: next(iter(source)),
)
def test_volume_without_its_secret_refers_to_none(source: dict[str, Any]) -> None:
    assert secret_names(pod(volumes=[{"name": "v", **source}])) == ()


def test_names_come_once_and_empty_ones_not_at_all() -> None:
    made = pod(
        imagePullSecrets=[{"name": "pull"}, {"name": ""}],
        containers=[env_of("secret", "s"), env_of("secret", "pull")],
        volumes=[{"name": "v", "secret": {"secretName": "s"}}, {"name": "w", "configMap": {"name": "c"}}],
    )
    assert secret_names(made) == ("pull", "s")
    assert config_map_names(made) == ("c",)

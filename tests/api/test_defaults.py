"""What the API server fills in. Source: pkg/apis/core/v1/defaults_test.go; semantics §1.1, §2.1, §4.2, §4.4."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kubelet_secrets.api import defaults


def _pod(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}


def test_secret_type_is_opaque_and_string_data_wins_over_data() -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "data": {"a": "b2xk", "b": "a2VlcA=="},
        "stringData": {"a": "new", "c": "é"},
    }
    defaults.apply_defaults(secret)
    assert secret == {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "data": {"a": "bmV3", "b": "a2VlcA==", "c": "w6k="},
    }


def test_a_given_secret_type_stays() -> None:
    secret = {"type": "kubernetes.io/tls"}
    defaults.default_secret(secret)
    assert secret == {"type": "kubernetes.io/tls"}


def test_pod_spec_defaults() -> None:
    pod = _pod(containers=[{"name": "c", "image": "nginx"}], volumes=[{"name": "v"}])
    defaults.apply_defaults(pod)
    assert pod["spec"] == {
        "containers": [
            {
                "name": "c",
                "image": "nginx",
                "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "resources": {},
            }
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "dnsPolicy": "ClusterFirst",
        "restartPolicy": "Always",
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
        "schedulerName": "default-scheduler",
        "enableServiceLinks": True,
    }


def test_values_that_are_given_stay() -> None:
    pod = _pod(
        containers=[{"name": "c", "image": "nginx", "imagePullPolicy": "Never"}],
        enableServiceLinks=False,
        terminationGracePeriodSeconds=0,
        restartPolicy="Never",
        serviceAccount="builder",
    )
    defaults.apply_defaults(pod)
    spec = pod["spec"]
    assert spec["enableServiceLinks"] is False
    assert spec["terminationGracePeriodSeconds"] == 0
    assert spec["restartPolicy"] == "Never"
    assert spec["containers"][0]["imagePullPolicy"] == "Never"
    assert spec["serviceAccountName"] == spec["serviceAccount"] == "builder"


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("busybox", "Always"),
        ("busybox:latest", "Always"),
        ("busybox:1.36", "IfNotPresent"),
        ("registry:5000/team/app", "Always"),
        ("registry:5000/team/app:v1", "IfNotPresent"),
        ("localhost:5000/app:latest", "Always"),
        ("example.com/app@sha256:" + "a" * 64, "IfNotPresent"),
        ("example.com/app:latest@sha256:" + "a" * 64, "Always"),
        ("UPPER", "IfNotPresent"),
        ("", "IfNotPresent"),
    ],
)
def test_pull_policy_follows_the_tag(image: str, policy: str) -> None:
    assert defaults.default_pull_policy(image) == policy


def test_volume_defaults() -> None:
    volumes: list[dict[str, Any]] = [
        {"name": "s", "secret": {"secretName": "x"}},
        {"name": "zero", "secret": {"secretName": "x", "defaultMode": 0}},
        {"name": "c", "configMap": {"name": "x"}},
        {"name": "d", "downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {
            "name": "p",
            "projected": {
                "sources": [
                    {"serviceAccountToken": {"path": "token"}},
                    {"downwardAPI": {"items": [{"path": "m", "resourceFieldRef": {"resource": "limits.memory"}}]}},
                ]
            },
        },
        {"name": "h", "hostPath": {"path": "/x"}},
        {"name": "i", "image": {"reference": "app:v1"}},
    ]
    for volume in volumes:
        defaults.default_volume(volume)
    assert [volumes[0]["secret"]["defaultMode"], volumes[1]["secret"]["defaultMode"]] == [420, 0]
    assert volumes[2]["configMap"]["defaultMode"] == 420
    assert volumes[3]["downwardAPI"]["defaultMode"] == 420
    assert volumes[3]["downwardAPI"]["items"][0]["fieldRef"]["apiVersion"] == "v1"
    token, downward = volumes[4]["projected"]["sources"]
    assert token["serviceAccountToken"] == {"path": "token", "expirationSeconds": 3600}
    assert downward["downwardAPI"]["items"][0]["resourceFieldRef"]["divisor"] == "0"
    assert volumes[5]["hostPath"]["type"] == ""
    assert volumes[6]["image"]["pullPolicy"] == "IfNotPresent"


def test_requests_follow_limits_and_numbers_become_text() -> None:
    pod = _pod(
        containers=[{"name": "c", "resources": {"limits": {"cpu": 1, "memory": "64Mi"}, "requests": {"cpu": "100m"}}}]
    )
    defaults.apply_defaults(pod)
    assert pod["spec"]["containers"][0]["resources"] == {
        "limits": {"cpu": "1", "memory": "64Mi"},
        "requests": {"cpu": "100m", "memory": "64Mi"},
    }


def test_probes_hooks_ports_and_env() -> None:
    pod = _pod(
        hostNetwork=True,
        containers=[
            {
                "name": "c",
                "ports": [{"containerPort": 80}],
                "env": [
                    {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "F", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}},
                ],
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 3},
                "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
            }
        ],
    )
    defaults.apply_defaults(pod)
    container = pod["spec"]["containers"][0]
    assert container["ports"] == [{"containerPort": 80, "protocol": "TCP", "hostPort": 80}]
    assert container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert container["env"][1]["valueFrom"]["fileKeyRef"]["optional"] is False
    assert container["livenessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "periodSeconds": 3,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert container["lifecycle"]["preStop"]["httpGet"]["scheme"] == "HTTP"


def test_namespace_carries_its_name_as_label() -> None:
    namespace: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}
    defaults.apply_defaults(namespace)
    assert namespace["metadata"]["labels"] == {"kubernetes.io/metadata.name": "team"}
    assert namespace["status"] == {"phase": "Active"}


def test_service_and_bindings() -> None:
    service: dict[str, Any] = {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}}
    defaults.apply_defaults(service)
    assert service["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert service["spec"]["type"] == "ClusterIP"
    binding: dict[str, Any] = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}],
    }
    defaults.apply_defaults(binding)
    assert binding["roleRef"]["apiGroup"] == "rbac.authorization.k8s.io"
    assert [subject.get("apiGroup") for subject in binding["subjects"]] == ["rbac.authorization.k8s.io", None]


def test_defaulting_twice_changes_nothing() -> None:
    pod = _pod(
        containers=[{"name": "c", "image": "a:b", "resources": {"limits": {"cpu": 2}}}],
        volumes=[{"name": "s", "secret": {"secretName": "x"}}, {"name": "e"}],
    )
    defaults.apply_defaults(pod)
    once = copy.deepcopy(pod)
    defaults.apply_defaults(pod)
    assert pod == once


def test_unknown_kinds_are_left_alone() -> None:
    obj = {"apiVersion": "example.com/v1", "kind": "Secret"}
    defaults.apply_defaults(obj)
    assert obj == {"apiVersion": "example.com/v1", "kind": "Secret"}

"""Pods. Source of the cases: semantics §2.1, §4.1-4.4, §5.3, §6.2; pkg/apis/core/validation/validation_test.go."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kubelet_secrets.api.defaults import default_pod
from kubelet_secrets.api.validation.names import dns1123_subdomain_errors
from kubelet_secrets.api.validation.pods import validate_pod

Obj = dict[str, Any]

LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
    "alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)


def sysctls(*names: str) -> dict[str, Any]:
    return {"sysctls": [{"name": name, "value": "1"} for name in names]}


def _pod(spec: Obj | None = None, metadata: Obj | None = None, **container: Any) -> Obj:
    """A valid pod with one container; *spec* and *container* replace fields; defaulted as the server does."""
    pod: Obj = {
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", **(metadata or {})},
        "spec": {"containers": [{"name": "c", "image": "img:1", **container}], **(spec or {})},
    }
    default_pod(pod)
    return pod


def _texts(pod: Obj, old: Obj | None = None, subresource: str = "") -> list[str]:
    return [str(error) for error in validate_pod(pod, old, subresource)]


def _with_volume(*volumes: Obj, **spec: Any) -> Obj:
    return _pod({"volumes": list(volumes), **spec})


def test_a_plain_pod_is_valid() -> None:
    assert _texts(_pod()) == []


def test_a_pod_that_uses_everything_is_valid() -> None:
    pod = _pod(
        {
            "serviceAccountName": "default",
            "imagePullSecrets": [{}],
            "initContainers": [{"name": "i", "image": "x", "restartPolicy": "Always"}],
            "volumes": [
                {"name": "s", "secret": {"secretName": "x", "items": [{"key": "k", "path": "a/b", "mode": 0o400}]}},
                {
                    "name": "p",
                    "projected": {
                        "sources": [
                            {"secret": {"name": "x"}},
                            {"serviceAccountToken": {"path": "token"}},
                            {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                        ]
                    },
                },
                {"name": "e"},
            ],
        },
        env=[
            {"name": "odd name!", "value": "x"},
            {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "F", "valueFrom": {"fileKeyRef": {"volumeName": "e", "path": "env", "key": "K"}}},
        ],
        envFrom=[{"prefix": "P_", "secretRef": {"name": "x"}}],
        volumeMounts=[{"name": "s", "mountPath": "/s", "subPath": "a"}, {"name": "p", "mountPath": "/p"}],
        livenessProbe={"exec": {"command": ["true"]}},
    )
    assert _texts(pod) == []


@pytest.mark.parametrize(
    ("volume", "errors"),
    [
        ({"name": "v", "secret": {}}, ["spec.volumes[0].secret.secretName: Required value"]),
        ({"name": "v", "configMap": {}}, ["spec.volumes[0].configMap.name: Required value"]),
        (
            {"name": "v", "secret": {"secretName": "x", "defaultMode": 0o1000}},
            [
                "spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both "
                "inclusive"
            ],
        ),
        (
            {"name": "v", "secret": {"secretName": "x", "items": [{"mode": -1}]}},
            [
                "spec.volumes[0].secret.items[0].key: Required value",
                "spec.volumes[0].secret.items[0].path: Required value",
                "spec.volumes[0].secret.items[0].mode: Invalid value: -1: must be a number between 0 and 0777 (octal), both "
                "inclusive",
            ],
        ),
        (
            {"name": "v", "secret": {"secretName": "x", "items": [{"key": "k", "path": "/a"}]}},
            ['spec.volumes[0].secret.items[0].path: Invalid value: "/a": must be a relative path'],
        ),
        (
            {"name": "v", "secret": {"secretName": "x", "items": [{"key": "k", "path": "a/../b"}]}},
            ["spec.volumes[0].secret.items[0].path: Invalid value: \"a/../b\": must not contain '..'"],
        ),
        (
            {"name": "v", "secret": {"secretName": "x", "items": [{"key": "k", "path": "..a"}]}},
            ["spec.volumes[0].secret.items[0].path: Invalid value: \"..a\": must not start with '..'"],
        ),
        (
            {
                "name": "v",
                "secret": {"secretName": "x", "items": [{"key": "a", "path": "p"}, {"key": "b", "path": "p"}]},
            },
            [],
        ),
        (
            {"name": "v", "secret": {"secretName": "x"}, "configMap": {"name": "y"}},
            ["spec.volumes[0].configMap: Forbidden: may not specify more than 1 volume type"],
        ),
        ({"name": "", "emptyDir": {}}, ["spec.volumes[0].name: Required value"]),
        ({"name": "a.b", "emptyDir": {}}, ['spec.volumes[0].name: Invalid value: "a.b": must not contain dots']),
        ({"name": "A", "emptyDir": {}}, [f'spec.volumes[0].name: Invalid value: "A": {LABEL_TEXT}']),
        (
            {"name": "v", "downwardAPI": {"items": [{"path": "x", "fieldRef": {"fieldPath": "spec.nodeName"}}]}},
            [
                'spec.volumes[0].downwardAPI.fieldRef.fieldPath: Unsupported value: "spec.nodeName": supported values: '
                '"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"'
            ],
        ),
        (
            {"name": "v", "downwardAPI": {"items": [{"path": "x"}]}},
            ["spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required"],
        ),
        (
            {"name": "v", "downwardAPI": {"items": [{"path": "x", "resourceFieldRef": {"resource": "limits.cpu"}}]}},
            ["spec.volumes[0].downwardAPI.resourceFieldRef.containerName: Required value"],
        ),
        ({"name": "v", "hostPath": {}}, ["spec.volumes[0].hostPath.path: Required value"]),
        ({"name": "v", "csi": {}}, ["spec.volumes[0].csi.driver: Required value"]),
    ],
)
def test_volumes(volume: Obj, errors: list[str]) -> None:
    assert _texts(_with_volume(volume)) == errors


def test_volume_names_are_unique() -> None:
    pod = _with_volume({"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}})
    assert _texts(pod) == ['spec.volumes[1].name: Duplicate value: "v"']


def _projected(*sources: Obj) -> Obj:
    return _with_volume({"name": "v", "projected": {"sources": list(sources)}}, serviceAccountName="sa")


@pytest.mark.parametrize(
    ("sources", "errors"),
    [
        ([{}], []),
        ([{"secret": {}}], ["spec.volumes[0].projected.sources[0].secret.name: Required value"]),
        (
            [{"secret": {"name": "a"}, "configMap": {"name": "b"}}],
            ["spec.volumes[0].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source"],
        ),
        (
            [
                {"secret": {"name": "a", "items": [{"key": "k", "path": "p"}]}},
                {"configMap": {"name": "b", "items": [{"key": "k", "path": "p"}]}},
            ],
            ['spec.volumes[0].projected: Invalid value: "b": conflicting duplicate paths'],
        ),
        (
            [
                {"secret": {"name": "a", "items": [{"key": "k", "path": "p"}]}},
                {"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            ],
            ['spec.volumes[0].projected: Invalid value: "p": conflicting duplicate paths'],
        ),
        (
            [{"secret": {"name": "a", "items": [{"key": "k", "path": "p"}]}}, {"serviceAccountToken": {"path": "p"}}],
            [],
        ),
        (
            [{"serviceAccountToken": {"path": "t", "expirationSeconds": 599}}],
            [
                "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 599: may not "
                "specify a duration less than 10 minutes"
            ],
        ),
        (
            [{"serviceAccountToken": {"path": "t", "expirationSeconds": 2**32 + 1}}],
            [
                "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 4294967297: may "
                "not specify a duration larger than 2^32 seconds"
            ],
        ),
        ([{"serviceAccountToken": {}}], ["spec.volumes[0].projected.path: Required value"]),
        (
            [{"clusterTrustBundle": {"path": "x"}}],
            [
                "spec.volumes[0].projected.sources[0].clusterTrustBundle: Required value: either name or signerName must be "
                "specified"
            ],
        ),
    ],
)
def test_projections(sources: list[Obj], errors: list[str]) -> None:
    assert _texts(_projected(*sources)) == errors


def test_a_token_needs_an_account() -> None:
    pod = _with_volume({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}})
    assert _texts(pod) == [
        "spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when "
        "serviceAccountName is not set"
    ]


ENV = "spec.containers[0].env[0]"


@pytest.mark.parametrize(
    ("variable", "errors"),
    [
        ({"value": "x"}, [f"{ENV}.name: Required value"]),
        (
            {"name": "a=b"},
            [
                f'{ENV}.name: Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII '
                "characters other than '='"
            ],
        ),
        (
            {"name": "A", "valueFrom": {}},
            [
                f'{ENV}.valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, '
                "`secretKeyRef` or `fileKeyRef`"
            ],
        ),
        (
            {"name": "A", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            [f'{ENV}.valueFrom: Invalid value: "": may not be specified when `value` is not empty'],
        ),
        (
            {
                "name": "A",
                "valueFrom": {
                    "secretKeyRef": {"name": "s", "key": "k"},
                    "fieldRef": {"fieldPath": "metadata.name"},
                },
            },
            [f'{ENV}.valueFrom: Invalid value: "": may not have more than one field specified at a time'],
        ),
        (
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}},
            [f"{ENV}.valueFrom.secretKeyRef.key: Required value"],
        ),
        (
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "s", "key": ".."}}},
            [f"{ENV}.valueFrom.configMapKeyRef.key: Invalid value: \"..\": must not be '..'"],
        ),
        (
            {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}},
            [
                f'{ENV}.valueFrom.fieldRef.fieldPath: Unsupported value: "metadata.labels": supported values: "metadata.name", '
                '"metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", '
                '"status.hostIPs", "status.podIP", "status.podIPs"'
            ],
        ),
        (
            {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.whatever"}}},
            [
                f'{ENV}.valueFrom.fieldRef.fieldPath: Invalid value: "metadata.whatever": error converting fieldPath: field '
                "label not supported: metadata.whatever"
            ],
        ),
        (
            {"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.disk"}}},
            [
                f'{ENV}.valueFrom.resourceFieldRef.resource: Unsupported value: "limits.disk": supported values: "limits.cpu", '
                '"limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", '
                '"requests.memory"'
            ],
        ),
        (
            {"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}},
            [
                f'{ENV}.valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor\'s values 1m and 1 are '
                "supported with the cpu resource"
            ],
        ),
        (
            {"name": "A", "valueFrom": {"fileKeyRef": {"path": "../x", "key": "K"}}},
            [
                f"{ENV}.valueFrom.fileKeyRef.volumeName: Required value",
                f"{ENV}.valueFrom.fileKeyRef.path: Invalid value: \"../x\": must not contain '..'",
            ],
        ),
    ],
)
def test_env(variable: Obj, errors: list[str]) -> None:
    assert _texts(_pod(env=[variable])) == errors


@pytest.mark.parametrize(
    ("volume", "errors"),
    [
        ({"name": "e", "emptyDir": {}}, []),
        ({"name": "x", "emptyDir": {}}, [f'{ENV}.valueFrom.fileKeyRef.volumeName: Not found: "e"']),
        (
            {"name": "e", "configMap": {"name": "c"}},
            [f'{ENV}.valueFrom.fileKeyRef.volumeName: Invalid value: "e": referenced volume must be of type emptyDir'],
        ),
    ],
)
def test_env_files_are_in_empty_dirs(volume: Obj, errors: list[str]) -> None:
    """§6.2"""
    variable = {"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "e", "path": "x", "key": "K"}}}
    assert _texts(_pod({"volumes": [volume]}, env=[variable])) == errors


def test_duplicate_variables_are_allowed() -> None:
    assert _texts(_pod(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}])) == []


@pytest.mark.parametrize(
    ("source", "errors"),
    [
        ({}, ['spec.containers[0].envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`']),
        (
            {"configMapRef": {"name": "a"}, "secretRef": {"name": "b"}},
            ['spec.containers[0].envFrom: Invalid value: "": may not have more than one field specified at a time'],
        ),
        ({"secretRef": {}}, ["spec.containers[0].envFrom[0].secretRef.name: Required value"]),
    ],
)
def test_env_from(source: Obj, errors: list[str]) -> None:
    assert _texts(_pod(envFrom=[source])) == errors


MOUNT = "spec.containers[0].volumeMounts"


@pytest.mark.parametrize(
    ("mounts", "errors"),
    [
        ([{"name": "x", "mountPath": "/x"}], [f'{MOUNT}[0].name: Not found: "x"']),
        ([{"name": "v"}], [f"{MOUNT}[0].mountPath: Required value"]),
        (
            [{"name": "v", "mountPath": "/x"}, {"name": "v", "mountPath": "/x"}],
            [f'{MOUNT}[1].mountPath: Invalid value: "/x": must be unique'],
        ),
        (
            [{"name": "v", "mountPath": "/x", "subPath": "/a"}],
            [f'{MOUNT}.subPath: Invalid value: "/a": must be a relative path'],
        ),
        (
            [{"name": "v", "mountPath": "/x", "subPathExpr": "../$(A)"}],
            [f"{MOUNT}.subPathExpr: Invalid value: \"../$(A)\": must not contain '..'"],
        ),
        ([{"name": "v", "mountPath": "/x", "subPath": "..a"}], []),
        (
            [{"name": "v", "mountPath": "/x", "subPath": "a", "subPathExpr": "b"}],
            [f'{MOUNT}[0].subPathExpr: Invalid value: "b": subPathExpr and subPath are mutually exclusive'],
        ),
        (
            [{"name": "v", "mountPath": "/x", "mountPropagation": "Bidirectional"}],
            [
                f"{MOUNT}.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged "
                "containers"
            ],
        ),
        (
            [{"name": "v", "mountPath": "/x", "recursiveReadOnly": "Enabled"}],
            [f"{MOUNT}.recursiveReadOnly: Forbidden: may only be specified when readOnly is true"],
        ),
        (
            [
                {
                    "name": "v",
                    "mountPath": "/x",
                    "recursiveReadOnly": "IfPossible",
                    "readOnly": True,
                    "mountPropagation": "HostToContainer",
                }
            ],
            [
                f"{MOUNT}.recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not specified"
            ],
        ),
    ],
)
def test_mounts(mounts: list[Obj], errors: list[str]) -> None:
    pod = _pod({"volumes": [{"name": "v", "emptyDir": {}}]}, volumeMounts=mounts)
    assert _texts(pod) == errors


@pytest.mark.parametrize(
    ("container", "errors"),
    [
        ({"image": ""}, ["spec.containers[0].image: Required value"]),
        ({"name": ""}, ["spec.containers[0].name: Required value"]),
        (
            {"image": " x"},
            ['spec.containers[0].image: Invalid value: " x": must not have leading or trailing whitespace'],
        ),
        (
            {"imagePullPolicy": "Sometimes"},
            [
                'spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", '
                '"IfNotPresent", "Never"'
            ],
        ),
        (
            {"restartPolicy": "Sometimes"},
            [
                'spec.containers[0].restartPolicy: Unsupported value: "Sometimes": '
                'supported values: "Always", "Never", "OnFailure"'
            ],
        ),
        (
            {"restartPolicyRules": [{"action": "Explode"}, {"action": "Restart", "exitCodes": {"operator": "Near"}}]},
            [
                "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
                'spec.containers[0].restartPolicyRules[0].action: Unsupported value: "Explode": supported values: "Restart"',
                "spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
                'spec.containers[0].restartPolicyRules[1].exitCodes.operator: Unsupported value: "Near": '
                'supported values: "In", "NotIn"',
            ],
        ),
        ({"livenessProbe": {}}, ["spec.containers[0].livenessProbe: Required value: must specify a handler type"]),
        (
            {"livenessProbe": {"exec": {"command": ["x"]}, "successThreshold": 2}},
            ["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (
            {"readinessProbe": {"httpGet": {"port": 0}}},
            [
                "spec.containers[0].readinessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive"
            ],
        ),
        (
            {"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}},
            [
                "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than "
                "terminationGracePeriodSeconds (30)"
            ],
        ),
        (
            {"ports": [{"containerPort": 80, "hostPort": 8}, {"containerPort": 81, "hostPort": 8}]},
            ['spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//8"'],
        ),
        (
            {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
            [
                'spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1',
            ],
        ),
        (
            {"securityContext": {"runAsUser": -1}},
            [
                "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"
            ],
        ),
        (
            {"securityContext": {"privileged": True, "allowPrivilegeEscalation": False}},
            [
                "spec.containers[0].securityContext: Invalid value: "
                '{"privileged":true,"allowPrivilegeEscalation":false}: cannot set `allowPrivilegeEscalation` to false and '
                "`privileged` to true"
            ],
        ),
    ],
)
def test_containers(container: Obj, errors: list[str]) -> None:
    assert _texts(_pod(**container)) == errors


@pytest.mark.parametrize(
    ("spec", "errors"),
    [
        ({"containers": []}, ["spec.containers: Required value"]),
        (
            {"restartPolicy": "Sometimes"},
            ['spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"'],
        ),
        (
            {"initContainers": [{"name": "c", "image": "x"}]},
            ['spec.initContainers[0].name: Duplicate value: "c"'],
        ),
        (
            {"initContainers": [{"name": "i", "image": "x", "readinessProbe": {"exec": {"command": ["x"]}}}]},
            [
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without "
                "restartPolicy=Always"
            ],
        ),
        (
            {"ephemeralContainers": [{"name": "d", "image": "x", "targetContainerName": "none"}]},
            [
                'spec.ephemeralContainers[0].targetContainerName: Not found: "none"',
                "spec.ephemeralContainers: Forbidden: cannot be set on create",
            ],
        ),
        (
            {"activeDeadlineSeconds": 0},
            ["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        ),
        ({"hostname": "a.b"}, ['spec.hostname: Invalid value: "a.b": must not contain dots']),
        (
            {"tolerations": [{"operator": "Equal"}]},
            [
                'spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which '
                'means "match all values and all keys"'
            ],
        ),
        ({"dnsPolicy": "None"}, ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]),
        (
            {"hostAliases": [{"ip": "nowhere"}]},
            [
                'spec.hostAliases[0].ip: Invalid value: "nowhere": must be a valid IP address, (e.g. 10.9.8.7 or '
                "2001:db8::ffff)"
            ],
        ),
        (
            {
                "securityContext": {
                    "sysctls": [{"name": "foo-"}, {"name": "kernel.shmmax"}, {"name": "net/ipv4/x"}, {"name": "bar.."}]
                }
            },
            [
                f'spec.securityContext.sysctls[{index}].name: Invalid value: "{name}": must have at most 253 characters and '
                r"match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
                for index, name in ((0, "foo-"), (3, "bar.."))
            ],
        ),
        (
            {
                "hostNetwork": True,
                "securityContext": {"sysctls": [{"name": "net.a"}, {"name": ""}, {"name": "b"}, {"name": "b"}]},
            },
            [
                'spec.securityContext.sysctls[0].name: Invalid value: "net.a": may not be specified when '
                "'hostNetwork' is true",
                "spec.securityContext.sysctls[1].name: Required value",
                'spec.securityContext.sysctls[3].name: Duplicate value: "b"',
            ],
        ),
        (
            {"hostIPC": True, "securityContext": sysctls("kernel.shm_rmid_forced")},
            [
                'spec.securityContext.sysctls[0].name: Invalid value: "kernel.shm_rmid_forced": may not be specified when '
                "'hostIPC' is true"
            ],
        ),
        (
            {"securityContext": {"fsGroupChangePolicy": "Never"}},
            [
                'spec.securityContext.fsGroupChangePolicy: Unsupported value: "Never": supported values: "Always", '
                '"OnRootMismatch"'
            ],
        ),
    ],
)
def test_spec(spec: Obj, errors: list[str]) -> None:
    assert _texts(_pod(spec)) == errors


def test_a_mirror_pod_has_a_node() -> None:
    metadata = {"annotations": {"kubernetes.io/config.mirror": "h"}}
    assert _texts(_pod(metadata=metadata)) == [
        'metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "h": must set spec.nodeName if mirror pod '
        "annotation is set"
    ]


# --- updates -------------------------------------------------------------------------------------------------------


def test_what_an_update_may_change() -> None:
    old = _pod({"tolerations": [{"key": "a", "operator": "Exists"}]})
    new = copy.deepcopy(old)
    new["spec"]["containers"][0]["image"] = "other:2"
    new["spec"]["activeDeadlineSeconds"] = 5
    new["spec"]["tolerations"].append({"key": "b", "operator": "Exists"})
    new["metadata"]["labels"] = {"x": "y"}
    assert _texts(new, old) == []


def test_what_an_update_may_not_change_is_named_and_not_shown() -> None:
    old = _pod(env=[{"name": "PASSWORD", "value": "canary-1"}])
    new = _pod(env=[{"name": "PASSWORD", "value": "canary-2"}])
    new["spec"]["hostname"] = "h"
    (text,) = _texts(new, old)
    assert text.startswith("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,")
    assert text.endswith("changed: spec.containers, spec.hostname")
    assert "canary" not in text


@pytest.mark.parametrize(
    ("before", "after", "errors"),
    [
        (
            {},
            {"containers": [{"name": "c", "image": "a"}, {"name": "d", "image": "b"}]},
            ["spec.containers: Forbidden: pod updates may not add or remove containers"],
        ),
        (
            {"activeDeadlineSeconds": 5},
            {"activeDeadlineSeconds": 6},
            ["spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"],
        ),
        (
            {"activeDeadlineSeconds": 5},
            {},
            ["spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"],
        ),
        (
            {"tolerations": [{"key": "a", "operator": "Exists"}]},
            {"tolerations": []},
            ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"],
        ),
        ({"terminationGracePeriodSeconds": -1}, {"terminationGracePeriodSeconds": 1}, []),
    ],
)
def test_updates_of_the_spec(before: Obj, after: Obj, errors: list[str]) -> None:
    assert _texts(_pod(after), _pod(before)) == errors


def test_a_mirror_annotation_stays() -> None:
    old = _pod({"nodeName": "n"}, {"annotations": {"kubernetes.io/config.mirror": "h"}})
    assert _texts(_pod({"nodeName": "n"}), old) == [
        "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not remove or update mirror pod annotation"
    ]


def _status(*, ended: bool, code: int = 0, restart: str = "Never") -> Obj:
    state = {"terminated": {"exitCode": code}} if ended else {"running": {}}
    return {**_pod({"restartPolicy": restart}), "status": {"containerStatuses": [{"name": "c", "state": state}]}}


@pytest.mark.parametrize(
    ("restart", "code", "is_error"),
    [("Never", 1, True), ("OnFailure", 1, False), ("OnFailure", 0, True), ("Always", 0, False)],
)
def test_an_ended_container_stays_ended(restart: str, code: int, is_error: bool) -> None:
    old, new = _status(ended=True, code=code, restart=restart), _status(ended=False, restart=restart)
    text = "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
    assert _texts(new, old, "status") == ([text] if is_error else [])


ONE_EACH = "may specify no more than one IP for each IP family"
NO_IP = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


@pytest.mark.parametrize(
    ("status", "errors"),
    [
        (
            {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "hostIP": "10.1.0.1", "hostIPs": [{"ip": "10.1.0.1"}]},
            [],
        ),
        ({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "x"}]}, [f'status.podIPs[1]: Invalid value: "x": {NO_IP}']),
        (
            {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]},
            [f'status.podIPs: Invalid value: [{{"ip":"10.0.0.1"}},{{"ip":"10.0.0.2"}}]: {ONE_EACH}'],
        ),
        (
            {"hostIP": "10.1.0.1", "hostIPs": [{"ip": "10.1.0.2"}]},
            ['status.hostIPs[0].ip: Invalid value: "10.1.0.2": must be equal to `hostIP`'],
        ),
        (
            {"nominatedNodeName": "n_1"},
            [f'status.nominatedNodeName: Invalid value: "n_1": {dns1123_subdomain_errors("n_1")[0]}'],
        ),
    ],
)
def test_status_has_addresses_that_are_some(status: Obj, errors: list[str]) -> None:
    """As a kube-apiserver 1.20.2 answers a node, hostIPs aside."""
    assert _texts({**_pod({}), "status": status}, _pod({}), "status") == errors


def test_status_does_not_move_a_pod_nor_change_its_class() -> None:
    old = {**_pod({"nodeName": "a"}), "status": {"qosClass": "BestEffort"}}
    new = {**_pod({"nodeName": "b"}), "status": {"qosClass": "Guaranteed"}}
    assert _texts(new, old, "status") == [
        "status.nodeName: Forbidden: may not be changed directly",
        'status.qosClass: Invalid value: "Guaranteed": field is immutable',
    ]


def test_ephemeral_containers_are_added_and_never_changed() -> None:
    old = _pod({"ephemeralContainers": [{"name": "d", "image": "x"}]})
    more = _pod({"ephemeralContainers": [{"name": "d", "image": "x"}, {"name": "e", "image": "x"}]})
    assert _texts(more, old, "ephemeralcontainers") == []
    (text,) = _texts(_pod(), old, "ephemeralcontainers")
    assert text == 'spec.ephemeralContainers: Forbidden: existing ephemeral containers "d" may not be removed\n'


def test_binding_is_not_asked_for_the_spec() -> None:
    assert _texts(_pod({"nodeName": "n"}), _pod(), "binding") == []

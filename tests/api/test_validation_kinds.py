from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.validation.objects import validate_object

Obj = dict[str, Any]
SELECTORS = "aggregationRule.clusterRoleSelectors"
NAME_PART = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
LABEL_VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end "
    "with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
NEW_EVENT: Obj = {
    "involvedObject": {"kind": "Pod", "namespace": "default"},
    "eventTime": "2026-01-01T00:00:00.000000Z",
    "reportingComponent": "kubernetes.io/kubelet",
    "reportingInstance": "n1",
    "action": "Starting",
    "reason": "Started",
}
RBAC = "rbac.authorization.k8s.io"


def _texts(kind: str, obj: Obj, old: Obj | None = None, *, namespaced: bool = True) -> list[str]:
    metadata = {"name": "x", **({"namespace": "default"} if namespaced else {}), **obj.get("metadata", {})}
    before = {"kind": kind, "metadata": metadata, **old} if old is not None else None
    return [str(error) for error in validate_object({"kind": kind, **obj, "metadata": metadata}, before)]


@pytest.mark.parametrize(
    ("kind", "obj", "errors"),
    [
        ("ServiceAccount", {}, []),
        ("Lease", {"spec": {"holderIdentity": "n", "leaseDurationSeconds": 40}}, []),
        (
            "Lease",
            {"spec": {"leaseDurationSeconds": 0}},
            ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
        ),
        ("Event", {"involvedObject": {"kind": "Pod", "namespace": "default"}}, []),
        ("Event", {"involvedObject": {"kind": "Node"}}, []),
        (
            "Event",
            {"involvedObject": {"kind": "Pod", "namespace": "other"}},
            ['involvedObject.namespace: Invalid value: "other": does not match event.namespace'],
        ),
        # One with a time is of the newer kind. These, word for word but for the first field's name, from kube-apiserver 1.20.2.
        (
            "Event",
            {**NEW_EVENT, "reportingComponent": "", "reportingInstance": "", "action": ""},
            [
                "reportingComponent: Required value",
                'reportingComponent: Invalid value: "": name part must be non-empty',
                f'reportingComponent: Invalid value: "": {NAME_PART}',
                "reportingInstance: Required value",
                "action: Required value",
            ],
        ),
        ("Event", NEW_EVENT, []),
        ("Event", {**NEW_EVENT, "metadata": {"namespace": "kube-system"}, "involvedObject": {"kind": "Node"}}, []),
        ("Event", {**NEW_EVENT, "reason": "R" * 129}, ['reason: Invalid value: "": can have at most 128 characters']),
        (
            "Event",
            {**NEW_EVENT, "message": "m" * 1025},
            ['message: Invalid value: "": can have at most 1024 characters'],
        ),
        (
            "Service",
            {"spec": {"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP", "targetPort": "http"}]}},
            [],
        ),
        ("Service", {"spec": {"type": "ClusterIP"}}, ["spec.ports: Required value"]),
        ("Service", {"spec": {"type": "ClusterIP", "clusterIP": "None"}}, []),
        (
            "Service",
            {
                "spec": {
                    "type": "ClusterIP",
                    "ports": [
                        {"port": 80, "protocol": "TCP", "name": "a"},
                        {"port": 80, "protocol": "TCP", "name": "b"},
                    ],
                }
            },
            ['spec.ports[1]: Duplicate value: {"protocol":"TCP","port":80}'],
        ),
        ("Role", {"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]}, []),
        (
            "Role",
            {"rules": [{"nonResourceURLs": ["/healthz"]}]},
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                'rules[0].nonResourceURLs: Invalid value: ["/healthz"]: namespaced rules cannot apply to non-resource URLs',
            ],
        ),
        (
            "RoleBinding",
            {
                "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "r"},
                "subjects": [{"kind": "ServiceAccount", "name": "s"}],
            },
            ["subjects[0].namespace: Required value"],
        ),
        (
            "RoleBinding",
            {"roleRef": {"apiGroup": RBAC, "kind": "Thing", "name": "r"}},
            ['roleRef.kind: Unsupported value: "Thing": supported values: "Role", "ClusterRole"'],
        ),
        ("Unheard", {"anything": 1}, []),
    ],
)
def test_namespaced_kinds(kind: str, obj: Obj, errors: list[str]) -> None:
    assert _texts(kind, obj) == errors


def test_address_of_a_node_comes_once() -> None:
    address = {"type": "InternalIP", "address": "10.0.0.1"}
    node = {"status": {"addresses": [address, address]}}
    (text,) = _texts("Node", node, {}, namespaced=False)
    assert text.startswith("status.addresses[1]: Duplicate value: ")


@pytest.mark.parametrize(
    ("kind", "obj", "errors"),
    [
        ("Namespace", {"spec": {"finalizers": ["kubernetes"]}}, []),
        ("Namespace", {"metadata": {"name": "a.b"}}, ['metadata.name: Invalid value: "a.b": must not contain dots']),
        ("Node", {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}, []),
        ("Node", {"spec": {"taints": [{"key": "a"}]}}, ["spec.taints[0].effect: Required value"]),
        ("Node", {"status": {"capacity": {"cpu": "2", "memory": "1Gi"}, "allocatable": {"cpu": "0"}}}, []),
        (
            "Node",
            {"status": {"capacity": {"cpu": "-1"}}},
            ['status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0'],
        ),
        (
            "ClusterRole",
            {"metadata": {"name": "system:node"}, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]},
            [],
        ),
        ("ClusterRole", {"metadata": {"name": "a/b"}}, ["metadata.name: Invalid value: \"a/b\": may not contain '/'"]),
        (
            "ClusterRole",
            {"aggregationRule": {}},
            [
                "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if "
                "aggregationRule is non-nil"
            ],
        ),
        (
            "ClusterRole",
            {
                "aggregationRule": {
                    "clusterRoleSelectors": [
                        {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]},
                        {"matchExpressions": [{"operator": "Near"}, {"key": "a", "operator": "In"}]},
                        {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["/"]}]},
                    ]
                }
            },
            [
                f'{SELECTORS}[1].matchExpressions[0].operator: Invalid value: "Near": not a valid selector operator',
                f'{SELECTORS}[1].matchExpressions[0].key: Invalid value: "": name part must be non-empty',
                f'{SELECTORS}[1].matchExpressions[0].key: Invalid value: "": {NAME_PART}',
                f"{SELECTORS}[1].matchExpressions[1].values: Required value: must be specified when `operator` is 'In' "
                "or 'NotIn'",
                f"{SELECTORS}[2].matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' "
                "or 'DoesNotExist'",
                f'{SELECTORS}[2].matchExpressions[0].values[0]: Invalid value: "/": {LABEL_VALUE}',
            ],
        ),
        (
            "ClusterRoleBinding",
            {"roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "r"}},
            ['roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"'],
        ),
    ],
)
def test_cluster_kinds(kind: str, obj: Obj, errors: list[str]) -> None:
    assert _texts(kind, obj, namespaced=False) == errors


def test_bindings_keep_their_role_and_services_their_address() -> None:
    old = {"roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "a"}}
    new = {"roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "b"}}
    (text,) = _texts("RoleBinding", new, old)
    assert text.endswith(": cannot change roleRef")
    ports = [{"port": 1, "protocol": "TCP"}]
    before = {"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "ports": ports}}
    after = {"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.2", "ports": ports}}
    assert _texts("Service", after, before) == ['spec.clusterIP: Invalid value: "10.0.0.2": field is immutable']


PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
BUNDLE = 'spec.trustBundle: Invalid value: "<value omitted>": '


@pytest.mark.parametrize(
    ("name", "spec", "errors"),
    [
        ("x", {"trustBundle": PEM}, []),
        ("example.com:signer:x", {"signerName": "example.com/signer", "trustBundle": PEM + PEM}, []),
        (
            "x",
            {"signerName": "example.com/signer", "trustBundle": PEM},
            [
                'metadata.name: Invalid value: "x": ClusterTrustBundle for signerName example.com/signer must be named '
                "with prefix example.com:signer:"
            ],
        ),
        (
            "a:b",
            {"trustBundle": PEM},
            [
                'metadata.name: Invalid value: "a:b": ClusterTrustBundle without signer name must not have ":" in its name'
            ],
        ),
        ("x", {}, [f"{BUNDLE}at least one trust anchor must be provided"]),
        (
            "x",
            {"trustBundle": PEM + PEM.replace("CERTIFICATE", "PRIVATE KEY")},
            [f"{BUNDLE}entry 1 has bad block type: PRIVATE KEY"],
        ),
        ("x", {"trustBundle": PEM * 20000}, ["spec.trustBundle: Too long: may not be more than 1048576 bytes"]),
    ],
)
def test_trust_bundles(name: str, spec: Obj, errors: list[str]) -> None:
    assert _texts("ClusterTrustBundle", {"metadata": {"name": name}, "spec": spec}, namespaced=False) == errors


def test_signer_of_a_trust_bundle_stays() -> None:
    new, old = {"trustBundle": PEM}, {"signerName": "a.b/c", "trustBundle": PEM}
    texts = _texts("ClusterTrustBundle", {"spec": new}, {"spec": old}, namespaced=False)
    assert texts == ['spec.signerName: Invalid value: "": field is immutable']


DRIVER = {"name": "csi.example.com", "nodeID": "n"}


@pytest.mark.parametrize(
    ("kind", "obj", "errors"),
    [
        ("RuntimeClass", {"handler": "runc"}, []),
        ("CSINode", {"spec": {"drivers": [DRIVER]}}, []),
        ("CSINode", {"spec": {"drivers": [{"name": "d"}]}}, ["spec.drivers[0].nodeID: Required value"]),
        (
            "CSINode",
            {"spec": {"drivers": [DRIVER, DRIVER]}},
            ['spec.drivers[1].name: Duplicate value: "csi.example.com"'],
        ),
        (
            "CSINode",
            {"spec": {"drivers": [DRIVER | {"nodeID": "n" * 257}]}},
            [f'spec.drivers[0].nodeID: Invalid value: "{"n" * 257}": must be no more than 256 characters'],
        ),
        ("CSIDriver", {"spec": {"fsGroupPolicy": "File", "volumeLifecycleModes": ["Ephemeral"]}}, []),
        (
            "CSIDriver",
            {"spec": {"fsGroupPolicy": "x"}},
            ['spec.fsGroupPolicy: Unsupported value: "x": supported values: "File", "None", "ReadWriteOnceWithFSType"'],
        ),
        (
            "CSIDriver",
            {"spec": {"fsGroupPolicy": "None", "tokenRequests": [{"audience": "a"}, {"audience": "a"}]}},
            ['spec.tokenRequests[1].audience: Duplicate value: "a"'],
        ),
    ],
)
def test_kinds_of_kubelets(kind: str, obj: Obj, errors: list[str]) -> None:
    assert _texts(kind, obj, namespaced=False) == errors


def test_handler_of_a_runtime_class_is_a_label_that_stays() -> None:
    (refused,) = _texts("RuntimeClass", {"handler": "A b"}, namespaced=False)
    assert refused.startswith('handler: Invalid value: "A b": a lowercase RFC 1123 label must consist of')
    changed = _texts("RuntimeClass", {"handler": "runsc"}, {"handler": "runc"}, namespaced=False)
    assert changed == ['handler: Invalid value: "runsc": field is immutable']

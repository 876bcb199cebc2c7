"""Source of the cases: pkg/api/pod/warnings_test.go."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import trustme

from kubelet_secrets.api.validation.warnings import warnings_for

Obj = dict[str, Any]


def _pod(**spec: Any) -> Obj:
    return {"kind": "Pod", "metadata": {"name": "p"}, "spec": spec}


def _env(*variables: Obj) -> Obj:
    return _pod(containers=[{"name": "c", "env": list(variables)}])


@pytest.mark.parametrize(
    ("pod", "warnings"),
    [
        (_pod(), []),
        (
            _env({"name": "A", "value": "1"}, {"name": "A", "value": "2"}),
            ['spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply'],
        ),
        (_env({"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}), []),
        (
            _env({"name": "A", "value": "1"}, {"name": "A", "value": "$(A)"}),
            ['spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply'],
        ),
        (
            _pod(imagePullSecrets=[{"name": "a"}, {"name": "a"}, {}]),
            [
                'spec.imagePullSecrets[1].name: duplicate name "a"',
                'spec.imagePullSecrets[2].name: invalid empty name ""',
            ],
        ),
        (_pod(hostAliases=[{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}]), ['spec.hostAliases[1].ip: duplicate ip "1.1.1.1"']),
        (
            _pod(terminationGracePeriodSeconds=-1),
            [
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            ],
        ),
        (
            _pod(volumes=[{"name": "v", "secret": {"secretName": "s", "items": [{"path": "a"}, {"path": "a/b"}]}}]),
            ['volume "v" (Secret "s"): overlapping paths: "a/b" with "a"'],
        ),
        (_pod(volumes=[{"name": "v", "configMap": {"name": "c", "items": [{"path": "a"}, {"path": "ab"}]}}]), []),
        (
            _pod(
                volumes=[
                    {
                        "name": "v",
                        "projected": {
                            "sources": [
                                {"secret": {"name": "s", "items": [{"path": "t"}]}},
                                {"serviceAccountToken": {"path": "t"}},
                                {},
                            ]
                        },
                    }
                ]
            ),
            [
                'volume "v" (Projected) has no sources provided',
                'volume "v" (Projected): overlapping paths: "t" (ServiceAccountToken) with "t" (Secret "s")',
            ],
        ),
    ],
)
def test_pods(pod: Obj, warnings: list[str]) -> None:
    assert warnings_for(pod) == warnings


def _tls(certificate: bytes, key: bytes) -> Obj:
    data = {"tls.crt": base64.b64encode(certificate).decode(), "tls.key": base64.b64encode(key).decode()}
    return {"kind": "Secret", "type": "kubernetes.io/tls", "data": data}


def test_a_key_that_does_not_fit_is_a_warning() -> None:
    authority = trustme.CA()
    one, two = authority.issue_cert("a.example"), authority.issue_cert("b.example")
    certificate, key = one.cert_chain_pems[0].bytes(), one.private_key_pem.bytes()
    assert warnings_for(_tls(certificate, key)) == []
    assert warnings_for(_tls(certificate, two.private_key_pem.bytes())) == [
        "tls: private key does not match public key"
    ]
    assert warnings_for(_tls(b"canary", key)) == ["tls: failed to find any PEM data in certificate input"]
    assert warnings_for(_tls(certificate, b"")) == ["tls: failed to find any PEM data in key input"]
    broken = b"-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n"
    assert warnings_for(_tls(certificate, broken)) == ["tls: failed to parse private key"]
    assert warnings_for({"kind": "Secret", "type": "Opaque", "data": {}}) == []
    assert warnings_for({"kind": "ConfigMap"}) == []

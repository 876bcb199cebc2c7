"""The bodies below are what kubectl 1.32 sends for ``kubectl create …``, recorded byte by byte."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from kubelet_secrets.apiserver import protobuf
from kubelet_secrets.apiserver.protobuf_form import encode_protobuf

SECRET = (
    "6b3873000a0c0a027631120653656372657412260a120a02646212001a0022002a00320038004200"
    "120e0a0870617373776f7264120270771a001a002200"
)
NAMESPACE = (
    "6b3873000a0f0a02763112094e616d657370616365121c0a140a047465616d12001a0022002a0032003800420012001a020a001a002200"
)
CONFIG_MAP = (
    "6b3873000a0f0a0276311209436f6e6669674d6170121c0a120a02636d12001a0022002a0032003800420012060a01611201621a002200"
)
ROLE_BINDING = (
    "6b3873000a2b0a1c726261632e617574686f72697a6174696f6e2e6b38732e696f2f7631120b526f6c6542696e64696e67125b0a120a0272"
    "6212001a0022002a00320038004200121f0a0e536572766963654163636f756e7412001a027361220764656661756c741a240a1972626163"
    "2e617574686f72697a6174696f6e2e6b38732e696f1204526f6c651a01721a002200"
)
TOKEN_REQUEST = (
    "6b3873000a280a1861757468656e7469636174696f6e2e6b38732e696f2f7631120c546f6b656e5265717565737412320a100a0012001a00"
    "22002a0032003800420012180a01611a100a03506f64120276311a01702202753120b0091a040a0012001a002200"
)
ACCESS_REVIEW = (
    "6b3873000a320a17617574686f72697a6174696f6e2e6b38732e696f2f7631121753656c665375626a656374416363657373526576696577"
    "123f0a100a0012001a0022002a0032003800420012210a1f0a0764656661756c7412036765741a0022002a077365637265747332003a001a"
    "08080012001a0020001a002200"
)
SERVICE = (
    "6b3873000a0d0a02763112075365727669636512690a1f0a0373766312001a0022002a003200380042005a0a0a0361707012037376631242"
    "0a1b0a0738302d38303830120354435018502207080010903f1a002800120a0a0361707012037376631a002209436c757374657249503a00"
    "420052005a00600068001a020a001a002200"
)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            SECRET,
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "data": {"password": "cHc="}},
        ),
        (
            CONFIG_MAP,
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "b"}},
        ),
        (
            NAMESPACE,
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}, "spec": {}, "status": {}},
        ),
        (
            ROLE_BINDING,
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": "rb"},
                "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "default"}],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
            },
        ),
        (
            TOKEN_REQUEST,
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "metadata": {},
                "spec": {
                    "audiences": ["a"],
                    "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u1"},
                    "expirationSeconds": 1200,
                },
                "status": {"token": ""},
            },
        ),
        (
            ACCESS_REVIEW,
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "metadata": {},
                "spec": {"resourceAttributes": {"namespace": "default", "verb": "get", "resource": "secrets"}},
                "status": {"allowed": False},
            },
        ),
    ],
    ids=["secret", "configmap", "namespace", "rolebinding", "token", "can-i"],
)
def test_what_kubectl_sends(body: str, expected: dict[str, Any]) -> None:
    assert protobuf.decode_protobuf(bytes.fromhex(body)) == expected


@pytest.mark.parametrize(
    "body",
    [SECRET, CONFIG_MAP, NAMESPACE, ROLE_BINDING, TOKEN_REQUEST, ACCESS_REVIEW, SERVICE],
    ids=["secret", "configmap", "namespace", "rolebinding", "token", "can-i", "service"],
)
def test_what_go_writes_is_written_byte_for_byte(body: str) -> None:
    """Zeros included, where Go has no pointer."""
    assert (encode_protobuf(protobuf.decode_protobuf(bytes.fromhex(body))) or b"").hex() == body


def test_int_or_string_in_a_service() -> None:
    service = protobuf.decode_protobuf(bytes.fromhex(SERVICE))
    assert service["spec"]["ports"] == [{"name": "80-8080", "protocol": "TCP", "port": 80, "targetPort": 8080}]
    assert service["spec"]["selector"] == {"app": "svc"}


def _encode(kind: str, message: Any, api_version: str = "v1") -> bytes:
    envelope = protobuf.message_class("k8s.io.apimachinery.pkg.runtime.Unknown")()
    envelope.typeMeta.apiVersion, envelope.typeMeta.kind = api_version, kind
    envelope.raw = message.SerializeToString()
    return protobuf.MAGIC + bytes(envelope.SerializeToString())


def _message(name: str) -> Any:
    return protobuf.message_class(name)()


def test_a_pod_with_embedded_structs_quantities_and_times() -> None:
    pod = _message("k8s.io.api.core.v1.Pod")
    pod.metadata.name = "p"
    pod.metadata.creationTimestamp.seconds = 1_767_225_600
    volume = pod.spec.volumes.add(name="v")
    volume.volumeSource.secret.secretName = "s"
    volume.volumeSource.secret.defaultMode = 0
    volume.volumeSource.secret.optional = False
    pod.spec.volumes.add(name="e").volumeSource.emptyDir.SetInParent()
    container = pod.spec.containers.add(name="c", image="busybox", stdin=False)
    container.resources.limits["memory"].string = "64Mi"
    container.env.add(name="A").valueFrom.secretKeyRef.localObjectReference.name = "s"
    container.env[0].valueFrom.secretKeyRef.key = "k"
    container.env.add(name="F").valueFrom.fileKeyRef.volumeName = "v"
    container.livenessProbe.handler.httpGet.port.type = 1
    container.livenessProbe.handler.httpGet.port.strVal = "http"
    pod.spec.hostNetwork = False
    pod.spec.enableServiceLinks = False
    assert protobuf.decode_protobuf(_encode("Pod", pod)) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "volumes": [
                {"name": "v", "secret": {"secretName": "s", "defaultMode": 0, "optional": False}},
                {"name": "e", "emptyDir": {}},
            ],
            "containers": [
                {
                    "name": "c",
                    "image": "busybox",
                    "resources": {"limits": {"memory": "64Mi"}},
                    "env": [
                        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                        {"name": "F", "valueFrom": {"fileKeyRef": {"volumeName": "v"}}},
                    ],
                    "livenessProbe": {"httpGet": {"port": "http"}},
                }
            ],
            "enableServiceLinks": False,
        },
    }


def test_lease_event_and_signing_request() -> None:
    lease = _message("k8s.io.api.coordination.v1.Lease")
    lease.spec.renewTime.seconds, lease.spec.renewTime.nanos = 1_767_225_600, 123_456_000
    plain = protobuf.decode_protobuf(_encode("Lease", lease, "coordination.k8s.io/v1"))
    assert plain["spec"] == {"renewTime": "2026-01-01T00:00:00.123456Z"}
    csr = _message("k8s.io.api.certificates.v1.CertificateSigningRequest")
    csr.spec.request = b"-----BEGIN"
    csr.spec.extra["scopes"].items.append("x")
    plain = protobuf.decode_protobuf(_encode("CertificateSigningRequest", csr, "certificates.k8s.io/v1"))
    assert plain["spec"] == {"request": base64.b64encode(b"-----BEGIN").decode(), "extra": {"scopes": ["x"]}}
    options = _message("k8s.io.apimachinery.pkg.apis.meta.v1.DeleteOptions")
    options.gracePeriodSeconds = 0
    options.preconditions.uid = "u"
    plain = protobuf.decode_protobuf(_encode("DeleteOptions", options))
    assert plain == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u"},
    }


def test_managed_fields_are_json_inside() -> None:
    secret = _message("k8s.io.api.core.v1.Secret")
    secret.metadata.managedFields.add(manager="x").fieldsV1.Raw = b'{"f:data":{}}'
    plain = protobuf.decode_protobuf(_encode("Secret", secret))
    assert plain["metadata"]["managedFields"] == [{"manager": "x", "fieldsV1": {"f:data": {}}}]


def test_what_a_kubelet_of_136_says_beyond_132() -> None:
    """Field numbers of k8s.io/api 0.36, put together by hand."""
    condition = b"\x0a\x05Ready" + b"\x38\x03"
    container = b"\x0a\x01c" + b"\x7a\x07SIGUSR1"
    status = (
        b"\x12" + bytes([len(condition)]) + condition + b"\x42" + bytes([len(container)]) + container + b"\x88\x01\x03"
    )
    envelope = protobuf.message_class("k8s.io.apimachinery.pkg.runtime.Unknown")()
    envelope.typeMeta.apiVersion, envelope.typeMeta.kind = "v1", "Pod"
    envelope.raw = b"\x1a" + bytes([len(status)]) + status
    plain = protobuf.decode_protobuf(protobuf.MAGIC + bytes(envelope.SerializeToString()))
    assert plain["status"]["observedGeneration"] == 3
    assert plain["status"]["conditions"] == [{"type": "Ready", "observedGeneration": 3}]
    assert plain["status"]["containerStatuses"] == [{"name": "c", "stopSignal": "SIGUSR1"}]


def test_unknown_fields_are_skipped() -> None:
    body = bytes.fromhex(SECRET)
    assert protobuf.decode_protobuf(body + b"\xf2\x07\x03abc")["kind"] == "Secret"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "provided data does not appear to be a protobuf message, expected prefix 6b 38 73 00"),
        (b"k8s\0\xff\xff", "the protobuf content is malformed"),
        (b"k8s\0", 'no kind "" is registered for version ""'),
    ],
)
def test_what_is_not_a_message(body: bytes, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        protobuf.decode_protobuf(body)
    assert str(caught.value) == message


def test_broken_content_does_not_show_itself() -> None:
    with pytest.raises(ValueError) as caught:
        protobuf.decode_protobuf(bytes.fromhex(SECRET).replace(b"password", b"\xff\xff\xff\xff\xff\xff\xff\xff"))
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("seconds", [2**63 - 1, -(2**63), 253_402_300_800])
def test_times_beyond_the_calendar_are_malformed(seconds: int) -> None:
    secret = _message("k8s.io.api.core.v1.Secret")
    secret.metadata.creationTimestamp.seconds = seconds
    with pytest.raises(ValueError, match="the protobuf content is malformed"):
        protobuf.decode_protobuf(_encode("Secret", secret))


@pytest.mark.parametrize("raw", [b"{canary", b'{"f:a":' * 100_000], ids=["broken", "endless"])
def test_managed_fields_that_are_no_json_are_malformed(raw: bytes) -> None:
    secret = _message("k8s.io.api.core.v1.Secret")
    secret.metadata.managedFields.add(manager="x").fieldsV1.Raw = raw
    with pytest.raises(ValueError) as caught:
        protobuf.decode_protobuf(_encode("Secret", secret))
    assert str(caught.value) == "the protobuf content is malformed"


@pytest.mark.parametrize("place", [b"namehere", b"keyishere", b"labelhere"])
def test_text_that_is_not_utf8_is_malformed(place: bytes) -> None:
    """It must not turn into the base64 of itself, as bytes do."""
    secret = _message("k8s.io.api.core.v1.Secret")
    secret.metadata.name = "namehere"
    secret.metadata.labels["l"] = "labelhere"
    secret.data["keyishere"] = b"v"
    body = _encode("Secret", secret)
    assert body.count(place) == 1
    with pytest.raises(ValueError, match="the protobuf content is malformed"):
        protobuf.decode_protobuf(body.replace(place, b"\xff" * len(place)))

"""Source: pkg/apis/certificates/validation/validation_test.go; pkg/apis/core/validation ValidateSignerName."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from kubelet_secrets.api.validation.objects import validate_object
from tests.apiserver.signing import csr, encoded_request

APPROVED = {"type": "Approved", "status": "True"}
DENIED = {"type": "Denied", "status": "True"}
FAILED = {"type": "Failed", "status": "True"}


def problems(obj: dict[str, Any], old: dict[str, Any] | None = None, subresource: str = "") -> list[str]:
    return [str(error) for error in validate_object(obj, old, subresource)]


def with_status(**status: Any) -> dict[str, Any]:
    return {**csr("x"), "status": status}


def test_ordinary_request_is_valid_under_any_name() -> None:
    assert problems(csr("node-csr-YJ_4XkpS3")) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"usages": []}, ["spec.usages: Required value"], id="no-usages"),
        pytest.param({"usages": ["client auth", "client auth"]}, ['spec.usages[1]: Duplicate value: "client auth"']),
        pytest.param({"signerName": ""}, ["spec.signerName: Required value"], id="no-signer"),
        pytest.param(
            {"signerName": "kubernetes.io/legacy-unknown"},
            [
                'spec.signerName: Invalid value: "kubernetes.io/legacy-unknown": the legacy signerName is not allowed via '
                "this API version"
            ],
            id="legacy-signer",
        ),
        pytest.param(
            {"signerName": "example"},
            [
                'spec.signerName: Invalid value: "example": must be a fully qualified domain and path of the form '
                "'example.com/signer-name'"
            ],
            id="signer-without-domain",
        ),
        pytest.param(
            {"signerName": "example/x"},
            [
                'spec.signerName: Invalid value: "example": should be a domain with at least two segments separated by dots'
            ],
            id="signer-of-one-label",
        ),
        pytest.param(
            {"expirationSeconds": 599},
            [
                "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)"
            ],
            id="too-short",
        ),
        pytest.param({"expirationSeconds": 600}, [], id="just-long-enough"),
    ],
)
def test_spec(fields: dict[str, Any], expected: list[str]) -> None:
    obj = csr("x")
    obj["spec"].update(fields)
    assert problems(obj) == expected


def test_usage_that_nobody_knows() -> None:
    (problem,) = problems(csr("x", usages=["client auth", "fishing"]))
    assert problem.startswith('spec.usages[1]: Unsupported value: "fishing": supported values: "any", "cert sign", ')


@pytest.mark.parametrize(
    "content", ["", "not base64", base64.b64encode(b"-----BEGIN CERTIFICATE-----\n").decode()], ids=str.__len__
)
def test_what_is_no_request(content: str) -> None:
    obj = csr("x")
    obj["spec"]["request"] = content
    (problem,) = problems(obj)
    assert problem.endswith(": PEM block type must be CERTIFICATE REQUEST")


def test_broken_and_forged_requests() -> None:
    pem = base64.b64decode(encoded_request())
    lines = pem.splitlines()
    broken = b"\n".join([lines[0], *lines[2:]])
    der = bytearray(base64.b64decode(b"".join(lines[1:-1])))
    place = der.index(b"system:node:n1")
    der[place : place + 14] = b"system:node:n2"  # the signature is over n1
    forged = b"\n".join([lines[0], base64.b64encode(bytes(der)), lines[-1]])
    for content in (broken, forged):
        obj = csr("x")
        obj["spec"]["request"] = base64.b64encode(content).decode()
        (problem,) = problems(obj)
        assert problem.startswith("spec.request: Invalid value: ")
        assert "x509: " in problem


def made_request(key: Any, extensions: list[x509.ExtensionType]) -> dict[str, Any]:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jane")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    pem = builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)
    return csr("x", request=base64.b64encode(pem).decode())


def test_keys_of_other_kinds() -> None:
    """What Go's verifier knows is taken, what it does not is refused in its words."""
    assert problems(made_request(ed25519.Ed25519PrivateKey.generate(), [])) == []
    assert problems(made_request(rsa.generate_private_key(65537, 2048), [])) == []
    (problem,) = problems(made_request(dsa.generate_private_key(2048), []))
    assert problem.endswith("x509: cannot verify signature: algorithm unimplemented")


def test_names_that_cannot_be_read_are_found_when_the_request_comes() -> None:
    """And not by whoever looks at it later."""
    garbled = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x03garb")
    (problem,) = problems(made_request(ec.generate_private_key(ec.SECP256R1()), [garbled]))
    assert problem.endswith("x509: malformed certificate request")


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([APPROVED, {"type": "Custom", "status": "False"}], []),
        ([{"status": "True"}], ["status.conditions[0].type: Required value"]),
        ([{"type": "Custom"}], ["status.conditions[0].status: Required value"]),
        (
            [{"type": "Approved", "status": "False"}],
            ['status.conditions[0].status: Unsupported value: "False": supported values: "True"'],
        ),
        (
            [APPROVED, DENIED],
            [
                'status.conditions[1].type: Invalid value: "Denied": Approved and Denied conditions are mutually exclusive'
            ],
        ),
        ([FAILED, FAILED], ['status.conditions[1].type: Duplicate value: "Failed"']),
    ],
)
def test_conditions(conditions: list[dict[str, str]], expected: list[str]) -> None:
    obj = with_status(conditions=conditions)
    assert problems(obj, copy.deepcopy(obj)) == expected


@pytest.mark.parametrize(
    ("old", "new", "subresource", "expected"),
    [
        pytest.param([], [APPROVED], "approval", [], id="approving"),
        pytest.param(
            [],
            [APPROVED],
            "status",
            ['status.conditions: Forbidden: updates may not add a condition of type "Approved"'],
            id="approving-by-status",
        ),
        pytest.param(
            [APPROVED],
            [],
            "approval",
            ['status.conditions: Forbidden: updates may not remove a condition of type "Approved"'],
            id="taking-approval-back",
        ),
        pytest.param(
            [APPROVED],
            [{**APPROVED, "reason": "Other"}],
            "status",
            ['status.conditions: Forbidden: updates may not modify a condition of type "Approved"'],
            id="rewriting-approval",
        ),
        pytest.param([APPROVED], [APPROVED, FAILED], "status", [], id="failing"),
    ],
)
def test_changes_of_conditions(old: list[Any], new: list[Any], subresource: str, expected: list[str]) -> None:
    assert problems(with_status(conditions=new), with_status(conditions=old), subresource) == expected


def test_certificate_is_set_once_and_through_status_only() -> None:
    one = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n").decode()
    forbidden = "status.certificate: Forbidden: "
    assert problems(with_status(certificate=one), with_status(certificate=one), "approval") == []
    assert problems(with_status(certificate=one), csr("x"), "approval")[-1] == (
        f"{forbidden}updates may not set certificate content"
    )
    assert problems(csr("x"), with_status(certificate=one), "status") == [
        f"{forbidden}updates may not modify existing certificate content"
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"x", "must contain at least one CERTIFICATE PEM block"),
        (
            b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n",
            'only CERTIFICATE PEM blocks are allowed, found "PRIVATE KEY"',
        ),
        (b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", "x509: malformed certificate"),
    ],
)
def test_what_is_no_certificate(content: bytes, text: str) -> None:
    found = problems(with_status(certificate=base64.b64encode(content).decode()), csr("x"), "status")
    assert found == [f'status.certificate: Invalid value: "<certificate data>": {text}']

"""What the tests of ``explain`` share: an explanation from YAML, and certificates."""

from __future__ import annotations

import base64
import textwrap
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kubelet_secrets.explain import ContainerView, Explanation, Problem, explain
from kubelet_secrets.manifests import parse_manifest

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def explain_yaml(text: str, *, namespace: str = "default") -> Explanation:
    manifests = parse_manifest(textwrap.dedent(text).encode(), source="f.yaml")
    return explain(manifests, now=NOW, namespace=namespace)


def only_container(explanation: Explanation) -> ContainerView:
    (pod,) = explanation.pods
    (container,) = pod.containers
    return container


def problems(explanation: Explanation, code: str) -> list[Problem]:
    return [problem for problem in explanation.all_problems() if problem.code == code]


def secret(name: str, *, extra: str = "", **data: str) -> str:
    lines = "".join(
        f"  {key.replace('__', '.')}: {base64.b64encode(value.encode()).decode()}\n" for key, value in data.items()
    )
    return f"---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\n{extra}data:\n{lines}\n"


def pod(container: str, *, volumes: str = "[]", spec: str = "") -> str:
    """A pod ``web`` with one container ``c`` and no token; *container*, *volumes* and *spec* are flow YAML."""
    return (
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n"
        f"  automountServiceAccountToken: false\n  containers: [{{name: c, image: i, {container}}}]\n"
        f"  volumes: {volumes}\n{textwrap.indent(spec, '  ')}\n"
    )


def make_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def make_certificate(key: ec.EllipticCurvePrivateKey, *, not_before: datetime, not_after: datetime) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM).decode()


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    private = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()).decode()


def days(number: float) -> datetime:
    return NOW + timedelta(days=number)

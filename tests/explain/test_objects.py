"""Problems of Secrets and ConfigMaps themselves: size, certificates, tokens."""

from __future__ import annotations

import base64
import textwrap
from datetime import datetime

import pytest

from kubelet_secrets.explain import Problem, Severity
from tests.explain.builders import days, explain_yaml, key_pem, make_certificate, make_key, problems, secret


def told(text: str) -> list[tuple[str, str]]:
    return [(problem.code, problem.message) for problem in explain_yaml(text).all_problems()]


@pytest.mark.parametrize(
    ("size", "codes"),
    [
        pytest.param(1000, [], id="small"),
        pytest.param(1048576, ["nearly-too-large"], id="exactly-1-MiB"),
        pytest.param(1048577, ["invalid"], id="one-byte-more"),
    ],
)
def test_size_limit(size: int, codes: list[str]) -> None:
    big = "x" * size
    config_map = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{k: {big}}}\n"
    for text in (secret("s", k=big), config_map):
        found = list(explain_yaml(text).all_problems())
        assert [problem.code for problem in found] == codes
        assert "x" * 100 not in repr(found)
        if "invalid" in codes:
            assert found[0].severity is Severity.BLOCKS
            assert found[0].message == "Too long: may not be more than 1048576 bytes"


def tls(certificate: str, key: str) -> str:
    return secret("web", extra="type: kubernetes.io/tls\n", tls__crt=certificate, tls__key=key)


@pytest.mark.parametrize(
    ("not_before", "not_after", "expected"),
    [
        pytest.param(days(-1), days(90), [], id="valid"),
        pytest.param(
            days(-9),
            days(-1),
            [("certificate-expired", "the certificate expired on 2026-11-22T12:00:00Z")],
            id="expired",
        ),
        pytest.param(
            days(-9),
            days(7.5),
            [("certificate-expires", "the certificate expires on 2026-12-01T00:00:00Z, in 7 days")],
            id="expires-soon",
        ),
        pytest.param(
            days(1),
            days(90),
            [("certificate-not-yet-valid", "the certificate is not valid before 2026-11-24T12:00:00Z")],
            id="not-yet",
        ),
    ],
)
def test_certificate_dates(not_before: datetime, not_after: datetime, expected: list[tuple[str, str]]) -> None:
    key = make_key()
    certificate = make_certificate(key, not_before=not_before, not_after=not_after)
    assert told(tls(certificate, key_pem(key))) == expected


def test_certificate_and_key_that_do_not_belong_together() -> None:
    certificate = make_certificate(make_key(), not_before=days(-1), not_after=days(90))
    assert told(tls(certificate, key_pem(make_key()))) == [
        ("certificate-key-mismatch", "tls: private key does not match public key")
    ]
    assert told(tls(certificate, "no key")) == [], "the API does not look at it either"
    assert told(tls("no certificate", "no key")) == [("certificate-unreadable", "not a PEM certificate")]


def config_map(key: str, text: str) -> str:
    return (
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata:\n  {key}: |\n{textwrap.indent(text, '    ')}\n"
    )


def test_certificates_are_found_wherever_a_value_is_one() -> None:
    """A client's in an Opaque Secret, an authority's beside the server's own or in a ConfigMap."""
    key = make_key()
    good = make_certificate(key, not_before=days(-1), not_after=days(90))
    bad = make_certificate(key, not_before=days(-9), not_after=days(-1))
    expected = [("certificate-expired", "the certificate expired on 2026-11-22T12:00:00Z")]
    assert told(secret("web", client__pem=bad)) == expected
    assert told(config_map("ca.crt", bad)) == expected
    assert told(tls(good, key_pem(key)) + f"  ca.crt: {base64.b64encode(bad.encode()).decode()}\n") == expected
    assert told(secret("web", notes="see below:\n" + bad)) == [], "only what sets out to be a certificate"
    assert told(secret("web", broken=bad.replace("M", "!"))) == [], "nobody said it had to be one"


def test_every_certificate_of_a_chain_counts() -> None:
    key = make_key()
    ends = {"good": 90, "soon": 3.0, "later": 9.0, "past": -1, "older": -2}
    made = {name: make_certificate(key, not_before=days(-9), not_after=days(end)) for name, end in ends.items()}
    assert told(tls(made["good"] + made["soon"], key_pem(key))) == [
        ("certificate-expires", "1 of 2 certificates expires on 2026-11-26T12:00:00Z, in 3 days")
    ]
    assert told(config_map("ca.crt", "".join(made.values()))) == [
        ("certificate-expired", "2 of 5 certificates have expired, the first on 2026-11-21T12:00:00Z"),
        ("certificate-expires", "2 of 5 certificates expire, the first on 2026-11-26T12:00:00Z, in 3 days"),
    ]


def token(expiration: str = "", **changes: str) -> str:
    data = {
        "token-id": "abcdef",
        "token-secret": "0123456789abcdef",
        "usage-bootstrap-authentication": "true",
        **({"expiration": expiration} if expiration else {}),
        **{key.replace("_", "-"): value for key, value in changes.items()},
    }
    lines = "\n".join(f"  {key}: '{value}'" for key, value in data.items())
    return (
        textwrap.dedent(
            """\
        apiVersion: v1
        kind: Secret
        metadata: {name: bootstrap-token-abcdef, namespace: kube-system}
        type: bootstrap.kubernetes.io/token
        stringData:
        """
        )
        + lines
    )


@pytest.mark.parametrize(
    ("expiration", "expected"),
    [
        pytest.param("", [], id="never"),
        pytest.param("2026-12-23T12:00:00Z", [], id="later"),
        pytest.param(
            "2026-11-23T11:59:59Z",
            [("bootstrap-token-expired", "the bootstrap token expired on 2026-11-23T11:59:59Z")],
            id="past",
        ),
        pytest.param(
            "2026-11-23T12:00:00Z",
            [("bootstrap-token-expired", "the bootstrap token expired on 2026-11-23T12:00:00Z")],
            id="now",
        ),
        pytest.param(
            "2026-11-23T13:30:00+01:00",
            [("bootstrap-token-expires", "the bootstrap token expires on 2026-11-23T12:30:00Z")],
            id="soon",
        ),
        pytest.param(
            "tomorrow",
            [("bootstrap-token-expired", "the expiration is not an RFC 3339 time; the token counts as expired")],
            id="no-date",
        ),
    ],
)
def test_bootstrap_token_dates(expiration: str, expected: list[tuple[str, str]]) -> None:
    assert told(token(expiration)) == expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param(token(token_id="uvwxyz"), "has invalid value for key token-id", id="id"),
        pytest.param(token(token_secret="short"), "has invalid value for key token-secret", id="secret"),
        pytest.param(
            token(usage_bootstrap_authentication="yes"), "is not marked usage-bootstrap-authentication=true", id="usage"
        ),
        pytest.param(token(auth_extra_groups="foo"), "has invalid value for key auth-extra-groups", id="groups"),
        pytest.param(token().replace("kube-system", "default"), "is not in namespace kube-system", id="namespace"),
    ],
)
def test_bootstrap_token_that_admits_nobody(text: str, fault: str) -> None:
    assert told(text) == [("bootstrap-token-invalid", f"nobody can join with this token: it {fault}")]


def test_immutable_object_is_noted() -> None:
    found: list[Problem] = problems(explain_yaml(secret("s", extra="immutable: true\n", k="v")), "immutable")
    assert [problem.severity for problem in found] == [Severity.NOTE]

"""ClusterTrustBundles: selection and normal form.

Source: pkg/kubelet/clustertrustbundle/clustertrustbundle_manager_test.go; semantics §4.1.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest

from kubelet_secrets.errors import SetUpError
from kubelet_secrets.volume.trustbundles import TrustBundle, TrustBundles


def pem(der: bytes, *, comment: str = "") -> str:
    body = base64.b64encode(der).decode()
    return f"{comment}-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"


ANCHOR_A, ANCHOR_B = pem(b"a" * 10), pem(b"b" * 10)
SIGNER = "example.com/s"
BUNDLES = TrustBundles(
    [
        TrustBundle(name="plain", trust_bundle=ANCHOR_A + pem(b"a" * 10, comment="# twice\n") + ANCHOR_B),
        TrustBundle(name="one", signer_name=SIGNER, labels={"l": "1"}, trust_bundle=ANCHOR_A),
        TrustBundle(name="two", signer_name=SIGNER, labels={"l": "2"}, trust_bundle=ANCHOR_A + ANCHOR_B),
        TrustBundle(name="foreign", signer_name="other", labels={"l": "1"}, trust_bundle=ANCHOR_B),
        TrustBundle(name="junk", trust_bundle="no certificate here"),
    ]
)


def anchors(text: bytes) -> set[str]:
    return {part + "-----END CERTIFICATE-----\n" for part in text.decode().split("-----END CERTIFICATE-----\n") if part}


def test_by_name_is_normalized_and_each_certificate_is_there_once() -> None:
    found = BUNDLES.by_name("plain", optional=False)
    assert anchors(found) == {ANCHOR_A, ANCHOR_B}
    assert found.count(b"BEGIN") == 2
    assert BUNDLES.by_name("junk", optional=False) == b""


def test_long_certificates_are_folded_at_64_characters() -> None:
    bundle = TrustBundles([TrustBundle(name="b", trust_bundle=pem(b"x" * 100))])
    lines = bundle.by_name("b", optional=False).decode().splitlines()
    assert [len(line) for line in lines[1:-1]] == [64, 64, 8]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        pytest.param({}, {ANCHOR_A, ANCHOR_B}, id="empty-matches-everything"),
        pytest.param({"matchLabels": {"l": "1"}}, {ANCHOR_A}, id="label"),
        pytest.param(
            {"matchExpressions": [{"key": "l", "operator": "In", "values": ["2", "3"]}]}, {ANCHOR_A, ANCHOR_B}, id="in"
        ),
        pytest.param(
            {"matchExpressions": [{"key": "l", "operator": "NotIn", "values": ["2"]}]}, {ANCHOR_A}, id="not-in"
        ),
        pytest.param({"matchExpressions": [{"key": "l", "operator": "Exists"}]}, {ANCHOR_A, ANCHOR_B}, id="exists"),
    ],
)
def test_by_signer(selector: dict[str, Any], expected: set[str]) -> None:
    assert anchors(BUNDLES.by_signer(SIGNER, selector, optional=False)) == expected


def test_missing_is_an_error_unless_optional() -> None:
    with pytest.raises(SetUpError) as caught:
        BUNDLES.by_name("none", optional=False)
    assert str(caught.value) == (
        'while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io "none" not found'
    )
    nothing = "combination of signerName and labelSelector matched zero ClusterTrustBundles"
    for selector in (
        None,
        {"matchLabels": {"l": "9"}},
        {"matchExpressions": [{"key": "l", "operator": "DoesNotExist"}]},
    ):
        with pytest.raises(SetUpError) as caught:
            BUNDLES.by_signer(SIGNER, selector, optional=False)
        assert str(caught.value) == nothing
        assert BUNDLES.by_signer(SIGNER, selector, optional=True) == b""
    assert BUNDLES.by_name("none", optional=True) == b""


def test_selector_is_bounded_and_checked() -> None:
    values = [f"v{number:06}" for number in range(15000)]
    expression = {"key": "l", "operator": "In", "values": values}
    with pytest.raises(SetUpError, match=r"label selector length \(\d+\) is larger than 102400"):
        BUNDLES.by_signer(SIGNER, {"matchExpressions": [expression]}, optional=False)
    with pytest.raises(SetUpError, match="while parsing label selector"):
        BUNDLES.by_signer(SIGNER, {"matchExpressions": [{"key": "l", "operator": "Near"}]}, optional=False)

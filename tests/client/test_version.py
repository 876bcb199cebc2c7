"""Versions of Kubernetes, as programs and servers tell them."""

from __future__ import annotations

import pytest

from kubelet_secrets.client.version import Version, parse_version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("v1.36.4", Version(1, 36)),
        ("Kubernetes v1.20.2\n", Version(1, 20)),
        ("v1.31.0-eks-a737599", Version(1, 31)),
        ("v1.9.0+icp", Version(1, 9)),
    ],
)
def test_version_is_found(text: str, version: Version) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "unknown flag: --version", "1.20", "dev1.20"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a version"):
        parse_version(text)


def test_versions_compare_by_number() -> None:
    assert Version(1, 9) < Version(1, 20) < Version(1, 36)
    assert str(Version(1, 9)) == "1.9"

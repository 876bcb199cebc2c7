"""ClusterTrustBundles → one PEM file of distinct certificates: what a ``clusterTrustBundle`` source shows.

Pure. The node keeps the objects and hands them in; without them (the default) the projection is switched off.

Source: pkg/kubelet/clustertrustbundle/clustertrustbundle_manager.go; semantics §4.1. Differs: upstream shuffles the
certificates once per kubelet start so that nobody relies on their order; here they come in the order of their digests, which
is as arbitrary, and the same after a restart.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubelet_secrets.api.core import ClusterTrustBundle
from kubelet_secrets.api.selectors import parse_label_selector
from kubelet_secrets.errors import SetUpError

MAX_SELECTOR_LENGTH = 100 * 1024

_PEM_BLOCK = re.compile(r"-----BEGIN ([^\n-]+)-----\s*\n([A-Za-z0-9+/=\s]*?)-----END \1-----")
_OPERATORS = {
    "In": "{key} in ({values})",
    "NotIn": "{key} notin ({values})",
    "Exists": "{key}",
    "DoesNotExist": "!{key}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """One ClusterTrustBundle, as far as it matters here."""

    name: str
    signer_name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    trust_bundle: str  # PEM


class TrustBundles:
    """A ``TrustBundleSource`` over the bundles that exist."""

    def __init__(self, bundles: Iterable[TrustBundle]) -> None:
        self._bundles = tuple(bundles)

    def by_name(self, name: str, *, optional: bool) -> bytes:
        """The certificates of one bundle.

        Raises:
            SetUpError: there is none of that name and *optional* is false.
        """
        for bundle in self._bundles:
            if bundle.name == name:
                return normalize([bundle])
        if optional:
            return b""
        raise SetUpError(f'while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io "{name}" not found')

    def by_signer(self, signer_name: str, label_selector: dict[str, Any] | None, *, optional: bool) -> bytes:
        """The certificates of every bundle of *signer_name* that the selector matches.

        Args:
            label_selector: a metav1.LabelSelector; None matches nothing, an empty one everything.

        Raises:
            SetUpError: the selector is invalid or too long, or nothing matched and *optional* is false.
        """
        text = selector_text(label_selector)
        if text is not None and len(text.encode()) > MAX_SELECTOR_LENGTH:
            raise SetUpError(f"label selector length ({len(text.encode())}) is larger than {MAX_SELECTOR_LENGTH}")
        found: list[TrustBundle] = []
        if text is not None:
            try:
                selector = parse_label_selector(text)
            except ValueError as error:
                raise SetUpError(f"while parsing label selector: {error}") from None
            found = [
                bundle
                for bundle in self._bundles
                if bundle.signer_name == signer_name and selector.matches(bundle.labels)
            ]
        if found or optional:
            return normalize(found)
        raise SetUpError("combination of signerName and labelSelector matched zero ClusterTrustBundles")


def make_trust_bundle(bundle: ClusterTrustBundle) -> TrustBundle:
    """What of the API's object matters here."""
    return TrustBundle(
        name=bundle.metadata.name,
        signer_name=bundle.spec.signer_name,
        labels=bundle.metadata.labels,
        trust_bundle=bundle.spec.trust_bundle,
    )


def normalize(bundles: Sequence[TrustBundle]) -> bytes:
    """The distinct certificates of *bundles* as PEM, without comments and headers."""
    certificates: set[bytes] = set()
    for bundle in bundles:
        for _, body in _PEM_BLOCK.findall(bundle.trust_bundle):
            try:
                certificates.add(base64.b64decode("".join(body.split()), validate=True))
            except binascii.Error:
                continue
    ordered = sorted(certificates, key=lambda der: hashlib.sha256(der).digest())
    return b"".join(_to_pem(der) for der in ordered)


def selector_text(label_selector: dict[str, Any] | None) -> str | None:
    """A metav1.LabelSelector in the form of ``-l``; None stands for "matches nothing".

    Raises:
        SetUpError: an unknown operator.

    Source: metav1.LabelSelectorAsSelector.
    """
    if label_selector is None:
        return None
    parts = [f"{key}={value}" for key, value in sorted((label_selector.get("matchLabels") or {}).items())]
    for expression in label_selector.get("matchExpressions") or ():
        form = _OPERATORS.get(str(expression.get("operator")))
        if form is None:
            raise SetUpError(
                f'while parsing label selector: "{expression.get("operator")}" is not a valid label selector operator'
            )
        parts.append(form.format(key=expression.get("key", ""), values=",".join(expression.get("values") or ())))
    return ",".join(parts)


def _to_pem(der: bytes) -> bytes:
    text = base64.b64encode(der).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""]).encode()

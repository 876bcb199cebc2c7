"""What is allowed and probably not meant: the texts an API server sends in ``Warning`` headers, and kubectl prints.

Pure. Called by the API server after the rules have passed, and by whoever explains manifests. Texts show no value.

Source: pkg/api/pod/warnings.go, warningsForPodSpecAndMeta and warningsForOverlappingVirtualPaths;
pkg/registry/core/secret/strategy.go, warningsForSecret. Not here: deprecated fields and labels.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.validation.fields import SPEC, Path

Obj = dict[str, Any]


def warnings_for(obj: Obj) -> list[str]:
    """The warnings for *obj*, defaulted and valid; none for kinds that have no such rules."""
    match obj.get("kind"):
        case "Secret":
            return list(_secret_warnings(obj))
        case "Pod":
            return list(_pod_warnings(obj.get("spec") or {}))
        case _:
            return []


# --- Secret --------------------------------------------------------------------------------------------------------


def _secret_warnings(secret: Obj) -> Iterator[str]:
    if secret.get("type") == "kubernetes.io/tls":
        data = secret.get("data") or {}
        problem = _key_pair_problem(_decode(data.get("tls.crt", "")), _decode(data.get("tls.key", "")))
        if problem:
            yield problem


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""


def _key_pair_problem(certificate_pem: bytes, key_pem: bytes) -> str:
    """Why the two are no pair, in the words of Go's ``tls.X509KeyPair``; empty when they are."""
    if b"-----BEGIN" not in certificate_pem:
        return "tls: failed to find any PEM data in certificate input"
    if b"-----BEGIN" not in key_pem:
        return "tls: failed to find any PEM data in key input"
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        public = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "x509: malformed certificate"
    try:
        private = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "tls: failed to parse private key"
    return "" if private.public_key() == public else "tls: private key does not match public key"


# --- Pod -----------------------------------------------------------------------------------------------------------


def _pod_warnings(spec: Obj) -> Iterator[str]:
    for volume in spec.get("volumes") or ():
        yield from _overlap_warnings(volume)
    yield from _duplicates(spec.get("hostAliases") or [], "ip", SPEC.child("hostAliases"))
    yield from _duplicates(spec.get("imagePullSecrets") or [], "name", SPEC.child("imagePullSecrets"))
    for index, reference in enumerate(spec.get("imagePullSecrets") or ()):
        if not reference.get("name"):
            yield f'{SPEC.child("imagePullSecrets").index(index).child("name").text}: invalid empty name ""'
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(spec.get(field) or ()):
            yield from _hidden_variables(container.get("env") or [], SPEC.child(field).index(index).child("env"))
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        path = SPEC.child("terminationGracePeriodSeconds").text
        yield f"{path}: must be >= 0; negative values are invalid and will be treated as 1"


def _duplicates(entries: list[Obj], field: str, path: Path) -> Iterator[str]:
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        value = entry.get(field, "")
        if value in seen:
            yield f"{path.index(index).child(field).text}: duplicate {field} {go_quote(value)}"
        seen.add(value)


def _hidden_variables(variables: list[Obj], path: Path) -> Iterator[str]:
    """A name set twice, unless the later value extends the earlier one."""
    seen: set[str] = set()
    for index, variable in enumerate(variables):
        name = variable.get("name", "")
        reference, value = f"$({name})", variable.get("value", "")
        extends = "valueFrom" not in variable and value != reference and reference in value
        if name in seen and not extends:
            hint = "which may be dropped when using apply"
            yield f"{path.index(index).text}: hides previous definition of {go_quote(name)}, {hint}"
        seen.add(name)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A path that a volume shows, and which source puts it there."""

    path: str
    source: str = ""

    def __str__(self) -> str:
        return f"{go_quote(self.path)} ({self.source})" if self.source else go_quote(self.path)

    def overlaps(self, other: _Placed) -> bool:
        return self.path == other.path or self._holds(other) or other._holds(self)

    def _holds(self, other: _Placed) -> bool:
        return other.path.startswith(self.path + "/")


def _overlap_warnings(volume: Obj) -> Iterator[str]:
    for field, kind, name_field in (("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")):
        if source := volume.get(field):
            yield from _overlaps(volume, f"{kind} {go_quote(source.get(name_field, ''))}", _items(source))
    if source := volume.get("downwardAPI"):
        yield from _overlaps(volume, "DownwardAPI", _items(source))
    if (projected := volume.get("projected")) is not None:
        sources = projected.get("sources") or ()
        for source in sources:
            if not source:
                yield f"volume {go_quote(volume.get('name', ''))} (Projected) has no sources provided"
        yield from _overlaps(volume, "Projected", [placed for source in sources for placed in _projected(source)])


def _overlaps(volume: Obj, description: str, placed: list[_Placed]) -> Iterator[str]:
    for index, later in enumerate(placed):
        for earlier in placed[:index]:
            if later.overlaps(earlier):
                name = go_quote(volume.get("name", ""))
                yield f"volume {name} ({description}): overlapping paths: {later} with {earlier}"


def _items(source: Obj, name: str = "") -> list[_Placed]:
    return [_Placed(item.get("path", "").rstrip("/"), name) for item in source.get("items") or ()]


def _projected(source: Obj) -> list[_Placed]:
    for field, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
        if (chosen := source.get(field)) is not None:
            return _items(chosen, f"{kind} {go_quote(chosen.get('name', ''))}")
    if source.get("downwardAPI") is not None:
        return _items(source["downwardAPI"], "DownwardAPI")
    for field, kind in (("serviceAccountToken", "ServiceAccountToken"), ("clusterTrustBundle", "ClusterTrustBundle")):
        if source.get(field) is not None:
            return [_Placed(source[field].get("path", "").rstrip("/"), kind)]
    return []

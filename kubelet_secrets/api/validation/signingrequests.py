"""CertificateSigningRequests: what may be asked for, and what approving and signing may change afterwards.

Pure, on plain dictionaries. ``cryptography`` is imported when a request is looked at: only the API server ever does.

Source: pkg/apis/certificates/validation/validation.go; pkg/apis/certificates/helpers.go (ParseCSR);
pkg/apis/core/validation (ValidateSignerName). Differs: the texts of broken ASN.1 are ours, Go's parser has its own.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import SPEC, STATUS, FieldError, Path
from kubelet_secrets.api.validation.metadata import validate_metadata, validate_metadata_update
from kubelet_secrets.api.validation.names import dns1123_label_errors, dns1123_subdomain_errors

if TYPE_CHECKING:
    from cryptography import x509

Obj = dict[str, Any]

LEGACY_SIGNER = "kubernetes.io/legacy-unknown"
MIN_EXPIRATION_S = 600
USAGES = (
    *("any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment"),
    *("decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel"),
    *("ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime"),
    *("server auth", "signing", "timestamping"),
)
_APPROVAL = ("Approved", "Denied")
_ONLY_TRUE = (*_APPROVAL, "Failed")
_DOMAIN_LENGTH, _PATH_LENGTH = 253, 253 + 63 + 1
_CONDITIONS, _CERTIFICATE = STATUS.child("conditions"), STATUS.child("certificate")


def validate_signing_request(request: Obj, old: Obj | None = None, subresource: str = "") -> list[FieldError]:
    """Check a request; with *old* as its next version by way of *subresource*.

    As upstream, what an older server has let in is no error of an update that does not make it worse.
    """
    metadata, spec, status = request.get("metadata") or {}, request.get("spec") or {}, request.get("status") or {}
    # "We don't care what you call your certificate requests": a path segment is all that a name has to be.
    errors = validate_metadata(metadata, lambda _name: [], is_namespaced=False)
    errors += _request_errors(spec)
    errors += _usage_errors(spec.get("usages") or [], ((old or {}).get("spec") or {}).get("usages") or [])
    errors += _signer_errors(SPEC.child("signerName"), spec.get("signerName") or "")
    duration_s = spec.get("expirationSeconds")
    if duration_s is not None and duration_s < MIN_EXPIRATION_S:
        text = "may not specify a duration less than 600 seconds (10 minutes)"
        errors.append(fields.invalid(SPEC.child("expirationSeconds"), duration_s, text))
    errors += _condition_errors(status.get("conditions") or [])
    old_status = (old or {}).get("status") or {}
    certificate = status.get("certificate") or ""
    if certificate != (old_status.get("certificate") or "") and (text := _certificate_error(certificate)):
        errors.append(fields.invalid(_CERTIFICATE, "<certificate data>", text))
    if old is not None:
        errors += _update_errors(status, old_status, subresource)
        errors += validate_metadata_update(metadata, old.get("metadata") or {})
    return errors


def parse_request(encoded: str) -> x509.CertificateSigningRequest:
    """The PKCS #10 request in ``spec.request``.

    Args:
        encoded: base64 of PEM.

    Raises:
        ValueError: with upstream's text where it has one.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        pem = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        pem = b""
    if b"-----BEGIN CERTIFICATE REQUEST-----" not in pem:
        raise ValueError("PEM block type must be CERTIFICATE REQUEST")
    try:
        request = x509.load_pem_x509_csr(pem)
        # These are read lazily: whoever is handed a request may rely on them.
        _, _, key = request.subject, request.extensions, request.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise ValueError("x509: malformed certificate request") from None
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
        raise ValueError("x509: cannot verify signature: algorithm unimplemented")
    return request


def _request_errors(spec: Obj) -> list[FieldError]:
    from cryptography.exceptions import UnsupportedAlgorithm

    encoded = spec.get("request") or ""
    try:
        if not parse_request(encoded).is_signature_valid:
            raise ValueError("x509: the signature does not fit the key")
    except ValueError as error:
        return [fields.invalid(SPEC.child("request"), encoded, str(error))]
    except UnsupportedAlgorithm:
        text = "x509: cannot verify signature: algorithm unimplemented"
        return [fields.invalid(SPEC.child("request"), encoded, text)]
    return []


def _usage_errors(usages: list[str], old: list[str]) -> list[FieldError]:
    path = SPEC.child("usages")
    errors = [] if usages else [fields.required(path)]
    if set(old) <= set(USAGES):
        errors += [
            fields.not_supported(path.index(index), usage, USAGES)
            for index, usage in enumerate(usages)
            if usage not in USAGES
        ]
    if len(set(old)) == len(old):
        errors += [
            fields.duplicate(path.index(index), usage) for index, usage in enumerate(usages) if usage in usages[:index]
        ]
    return errors


def _signer_errors(path: Path, signer: str) -> list[FieldError]:
    if signer == LEGACY_SIGNER:
        return [fields.invalid(path, signer, "the legacy signerName is not allowed via this API version")]
    if not signer:
        return [fields.required(path)]
    segments = signer.split("/")
    if len(segments) != 2:
        text = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        return [fields.invalid(path, signer, text)]
    domain, name = segments
    errors = [fields.too_long(path, _DOMAIN_LENGTH)] if len(domain) > _DOMAIN_LENGTH else []
    labels = domain.split(".")
    for label in labels:
        if found := dns1123_label_errors(label):
            errors += [fields.invalid(path, domain, f"validating label {go_quote(label)}: {text}") for text in found]
            break
    if len(labels) < 2:
        text = "should be a domain with at least two segments separated by dots"
        errors.append(fields.invalid(path, domain, text))
    for label in name.split("."):
        if found := dns1123_subdomain_errors(label):
            errors += [fields.invalid(path, name, f"validating label {go_quote(label)}: {text}") for text in found]
            break
    if len(signer) > _DOMAIN_LENGTH + _PATH_LENGTH + 1:
        errors.append(fields.too_long(path, _DOMAIN_LENGTH + _PATH_LENGTH + 1))
    return errors


def _condition_errors(conditions: list[Obj]) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: list[str] = []
    for index, condition in enumerate(conditions):
        here = _CONDITIONS.index(index)
        kind = condition.get("type") or ""
        if not kind:
            errors.append(fields.required(here.child("type")))
        allowed = ("True",) if kind in _ONLY_TRUE else ("False", "True", "Unknown")
        errors += fields.unless_one_of(here.child("status"), condition.get("status") or "", allowed)
        if kind in _APPROVAL and any(other in seen for other in _APPROVAL if other != kind):
            text = "Approved and Denied conditions are mutually exclusive"
            errors.append(fields.invalid(here.child("type"), kind, text))
        if kind in seen:
            errors.append(fields.duplicate(here.child("type"), kind))
        seen.append(kind)
    return errors


def _certificate_error(encoded: str) -> str:
    """Why ``status.certificate`` is none; empty when it is one, or nothing at all."""
    from cryptography import x509

    if not encoded:
        return ""
    try:
        pem = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        pem = b""
    kinds = [line.split(b"-----")[1].removeprefix(b"BEGIN ") for line in pem.splitlines() if line.startswith(b"-----B")]
    if not kinds:
        return "must contain at least one CERTIFICATE PEM block"
    for kind in kinds:
        if kind != b"CERTIFICATE":
            return f"only CERTIFICATE PEM blocks are allowed, found {go_quote(kind.decode('utf-8', 'replace'))}"
    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError:
        return "x509: malformed certificate"
    return ""


def _update_errors(new: Obj, old: Obj, subresource: str) -> list[FieldError]:
    errors = []
    for kind in _ONLY_TRUE:
        if len(_of_type(new, kind)) < len(_of_type(old, kind)):
            text = f"updates may not remove a condition of type {go_quote(kind)}"
            errors.append(fields.forbidden(_CONDITIONS, text))
    if subresource != "approval":
        for kind in _APPROVAL:
            if len(_of_type(new, kind)) > len(_of_type(old, kind)):
                text = f"updates may not add a condition of type {go_quote(kind)}"
                errors.append(fields.forbidden(_CONDITIONS, text))
            elif len(_of_type(new, kind)) == len(_of_type(old, kind)) and _of_type(new, kind) != _of_type(old, kind):
                text = f"updates may not modify a condition of type {go_quote(kind)}"
                errors.append(fields.forbidden(_CONDITIONS, text))
    if (new.get("certificate") or "") != (old.get("certificate") or ""):
        if subresource != "status":
            errors.append(fields.forbidden(_CERTIFICATE, "updates may not set certificate content"))
        elif old.get("certificate"):
            errors.append(fields.forbidden(_CERTIFICATE, "updates may not modify existing certificate content"))
    return errors


def _of_type(status: Obj, kind: str) -> list[Obj]:
    return [entry for entry in status.get("conditions") or [] if entry.get("type") == kind]

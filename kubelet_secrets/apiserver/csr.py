"""CertificateSigningRequests as the server handles them: who asked, what the approval and the signature may touch, and which
requests are those of a kubelet.

Pure: dictionaries in, dictionaries changed or looked at. Called by ``strategy.py`` and the controllers ``csr_approving.py``,
``csr_signing.py`` and ``csr_cleaning.py``. The field rules are in ``api/validation/signingrequests.py``.

Source: pkg/registry/certificates/certificates/strategy.go; pkg/apis/certificates/helpers.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import NameOID

from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.apiserver.attributes import User
from kubelet_secrets.apiserver.codec import Object

CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING_SIGNER = "kubernetes.io/kubelet-serving"
NODE_PREFIX, NODES_GROUP = "system:node:", "system:nodes"
_APPROVAL = ("Approved", "Denied")
_CLIENT_USAGES = ("client auth", "digital signature", "key encipherment")
_SERVING_USAGES = ("digital signature", "key encipherment", "server auth")
_NEEDED_BY_RSA_ONLY = "key encipherment"


# --- strategy --------------------------------------------------------------------------------------------------------


def set_requester(request: Object, user: User) -> None:
    """Write down who asks, whatever the request says."""
    spec = request.setdefault("spec", {})
    for field in ("username", "uid", "groups", "extra"):
        spec.pop(field, None)
    spec["username"] = user.name
    if user.uid:
        spec["uid"] = user.uid
    spec["groups"] = list(user.groups)
    if user.extra:
        spec["extra"] = {key: list(values) for key, values in user.extra.items()}


def prepare_update(request: Object, old: Object, subresource: str, now: datetime) -> None:
    """Leave in a new version only what this write may change: labels and such, the approval, or the signature."""
    request["spec"] = old["spec"]
    old_status: Object = old.get("status") or {}
    if subresource == "approval":
        # Approving changes conditions and nothing else.
        given = (request.get("status") or {}).get("conditions")
        request["status"] = {key: value for key, value in old_status.items() if key != "conditions"}
        if given:
            request["status"]["conditions"] = given
        _add_times(request, old_status, now)
    elif subresource == "status":
        _keep_approval(request, old_status)
        _add_times(request, old_status, now)
    if not request.get("status"):
        request.pop("status", None)


def _keep_approval(request: Object, old_status: Object) -> None:
    """Signing does not touch approvals. One that was added or taken away is left to the rules, which refuse it."""
    new = (request.get("status") or {}).get("conditions") or []
    old = old_status.get("conditions") or []
    for kind in _APPROVAL:
        places = [index for index, entry in enumerate(new) if entry.get("type") == kind]
        kept = [entry for entry in old if entry.get("type") == kind]
        if len(places) == len(kept):
            for index, entry in zip(places, kept, strict=True):
                new[index] = entry


def _add_times(request: Object, old_status: Object, now: datetime) -> None:
    for condition in (request.get("status") or {}).get("conditions") or []:
        if not condition.get("lastUpdateTime"):
            condition["lastUpdateTime"] = rfc3339(now)
        if not condition.get("lastTransitionTime"):
            same = (
                entry.get("lastTransitionTime")
                for entry in old_status.get("conditions") or []
                if (entry.get("type"), entry.get("status")) == (condition.get("type"), condition.get("status"))
            )
            condition["lastTransitionTime"] = next(filter(None, same), rfc3339(now))


# --- state -----------------------------------------------------------------------------------------------------------


def has_condition(request: Object, *kinds: str) -> bool:
    """Whether one of these conditions is there; they are only ever true."""
    conditions = (request.get("status") or {}).get("conditions") or []
    return any(entry.get("type") in kinds for entry in conditions)


def certificate_of(request: Object) -> str:
    """``status.certificate``, base64 of PEM; empty until it is signed."""
    return str((request.get("status") or {}).get("certificate") or "")


def common_name(holder: x509.CertificateSigningRequest | x509.Certificate) -> str:
    """The subject's common name; of several the last one, as Go has it. Whoever judges a request and whoever believes its
    certificate have to take the same one."""
    names = holder.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[-1].value) if names else ""


def organizations(holder: x509.CertificateSigningRequest | x509.Certificate) -> list[str]:
    return [str(entry.value) for entry in holder.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]


def alternatives(request: x509.CertificateSigningRequest) -> x509.SubjectAlternativeName:
    """The subject's other names; an empty extension when there are none."""
    try:
        return request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


# --- whose signer ----------------------------------------------------------------------------------------------------


def fault(request: x509.CertificateSigningRequest, usages: Sequence[str], signer: str) -> str:
    """Why *signer* does not sign this request; empty when it does.

    Args:
        signer: one of the three that this server has.
    """
    match signer:
        case "kubernetes.io/kube-apiserver-client-kubelet":
            return _kubelet_client_fault(request, usages)
        case "kubernetes.io/kubelet-serving":
            return _kubelet_serving_fault(request, usages)
        case _:
            return _client_fault(usages)


def _kubelet_client_fault(request: x509.CertificateSigningRequest, usages: Sequence[str]) -> str:
    """Source: ValidateKubeletClientCSR."""
    if organizations(request) != [NODES_GROUP]:
        return "subject organization is not system:nodes"
    names = alternatives(request)
    for kind, text in ((x509.DNSName, "DNS"), (x509.RFC822Name, "Email"), (x509.IPAddress, "IP")):
        if names.get_values_for_type(kind):
            return f"{text} subjectAltNames are not allowed"
    if names.get_values_for_type(x509.UniformResourceIdentifier):
        return "URI subjectAltNames are not allowed"
    if not common_name(request).startswith(NODE_PREFIX):
        return "subject common name does not begin with system:node:"
    return _usages_fault(usages, _CLIENT_USAGES)


def _kubelet_serving_fault(request: x509.CertificateSigningRequest, usages: Sequence[str]) -> str:
    """Source: ValidateKubeletServingCSR."""
    if organizations(request) != [NODES_GROUP]:
        return "subject organization is not system:nodes"
    names = alternatives(request)
    if not names.get_values_for_type(x509.DNSName) and not names.get_values_for_type(x509.IPAddress):
        return "DNS or IP subjectAltName is required"
    if names.get_values_for_type(x509.RFC822Name):
        return "Email subjectAltNames are not allowed"
    if names.get_values_for_type(x509.UniformResourceIdentifier):
        return "URI subjectAltNames are not allowed"
    if wrong := _usages_fault(usages, _SERVING_USAGES):
        return wrong
    if not common_name(request).startswith(NODE_PREFIX):
        return "subject common name does not begin with system:node:"
    return ""


def _usages_fault(usages: Sequence[str], wanted: Sequence[str]) -> str:
    if set(usages) in (set(wanted), set(wanted) - {_NEEDED_BY_RSA_ONLY}):
        return ""
    return f"usages did not match [{' '.join(wanted)}]"


def _client_fault(usages: Sequence[str]) -> str:
    """Source: validAPIServerClientUsages."""
    for usage in usages:
        if usage not in _CLIENT_USAGES:
            return f"invalid usage for client certificate: {usage}"
    return "" if "client auth" in usages else "missing required usage for client certificate: client auth"

"""CertificateSigningRequests from POST to certificate. Source: pkg/registry/certificates/certificates/strategy_test.go,
pkg/controller/certificates/{approver,signer,cleaner}; semantics §10.1, §10.3."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from kubelet_secrets.api.validation.signingrequests import parse_request
from kubelet_secrets.apiserver import csr as rules
from kubelet_secrets.apiserver.authn import CREDENTIAL_ID
from kubelet_secrets.apiserver.csr_cleaning import outlived
from kubelet_secrets.apiserver.csr_signing import sign
from kubelet_secrets.apiserver.pki import CertificateAuthority
from kubelet_secrets.apiserver.process import ServerHandle
from tests.apiserver.harness import TABLE, Http, http_client
from tests.apiserver.signing import (
    CLIENT,
    CLIENT_USAGES,
    CSRS,
    KUBELET_CLIENT,
    KUBELET_SERVING,
    SERVING_USAGES,
    addresses,
    approval,
    certificate_in,
    csr,
    encoded_request,
    pair_of,
)

BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles"


async def wait_for(http: Http, name: str, *conditions: str, certificate: bool = False) -> dict[str, Any]:
    """The request, once it has these conditions and, if asked for, a certificate."""
    with trio.fail_after(60):
        async with http.watch(f"{CSRS}?watch=true&fieldSelector=metadata.name={name}") as watch:
            while True:
                _, obj = await watch.next()
                status = obj.get("status") or {}
                there = {entry["type"] for entry in status.get("conditions") or ()}
                if there >= set(conditions) and bool(status.get("certificate")) >= certificate:
                    found: dict[str, Any] = obj
                    return found


async def bind(admin: Http, name: str, role: str, *, user: str = "", group: str = "") -> None:
    subject = {"kind": "User", "name": user} if user else {"kind": "Group", "name": group}
    body = {
        "metadata": {"name": name},
        "roleRef": {"kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", **subject}],
    }
    answer = await admin.post(BINDINGS, body)
    assert answer.status == 201, answer.body


async def test_requester_is_who_asks_whatever_the_request_says(server: ServerHandle, admin: Http) -> None:
    await bind(admin, "asking", "system:node-bootstrapper", group="devs")
    pair = server.authority.issue_client("jane", ("devs",))
    async with http_client(server, pair) as jane:
        body = csr("x", signer=CLIENT, username="root", groups=["system:masters"], uid="1", extra={"a": ["b"]})
        body["status"] = approval()["status"]
        answer = await jane.post(CSRS, body)
    assert answer.status == 201, answer.body
    spec = answer.json["spec"]
    assert (spec["username"], spec["groups"]) == ("jane", ["devs", "system:authenticated"])
    assert "uid" not in spec
    assert list(spec["extra"]) == [CREDENTIAL_ID]
    assert not answer.json.get("status")


async def test_spec_stays_as_it_was_asked_for(admin: Http) -> None:
    made = (await admin.post(CSRS, csr("x", signer=CLIENT))).json
    changed = {"metadata": {"labels": {"a": "b"}}, "spec": {"usages": ["server auth"], "username": "root"}}
    for place in (f"{CSRS}/x", f"{CSRS}/x/approval", f"{CSRS}/x/status"):
        answer = await admin.patch(place, changed)
        assert answer.status == 200, answer.body
        assert answer.json["spec"] == made["spec"]
    assert (await admin.get(f"{CSRS}/x")).json["metadata"]["labels"] == {"a": "b"}


async def test_approval_gets_times_and_leads_to_a_certificate(admin: Http) -> None:
    request = encoded_request("jane", ["devs"])
    await admin.post(CSRS, csr("x", signer=CLIENT, request=request, expirationSeconds=3600))
    approved = await admin.patch(f"{CSRS}/x/approval", approval(message="yes"))
    (condition,) = approved.json["status"]["conditions"]
    assert condition["lastUpdateTime"] == condition["lastTransitionTime"]
    certificate = certificate_in(await wait_for(admin, "x", certificate=True))
    assert certificate.subject.rfc4514_string() == "CN=jane,O=devs"
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime == timedelta(minutes=65)  # an hour from now, and backdated


@pytest.mark.parametrize(
    "status", [None, {"conditions": None}, {"conditions": [None]}, {"conditions": [{}]}, {"certificate": None}], ids=str
)
@pytest.mark.parametrize("subresource", ["", "/status", "/approval"])
async def test_status_with_nothing_in_it_is_no_bug(admin: Http, status: Any, subresource: str) -> None:
    made = (await admin.post(CSRS, csr("x", signer="example.com/own"))).json
    for answer in (
        await admin.patch(f"{CSRS}/x{subresource}", {"status": status}),
        await admin.put(f"{CSRS}/x{subresource}", {**made, "status": status}),
    ):
        assert answer.status in (200, 422), answer.body


async def test_denial_is_final(admin: Http) -> None:
    await admin.post(CSRS, csr("x", signer=CLIENT))
    assert (await admin.patch(f"{CSRS}/x/approval", approval("Denied"))).status == 200
    both = {
        "status": {"conditions": [*approval("Denied")["status"]["conditions"], *approval()["status"]["conditions"]]}
    }
    answer = await admin.patch(f"{CSRS}/x/approval", both)
    assert answer.status == 422
    assert "Approved and Denied conditions are mutually exclusive" in answer.message
    answer = await admin.patch(f"{CSRS}/x/approval", approval("Approved"))
    assert 'updates may not remove a condition of type "Denied"' in answer.message


async def test_certificate_of_a_signed_request_is_an_identity(server: ServerHandle, admin: Http) -> None:
    await admin.post(CSRS, csr("x", signer=CLIENT, request=encoded_request("jane", ["devs"])))
    await admin.patch(f"{CSRS}/x/approval", approval())
    signed = await wait_for(admin, "x", certificate=True)
    async with http_client(server, pair_of(signed)) as jane:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = await jane.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
    assert answer.json["status"]["userInfo"]["username"] == "jane"


async def test_certificate_for_client_auth_alone_is_an_identity_too(server: ServerHandle, admin: Http) -> None:
    """The usages of the documentation's example: without one of the key's own there is no key usage extension at all."""
    request = encoded_request("jane", ["devs"])
    await admin.post(CSRS, csr("jane", signer=CLIENT, usages=["client auth"], request=request))
    await admin.patch(f"{CSRS}/jane/approval", approval())
    obj = await wait_for(admin, "jane", "Approved", certificate=True)
    with pytest.raises(x509.ExtensionNotFound):
        certificate_in(obj).extensions.get_extension_for_class(x509.KeyUsage)
    async with http_client(server, pair_of(obj)) as jane:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = await jane.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
    assert answer.json["status"]["userInfo"]["username"] == "jane"


async def test_signer_of_clients_makes_no_master(admin: Http) -> None:
    answer = await admin.post(CSRS, csr("x", signer=CLIENT, request=encoded_request("eve", ["system:masters"])))
    assert answer.status == 403
    assert answer.message.endswith(
        "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
    )


async def test_approving_and_signing_need_the_verb_on_the_signer(server: ServerHandle, admin: Http) -> None:
    rules_ = [
        {
            "verbs": ["get", "patch", "update"],
            "apiGroups": ["certificates.k8s.io"],
            "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"],
        }
    ]
    await admin.post(ROLES, {"metadata": {"name": "writer"}, "rules": rules_})
    await bind(admin, "writing", "writer", user="jane")
    await admin.post(CSRS, csr("x", signer="example.com/own"))
    async with http_client(server, server.authority.issue_client("jane")) as jane:
        answer = await jane.patch(f"{CSRS}/x/approval", approval())
        assert answer.status == 403
        assert answer.message.endswith('user not permitted to approve requests with signerName "example.com/own"')
        answer = await jane.patch(f"{CSRS}/x/status", approval("Failed"))
        assert answer.message.endswith('user not permitted to sign requests with signerName "example.com/own"')
        domain = {
            "verbs": ["approve", "sign"],
            "apiGroups": ["certificates.k8s.io"],
            "resources": ["signers"],
            "resourceNames": ["example.com/*"],
        }
        await admin.post(ROLES, {"metadata": {"name": "of-example-com"}, "rules": [domain]})
        await bind(admin, "of-example-com", "of-example-com", user="jane")
        assert (await jane.patch(f"{CSRS}/x/approval", approval())).status == 200
        conditions = [*approval()["status"]["conditions"], *approval("Failed")["status"]["conditions"]]
        answer = await jane.patch(f"{CSRS}/x/status", {"status": {"conditions": conditions}})
        assert answer.status == 200, answer.body


async def test_node_asks_in_its_own_name_only(server: ServerHandle) -> None:
    async with http_client(server, server.authority.issue_node("n1")) as node:
        answer = await node.post(CSRS, csr("x", request=encoded_request("system:node:n2")))
        assert answer.status == 403
        assert answer.message.endswith("can only create a node CSR with CN=system:node:n1")
        assert (await node.post(CSRS, csr("y", request=encoded_request("system:node:n1")))).status == 201


async def test_second_common_name_makes_no_other_node(server: ServerHandle) -> None:
    """One that is judged by its last name, and whose certificate is believed for its first, would be any node it likes."""
    async with http_client(server, server.authority.issue_node("n1")) as node:
        asked = csr("two", request=encoded_request("system:node:n1", before="system:node:n2"))
        assert (await node.post(CSRS, asked)).status == 201
        signed = await wait_for(node, "two", "Approved", certificate=True)
        assert certificate_in(signed).subject.rfc4514_string() == "CN=system:node:n1,O=system:nodes"
        hidden = csr("hidden", request=encoded_request("system:node:n2", before="system:node:n1"))
        assert (await node.post(CSRS, hidden)).status == 403
    async with http_client(server, pair_of(signed)) as newcomer:
        assert (await newcomer.get("/api/v1/nodes/n2")).message.endswith("cannot read 'n2', only its own Node object")


# --- approval of kubelets --------------------------------------------------------------------------------------------


async def test_renewal_of_a_node_is_approved_and_signed(server: ServerHandle, admin: Http) -> None:
    async with http_client(server, server.authority.issue_node("n1")) as node:
        body = csr("unused")
        body["metadata"] = {"generateName": "csr-"}
        name = (await node.post(CSRS, body)).json["metadata"]["name"]
        signed = await wait_for(node, name, "Approved", certificate=True)
    assert name.startswith("csr-")
    (condition,) = signed["status"]["conditions"]
    assert condition["reason"] == "AutoApproved"
    assert condition["message"] == ("Auto approving self kubelet client certificate after SubjectAccessReview.")


async def test_request_of_somebody_without_the_permission_waits(server: ServerHandle, admin: Http) -> None:
    await bind(admin, "asking", "system:node-bootstrapper", user="jane")
    async with http_client(server, server.authority.issue_client("jane")) as jane:
        await jane.post(CSRS, csr("waiting"))
        await bind(
            admin, "node-client", f"system:certificates.k8s.io:{CSRS.rpartition('/')[2]}:nodeclient", user="jane"
        )
        await jane.post(CSRS, csr("approved"))
        signed = await wait_for(jane, "approved", "Approved", certificate=True)
    assert signed["status"]["conditions"][0]["message"] == (
        "Auto approving kubelet client certificate after SubjectAccessReview."
    )
    # Handled in order: the first one was looked at before the second was signed.
    assert not (await admin.get(f"{CSRS}/waiting")).json.get("status")


async def test_serving_certificate_is_approved_for_the_addresses_of_the_node(server: ServerHandle, admin: Http) -> None:
    known = [
        {"type": "Hostname", "address": "n1"},
        {"type": "InternalIP", "address": "10.0.0.1"},
        {"type": "InternalDNS", "address": "n2"},  # it says so itself
        {"type": "ExternalDNS", "address": "kubernetes.default.svc"},
    ]
    await admin.post("/api/v1/nodes", {"metadata": {"name": "n1"}, "status": {"addresses": known}})
    await admin.post("/api/v1/nodes", {"metadata": {"name": "n2"}})
    refused = {"other": ("n1", "10.0.0.2"), "neighbour": ("n1", "n2"), "server": ("n1", "kubernetes.default.svc")}
    async with http_client(server, server.authority.issue_node("n1")) as node:
        for name, wanted in {**refused, "own": ("n1", "10.0.0.1")}.items():
            request = encoded_request(names=addresses(*wanted))
            body = csr(name, signer=KUBELET_SERVING, usages=SERVING_USAGES, request=request)
            assert (await node.post(CSRS, body)).status == 201
        signed = await wait_for(node, "own", "Approved", certificate=True)
    certificate = certificate_in(signed)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["n1"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
    for name in refused:  # handled in order: these were looked at before
        assert not (await admin.get(f"{CSRS}/{name}")).json.get("status")


async def test_what_the_signer_does_not_accept_fails_with_the_reason(admin: Http) -> None:
    await admin.post(CSRS, csr("x", request=encoded_request("system:node:n1", ["devs"])))
    await admin.patch(f"{CSRS}/x/approval", approval())
    failed = await wait_for(admin, "x", "Approved", "Failed")
    condition = failed["status"]["conditions"][1]
    assert condition["reason"] == "SignerValidationFailure"
    assert condition["message"] == "subject organization is not system:nodes"
    assert "certificate" not in failed["status"]


async def test_signers_of_others_are_left_to_them(server: ServerHandle, admin: Http) -> None:
    await admin.post(CSRS, csr("theirs", signer="example.com/own"))
    await admin.patch(f"{CSRS}/theirs/approval", approval())
    await admin.post(CSRS, csr("ours", signer=CLIENT))
    await admin.patch(f"{CSRS}/ours/approval", approval())
    await wait_for(admin, "ours", certificate=True)
    theirs = (await admin.get(f"{CSRS}/theirs")).json
    assert "certificate" not in theirs["status"]
    own = {"status": {"certificate": (await admin.get(f"{CSRS}/ours")).json["status"]["certificate"]}}
    assert (await admin.patch(f"{CSRS}/theirs/status", own)).status == 200  # as their signer would


# --- tables ----------------------------------------------------------------------------------------------------------

_DNS, _URI, _MAIL = x509.DNSName("a"), x509.UniformResourceIdentifier("a:b"), x509.RFC822Name("a@b")


@pytest.mark.parametrize(
    ("organizations", "common_name", "names", "usages", "expected"),
    [
        (["system:nodes"], "system:node:a", [], CLIENT_USAGES, ""),
        (["system:nodes"], "system:node:a", [], (*CLIENT_USAGES, "key encipherment"), ""),
        (["a"], "system:node:a", [], CLIENT_USAGES, "subject organization is not system:nodes"),
        (["system:nodes", "a"], "system:node:a", [], CLIENT_USAGES, "subject organization is not system:nodes"),
        (["system:nodes"], "system:node:a", [_DNS], CLIENT_USAGES, "DNS subjectAltNames are not allowed"),
        (["system:nodes"], "system:node:a", [_MAIL], CLIENT_USAGES, "Email subjectAltNames are not allowed"),
        (["system:nodes"], "system:node:a", [_URI], CLIENT_USAGES, "URI subjectAltNames are not allowed"),
        (["system:nodes"], "system:node:a", addresses("::1"), CLIENT_USAGES, "IP subjectAltNames are not allowed"),
        (["system:nodes"], "a", [], CLIENT_USAGES, "subject common name does not begin with system:node:"),
        (
            *(["system:nodes"], "system:node:a", [], (*CLIENT_USAGES, "server auth")),
            "usages did not match [client auth digital signature key encipherment]",
        ),
        (
            *(["system:nodes"], "system:node:a", [], ["client auth"]),
            "usages did not match [client auth digital signature key encipherment]",
        ),
    ],
)
def test_kubelet_client(
    organizations: list[str], common_name: str, names: list[x509.GeneralName], usages: list[str], expected: str
) -> None:
    """Source: TestIsKubeletClientCSR."""
    request = parse_request(encoded_request(common_name, organizations, names))
    assert rules.fault(request, usages, KUBELET_CLIENT) == expected


@pytest.mark.parametrize(
    ("organizations", "common_name", "names", "usages", "expected"),
    [
        (["system:nodes"], "system:node:a", [_DNS], SERVING_USAGES, ""),
        (["system:nodes"], "system:node:a", addresses("::1"), (*SERVING_USAGES, "key encipherment"), ""),
        (["system:nodes"], "system:node:a", [], SERVING_USAGES, "DNS or IP subjectAltName is required"),
        (["a"], "system:node:a", [_DNS], SERVING_USAGES, "subject organization is not system:nodes"),
        (["system:nodes"], "system:node:a", [_DNS, _MAIL], SERVING_USAGES, "Email subjectAltNames are not allowed"),
        (["system:nodes"], "system:node:a", [_DNS, _URI], SERVING_USAGES, "URI subjectAltNames are not allowed"),
        (["system:nodes"], "a", [_DNS], SERVING_USAGES, "subject common name does not begin with system:node:"),
        (
            *(["system:nodes"], "system:node:a", [_DNS], CLIENT_USAGES),
            "usages did not match [digital signature key encipherment server auth]",
        ),
    ],
)
def test_kubelet_serving(
    organizations: list[str], common_name: str, names: list[x509.GeneralName], usages: list[str], expected: str
) -> None:
    """Source: TestIsKubeletServingCSR."""
    request = parse_request(encoded_request(common_name, organizations, names))
    assert rules.fault(request, usages, KUBELET_SERVING) == expected


@pytest.mark.parametrize(
    ("usages", "expected"),
    [
        (CLIENT_USAGES, ""),
        (["client auth"], ""),
        (["digital signature"], "missing required usage for client certificate: client auth"),
        (["client auth", "server auth"], "invalid usage for client certificate: server auth"),
    ],
)
def test_other_client(usages: list[str], expected: str) -> None:
    assert rules.fault(parse_request(encoded_request()), usages, CLIENT) == expected


@pytest.mark.parametrize(
    ("asked_s", "lifetime"),
    [
        (None, timedelta(days=365)),  # five minutes of it have gone
        (600, timedelta(minutes=15)),  # short: what was asked for, from now on
        (8 * 3600, timedelta(hours=8)),
        (10**9, timedelta(days=365)),
    ],
)
def test_lifetime(asked_s: int | None, lifetime: timedelta) -> None:
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    pem = sign(CertificateAuthority.create(), parse_request(encoded_request()), CLIENT_USAGES, asked_s, noon)
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.not_valid_before_utc == noon - timedelta(minutes=5)
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == lifetime


NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("conditions", "created_h", "updated_h", "is_signed", "goes"),
    [
        ([], 23, 0, False, False),
        ([], 25, 0, False, True),
        (["Denied"], 25, 0.5, False, False),
        (["Denied"], 25, 1.5, False, True),
        (["Approved"], 100, 100, False, False),  # its signer may be away
        (["Approved"], 25, 0.5, True, False),
        (["Approved"], 25, 1.5, True, True),
        (["Approved", "Failed"], 25, 1.5, False, True),
    ],
)
def test_cleaning(
    conditions: list[str],
    created_h: float,
    updated_h: float,
    is_signed: bool,
    goes: bool,
) -> None:
    """Source: TestCleanerWithApprovedExpiredCSR. A failed one is cleaned like a denied one."""

    def ago(hours: float) -> str:
        return (NOW - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")

    obj = csr("x")
    obj["metadata"]["creationTimestamp"] = ago(created_h)
    obj["status"] = {"conditions": [{"type": kind, "lastUpdateTime": ago(updated_h)} for kind in conditions]}
    if is_signed:
        pem = sign(CertificateAuthority.create(), parse_request(encoded_request()), CLIENT_USAGES, None, NOW)
        obj["status"]["certificate"] = base64.b64encode(pem).decode()
    assert bool(outlived(obj, NOW)) is goes


def test_expired_certificate_takes_its_request_along() -> None:
    pem = sign(CertificateAuthority.create(), parse_request(encoded_request()), CLIENT_USAGES, 600, NOW)
    obj = csr("x")
    obj["metadata"]["creationTimestamp"] = "2026-11-23T12:00:00Z"
    obj["status"] = {
        "certificate": base64.b64encode(pem).decode(),
        "conditions": [{"type": "Approved", "lastUpdateTime": "2026-11-23T12:00:00Z"}],
    }
    assert not outlived(obj, NOW + timedelta(minutes=9))
    assert outlived(obj, NOW + timedelta(minutes=11)) == "issued and its certificate is expired"


async def test_table(admin: Http) -> None:
    await admin.post(CSRS, csr("x", signer="example.com/own", expirationSeconds=86400))
    row = (await admin.get(CSRS, accept=TABLE)).json["rows"][0]["cells"]
    assert [row[0], *row[2:]] == ["x", "example.com/own", "kubernetes-admin", "24h", "Pending"]

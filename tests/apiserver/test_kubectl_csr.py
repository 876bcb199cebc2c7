"""The real kubectl and requests for certificates. The same over plain HTTP is in ``test_csr.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kubelet_secrets.apiserver.process import ServerHandle
from tests.apiserver.harness import Http
from tests.apiserver.kubectl import OLDEST, Kubectl, find_kubectl, open_kubectl
from tests.apiserver.signing import CLIENT, csr, encoded_request
from tests.apiserver.test_csr import wait_for

_PATH = find_kubectl()
pytestmark = [
    pytest.mark.kubectl,
    pytest.mark.skipif(_PATH is None, reason=f"needs kubectl {'.'.join(map(str, OLDEST))} or later on PATH"),
]


@pytest.fixture
async def kubectl(server: ServerHandle, tmp_path: Path) -> AsyncIterator[Kubectl]:
    assert _PATH is not None
    async with open_kubectl(_PATH, server, tmp_path) as run:
        yield run


async def test_request_is_created_approved_and_read(kubectl: Kubectl, admin: Http) -> None:
    """The walk of the documentation: "Issue a Certificate for a Kubernetes API Client Using A CertificateSigningRequest"."""
    manifest = f"""
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {{name: jane}}
spec:
  request: {encoded_request("jane", ["devs"])}
  signerName: {CLIENT}
  expirationSeconds: 86400
  usages: [client auth]
"""
    made = await kubectl("apply", "-f", "-", stdin=manifest)
    assert made.out == "certificatesigningrequest.certificates.k8s.io/jane created\n"
    lines = (await kubectl("get", "csr")).lines
    assert lines[0].split() == ["NAME", "AGE", "SIGNERNAME", "REQUESTOR", "REQUESTEDDURATION", "CONDITION"]
    assert lines[1].split()[0] == "jane"
    assert lines[1].split()[2:] == [CLIENT, "kubernetes-admin", "24h", "Pending"]
    approved = await kubectl("certificate", "approve", "jane")
    assert approved.out == "certificatesigningrequest.certificates.k8s.io/jane approved\n"
    await wait_for(admin, "jane", "Approved", certificate=True)
    assert (await kubectl("get", "csr", "jane")).lines[1].split()[-1] == "Approved,Issued"
    encoded = (await kubectl("get", "csr", "jane", "-o", "jsonpath={.status.certificate}")).out
    assert encoded.startswith("LS0tLS1CRUdJTi")
    described = (await kubectl("describe", "csr", "jane")).out
    assert "Common Name:    jane" in described
    assert "Organization:   devs" in described
    again = await kubectl("apply", "-f", "-", stdin=manifest)
    assert again.out == "certificatesigningrequest.certificates.k8s.io/jane unchanged\n"


async def test_request_is_denied(kubectl: Kubectl, admin: Http) -> None:
    await admin.post("/apis/certificates.k8s.io/v1/certificatesigningrequests", csr("x", signer=CLIENT))
    denied = await kubectl("certificate", "deny", "x")
    assert denied.out == "certificatesigningrequest.certificates.k8s.io/x denied\n"
    assert (await kubectl("get", "csr", "x")).lines[1].split()[-1] == "Denied"
    condition = (await kubectl("get", "csr", "x", "-o", "json")).json["status"]["conditions"][0]
    assert condition["reason"] == "KubectlDeny"
    refused = await kubectl.fail("certificate", "approve", "x")
    assert refused == 'error: certificate signing request "x" is already Denied'

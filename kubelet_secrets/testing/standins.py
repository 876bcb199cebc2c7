"""What nobody else does in a control plane of tests: ``python -m kubelet_secrets.testing.standins --kubeconfig ADMIN``.

A cluster's administrator approves the serving certificates of its nodes; kube-controller-manager approves and signs their
client certificates, gives every namespace its ServiceAccount ``default`` and the root certificate. With ``--authority`` the
second is done here too, for there is no controller manager. Started by ``controlplane.py``; until SIGTERM.

No controller to learn from: it looks around twice a second, and trusts whoever asks, for all nodes are the test's.
"""

from __future__ import annotations

import argparse
import base64
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

from kubelet_secrets.api.meta import (
    CERTIFICATE_SIGNING_REQUESTS,
    CONFIG_MAPS,
    NAMESPACES,
    SERVICE_ACCOUNTS,
    Resource,
)
from kubelet_secrets.api.validation.signingrequests import parse_request
from kubelet_secrets.apiserver import csr
from kubelet_secrets.apiserver.csr_signing import sign
from kubelet_secrets.apiserver.pki import CertificateAuthority, load_authority
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.errors import AlreadyExists, ApiError, ApiUnavailable, Conflict, Forbidden, NotFound
from kubelet_secrets.testing.clusterobjects import ROOT_CA

logger = logging.getLogger(__name__)

LOOK_S = 0.5

Json = dict[str, Any]


class StandIns:
    """See the module's text.

    Args:
        authority: signs what is approved, and is the root that namespaces get; None: a controller manager does all that.
    """

    def __init__(self, client: ApiClient, authority: CertificateAuthority | None) -> None:
        self._client = client
        self._authority = authority
        self._furnished: set[str] = set()  # uids of namespaces

    async def run(self) -> None:
        """Look around until cancelled, also while the API server is away."""
        while True:
            try:
                await self.look()
            except (ApiError, ApiUnavailable) as error:
                logger.info("standing in: %s", error)
            await trio.sleep(LOOK_S)

    async def look(self) -> None:
        """Do what is to be done now."""
        for request in await self._client.list(CERTIFICATE_SIGNING_REQUESTS, "", dict):
            await self._attend(request)
        if self._authority is not None:
            for namespace in await self._client.list(NAMESPACES, "", dict):
                await self._furnish(namespace, self._authority)

    async def _attend(self, request: Json) -> None:
        name, spec = request["metadata"]["name"], request["spec"]
        signers = (csr.KUBELET_SERVING_SIGNER, *((csr.KUBELET_CLIENT_SIGNER,) if self._authority is not None else ()))
        if spec["signerName"] not in signers or csr.certificate_of(request) or csr.has_condition(request, "Denied"):
            return
        try:
            if not csr.has_condition(request, "Approved"):
                condition = {"type": "Approved", "status": "True", "reason": "Tested", "message": "a node of the test"}
                status: Json = {"conditions": [condition]}
                request = await self._client.replace(
                    CERTIFICATE_SIGNING_REQUESTS, "", _whole(request, status), subresource="approval"
                )
            if self._authority is not None:
                pem = sign(self._authority, parse_request(spec["request"]), spec["usages"], None, datetime.now(UTC))
                status = {**request["status"], "certificate": base64.b64encode(pem).decode("ascii")}
                await self._client.replace(
                    CERTIFICATE_SIGNING_REQUESTS, "", _whole(request, status), subresource="status"
                )
            logger.info("attended to certificate signing request %s", name)
        except (Conflict, NotFound) as error:
            logger.info("certificate signing request %s: %s", name, error)  # the next look sees what it is now

    async def _furnish(self, namespace: Json, authority: CertificateAuthority) -> None:
        name, uid = namespace["metadata"]["name"], namespace["metadata"]["uid"]
        if uid in self._furnished or namespace["metadata"].get("deletionTimestamp"):
            return
        try:
            root_ca = {"data": {"ca.crt": authority.certificate_pem.decode("ascii")}}
            await self._ensure(CONFIG_MAPS, name, ROOT_CA, root_ca)
            await self._ensure(SERVICE_ACCOUNTS, name, "default", {})
        except (Forbidden, NotFound):
            return  # it is going
        self._furnished.add(uid)

    async def _ensure(self, resource: Resource, namespace: str, name: str, fields: Mapping[str, Any]) -> None:
        body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, **fields}
        try:
            await self._client.create(resource, namespace, body)
        except AlreadyExists:
            pass


def _whole(request: Json, status: Json) -> Json:
    """*request*, as read from a list, with another status: items of a list do not say what they are."""
    resource = CERTIFICATE_SIGNING_REQUESTS
    return {**request, "apiVersion": resource.api_version, "kind": resource.kind, "status": status}


async def _main(kubeconfig: Path, directory: Path | None) -> None:
    authority = load_authority(directory) if directory is not None else None
    async with open_client(load_kubeconfig(kubeconfig)) as client:
        await StandIns(client, authority).run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Stand in for controllers of a control plane of tests.")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--authority", type=Path, help="the directory of ca.crt and ca.key")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    trio.run(_main, options.kubeconfig, options.authority)

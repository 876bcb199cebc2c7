"""Secrets of type ``kubernetes.io/service-account-token``: somebody makes one for an account, and it is filled with a token.

Such a token does not expire; it ends with its Secret or its account. TokenRequest is what pods use, and what people should.

Source: pkg/controller/serviceaccount/tokens_controller.go; kubernetes docs, "Manually create a long-lived API token for a
ServiceAccount".
"""

from __future__ import annotations

import base64
import logging

import trio

from kubelet_secrets.api import meta
from kubelet_secrets.apiserver.attributes import DeleteOptions
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.loops import follow
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.resources import served
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.apiserver.tokens import Reference, TokenIssuer, make_legacy_claims
from kubelet_secrets.apiserver.watch import DELETED
from kubelet_secrets.errors import Conflict, NotFound

log = logging.getLogger(__name__)

SECRET_TYPE = "kubernetes.io/service-account-token"
ACCOUNT_NAME, ACCOUNT_UID = "kubernetes.io/service-account.name", "kubernetes.io/service-account.uid"
SECRETS, ACCOUNTS = served(meta.SECRETS), served(meta.SERVICE_ACCOUNTS)


class TokenSecrets:
    """See the module's text.

    Args:
        ca_pem: what goes into them as ``ca.crt``.
    """

    def __init__(self, registry: Registry, issuer: TokenIssuer, ca_pem: bytes) -> None:
        self._registry = registry
        self._issuer = issuer
        self._ca = base64.b64encode(ca_pem).decode("ascii")

    async def run(self) -> None:
        """Fill and delete them until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, self._registry, SECRETS, self._sync_secret)
            nursery.start_soon(follow, self._registry, ACCOUNTS, self._sync_account)

    async def _sync_account(self, kind: str, account: Object) -> None:
        if kind == DELETED:
            namespace = account["metadata"]["namespace"]
            for item in (await self._registry.list_objects(Selection(SECRETS, namespace))).items:
                await self._sync_secret("", item.object)

    async def _sync_secret(self, kind: str, secret: Object) -> None:
        metadata = secret["metadata"]
        annotations = metadata.get("annotations") or {}
        name = annotations.get(ACCOUNT_NAME)
        if kind == DELETED or secret.get("type") != SECRET_TYPE or not name or "deletionTimestamp" in metadata:
            return
        account = await self._registry.find(ACCOUNTS, metadata["namespace"], name)
        uid = account.object["metadata"]["uid"] if account is not None else ""
        if not uid or annotations.get(ACCOUNT_UID, uid) != uid:
            await self._delete(metadata)
        elif not self._is_filled(secret):
            await self._fill(metadata, Reference(name, uid))

    def _is_filled(self, secret: Object) -> bool:
        data = secret.get("data") or {}
        return bool(data.get("token") and data.get("namespace")) and data.get("ca.crt") == self._ca

    async def _fill(self, metadata: Object, account: Reference) -> None:
        namespace = metadata["namespace"]

        def fill(live: Object) -> Object:
            if live["metadata"]["uid"] != metadata["uid"] or self._is_filled(live):
                return live
            live["metadata"]["annotations"] |= {ACCOUNT_NAME: account.name, ACCOUNT_UID: account.uid}
            data = live.setdefault("data", {})
            data["ca.crt"] = self._ca
            if not data.get("namespace"):
                data["namespace"] = base64.b64encode(namespace.encode()).decode("ascii")
            if not data.get("token"):
                token = self._issuer.sign(make_legacy_claims(namespace, account, metadata["name"]))
                data["token"] = base64.b64encode(token.reveal()).decode("ascii")
            return live

        try:
            await self._registry.update(SECRETS, namespace, metadata["name"], fill)
        except NotFound:
            pass

    async def _delete(self, metadata: Object) -> None:
        log.info("deleting secret %s/%s: its service account is gone", metadata["namespace"], metadata["name"])
        try:
            options = DeleteOptions(uid=metadata["uid"])
            await self._registry.delete(SECRETS, metadata["namespace"], metadata["name"], options)
        except (NotFound, Conflict):
            pass

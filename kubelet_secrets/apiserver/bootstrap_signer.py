"""Publishes ``kube-public/cluster-info`` and signs it with every token that may sign: who has one can know the server by it.

A node that joins reads the ConfigMap without credentials, over a connection it cannot trust yet; the signature, made with a
secret that both sides know, vouches for the server's address and authority in it.

Source: pkg/controller/bootstrap/{bootstrapsigner,util}.go; k8s.io/cluster-bootstrap/token/jws/jws.go.
"""

from __future__ import annotations

import base64
import hmac
import json
from datetime import UTC, datetime

from kubelet_secrets.api import meta
from kubelet_secrets.apiserver.bootstrap_authn import NAME_PREFIX, NAMESPACE, SECRET_TYPE, is_expired, value_of
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.kubeadm_objects import CLUSTER_INFO, KUBECONFIG_KEY, PUBLIC_NAMESPACE, cluster_info
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.resources import served
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.errors import AlreadyExists, NotFound

SIGNATURE_PREFIX = "jws-kubeconfig-"
SECRETS, CONFIG_MAPS = served(meta.SECRETS), served(meta.CONFIG_MAPS)


def detached_signature(content: str, token_id: str, token_secret: bytes) -> str:
    """The JSON Web Signature (HS256) of *content*, without it: ``header..signature``."""
    # By hand, as it is three lines: PyJWT warns of every token, as 16 characters make a short HMAC key.
    header = _encode(json.dumps({"alg": "HS256", "kid": token_id}, separators=(",", ":")).encode())
    signed = header + b"." + _encode(content.encode())
    return f"{header.decode()}..{_encode(hmac.digest(token_secret, signed, 'sha256')).decode()}"


def _encode(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


class BootstrapSigner:
    """See the module's text.

    Args:
        url, ca_pem: of this server.
    """

    def __init__(self, registry: Registry, url: str, ca_pem: bytes) -> None:
        self._registry = registry
        self._kubeconfig = cluster_info(url, ca_pem)

    async def publish(self) -> None:
        """Make the ConfigMap, or bring it to this server's address. Raises: ApiError."""
        wanted: Object = {"metadata": {"name": CLUSTER_INFO}, "data": {KUBECONFIG_KEY: self._kubeconfig}}
        try:
            await self._registry.create(CONFIG_MAPS, PUBLIC_NAMESPACE, wanted)
        except AlreadyExists:

            def move(live: Object) -> Object:
                live["data"] = {**(live.get("data") or {}), KUBECONFIG_KEY: self._kubeconfig}
                return live

            await self._registry.update(CONFIG_MAPS, PUBLIC_NAMESPACE, CLUSTER_INFO, move)

    async def handle(self, _kind: str, obj: Object) -> None:
        """Sign anew when *obj*, a Secret of kube-system or a ConfigMap of kube-public, is of concern. Raises: ApiError."""
        if obj.get("type") == SECRET_TYPE or obj["metadata"]["name"] == CLUSTER_INFO:
            await self.sign()

    async def sign(self) -> None:
        """Bring the signatures to the tokens there are. Raises: ApiError."""
        secrets = await self._registry.list_objects(Selection(SECRETS, NAMESPACE))
        tokens = dict(filter(None, (_signing_token(item.object) for item in secrets.items)))

        def sign(live: Object) -> Object:
            data = live.get("data") or {}
            if KUBECONFIG_KEY not in data:
                return live
            live["data"] = {key: value for key, value in data.items() if not key.startswith(SIGNATURE_PREFIX)}
            for token_id, secret in tokens.items():
                live["data"][SIGNATURE_PREFIX + token_id] = detached_signature(data[KUBECONFIG_KEY], token_id, secret)
            return live

        try:
            await self._registry.update(CONFIG_MAPS, PUBLIC_NAMESPACE, CLUSTER_INFO, sign)
        except NotFound:
            pass  # somebody does not want it


def _signing_token(secret: Object) -> tuple[str, bytes] | None:
    """(id, secret) of a token that may sign. Source: validateSecretForSigning."""
    data = secret.get("data")
    if secret.get("type") != SECRET_TYPE or not data or "deletionTimestamp" in secret["metadata"]:
        return None
    token_id, token_secret = value_of(data, "token-id"), value_of(data, "token-secret")
    if (
        not token_id
        or not token_secret
        or secret["metadata"]["name"] != NAME_PREFIX + token_id.decode("utf-8", "replace")
    ):
        return None
    if is_expired(data, datetime.now(UTC)) or value_of(data, "usage-bootstrap-signing") != b"true":
        return None
    return token_id.decode(), token_secret

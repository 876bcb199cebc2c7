"""Gets to know an API server by a bootstrap token alone: where it is and which authority vouches for it.

The ConfigMap ``kube-public/cluster-info`` is read over a connection that nobody has vouched for. That the answer is the
cluster's is shown by the token's signature, which takes the token's secret, and by the public key of the authority in it, which
the administrator has given out beside the token: a token alone could be known to another node that passes for the server.
Called by ``kubelet-secrets token discover``.

Source: cmd/kubeadm/app/discovery/token/token.go; cmd/kubeadm/app/util/pubkeypin.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Any

import yaml

from kubelet_secrets.api.bootstraptoken import BootstrapToken, is_signed
from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.client.kubeconfig import ClusterConfig
from kubelet_secrets.client.rest import open_client
from kubelet_secrets.errors import ApiError, HostError

_PATH = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
_KUBECONFIG, _SIGNATURE_PREFIX = "kubeconfig", "jws-kubeconfig-"
PIN_PREFIX = "sha256:"


async def discover(server: str, token: BootstrapToken, pins: Sequence[str]) -> ClusterConfig:
    """Find the cluster behind *server*.

    Args:
        server: ``https://host:port``.
        pins: ``sha256:`` and the hexadecimal hash of an authority's public key, lower case; one of them has to fit. None: the
            signature has to do.

    Raises:
        HostError: it does not answer, or is not to be trusted; the message says why.
        ApiUnavailable: no answer.
    """
    first = await _read(ClusterConfig(server=server, insecure_skip_tls_verify=True), token)
    config = _cluster(first, server)
    if not pins:
        return config
    found = public_key_pins(config.ca_pem)
    if not set(found) & set(pins):
        keys = " ".join(map(go_quote, found))
        raise HostError(
            f"cluster CA found in cluster-info ConfigMap is invalid: none of the public keys [{keys}] are pinned"
        )
    # Once more, over a connection that the authority vouches for: the one before may have been somebody's in between.
    if await _read(config, token) != first:
        raise HostError(
            "the second kubeconfig from cluster-info ConfigMap (using secured connection) was different from first"
        )
    return config


def public_key_pins(ca_pem: bytes) -> list[str]:
    """The pin of every certificate in *ca_pem*. Raises: HostError: there is none."""
    # Here, not above: the agent imports this room, and has to do without the library.
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        certificates = x509.load_pem_x509_certificates(ca_pem)
    except ValueError:
        raise HostError("the cluster-info ConfigMap holds no certificate authority") from None
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return [
        PIN_PREFIX + hashlib.sha256(certificate.public_key().public_bytes(*spki)).hexdigest()
        for certificate in certificates
    ]


async def _read(config: ClusterConfig, token: BootstrapToken) -> str:
    """The signed kubeconfig. Raises: HostError: it is not there, or not signed with *token*."""
    async with open_client(config) as client:
        try:
            data: dict[str, Any] = (await client.request_json("GET", _PATH)).get("data") or {}
        except ApiError as error:
            raise HostError(f"failed to get the cluster-info ConfigMap: {error}") from None
    content, signature = data.get(_KUBECONFIG), data.get(_SIGNATURE_PREFIX + token.id)
    if not content:
        raise HostError("there is no kubeconfig key in the cluster-info ConfigMap")
    if not signature:
        raise HostError(
            "there is no JWS signed token in the cluster-info ConfigMap. "
            f"This token id {go_quote(token.id)} is invalid for this cluster, can't connect"
        )
    if not is_signed(content, signature, token):
        raise HostError("failed to verify JWS signature of received cluster info object, can't trust this API Server")
    return str(content)


def _cluster(content: str, server: str) -> ClusterConfig:
    """Raises: HostError: it is no kubeconfig with one cluster and its authority."""
    problem = HostError("the kubeconfig in the cluster-info ConfigMap is not one with a cluster and its authority")
    try:
        cluster = yaml.safe_load(content)["clusters"][0]["cluster"]
        ca_pem = base64.b64decode(cluster["certificate-authority-data"], validate=True)
        found = ClusterConfig(
            server=str(cluster["server"]).rstrip("/"), source=f"cluster-info of {server}", ca_pem=ca_pem
        )
    except (yaml.YAMLError, binascii.Error, ValueError, KeyError, IndexError, TypeError):
        raise problem from None
    if not found.server.startswith("https://"):
        raise problem
    return found

"""The way from the API server to a kubelet: which address, whose certificate, TLS.

Used by ``pod_streams.py`` and ``pod_tunnels.py``, for what the server cannot answer itself: logs, commands in containers and
forwarded ports. A kubelet's certificate is checked against the cluster's authority; the one that a kubelet makes itself until
it has one of the authority's is accepted from the server's own machine only.

Source: pkg/kubelet/client/kubelet_client.go (ConnectionInfo); semantics §12.1.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

import trio

from kubelet_secrets.api import meta
from kubelet_secrets.apiserver import pki, statuses
from kubelet_secrets.apiserver.default_roles import KUBELET_CLIENT
from kubelet_secrets.apiserver.pki import CertificateAuthority
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.resources import served

_NODES = served(meta.NODES)
# As kubeadm has it. kube-apiserver's own default begins with the host's name, which is no use where no DNS knows nodes.
_PREFERRED = ("InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS")
_LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 10250
CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class KubeletAddress:
    host: str
    port: int


def address_of(node: dict[str, Any], *, is_local: bool) -> KubeletAddress | None:
    """Where a Node says its kubelet is; None when it says nothing. The node of this machine is reached over loopback."""
    status = node.get("status") or {}
    endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
    port = endpoint.get("Port") or DEFAULT_PORT
    if is_local:
        return KubeletAddress(_LOOPBACK, port)
    addresses = status.get("addresses") or ()
    for kind in _PREFERRED:
        for each in addresses:
            if each.get("type") == kind and each.get("address"):
                return KubeletAddress(str(each["address"]), port)
    return None


class KubeletClient:
    """Opens connections to kubelets.

    Args:
        local_node: the node that runs on the server's own machine and listens on loopback; empty: there is none.
    """

    def __init__(self, registry: Registry, authority: CertificateAuthority, *, local_node: str = "") -> None:
        self._registry = registry
        self._local_node = local_node
        pair = authority.issue_client(KUBELET_CLIENT)
        self._verified = pki.kubelet_client_context(pair, authority.certificate_pem)
        self._unverified = pki.kubelet_client_context(pair, None)

    async def connect(self, node_name: str) -> tuple[trio.SSLStream[trio.SocketStream], KubeletAddress]:
        """Open a connection to the kubelet of a node.

        Raises:
            ApiError: there is no such node, it names no address, or nobody answers there as that node.
        """
        found = await self._registry.find(_NODES, "", node_name)
        if found is None:
            raise statuses.not_found(_NODES, node_name)
        is_local = node_name == self._local_node
        address = address_of(found.object, is_local=is_local)
        if address is None:
            known = (found.object.get("status") or {}).get("addresses") or []
            raise statuses.internal(f"no preferred addresses found; known addresses: {known}")
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                try:
                    return await self._open(address, node_name, self._verified), address
                except ssl.SSLCertVerificationError:
                    if not is_local:
                        raise
                    return await self._open(address, node_name, self._unverified), address
        except trio.TooSlowError:
            raise statuses.internal(f"dial tcp {address.host}:{address.port}: i/o timeout") from None
        except ssl.SSLCertVerificationError as error:
            raise statuses.internal(f"kubelet of {node_name}: x509: {error.verify_message}") from None
        except OSError as error:
            raise statuses.internal(f"dial tcp {address.host}:{address.port}: {error.strerror or 'refused'}") from None

    async def _open(
        self, address: KubeletAddress, node_name: str, context: ssl.SSLContext
    ) -> trio.SSLStream[trio.SocketStream]:
        stream = await trio.open_tcp_stream(address.host, address.port)
        secured = trio.SSLStream(stream, context, server_hostname=node_name, https_compatible=True)
        try:
            await secured.do_handshake()
        except BaseException as error:
            await trio.aclose_forcefully(stream)
            cause = error.__cause__
            if isinstance(error, trio.BrokenResourceError) and isinstance(cause, ssl.SSLError | OSError):
                raise cause from None
            raise
        return secured

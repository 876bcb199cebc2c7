"""Gives the node its identity: the kubeconfig there is, or a client certificate asked for with bootstrap credentials.

Called by the composition root before it opens its client. What comes later - replacing the certificate in time - is
``rotation.py``.

Source: pkg/kubelet/certificate/bootstrap/bootstrap.go (LoadClientCert, writeKubeconfigFromBootstrapping); semantics §10.1.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import trio

from kubelet_secrets.client.kubeconfig import ClusterConfig, in_cluster_config, load_kubeconfig
from kubelet_secrets.client.kubeconfigfile import make_kubeconfig
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.errors import ApiError, ApiUnavailable, HostError, UsageError
from kubelet_secrets.node.certfiles import CLIENT, CertificateFiles, write_private
from kubelet_secrets.node.certificates import KeyPair, client_template, make_request, read_certificate
from kubelet_secrets.node.signing import request_certificate

logger = logging.getLogger(__name__)

SIGN_TIMEOUT_S = 3600
_SERVER_PERIOD_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who the node is, and whether that is ours to renew."""

    config: ClusterConfig
    files: CertificateFiles | None  # None: the kubeconfig's credentials are somebody else's to renew
    bootstrap: Path | None  # a kubeconfig, for a certificate that has expired; may be gone by now


async def find_identity(
    *,
    kubeconfig: Path | None,
    bootstrap_kubeconfig: Path | None,
    cert_dir: Path,
    node_name: str,
    clock: Callable[[], datetime],
    is_resumed: bool = False,
) -> Identity:
    """Load *kubeconfig*, after making it where it is missing or its certificate has expired.

    Args:
        kubeconfig: None: this process runs in a pod, and its service account is who it is.
        bootstrap_kubeconfig: credentials that may ask for a certificate, read when one is needed: who sets up nodes removes it
            once they have joined. None: *kubeconfig* has to be there.
        cert_dir: where the certificate is kept.
        is_resumed: an earlier agent of this node has just used *kubeconfig*: it is not looked at closely, for pods wait.

    Raises:
        UsageError: a kubeconfig cannot be used.
        HostError: no certificate was to be had; the message is the API server's or the signer's reason.

    Cancellation: the key is kept, and the request is found again at the next start.
    """
    if kubeconfig is None:
        return Identity(config=in_cluster_config(), files=None, bootstrap=None)
    files = CertificateFiles(cert_dir, CLIENT)
    if bootstrap_kubeconfig is None:
        config = load_kubeconfig(kubeconfig)
        return Identity(config=config, files=files if _is_ours(config, files) else None, bootstrap=None)
    found = await _load_valid(kubeconfig, clock(), is_resumed=is_resumed)
    if found is None:
        bootstrap = load_kubeconfig(bootstrap_kubeconfig)
        await _join(bootstrap, files, node_name, clock)
        pem = str(files.current)
        content = make_kubeconfig(bootstrap, {"client-certificate": pem, "client-key": pem})
        write_private(kubeconfig, content)
        found = load_kubeconfig(kubeconfig)
    return Identity(config=found, files=files if _is_ours(found, files) else None, bootstrap=bootstrap_kubeconfig)


def _is_ours(config: ClusterConfig, files: CertificateFiles) -> bool:
    return config.client_cert_file is not None and config.client_cert_file.absolute() == files.current.absolute()


async def _load_valid(kubeconfig: Path, now: datetime, *, is_resumed: bool) -> ClusterConfig | None:
    """*kubeconfig*, if there is one whose client certificate still counts. Source: isClientConfigStillValid."""
    if not kubeconfig.exists():
        return None
    try:
        config = load_kubeconfig(kubeconfig)
    except UsageError as error:
        logger.warning("asking for a new client certificate: %s", error)
        return None
    if is_resumed:
        return config
    if not config.client_cert_pem:
        logger.warning("asking for a new client certificate: %s has none", kubeconfig)
        return None
    try:
        expired = (await read_certificate(config.client_cert_pem)).not_after <= now
    except HostError:
        expired = True
    if expired:
        logger.warning("asking for a new client certificate: the one in %s has expired", kubeconfig)
        return None
    return config


async def _join(
    bootstrap: ClusterConfig, files: CertificateFiles, node_name: str, clock: Callable[[], datetime]
) -> None:
    template = client_template(node_name)
    request = await make_request(template, files.load_pending_key())
    files.save_pending_key(request.key_pem)
    async with open_client(bootstrap) as client:
        await _wait_server(client)
        pem = await request_certificate(client, template, request, is_first=True, timeout_s=SIGN_TIMEOUT_S)
    files.save(KeyPair(pem, request.key_pem), clock())
    files.forget_pending_key()
    logger.info("joined as node %s", node_name)


async def _wait_server(client: ApiClient) -> None:
    """Wait for an answer to /healthz. Any that is not about the server itself will do: what is wrong the next request says.

    Differs: upstream's kubelet waits a minute, fails, and is started again by systemd, for as long as that takes.
    """
    while True:
        try:
            await client.request_text("/healthz")
            return
        except (ApiError, ApiUnavailable) as error:
            if isinstance(error, ApiError) and error.code < 500:
                return
            logger.warning("failed to connect to apiserver: %s", error)
        await trio.sleep(_SERVER_PERIOD_S * random.uniform(1.0, 1.2))

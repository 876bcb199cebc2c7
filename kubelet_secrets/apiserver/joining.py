"""What lets nodes join: the server makes itself known to who has a token, and approves, signs and cleans up requests.

Composed here, so that ``process.py`` has one thing to start. Each part is a module of its own.
"""

from __future__ import annotations

import copy
import logging

import trio

from kubelet_secrets.apiserver import csr_cleaning, kubeadm_objects
from kubelet_secrets.apiserver.authz import Authorizers
from kubelet_secrets.apiserver.bootstrap_authn import NAMESPACE
from kubelet_secrets.apiserver.bootstrap_signer import CONFIG_MAPS, SECRETS, BootstrapSigner
from kubelet_secrets.apiserver.csr_approving import REQUESTS, Approver
from kubelet_secrets.apiserver.csr_cleaning import Cleaner
from kubelet_secrets.apiserver.csr_signing import Signer
from kubelet_secrets.apiserver.loops import contained, follow, sweep_every
from kubelet_secrets.apiserver.pki import CertificateAuthority
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.resources import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES, served
from kubelet_secrets.apiserver.token_cleaner import TokenCleaner
from kubelet_secrets.errors import AlreadyExists, ApiError

log = logging.getLogger(__name__)

_RETRY_S = 30.0


async def run_joining(
    registry: Registry,
    authorizers: Authorizers,
    authority: CertificateAuthority,
    url: str,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run all of it until cancelled; started once the roles that joining needs exist.

    Args:
        url: where nodes reach this server.
    """
    await _ensure_roles(registry)
    bootstrap, tokens = BootstrapSigner(registry, url, authority.certificate_pem), TokenCleaner(registry)
    try:
        await bootstrap.publish()
        await bootstrap.sign()
    except ApiError as error:
        # Unreadable, its key being lost or away: joining by discovery waits for it, the server does not.
        log.warning("%s is not published: %s", kubeadm_objects.CLUSTER_INFO, error)
    approver, signer, cleaner = Approver(registry, authorizers), Signer(registry, authority), Cleaner(registry)
    with contained("cleaning of certificate requests"):
        await cleaner.sweep()  # what a former server has left
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, registry, REQUESTS, approver.handle)
        nursery.start_soon(follow, registry, REQUESTS, signer.handle)
        nursery.start_soon(sweep_every, _RETRY_S, approver.retry)
        nursery.start_soon(sweep_every, csr_cleaning.INTERVAL_S, cleaner.sweep)
        nursery.start_soon(follow, registry, SECRETS, bootstrap.handle, NAMESPACE)
        nursery.start_soon(follow, registry, CONFIG_MAPS, bootstrap.handle, kubeadm_objects.PUBLIC_NAMESPACE)
        nursery.start_soon(follow, registry, SECRETS, tokens.handle, NAMESPACE)
        nursery.start_soon(tokens.run)
        task_status.started()


async def _ensure_roles(registry: Registry) -> None:
    public = kubeadm_objects.PUBLIC_NAMESPACE
    for row, namespace, objects in (
        (served(CLUSTER_ROLES), "", kubeadm_objects.CLUSTER_ROLES),
        (served(CLUSTER_ROLE_BINDINGS), "", kubeadm_objects.CLUSTER_ROLE_BINDINGS),
        (served(ROLES), public, kubeadm_objects.ROLES),
        (served(ROLE_BINDINGS), public, kubeadm_objects.ROLE_BINDINGS),
    ):
        for wanted in objects:
            try:
                await registry.create(row, namespace, copy.deepcopy(wanted))
            except AlreadyExists:
                pass

"""What a cluster needs before a node can join it: the objects that ``kubeadm init`` leaves there, and a bootstrap token.

Used by ``controlplane.py`` for a control plane that is empty yet, and by tests for one that is running already.
"""

from __future__ import annotations

import copy
import secrets
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trio

from kubelet_secrets.api import bootstraptoken
from kubelet_secrets.api.bootstraptoken import BootstrapToken
from kubelet_secrets.api.core import Node
from kubelet_secrets.api.meta import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    CONFIG_MAPS,
    NODES,
    SECRETS,
    SERVICE_ACCOUNTS,
)
from kubelet_secrets.apiserver import kubeadm_objects, pki
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.kubeconfigfile import make_bootstrap_kubeconfig
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.errors import AlreadyExists, NotFound

TOKEN_LIFETIME = timedelta(hours=2)
ROOT_CA = "kube-root-ca.crt"  # which every namespace gets
AUTHENTICATION = "extension-apiserver-authentication"  # tells everybody who signs client certificates


async def prepare_cluster(kubeconfig: Path) -> None:
    """Let nodes that have a bootstrap token ask for a certificate, have it approved, and replace it in time.

    Raises:
        ApiError, ApiUnavailable: *kubeconfig* is no administrator's, or nobody answers.
    """
    async with open_client(load_kubeconfig(kubeconfig)) as client:
        for resource, objects in (
            (CLUSTER_ROLES, kubeadm_objects.CLUSTER_ROLES),
            (CLUSTER_ROLE_BINDINGS, kubeadm_objects.CLUSTER_ROLE_BINDINGS),
        ):
            for each in objects:
                body = {"apiVersion": resource.api_version, **copy.deepcopy(each)}
                try:
                    await client.create(resource, "", body)
                except AlreadyExists:
                    pass


async def has_furnished(client: ApiClient) -> bool:
    """Whether namespace default has what a pod in it needs: its controllers are at work.

    Raises:
        ApiError, ApiUnavailable: as :func:`prepare_cluster`.
    """
    try:
        await client.get(SERVICE_ACCOUNTS, "default", "default", dict)
        await client.get(CONFIG_MAPS, "default", ROOT_CA, dict)
    except NotFound:
        return False
    return True


async def wait_node_ready(client: ApiClient, name: str) -> None:
    """Wait until the node is there and Ready. It asks, as one does of a cluster of somebody else's; bound it in time.

    Raises:
        ApiError, ApiUnavailable: as :func:`prepare_cluster`.
    """
    while True:
        with suppress(NotFound):
            node = await client.get(NODES, "", name, Node)
            if any(each.type == "Ready" and each.status == "True" for each in node.status.conditions):
                return
        await trio.sleep(0.5)


async def make_bootstrap_token(kubeconfig: Path, path: Path) -> None:
    """Write a kubeconfig to *path* that one node can join with; its token ends by itself.

    Raises:
        ApiError, ApiUnavailable: as :func:`prepare_cluster`.
    """
    config = load_kubeconfig(kubeconfig)
    token_id, token_secret = bootstraptoken.generate(secrets.choice)
    token = BootstrapToken(
        id=token_id,
        secret=token_secret,
        expires=datetime.now(UTC) + TOKEN_LIFETIME,
        usages=("authentication",),
        groups=(bootstraptoken.DEFAULT_GROUP,),
    )
    async with open_client(config) as client:
        await client.create(SECRETS, bootstraptoken.NAMESPACE, bootstraptoken.make_secret(token))
    pki.write_private(path, make_bootstrap_kubeconfig(config, token.text))


async def read_client_ca(kubeconfig: Path) -> bytes:
    """Who signs the client certificates of a running cluster, PEM: the API server shows one to kubelets.

    Raises:
        ApiError, ApiUnavailable: as :func:`prepare_cluster`.
    """
    async with open_client(load_kubeconfig(kubeconfig)) as client:
        found = await client.get(CONFIG_MAPS, "kube-system", AUTHENTICATION, dict)
    return str(found["data"]["client-ca-file"]).encode()

"""Makes kubeconfigs: of a node that has joined, of one that is about to.

Called by ``node/bootstrap.py``, ``stack.py`` and ``kubelet-secrets token``. Reading them is ``kubeconfig.py``'s.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import yaml

from kubelet_secrets.client.kubeconfig import ClusterConfig
from kubelet_secrets.sensitive import SensitiveBytes


def make_kubeconfig(
    cluster: ClusterConfig,
    user: Mapping[str, str],
    *,
    cluster_name: str = "default-cluster",
    user_name: str = "default-auth",
    context_name: str = "default-context",
) -> SensitiveBytes:
    """A kubeconfig for *cluster* with the credentials *user*, both written into the file.

    Args:
        cluster: where the server is and how to know it; its own credentials are not looked at.
        user: the ``user`` of the file: ``{"client-certificate": path, …}`` or ``{"token": …}``.
    """
    described: dict[str, object] = {"server": cluster.server}
    if cluster.insecure_skip_tls_verify:
        described["insecure-skip-tls-verify"] = True
    if cluster.tls_server_name:
        described["tls-server-name"] = cluster.tls_server_name
    if cluster.ca_pem:
        described["certificate-authority-data"] = base64.b64encode(cluster.ca_pem).decode("ascii")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster_name, "cluster": described}],
        "users": [{"name": user_name, "user": dict(user)}],
        "contexts": [
            {"name": context_name, "context": {"cluster": cluster_name, "user": user_name, "namespace": "default"}}
        ],
        "current-context": context_name,
    }
    return SensitiveBytes(yaml.safe_dump(config, sort_keys=False).encode())


def make_bootstrap_kubeconfig(cluster: ClusterConfig, token: SensitiveBytes) -> SensitiveBytes:
    """What a node joins with. The names are those of kubeadm's ``bootstrap-kubelet.conf``."""
    name, cluster_name = "tls-bootstrap-token-user", "kubernetes"
    return make_kubeconfig(
        cluster,
        {"token": token.reveal().decode("ascii")},
        cluster_name=cluster_name,
        user_name=name,
        context_name=f"{name}@{cluster_name}",
    )

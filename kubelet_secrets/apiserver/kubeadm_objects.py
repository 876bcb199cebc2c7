"""What ``kubeadm init`` leaves in a cluster so that nodes can join it: roles and bindings, and the cluster-info ConfigMap.

Pure data. They are made when they are missing, once; unlike the default roles they belong to whoever changes them.
``joining.py`` writes them, ``bootstrap_signer.py`` signs the ConfigMap.

Source: cmd/kubeadm/app/phases/bootstraptoken/{node/tlsbootstrap.go, clusterinfo/clusterinfo.go}.
"""

from __future__ import annotations

import base64

import yaml

from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.rbac import GROUP as RBAC

TOKEN_GROUP = "system:bootstrappers:kubeadm:default-node-token"
PUBLIC_NAMESPACE, CLUSTER_INFO, KUBECONFIG_KEY = "kube-public", "cluster-info", "kubeconfig"
_NODES_GROUP = "system:nodes"
_GET_NODES, _CLUSTER_INFO_ROLE = "kubeadm:get-nodes", "kubeadm:bootstrap-signer-clusterinfo"
_REQUESTS = "system:certificates.k8s.io:certificatesigningrequests"


def _binding(name: str, role: str, group: str) -> Object:
    return {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": RBAC, "kind": "Group", "name": group}],
    }


CLUSTER_ROLES: tuple[Object, ...] = (
    {
        "kind": "ClusterRole",
        "metadata": {"name": _GET_NODES},
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["nodes"]}],
    },
)
CLUSTER_ROLE_BINDINGS: tuple[Object, ...] = (
    _binding("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", TOKEN_GROUP),
    _binding("kubeadm:node-autoapprove-bootstrap", f"{_REQUESTS}:nodeclient", TOKEN_GROUP),
    _binding("kubeadm:node-autoapprove-certificate-rotation", f"{_REQUESTS}:selfnodeclient", _NODES_GROUP),
    _binding(_GET_NODES, _GET_NODES, TOKEN_GROUP),
)
ROLES: tuple[Object, ...] = (  # in kube-public
    {
        "kind": "Role",
        "metadata": {"name": _CLUSTER_INFO_ROLE},
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [CLUSTER_INFO]}],
    },
)
ROLE_BINDINGS: tuple[Object, ...] = (
    {
        "kind": "RoleBinding",
        "metadata": {"name": _CLUSTER_INFO_ROLE},
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": _CLUSTER_INFO_ROLE},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": "system:anonymous"}],
    },
)


def cluster_info(url: str, ca_pem: bytes) -> str:
    """The kubeconfig in ``cluster-info``: where the server is and how to know it, and no credential."""
    cluster = {"certificate-authority-data": base64.b64encode(ca_pem).decode("ascii"), "server": url}
    config: Object = {
        "apiVersion": "v1",
        "clusters": [{"cluster": cluster, "name": ""}],
        "contexts": None,
        "current-context": "",
        "kind": "Config",
        "preferences": {},
        "users": None,
    }
    return yaml.safe_dump(config, sort_keys=False)

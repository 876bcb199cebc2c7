"""What a pod outside the API may not refer to. Semantics §13."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.staticpod import api_object_reference


def pod(**spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "busybox:1", **spec.pop("container", {})}
    return {"metadata": {"name": "web"}, "spec": {"containers": [container], **spec}}


def volume(**source: Any) -> dict[str, Any]:
    return pod(volumes=[{"name": "v", **source}])


def projected(**source: Any) -> dict[str, Any]:
    return volume(projected={"sources": [source]})


@pytest.mark.parametrize(
    ("manifest", "reference"),
    [
        (pod(), None),
        (volume(emptyDir={}), None),
        (volume(hostPath={"path": "/etc"}), None),
        (volume(downwardAPI={"items": []}), None),
        (projected(downwardAPI={"items": []}), None),
        (pod(serviceAccountName="robot", imagePullSecrets=[{"name": "pull"}]), "serviceaccounts"),
        (pod(imagePullSecrets=[{"name": "pull"}]), "secrets"),
        (pod(container={"envFrom": [{"secretRef": {"name": "db"}}]}), "secrets"),
        (pod(container={"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "db", "key": "a"}}}]}), "secrets"),
        (volume(secret={"secretName": "db"}), "secrets"),
        (volume(csi={"driver": "d", "nodePublishSecretRef": {"name": "db"}}), "secrets"),
        (projected(secret={"name": "db"}), "secrets"),
        (volume(configMap={"name": "cm"}), "configmaps"),
        (pod(container={"envFrom": [{"configMapRef": {"name": "cm"}}]}), "configmaps"),
        (projected(configMap={"name": "cm"}), "configmaps"),
        (pod(resourceClaims=[{"name": "gpu"}]), "resourceclaims"),
        (volume(secret={}), "secrets (via secret volumes)"),
        (volume(configMap={}), "configmaps (via configmap volumes)"),
        (volume(csi={"driver": "d"}), "csidrivers (via CSI volumes)"),
        (volume(glusterfs={"endpoints": "e"}), "endpoints (via glusterFS volumes)"),
        (volume(persistentVolumeClaim={"claimName": "c"}), "persistentvolumeclaims"),
        (volume(ephemeral={}), "persistentvolumeclaims (via ephemeral volumes)"),
        (volume(azureFile={"shareName": "s"}), "secrets (via azureFile volumes)"),
        (projected(configMap={}), "configmaps (via projected volumes)"),
        (projected(secret={}), "secrets (via projected volumes)"),
        (projected(serviceAccountToken={"path": "t"}), "serviceaccounts (via projected volumes)"),
        (projected(clusterTrustBundle={"path": "t"}), "clustertrustbundles"),
        (projected(podCertificate={}), "podcertificates"),
    ],
)
def test_api_object_reference(manifest: dict[str, Any], reference: str | None) -> None:
    assert api_object_reference(manifest) == reference

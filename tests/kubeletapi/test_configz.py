"""``/configz``: the agent's options under a kubelet's names. Source: k8s.io/kubelet config/v1beta1."""

from __future__ import annotations

from pathlib import Path

from kubelet_secrets.agent import AgentOptions
from kubelet_secrets.kubeletapi.configz import configz


def test_configz() -> None:
    options = AgentOptions(
        kubeconfig=None,
        cert_dir=Path("/pki"),
        node_name="n",
        root_dir=Path("/r"),
        image_dir=Path("/i"),
        socket=Path("/s"),
        cluster_dns=("10.96.0.10",),
        eviction_hard="memory.available<100Mi, nodefs.available<10%",
        pod_manifest_path=Path("/manifests"),
    )
    told = configz(options, port=10250, rotates_certificates=True)["kubeletconfig"]
    assert told["evictionHard"] == {"memory.available": "100Mi", "nodefs.available": "10%"}
    assert (told["clusterDNS"], told["clusterDomain"]) == (["10.96.0.10"], "cluster.local")
    assert (told["port"], told["rotateCertificates"], told["staticPodPath"]) == (10250, True, "/manifests")
    assert told["configMapAndSecretChangeDetectionStrategy"] == "Watch"
    assert told["imagePullCredentialsVerificationPolicy"] == "NeverVerifyPreloadedImages"

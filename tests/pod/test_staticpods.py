"""Static pods: from the bytes of a manifest to the pod, and which of them run. Semantics §13."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kubelet_secrets.api.meta import PodUID
from kubelet_secrets.pod.staticpods import (
    Changes,
    InvalidStaticPod,
    StaticPod,
    StaticPods,
    make_mirror,
    read_static_pod,
)
from tests.pod.builders import T0


def manifest(name: str = "web", command: str = "a", **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "busybox:1", "command": [command]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container], **spec}}


def read(obj: Any, path: str = "/etc/m/web.yaml", node: str = "node1") -> StaticPod:
    return read_static_pod(json.dumps(obj).encode(), path=path, node_name=node, seen=T0)


def test_what_a_manifest_stands_for() -> None:
    obj = manifest(tolerations=[{"key": "k", "operator": "Exists"}])
    obj["metadata"]["annotations"] = {"mine": "stays"}
    static = read(obj)
    meta, spec = static.pod.metadata, static.pod.spec
    assert (meta.namespace, meta.name) == ("default", "web-node1")
    assert len(meta.uid) == 32
    assert meta.annotations == {
        "mine": "stays",
        "kubernetes.io/config.hash": meta.uid,
        "kubernetes.io/config.source": "file",
        "kubernetes.io/config.seen": "2026-11-23T19:40:00Z",
    }
    assert spec.node_name == "node1"
    assert [(each.key, each.operator, each.effect) for each in spec.tolerations] == [
        ("k", "Exists", ""),
        ("", "Exists", "NoExecute"),
    ]
    assert (spec.termination_grace_period_seconds, spec.enable_service_links) == (30, True)
    assert static.pod.status.phase == "Pending"


def test_uid_follows_content_path_and_node() -> None:
    uids = {
        read(manifest()).uid,
        read(manifest(command="b")).uid,
        read(manifest(), path="/etc/m/other.yaml").uid,
        read(manifest(), node="node2").uid,
    }
    assert len(uids) == 4
    assert read(manifest()).uid in uids


def test_given_uid_stays_and_the_hash_tells_versions_apart() -> None:
    first, second = manifest(), manifest(command="b")
    first["metadata"]["uid"] = second["metadata"]["uid"] = "mine"
    assert read(first).uid == read(second).uid == "mine"
    assert read(first).hash != read(second).hash


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (manifest(volumes=[{"name": "v", "secret": {"secretName": "db"}}]), "static pods may not reference secrets"),
        (manifest(imagePullSecrets=[{"name": "pull"}]), "static pods may not reference secrets"),
        (manifest(volumes=[{"name": "v", "configMap": {"name": "cm"}}]), "static pods may not reference configmaps"),
        (manifest(serviceAccountName="robot"), "static pods may not reference serviceaccounts"),
        ({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "web"}}, "it holds not one v1 Pod"),
        ({"apiVersion": "v1", "kind": "PodList", "items": [manifest(), manifest("b")]}, "it holds not one v1 Pod"),
        (manifest(containers=[]), 'Pod "web-node1" is invalid: spec.containers: Required value'),
        (manifest(name=""), "metadata.name: Required value: name or generateName is required"),
        (manifest(volumes=7), ""),
        (manifest(containers="none"), ""),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": [], "spec": {}}, ""),
    ],
)
def test_refused_manifests(content: Any, cause: str) -> None:
    with pytest.raises(InvalidStaticPod) as caught:
        read(content)
    assert str(caught.value).startswith("/etc/m/web.yaml: couldn't parse as pod(")
    assert str(caught.value).endswith("), please check config file")
    assert cause in str(caught.value)


def test_mirror() -> None:
    obj = manifest()
    obj["spec"]["affinity"] = {"nodeAffinity": {}}
    static = read(obj)
    mirror = make_mirror(static, "node1", "node-uid")
    assert "uid" not in mirror["metadata"]
    assert "status" not in mirror
    assert mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] == static.hash
    assert mirror["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "node1", "uid": "node-uid", "controller": True}
    ]
    assert mirror["spec"]["affinity"] == {"nodeAffinity": {}}
    assert "uid" in static.manifest["metadata"]


def test_one_pod_per_name_at_a_time() -> None:
    pods = StaticPods()
    first, second, other = read(manifest()), read(manifest(command="b")), read(manifest("other"))
    assert {each.uid for each in pods.replace([first, other]).start} == {first.uid, other.uid}
    assert {each.uid for each in pods.running()} == {first.uid, other.uid}
    assert pods.replace([first, other]) == Changes()
    assert pods.replace([second, other]) == Changes(stop=(first.uid,))
    assert pods.ended(first.uid) == Changes(start=(second,))
    assert pods.replace([other]) == Changes(stop=(second.uid,))
    assert pods.ended(second.uid) == Changes()
    assert pods.ended(PodUID("unknown")) == Changes()
    assert pods.running() == (other,)


def test_of_two_files_with_one_name_the_first_counts() -> None:
    pods = StaticPods()
    first, second = read(manifest(), path="/etc/m/a.yaml"), read(manifest(), path="/etc/m/b.yaml")
    assert pods.replace([first, second]) == Changes(start=(first,))

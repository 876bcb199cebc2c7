"""This program as a node of a whole control plane: what its controllers and its scheduler do with the node and its pods.

With kube-apiserver, kube-controller-manager and kube-scheduler in ``KUBEBUILDER_ASSETS``, and nothing that stands in for them:
a test of the stand-ins would show nothing of these. ``scripts/real-cluster-test`` makes the programs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from kubelet_secrets.api.meta import NAMESPACES, NODES, PODS
from kubelet_secrets.errors import ApiError, NotFound, TooManyRequests
from kubelet_secrets.testing.controlplane import VARIABLE
from tests.e2e.stacks import WAIT, Cluster, container, mount, secret_env, secret_volume
from tests.testing.conftest import PlaneNode

pytestmark = [pytest.mark.fuse, pytest.mark.runtime, pytest.mark.timeout(600)]

NAMESPACE = "workloads"
GRACE_S = 40  # after which the controller manager gives a silent node up, by default
MERGE = "application/merge-patch+json"

Json = dict[str, Any]


async def eventually(holds: Callable[[], Awaitable[object]], *, within_s: float = 90) -> None:
    with trio.fail_after(within_s):
        while not await holds():  # noqa: ASYNC110  # a cluster of somebody else's is looked at, not waited on
            await trio.sleep(0.2)


def template(app: str, script: str = f"echo $KEY; {WAIT}", **spec: Any) -> Json:
    one = container(script=script, env=[secret_env("KEY", "work", "key")], volumeMounts=[mount("v", "/v")])
    pod = {"terminationGracePeriodSeconds": 1, "containers": [one], "volumes": [secret_volume("v", "work")], **spec}
    return {"metadata": {"labels": {"app": app}}, "spec": pod}


def workload(kind: str, **spec: Any) -> Json:
    name = kind.lower()
    fields = {"selector": {"matchLabels": {"app": name}}, "template": template(name), **spec}
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": fields}


WORKLOADS = (
    workload("Deployment", replicas=2),
    workload("StatefulSet", replicas=2, serviceName="none"),
    workload("DaemonSet"),
    {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "job", "namespace": NAMESPACE},
        "spec": {"completions": 2, "template": template("job", "grep -qx before /v/key", restartPolicy="Never")},
    },
)


class Workloads:
    """The pods of a namespace, as its controllers want them."""

    def __init__(self, cluster: Cluster) -> None:
        self.client = cluster.client

    async def create(self) -> None:
        named = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        await self.client.create(NAMESPACES, "", named)
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "work", "namespace": NAMESPACE}}
        await self.client.apply({**secret, "stringData": {"key": "before"}})
        for each in WORKLOADS:
            path = f"/apis/{each['apiVersion']}/namespaces/{NAMESPACE}/{each['kind'].lower()}s"
            await self.client.request_json("POST", path, body=each)

    async def pods(self, app: str = "") -> list[Json]:
        selector = f"app={app}" if app else "app!=job"
        return list(await self.client.list(PODS, NAMESPACE, dict, label_selector=selector))

    async def are_ready(self) -> bool:
        found = await self.pods()
        return len(found) == 5 and all(_is_ready(each) for each in found)

    async def has_done_its_job(self) -> bool:
        job = await self.client.request_json("GET", f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/job")
        return bool(job["status"].get("succeeded") == 2)

    async def restart(self, deployment: str) -> None:
        """As ``kubectl rollout restart``."""
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{deployment}"
        found = await self.client.request_json("GET", path)
        found["spec"]["template"]["metadata"]["annotations"] = {"restarted": "once"}
        await self.client.request_json("PUT", path, body=found)

    async def delete(self) -> None:
        await self.client.delete(NAMESPACES, "", NAMESPACE)

    async def are_gone(self) -> bool:
        try:
            await self.client.get(NAMESPACES, "", NAMESPACE, dict)
        except NotFound:
            return True
        return False


def _is_ready(pod: Json) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def uids(pods: list[Json]) -> set[str]:
    return {each["metadata"]["uid"] for each in pods}


async def test_pods_of_controllers_have_their_secrets(cluster: Cluster, node: PlaneNode) -> None:
    """Deployment, StatefulSet, DaemonSet and Job; a rollout, a drain, the namespace's end."""
    work = Workloads(cluster)
    await work.create()
    await eventually(work.are_ready)
    await eventually(work.has_done_its_job)

    # Rollout: every pod of the Deployment is another one.
    before = uids(await work.pods("deployment"))
    await work.restart("deployment")

    async def is_rolled_out() -> bool:
        return not uids(await work.pods("deployment")) & before and await work.are_ready()

    await eventually(is_rolled_out)

    # Drain, as kubectl does it: cordon, evict, uncordon.
    name = cluster.stack.node_name
    await cluster.client.patch(NODES, "", name, {"spec": {"unschedulable": True}}, content_type=MERGE)
    evicted = [each for app in ("deployment", "statefulset") for each in await work.pods(app)]
    for each in evicted:
        await evict(cluster, each["metadata"]["name"])

    async def is_drained() -> bool:
        return not uids(await work.pods()) & uids(evicted)

    await eventually(is_drained)
    await cluster.client.patch(NODES, "", name, {"spec": {"unschedulable": None}}, content_type=MERGE)
    await eventually(work.are_ready)

    await work.delete()
    await eventually(work.are_gone)


async def evict(cluster: Cluster, pod: str) -> None:
    body = {"kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
    for version in ("policy/v1", "policy/v1beta1"):  # the first since 1.22, the second until 1.24
        try:
            eviction = {"apiVersion": version, **body}
            await cluster.client.create(PODS, NAMESPACE, eviction, name=pod, subresource="eviction")
            return
        except ApiError as error:
            if isinstance(error, TooManyRequests) or version == "policy/v1beta1":
                raise


async def test_silent_node_is_tainted_until_it_comes_back(cluster: Cluster, node: PlaneNode) -> None:
    """Its pods are the same then: nobody tolerates it for less than five minutes."""
    await cluster.put_secret("lasting", {"key": "before"})
    await cluster.run_pod(
        "lasting", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "lasting")]
    )
    uid = (await cluster.pod("lasting")).metadata.uid

    async def has_taint() -> bool:
        found = await cluster.client.get(NODES, "", node.node_name, dict)
        return "node.kubernetes.io/unreachable" in [each["key"] for each in found["spec"].get("taints", ())]

    async def has_none() -> bool:
        return not (await cluster.client.get(NODES, "", node.node_name, dict))["spec"].get("taints")

    await trio.to_thread.run_sync(node.stop)
    await eventually(has_taint, within_s=2 * GRACE_S)
    await cluster.put_secret("lasting", {"key": "after"})
    await trio.to_thread.run_sync(node.start)
    await eventually(has_none)
    assert (await cluster.wait_ready("lasting")).metadata.uid == uid
    await cluster.exec("lasting", "until grep -q after /v/key; do sleep 0.05; done")
    await cluster.delete_pod("lasting")
    await cluster.wait_gone("lasting")


async def test_kubectl_reaches_containers_through_the_api_server(cluster: Cluster, node: PlaneNode) -> None:
    """The one that lies beside the API server, else the one on PATH: logs, a followed log, a command with input, a copy."""
    kubectl = shutil.which("kubectl", path=f"{os.environ.get(VARIABLE, '')}{os.pathsep}{os.environ.get('PATH', '')}")
    if kubectl is None:
        pytest.skip("needs kubectl")

    async def run(*arguments: str, stdin: bytes = b"") -> bytes:
        command = [kubectl, "--kubeconfig", str(node.kubeconfig), *arguments]
        done = await trio.run_process(command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False)
        assert done.returncode == 0, done.stderr
        return bytes(done.stdout)

    # It ends by itself, so that following its log does.
    script = "echo begins; until [ -e /tmp/end ]; do sleep 0.05; done; echo ends"
    await cluster.run_pod("spoken", container(script=script), restartPolicy="Never")
    assert await run("logs", "spoken") == b"begins\n"
    assert await run("exec", "-i", "spoken", "--", "cat", stdin=b"said") == b"said"
    copied = node.directory / "copied"
    copied.write_bytes(b"content\n")
    await run("cp", str(copied), "default/spoken:/tmp/copied")
    assert await run("exec", "spoken", "--", "cat", "/tmp/copied") == b"content\n"
    following = await trio.lowlevel.open_process(
        [kubectl, "--kubeconfig", str(node.kubeconfig), "logs", "-f", "spoken"], stdout=subprocess.PIPE
    )
    assert following.stdout is not None
    seen = bytes(await following.stdout.receive_some())
    await run("exec", "spoken", "--", "touch", "/tmp/end")
    async for part in following.stdout:
        seen += part
    assert (seen, await following.wait()) == (b"begins\nends\n", 0)
    await cluster.delete_pod("spoken")
    await cluster.wait_gone("spoken")

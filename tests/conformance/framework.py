"""What the e2e framework does for every test: a namespace of its own, pods, their logs, commands in them, their end.

The test is an API user and nothing else: all it knows of a pod comes from the API server, logs and commands included.
Manifests are plain JSON, as the framework would send them. Differs: it watches where the framework polls every 2 s.

Source: kubernetes test/e2e/framework, framework/pod, framework/pod/output; semantics §14.0.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from kubelet_secrets.api.meta import CONFIG_MAPS, EVENTS, NAMESPACES, PODS, SECRETS, SERVICE_ACCOUNTS, Resource
from kubelet_secrets.client.answers import EventType, WatchEvent
from kubelet_secrets.client.kubeconfig import ClusterConfig
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.client.version import NEWEST, Version
from kubelet_secrets.errors import ApiError, NotFound
from tests.podexec import websocket_exec

AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
BUSYBOX = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"
PAUSE = "registry.k8s.io/pause:3.10.2"

POLL_S = 0.25
POD_START_S = 300.0
"""The framework's. For a change to arrive it allows 240 s and the node's TTL."""
_WEBSOCKET_V5 = Version(1, 30)
INFINITE_SLEEP = "trap exit TERM; while true; do sleep 1; done"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PrivateImage:
    """An image that takes a password.

    Attributes:
        docker_config: the ``.dockerconfigjson`` that has it.
    """

    image: str
    docker_config: Json


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the tests run.

    Attributes:
        node_name: the node under test.
        has_scheduler: pods without a node get one; otherwise the test binds them by ``spec.nodeName``.
        is_shared: there are other nodes, and others' pods: the test asks for this node.
        has_controllers: kube-controller-manager's, beyond what a node needs to join and a namespace to hold pods.
        patience_s: how long "stays Pending" and "stays stable" are watched. The framework: 300 and 60 s.
        node_version: of the kubelet; the agent counts as the newest.
        registry: a private registry's image and the dockerconfigjson that pulls it, where there is one.
    """

    kubeconfig: Path
    node_name: str
    has_scheduler: bool = True
    is_shared: bool = False
    has_controllers: bool = True
    patience_s: float = 3.0
    node_version: Version = NEWEST
    registry: PrivateImage | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One upstream test.

    Attributes:
        title: its suite and text, as Ginkgo prints them.
        labels: C Conformance, N NodeConformance, S Slow.
    """

    title: str
    run: Callable[[Framework], Awaitable[None]]
    labels: str = ""

    def __str__(self) -> str:
        return self.title


@dataclass
class Framework:
    """One test's view of the cluster.

    Attributes:
        namespace: its own.
        baseline: Pod Security admission's level of the namespace.
    """

    cluster: Cluster
    config: ClusterConfig
    client: ApiClient
    namespace: str
    others: list[str] = field(default_factory=list)

    # --- namespaces and objects ---

    async def create_namespace(self, name: str = "", *, level: str = "baseline") -> str:
        """Create one and wait until pods can be created in it."""
        name = name or f"{self.namespace}-{len(self.others)}"
        labels = {f"pod-security.kubernetes.io/{mode}": level for mode in ("enforce", "audit", "warn")}
        await self.client.create(NAMESPACES, "", {"metadata": {"name": name, "labels": labels}} | _type(NAMESPACES))
        self.others.append(name)
        for resource, wanted in ((SERVICE_ACCOUNTS, "default"), (CONFIG_MAPS, "kube-root-ca.crt")):
            await self.eventually(lambda r=resource, w=wanted: self._exists(r, name, w))  # type: ignore[misc]
        return name

    def needs_controllers(self) -> None:
        """Skip the test where there is no controller manager: it is about one of its controllers."""
        if not self.cluster.has_controllers:
            pytest.skip("needs kube-controller-manager beside kube-apiserver in KUBEBUILDER_ASSETS")

    async def _exists(self, resource: Resource, namespace: str, name: str) -> bool:
        try:
            await self.client.get(resource, namespace, name, dict)
        except NotFound:
            return False
        return True

    async def create(self, resource: Resource, name: str, fields: Mapping[str, Any], *, namespace: str = "") -> Json:
        body = {**_type(resource), **fields, "metadata": {"name": name, **fields.get("metadata", {})}}
        return await self.client.create(resource, namespace or self.namespace, body)

    async def create_secret(self, name: str, data: Mapping[str, str], **fields: Any) -> str:
        await self.create(SECRETS, name, secret_body(data) | fields)
        return name

    async def create_config_map(self, name: str, data: Mapping[str, str], **fields: Any) -> str:
        await self.create(CONFIG_MAPS, name, {"data": dict(data), **fields})
        return name

    async def replace(self, resource: Resource, name: str, fields: Mapping[str, Any]) -> Json:
        """Update without a resourceVersion: whatever is there."""
        return await self.client.replace(
            resource, self.namespace, {**_type(resource), **fields, "metadata": {"name": name}}
        )

    # --- pods ---

    async def create_pod(self, pod: Json) -> str:
        spec = pod["spec"]
        if self.cluster.is_shared and "nodeName" not in spec:
            spec["nodeSelector"] = {"kubernetes.io/hostname": self.cluster.node_name}
            spec["tolerations"] = [{"operator": "Exists"}]
        if not self.cluster.has_scheduler:
            spec["nodeName"] = self.cluster.node_name
        while True:
            created = await self.client.create(PODS, self.namespace, {**_type(PODS), **pod})
            name = str(created["metadata"]["name"])
            if self.cluster.has_scheduler or await self._has_room(name):
                return name
            await self.client.delete(PODS, self.namespace, name, grace_period_s=0)

    async def _has_room(self, name: str) -> bool:
        """Whether the node has taken the pod: a scheduler would not have given it one that is full, and would have waited."""
        pod = await self.wait(name, lambda found: found["status"].get("startTime"))
        return not str(pod["status"].get("reason", "")).startswith("OutOf")

    async def create_sync(self, pod: Json) -> str:
        """Create a pod and wait until it is Running and Ready."""
        name = await self.create_pod(pod)
        await self.wait(name, is_running_and_ready)
        return name

    async def get(self, name: str) -> Json:
        return await self.client.get(PODS, self.namespace, name, dict)

    async def update_pod(self, name: str, change: Json) -> None:
        await self.client.patch(
            PODS, self.namespace, name, {"metadata": change}, content_type="application/merge-patch+json"
        )

    async def wait(self, name: str, wanted: Callable[[Json], object], *, timeout_s: float = POD_START_S) -> Json:
        """Wait until the pod is as wanted. Every state that the API server tells of is looked at.

        Raises:
            AssertionError: it is not in time, or *wanted* says what must not be.
        """
        last: Json | None = None
        with trio.move_on_after(timeout_s):
            while True:  # a server may end a watch at any time
                async with self._watch(name) as events:
                    async for event in events:
                        assert event.type is not EventType.DELETED, f"{name} is gone"
                        if event.type in (EventType.ADDED, EventType.MODIFIED):
                            last = event.object
                            assert last is not None
                            if wanted(last):
                                return last
        seen = [f"{each['reason']}: {each.get('message', '')}" for each in await self.events(name)]
        raise AssertionError(f"waited {timeout_s} s for {wanted}; it is {last and last['status']}; events {seen}")

    def _watch(self, name: str) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent[Json]]]:
        """What the pod is, and what becomes of it."""
        return self.client.watch(PODS, self.namespace, dict, field_selector=f"metadata.name={name}")

    async def wait_success(self, name: str) -> None:
        def has_succeeded(pod: Json) -> bool:
            assert pod["status"].get("phase") != "Failed", pod["status"]
            return pod["status"].get("phase") == "Succeeded"

        await self.wait(name, has_succeeded)

    async def wait_running(self, name: str) -> Json:
        def is_running(pod: Json) -> bool:
            assert pod["status"].get("phase") not in ("Failed", "Succeeded"), pod["status"]
            return pod["status"].get("phase") == "Running"

        return await self.wait(name, is_running)

    async def wait_waiting(self, name: str, reason: str, container: str = "") -> Json:
        """Wait until a container waits for *reason*: WaitForPodContainerToFail."""
        return await self.wait(name, lambda pod: waiting(pod, container).get("reason") == reason)

    async def stays_pending(self, name: str) -> None:
        """The pod does not run, while the node tries again and again.

        The framework waits for 5 minutes. Here three failures have been told of, and nothing else for a while.
        """
        await self.eventually(lambda: self._failed_mounts(name, 3))
        with trio.move_on_after(self.cluster.patience_s):
            async with self._watch(name) as events:
                async for event in events:
                    assert event.object is None or event.object["status"]["phase"] == "Pending", event.object["status"]
        assert (await self.get(name))["status"]["phase"] == "Pending"

    async def _failed_mounts(self, name: str, times: int) -> bool:
        events = await self.events(name)
        return sum(each.get("count") or 1 for each in events if each["reason"] == "FailedMount") >= times

    async def events(self, name: str) -> list[Json]:
        selector = f"involvedObject.kind=Pod,involvedObject.name={name}"
        return list(await self.client.list(EVENTS, self.namespace, dict, field_selector=selector))

    async def delete_pod(self, name: str) -> None:
        """Delete a pod and wait until it is gone."""
        uid = (await self.get(name))["metadata"]["uid"]
        await self.client.delete(PODS, self.namespace, name)
        await self.eventually(lambda: self._is_gone(name, uid))

    async def _is_gone(self, name: str, uid: str) -> bool:
        try:
            return bool((await self.get(name))["metadata"]["uid"] != uid)
        except NotFound:
            return True

    # --- inside ---

    async def logs(self, pod: str, container: str = "", **options: str) -> str:
        query = {**({"container": container} if container else {}), **options}
        return await self.client.request_text(PODS.path(self.namespace, pod, "log"), params=query)

    async def wait_log(self, pod: str, container: str, text: str) -> None:
        """Read the log again and again until *text* is in it. The container may be running, or waiting to start.

        A pod is Running with its first container. Source: pollLogs of Eventually, for which an error is one more try.
        """
        seen = ""
        with trio.move_on_after(POD_START_S):
            while True:
                try:
                    seen = await self.logs(pod, container)
                except ApiError as error:
                    seen = str(error)
                else:
                    if text in seen:
                        return
                await trio.sleep(POLL_S)
        raise AssertionError(f"no {text!r} in the log of {container}: {seen}")

    async def exec(self, pod: str, container: str, script: str) -> str:
        """Run a shell line, which has to succeed; its output without blanks at its ends, as the framework trims it."""
        done = await websocket_exec(
            self.config,
            self.namespace,
            pod,
            ["/bin/sh", "-c", script],
            protocol="v5.channel.k8s.io" if self.cluster.node_version >= _WEBSOCKET_V5 else "v4.channel.k8s.io",
            **({"container": container} if container else {}),
        )
        assert done.status.get("status") == "Success", (script, done)
        return done.out.get(1, b"").decode().strip()

    async def check_output(self, pod: Json, *expected: str, index: int = 0, regexp: bool = False) -> None:
        """Run the pod to its end, which has to be Succeeded, and look for every expected text in a container's log.

        Source: TestContainerOutput, TestContainerOutputRegexp.
        """
        name = await self.create_pod(pod)
        await self.wait_success(name)
        log = await self.logs(name, pod["spec"]["containers"][index]["name"])
        for each in expected:
            assert re.search(each, log) if regexp else each in log, f"no {each!r} in {log!r}"
        await self.delete_pod(name)

    async def eventually(self, holds: Callable[[], Awaitable[object]]) -> None:
        with trio.fail_after(POD_START_S):
            while not await holds():  # noqa: ASYNC110  # what it asks tells nobody
                await trio.sleep(POLL_S)

    async def refused(self, request: Awaitable[object], code: int, text: str = "") -> None:
        """The API server has to refuse the request with *code*, saying *text* among else."""
        with pytest.raises(ApiError) as refused:
            await request
        assert refused.value.code == code, refused.value
        assert text in str(refused.value)


# --- manifests ------------------------------------------------------------------------------------------------------------


def unique(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4()}"


def pod_body(name: str, containers: Sequence[Json], *, metadata: Mapping[str, Any] | None = None, **spec: Any) -> Json:
    """A pod that runs once, as almost every test has it."""
    return {
        "metadata": {"name": name, **(metadata or {})},
        "spec": {"restartPolicy": "Never", "containers": list(containers), **spec},
    }


def agnhost(name: str, *args: str, mounts: Sequence[Json] = (), **fields: Any) -> Json:
    return _container(name, AGNHOST, mounts, {**({"args": list(args)} if args else {}), **fields})


def busybox(name: str, *command: str, mounts: Sequence[Json] = (), **fields: Any) -> Json:
    return _container(name, BUSYBOX, mounts, {"command": list(command), **fields})


def shell(name: str, script: str, mounts: Sequence[Json] = (), **fields: Any) -> Json:
    return busybox(name, "sh", "-c", script, mounts=mounts, **fields)


def _container(name: str, image: str, mounts: Sequence[Json], fields: Json) -> Json:
    return {"name": name, "image": image, **({"volumeMounts": list(mounts)} if mounts else {}), **fields}


def mount(volume: str, path: str, **fields: Any) -> Json:
    return {"name": volume, "mountPath": path, **fields}


def secret_body(data: Mapping[str, str]) -> Json:
    return {"data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}}


def loop_args(path: str) -> list[str]:
    """mounttest reading a file every 2 s, for as long as a change may take."""
    return ["mounttest", "--break_on_expected_content=false", "--retry_time=240", f"--file_content_in_loop={path}"]


def mode_line(path: str, mode: int | None) -> str:
    """Source: getFileModeRegex."""
    bits = 0o644 if mode is None else mode
    text = "".join(letter if bits >> (8 - at) & 1 else "-" for at, letter in enumerate("rwxrwxrwx"))
    return f'mode of file "{path}": -{text}'


def content_line(path: str, content: str) -> str:
    return f'content of file "{path}": {content}'


def is_running_and_ready(pod: Json) -> bool:
    assert pod["status"].get("phase") != "Failed", pod["status"]
    return pod["status"].get("phase") == "Running" and condition(pod, "Ready").get("status") == "True"


def condition(pod: Json, kind: str) -> Json:
    return next((each for each in pod["status"].get("conditions", ()) if each["type"] == kind), {})


def statuses(pod: Json) -> list[Json]:
    found: list[Json] = []
    for group in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        found += pod["status"].get(group) or []
    return found


def waiting(pod: Json, container: str = "") -> Json:
    """Why a container (the first that waits) waits."""
    for status in statuses(pod):
        if container in ("", status["name"]) and "waiting" in status["state"]:
            found: Json = status["state"]["waiting"]
            return found
    return {}


def _type(resource: Resource) -> Json:
    return {"apiVersion": resource.api_version, "kind": resource.kind}

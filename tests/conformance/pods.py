"""[sig-node] Pods, Kubelet, KubeletManagedEtcHosts, Ephemeral Containers, Sysctls; [sig-storage] HostPath.

Beyond semantics §14: what the tests of Secrets rest on. Not here: what needs a network between pods (hooks and probes that ask
other pods), and what takes minutes.

Source: kubernetes test/e2e/common/node/{pods,kubelet,kubelet_etc_hosts,ephemeral_containers,sysctl}.go,
test/e2e/common/storage/host_path.go.
"""

from __future__ import annotations

import tempfile
from functools import partial

from kubelet_secrets.api.meta import PODS
from tests.conformance.framework import (
    PAUSE,
    Case,
    Framework,
    Json,
    agnhost,
    busybox,
    condition,
    content_line,
    mount,
    pod_body,
    shell,
    statuses,
    unique,
)
from tests.podexec import websocket_exec


def _pause(**metadata: Json) -> Json:
    container = {"name": "pause", "image": PAUSE}
    return pod_body(unique("pod-"), [container], metadata=metadata, restartPolicy="Always")


async def _host_ip(f: Framework) -> None:
    pod = await f.get(await f.create_sync(_pause()))
    assert pod["status"]["hostIP"] == pod["status"]["hostIPs"][0]["ip"]
    assert pod["status"]["podIP"] == pod["status"]["podIPs"][0]["ip"]


async def _submitted_and_removed(f: Framework) -> None:
    name = await f.create_sync(_pause(labels={"name": "foo"}))
    (listed,) = await f.client.list(PODS, f.namespace, dict, label_selector="name=foo")
    assert listed["metadata"]["name"] == name
    await f.client.delete(PODS, f.namespace, name, grace_period_s=30)
    await f.eventually(partial(_is_empty, f))


async def _is_empty(f: Framework) -> bool:
    return len(await f.client.list(PODS, f.namespace, dict)) == 0


async def _updated(f: Framework) -> None:
    name = await f.create_sync(_pause(labels={"time": "before"}))
    await f.update_pod(name, {"labels": {"time": "after"}})
    (listed,) = await f.client.list(PODS, f.namespace, dict, label_selector="time=after")
    assert listed["metadata"]["name"] == name
    await f.wait_running(name)


async def _deadline(f: Framework) -> None:
    name = await f.create_sync(_pause())
    body = {"spec": {"activeDeadlineSeconds": 5}}
    await f.client.patch(PODS, f.namespace, name, body, content_type="application/merge-patch+json")
    pod = await f.wait(name, lambda found: found["status"]["phase"] == "Failed")
    assert pod["status"]["reason"] == "DeadlineExceeded"


async def _old_websocket(f: Framework) -> None:
    main = shell("main", "echo container is alive; sleep 600")
    name = await f.create_sync(pod_body(unique("pod-exec-websocket-"), [main]))
    command = ["echo", "remote execution test"]
    done = await websocket_exec(f.config, f.namespace, name, command, protocol="channel.k8s.io", container="main")
    assert "remote execution test" in done.out[1].decode()
    assert {channel for channel, data in done.out.items() if data} == {1}


async def _collection(f: Framework) -> None:
    for _ in range(3):
        await f.create_pod(_pause(labels={"type": "Testing"}))
    await f.client.request_json("DELETE", PODS.path(f.namespace), params={"labelSelector": "type=Testing"})
    await f.eventually(partial(_is_empty, f))


async def _generation(f: Framework) -> None:
    """It counts changes of the spec, and the kubelet says how far it is."""
    name = await f.create_sync(_pause())
    assert (await f.get(name))["metadata"]["generation"] == 1
    await f.update_pod(name, {"labels": {"a": "b"}})
    assert (await f.get(name))["metadata"]["generation"] == 1
    for generation, deadline_s in ((2, 6000), (3, 5000)):
        body = {"spec": {"activeDeadlineSeconds": deadline_s}}
        await f.client.patch(PODS, f.namespace, name, body, content_type="application/merge-patch+json")
        assert (await f.get(name))["metadata"]["generation"] == generation
    pod = await f.wait(name, lambda found: found["status"].get("observedGeneration") == 3)
    assert condition(pod, "Ready")["observedGeneration"] == 3


# --- Kubelet ----------------------------------------------------------------------------------------------------------------


async def _output(f: Framework) -> None:
    name = await f.create_sync(
        pod_body(unique("busybox-scheduling-"), [shell("main", "echo 'Hello World' ; sleep 240")])
    )
    await f.wait_log(name, "", "Hello World\n")
    assert await f.logs(name, sinceSeconds="3600") == "Hello World\n"


async def _fails(f: Framework) -> None:
    name = await f.create_pod(pod_body(unique("bin-false"), [busybox("main", "/bin/false")]))
    pod = await f.wait(name, lambda found: any("terminated" in each["state"] for each in statuses(found)))
    (status,) = pod["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] != 0
    assert status["state"]["terminated"]["reason"]


async def _fails_and_goes(f: Framework) -> None:
    name = await f.create_pod(pod_body(unique("bin-false"), [busybox("main", "/bin/false")]))
    await f.delete_pod(name)


async def _host_aliases(f: Framework) -> None:
    """Upstream's ``agnhost etc-hosts`` prints the file."""
    pod = pod_body(unique("host-aliases-"), [busybox("main", "cat", "/etc/hosts")])
    pod["spec"]["hostAliases"] = [{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}]
    await f.check_output(pod, "123.45.67.89\tfoo\tbar")


async def _read_only(f: Framework) -> None:
    context = {"readOnlyRootFilesystem": True}
    writer = busybox("main", "/bin/sh", "-c", "echo test > /file; sleep 240", securityContext=context)
    name = await f.create_sync(pod_body(unique("busybox-readonly-fs"), [writer]))
    await f.wait_log(name, "", "/bin/sh: can't create /file: Read-only file system\n")


async def _etc_hosts(f: Framework) -> None:
    f.namespace = await f.create_namespace(level="privileged")
    path, original = "/etc/hosts", "/etc/hosts-original"
    volume = {"name": "host-etc-hosts", "hostPath": {"path": path, "type": "FileOrCreate"}}
    one, both = [mount("host-etc-hosts", original)], [mount("host-etc-hosts", original), mount("host-etc-hosts", path)]
    names = {"busybox-1": one, "busybox-2": one, "busybox-3": both}
    spec: Json = {"volumes": [volume], "restartPolicy": "Always"}
    own = await f.create_sync(pod_body("test-pod", [agnhost(name, mounts=m) for name, m in names.items()], **spec))
    hosts = [agnhost(name, mounts=one) for name in ("busybox-1", "busybox-2")]
    of_host = await f.create_sync(pod_body("test-host-network-pod", hosts, hostNetwork=True, **spec))
    for pod, name, is_managed in (
        (own, "busybox-1", True),
        (own, "busybox-2", True),
        (own, "busybox-3", False),
        (of_host, "busybox-1", False),
        (of_host, "busybox-2", False),
    ):
        shown, before = [await f.exec(pod, name, f"cat {each}") for each in (path, original)]
        assert (shown.startswith("# Kubernetes-managed hosts file.") and shown != before) == is_managed, (pod, name)


async def _ephemeral(f: Framework, *, again: bool) -> None:
    sleeper = busybox("test-container-1", "/bin/sleep", args=["10000"])
    pod = await f.create_sync(pod_body("ephemeral-containers-target-pod", [sleeper], restartPolicy="Always"))
    assert (await f.get(pod))["metadata"]["generation"] == 1
    debugger = shell("debugger", "while true; do echo polo; sleep 2; done", stdin=True, tty=True)
    await f.client.patch(
        PODS, f.namespace, pod, {"spec": {"ephemeralContainers": [debugger]}}, subresource="ephemeralcontainers"
    )
    await f.wait(pod, lambda found: any(s["name"] == "debugger" and "running" in s["state"] for s in statuses(found)))
    assert (await f.get(pod))["metadata"]["generation"] == 2
    assert await f.exec(pod, "debugger", "/bin/echo marco") == "marco"
    await f.wait_log(pod, "debugger", "polo")
    if again:
        second = agnhost("debugger2", terminationMessagePolicy="File")
        body = {"spec": {"ephemeralContainers": [second]}}
        await f.client.patch(PODS, f.namespace, pod, body, subresource="ephemeralcontainers")
        path = PODS.path(f.namespace, pod, "ephemeralcontainers")
        found = await f.client.request_json("GET", path)
        assert len(found["spec"]["ephemeralContainers"]) == 2


# --- Sysctls, HostPath ------------------------------------------------------------------------------------------------------


def _sysctl_pod(*sysctls: tuple[str, str]) -> Json:
    pod = pod_body(unique("sysctl-"), [busybox("test-container", "/bin/sysctl", sysctls[0][0])])
    pod["spec"]["securityContext"] = {"sysctls": [{"name": name, "value": value} for name, value in sysctls]}
    return pod


async def _sysctl(f: Framework) -> None:
    await f.check_output(_sysctl_pod(("kernel.shm_rmid_forced", "1")), "kernel.shm_rmid_forced = 1")


async def _bad_sysctls(f: Framework) -> None:
    f.namespace = await f.create_namespace(level="privileged")
    pod = _sysctl_pod(
        ("foo-", "bar"), ("kernel.shmmax", "100000000"), ("safe-and-unsafe", "100000000"), ("bar..", "42")
    )
    for bad in ('Invalid value: "foo-"', 'Invalid value: "bar.."'):
        await f.refused(f.create_pod(pod), 422, bad)


async def _unsafe_sysctl(f: Framework) -> None:
    f.namespace = await f.create_namespace(level="privileged")
    name = await f.create_pod(_sysctl_pod(("kernel.msgmax", "10000000000")))
    pod = await f.wait(name, lambda found: found["status"].get("phase") == "Failed")
    assert pod["status"]["reason"] == "SysctlForbidden"


async def _host_path(f: Framework, *, sub_path: str = "", only_mode: bool = False) -> None:
    """Upstream takes the node's /tmp itself; here a directory that is as /tmp is."""
    f.namespace = await f.create_namespace(level="privileged")
    with tempfile.TemporaryDirectory(prefix="ks-host-path-") as directory:
        await _look_at_host_path(f, directory, sub_path=sub_path, only_mode=only_mode)


async def _look_at_host_path(f: Framework, directory: str, *, sub_path: str, only_mode: bool) -> None:
    context = {"securityContext": {"privileged": not only_mode}}
    plain = mount("test-volume", "/test-volume")
    written, read = "/test-volume/test-file", f"/test-volume{'/' + sub_path if sub_path else ''}/test-file"
    if only_mode:
        first = ["mounttest", "--fs_type=/test-volume", "--file_mode=/test-volume"]
        second = ["mounttest"]
    else:
        first = ["mounttest", f"--new_file_0644={written}", f"--file_mode={written}"]
        second = ["mounttest", f"--file_content_in_loop={read}", "--retry_time=180"]
    path = "/tmp" if only_mode else directory
    pod = pod_body(
        "pod-host-path-test",
        [
            agnhost(
                "test-container-1", *first, mounts=[{**plain, "subPath": sub_path} if sub_path else plain], **context
            ),
            agnhost("test-container-2", *second, mounts=[plain], **context),
        ],
        volumes=[{"name": "test-volume", "hostPath": {"path": path}}],
    )
    if only_mode:
        await f.check_output(pod, 'mode of file "/test-volume": dg?trwxrwx', regexp=True)
    else:
        await f.check_output(pod, content_line(read, "mount-tester new file"), index=1)


CASES = [
    Case(text, run, labels)
    for text, run, labels in (
        ("[sig-node] Pods should get a host IP", _host_ip, "NC"),
        ("[sig-node] Pods should be submitted and removed", _submitted_and_removed, "NC"),
        ("[sig-node] Pods should be updated", _updated, "NC"),
        ("[sig-node] Pods should allow activeDeadlineSeconds to be updated", _deadline, "NC"),
        ("[sig-node] Pods should support remote command execution over websockets", _old_websocket, "NC"),
        ("[sig-node] Pods should delete a collection of pods", _collection, "C"),
        ("[sig-node] Pods Extended pod generation should start at 1 and increment per update", _generation, "C"),
        ("Kubelet when scheduling a busybox command in a pod should print the output to logs", _output, "NC"),
        ("Kubelet when scheduling a busybox command that always fails should have an terminated reason", _fails, "NC"),
        (
            "Kubelet when scheduling a busybox command that always fails should be possible to delete",
            _fails_and_goes,
            "NC",
        ),
        (
            "Kubelet when scheduling an agnhost Pod with hostAliases should write entries to /etc/hosts",
            _host_aliases,
            "NC",
        ),
        ("Kubelet when scheduling a read only busybox container should not write to root filesystem", _read_only, "NC"),
        ("KubeletManagedEtcHosts should test kubelet managed /etc/hosts file", _etc_hosts, "NC"),
        (
            "Ephemeral Containers will start an ephemeral container in an existing pod",
            partial(_ephemeral, again=False),
            "NC",
        ),
        (
            "Ephemeral Containers should update the ephemeral containers in an existing pod",
            partial(_ephemeral, again=True),
            "C",
        ),
        ("Sysctls should support sysctls", _sysctl, "NC"),
        ("Sysctls should reject invalid sysctls", _bad_sysctls, "NC"),
        ("Sysctls should not launch unsafe, but not explicitly enabled sysctls on the node", _unsafe_sysctl, ""),
        ("HostPath should give a volume the correct mode", partial(_host_path, only_mode=True), "N"),
        ("HostPath should support r/w", _host_path, "N"),
        ("HostPath should support subPath", partial(_host_path, sub_path="sub-path"), "N"),
    )
]

"""e2e_node: Pod conditions managed by Kubelet, Mount recursive read-only.

Source: kubernetes test/e2e_node/{pod_conditions_test,mount_rro_linux_test}.go; semantics §14.13. Not here: a kubelet whose gate
PodReadyToStartContainersCondition is off, and a runtime without recursive read-only mounts (every runc here has them; what is
told without them is a table in tests/pod/test_mounts.py).
"""

from __future__ import annotations

from functools import partial

from kubelet_secrets.api.meta import NODES
from kubelet_secrets.api.times import parse_rfc3339
from tests.conformance.framework import (
    Case,
    Framework,
    Json,
    agnhost,
    busybox,
    condition,
    is_running_and_ready,
    mount,
    pod_body,
    shell,
    unique,
)


def _web_pod(has_init: bool) -> Json:
    inits = [shell("init1", "sleep 1s")] if has_init else []  # upstream's sleeps 5 s
    return pod_body(unique("pod-"), [agnhost("web1", "test-webserver")], initContainers=inits, restartPolicy="Always")


async def _order(f: Framework, has_init: bool) -> None:
    name = await f.create_pod(_web_pod(has_init))
    pod = await f.wait(name, is_running_and_ready)
    middle = ["PodReadyToStartContainers", "Initialized"] if has_init else ["Initialized", "PodReadyToStartContainers"]
    kinds = ["PodScheduled", *middle, "ContainersReady", "Ready"]
    assert {kind: condition(pod, kind).get("status") for kind in kinds} == dict.fromkeys(kinds, "True")
    times = [parse_rfc3339(condition(pod, kind)["lastTransitionTime"]) for kind in kinds]
    assert times == sorted(times), pod["status"]["conditions"]


async def _blocked(f: Framework, has_init: bool) -> None:
    """A ConfigMap is missing: the pod has no sandbox. Then it comes, and the pod is well."""
    pod = _web_pod(has_init)
    pod["spec"]["volumes"] = [{"name": "cm", "configMap": {"name": "does-not-exist"}}]
    pod["spec"]["containers"][0]["volumeMounts"] = [mount("cm", "/config")]
    name = await f.create_pod(pod)

    async def has_failed() -> bool:
        return any(
            each["reason"] == "FailedMount" and "MountVolume.SetUp failed for volume" in each["message"]
            for each in await f.events(name)
        )

    await f.eventually(has_failed)
    wanted = {
        "PodScheduled": "True",
        "Initialized": "False" if has_init else "True",
        "PodReadyToStartContainers": "False",
        "ContainersReady": "False",
        "Ready": "False",
    }
    # Upstream looks once, but for the event every 2 s only; seen at once, it may have passed the status on its way.
    found = await f.wait(name, lambda pod: {kind: condition(pod, kind).get("status") for kind in wanted} == wanted)
    if not has_init:
        scheduled, initialized = (
            condition(found, kind)["lastTransitionTime"] for kind in ("PodScheduled", "Initialized")
        )
        assert parse_rfc3339(initialized) >= parse_rfc3339(scheduled)
    await f.create_config_map("does-not-exist", {"key": "value"})
    found = await f.wait(name, is_running_and_ready)
    assert condition(found, "PodReadyToStartContainers")["status"] == "True"


# --- recursive read-only ----------------------------------------------------------------------------------------------------

ROWS: dict[str, tuple[Json, str | None]] = {
    "/mnt-rro": ({"readOnly": True, "mountPropagation": "None", "recursiveReadOnly": "Enabled"}, "Enabled"),
    "/mnt-rro-if-possible": ({"readOnly": True, "recursiveReadOnly": "IfPossible"}, "Enabled"),
    "/mnt-rro-disabled": ({"readOnly": True, "recursiveReadOnly": "Disabled"}, "Disabled"),
    "/mnt-ro": ({"readOnly": True}, "Disabled"),
    "/mnt-rw": ({}, None),
}


async def _rro(f: Framework) -> None:
    node = await f.client.get(NODES, "", f.cluster.node_name, dict)
    handlers = node["status"].get("runtimeHandlers") or ()
    assert any(each.get("features", {}).get("recursiveReadOnlyMounts") for each in handlers if not each.get("name"))
    f.namespace = await f.create_namespace(level="privileged")
    outer = [mount("mnt", "/mnt", mountPropagation="Bidirectional")]
    privileged = {"securityContext": {"privileged": True}}
    script = (
        'for f in rro rro-if-possible; do touch /mnt-$f/tmpfs/foo 2>&1 | grep "Read-only"; done\n'
        "for f in rro-disabled ro rw; do touch /mnt-$f/tmpfs/foo; done\n"
    )
    inits = [
        busybox(
            "mount", "sh", "-euxc", "mkdir -p /mnt/tmpfs && mount -t tmpfs none /mnt/tmpfs", mounts=outer, **privileged
        ),
        busybox(
            "test", "sh", "-euxc", script, mounts=[mount("mnt", path, **fields) for path, (fields, _) in ROWS.items()]
        ),
        busybox("unmount", "umount", "/mnt/tmpfs", mounts=outer, **privileged),
    ]
    volumes = [{"name": "mnt", "emptyDir": {}}]
    last = busybox("completion", "echo", "OK")
    pod = await f.create_pod(pod_body(unique("mount-rro-"), [last], initContainers=inits, volumes=volumes))
    await f.wait_success(pod)
    statuses = (await f.get(pod))["status"]["initContainerStatuses"]
    assert len(statuses) == 3
    told = {
        each["mountPath"]: each.get("recursiveReadOnly")
        for each in statuses[1]["volumeMounts"]
        if each["name"] == "mnt"
    }
    assert told == {path: wanted for path, (_, wanted) in ROWS.items()}


async def _invalid_rro(f: Framework) -> None:
    f.namespace = await f.create_namespace(level="privileged")
    mounts = [mount("mnt", "/mnt", recursiveReadOnly="Enabled")]
    container = busybox("busybox", "echo", "this container should fail", mounts=mounts)
    pod = pod_body(unique("mount-rro-invalid-"), [container], volumes=[{"name": "mnt", "emptyDir": {}}])
    text = "spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true"
    await f.refused(f.create_pod(pod), 422, text)


def _cases() -> list[Case]:
    up = "should report all conditions set in expected order after the pod is up"
    down = "a pod failing to mount volumes and"
    conditions = (
        (f"a pod without init containers {up}", partial(_order, has_init=False)),
        (f"a pod with init containers {up}", partial(_order, has_init=True)),
        (
            f"{down} without init containers should report scheduled and initialized conditions set",
            partial(_blocked, has_init=False),
        ),
        (
            f"{down} with init containers should report just the scheduled condition set",
            partial(_blocked, has_init=True),
        ),
    )
    supported = "Mount recursive read-only when the runtime supports recursive read-only mounts should"
    return [
        *(Case(f"Pod conditions managed by Kubelet {text}", run) for text, run in conditions),
        Case(f"{supported} accept recursive read-only mounts", _rro),
        Case(f"{supported} reject invalid recursive read-only mounts", _invalid_rro),
    ]


CASES = _cases()

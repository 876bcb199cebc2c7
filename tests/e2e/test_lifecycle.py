"""From a pod's first container to its last: restarts, init containers, ends, deletion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PODS
from kubelet_secrets.client.answers import EventType
from tests.e2e.stacks import WAIT_TIMEOUT_S, Cluster, container, eventually, mount, secret_env, secret_volume, waiting

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]


def ended(pod: Pod, name: str = "app") -> Any:
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        if status.name == name:
            return status.state.terminated
    return None


async def test_never_restarted_pod_succeeds_and_its_volumes_leave_the_node(cluster: Cluster) -> None:
    await cluster.put_secret("once", {"k": "v"})
    await cluster.create_pod(
        "once",
        container(script="cat /v/k; echo; echo done > /dev/termination-log", volumeMounts=[mount("v", "/v")]),
        volumes=[secret_volume("v", "once")],
        restartPolicy="Never",
    )
    pod = await cluster.wait_phase("once", "Succeeded")
    state = ended(pod)
    assert (state.exit_code, state.reason, state.message) == (0, "Completed", "done\n")
    assert {each.type: (each.status, each.reason) for each in pod.status.conditions}["Ready"] == (
        "False",
        "PodCompleted",
    )
    assert await cluster.logs("once") == "v\n"
    await eventually(lambda: not cluster.volume_dir(pod, "v").exists())
    assert await cluster.logs("once") == "v\n", "logs stay until the pod is deleted"


async def test_never_restarted_pod_fails_with_its_exit_code(cluster: Cluster) -> None:
    await cluster.create_pod("fails", container(script="exit 42"), container("ok", "exit 0"), restartPolicy="Never")
    pod = await cluster.wait_phase("fails", "Failed")
    assert (ended(pod).exit_code, ended(pod).reason) == (42, "Error")
    assert (ended(pod, "ok").exit_code, ended(pod, "ok").reason) == (0, "Completed")
    assert [each.restart_count for each in pod.status.container_statuses] == [0, 0]


async def test_on_failure_restarts_until_it_succeeds(cluster: Cluster) -> None:
    script = "n=$(cat /e/n 2>/dev/null || echo 0); echo $((n+1)) > /e/n; [ $n -ge 1 ]"
    await cluster.create_pod(
        "stubborn",
        container(script=script, volumeMounts=[{"name": "e", "mountPath": "/e"}]),
        volumes=[{"name": "e", "emptyDir": {}}],
        restartPolicy="OnFailure",
    )
    pod = await cluster.wait_phase("stubborn", "Succeeded")
    (status,) = pod.status.container_statuses
    assert status.restart_count == 1
    assert status.last_state.terminated is not None
    assert status.last_state.terminated.exit_code == 1


async def test_crashing_container_backs_off(cluster: Cluster) -> None:
    """The first restart is immediate, the second one waits ten seconds and says so."""
    await cluster.create_pod("crashes", container(script="exit 3"))
    pod = await cluster.wait_waiting("crashes", "CrashLoopBackOff")
    (status,) = pod.status.container_statuses
    assert status.restart_count == 1
    assert status.last_state.terminated is not None
    assert status.last_state.terminated.exit_code == 3
    full_name = f"crashes_default({pod.metadata.uid})"
    assert waiting(pod)[1] == f"back-off 10s restarting failed container=app pod={full_name}"
    event = await cluster.wait_event("crashes", "BackOff")
    assert event.message == f"Back-off restarting failed container app in pod {full_name}"
    assert (event.type, event.involved_object.field_path) == ("Warning", "spec.containers{app}")
    assert pod.status.phase == "Running"
    await cluster.delete_pod("crashes", grace_s=0)


async def test_init_containers_run_one_after_the_other(cluster: Cluster) -> None:
    await cluster.put_secret("init", {"k": "from-init"})
    shared = {"name": "e", "mountPath": "/e"}
    await cluster.create_pod(
        "init",
        container(script="cat /e/k; exec sleep 1000", volumeMounts=[shared]),
        initContainers=[
            container("copy", "cp /v/k /e/k; echo one >> /e/order", volumeMounts=[shared, mount("v", "/v")]),
            container("check", "echo two >> /e/order; grep -q one /e/order", volumeMounts=[shared]),
        ],
        volumes=[{"name": "e", "emptyDir": {"medium": "Memory"}}, secret_volume("v", "init")],
    )
    pod = await cluster.wait_ready("init")
    assert [each.state.terminated is not None for each in pod.status.init_container_statuses] == [True, True]
    assert await cluster.logs("init", until="from-init") == "from-init"
    assert await cluster.exec("init", "cat /e/order", "app") == "one\ntwo\n"
    for name in ("spec.initContainers{copy}", "spec.initContainers{check}", "spec.containers{app}"):
        event = await cluster.wait_event("init", "Started", field_path=name)
        assert event.count == 1


async def test_failing_init_container_of_a_never_restarted_pod_fails_it(cluster: Cluster) -> None:
    await cluster.create_pod(
        "init-fails", container(), initContainers=[container("setup", "exit 9")], restartPolicy="Never"
    )
    pod = await cluster.wait_phase("init-fails", "Failed")
    assert ended(pod, "setup").exit_code == 9
    assert waiting(pod, "app")[0] == "PodInitializing"


async def test_pod_with_init_containers_waits_for_its_secret_as_initializing(cluster: Cluster) -> None:
    await cluster.create_pod(
        "init-waits",
        container(),
        initContainers=[container("setup", "cat /v/k", volumeMounts=[mount("v", "/v")])],
        volumes=[secret_volume("v", "init-late")],
    )
    await cluster.wait_event("init-waits", "FailedMount")
    pod = await cluster.wait("init-waits", lambda pod: bool(pod.status.container_statuses))
    assert waiting(pod, "setup")[0] == "PodInitializing"
    conditions = {each.type: each.status for each in pod.status.conditions}
    assert conditions["Initialized"] == "False"
    assert conditions["PodReadyToStartContainers"] == "False"
    await cluster.put_secret("init-late", {"k": "x"})
    await cluster.wait_ready("init-waits")


async def test_graceful_deletion_handshake(cluster: Cluster) -> None:
    """Order on the wire: deletionTimestamp, terminal status, and only then the object goes."""
    await cluster.put_secret("bye", {"k": "v"})
    script = "trap 'cat /v/k; echo; exit 7' TERM; echo up; while :; do sleep 1000 & wait $!; done"
    await cluster.run_pod(
        "bye",
        container(script=script, volumeMounts=[mount("v", "/v")]),
        volumes=[secret_volume("v", "bye")],
        terminationGracePeriodSeconds=60,
    )
    await cluster.logs("bye", until="up")
    seen: list[tuple[str, bool, str, int | None]] = []
    with trio.fail_after(WAIT_TIMEOUT_S):
        async with cluster.client.watch(
            PODS, "default", Pod, field_selector="metadata.name=bye", send_initial_events=True
        ) as events:
            async for event in events:
                if event.ends_initial_events:
                    await cluster.delete_pod("bye")
                if event.object is None or event.type is EventType.BOOKMARK:
                    continue
                pod = event.object
                state = ended(pod)
                is_deleting = pod.metadata.deletion_timestamp is not None
                entry = (event.type.value, is_deleting, pod.status.phase, state.exit_code if state else None)
                if not seen or seen[-1] != entry:
                    seen.append(entry)
                if event.type is EventType.DELETED:
                    break
    assert seen[0] == ("ADDED", False, "Running", None)
    assert seen[1] == ("MODIFIED", True, "Running", None)
    assert seen[-2] == ("MODIFIED", True, "Failed", 7), "the container read its Secret while it was stopped, and said 7"
    assert seen[-1] == ("DELETED", True, "Failed", 7)
    await cluster.wait_event("bye", "Killing")  # events have a queue of their own


async def test_container_that_ignores_sigterm_is_killed_after_its_grace(cluster: Cluster) -> None:
    await cluster.run_pod("deaf", container(script="trap '' TERM; while :; do sleep 1; done"))
    async with cluster.followed("deaf") as states:
        await cluster.delete_pod("deaf", grace_s=1)
    assert states[-1].status.phase == "Failed"
    assert ended(states[-1]).exit_code == 137


async def test_deletion_by_force(cluster: Cluster) -> None:
    pod = await cluster.run_pod("forced", container())
    await cluster.delete_pod("forced", grace_s=0)
    await cluster.wait_gone("forced")
    await eventually(lambda: not (cluster.stack.root_dir / "pods" / pod.metadata.uid).exists())
    await eventually(lambda: pod.metadata.uid not in [each.uid for each in cluster.stack.status().pods])


async def test_deletion_of_a_pod_that_waits_for_its_secret(cluster: Cluster) -> None:
    await cluster.create_pod(
        "waits", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "never-there")]
    )
    await cluster.wait_event("waits", "FailedMount")
    await cluster.delete_pod("waits")
    await cluster.wait_gone("waits")


async def test_name_used_again_is_another_pod(cluster: Cluster) -> None:
    await cluster.put_secret("again", {"k": "1"})
    spec: dict[str, Any] = {"volumes": [secret_volume("v", "again")]}
    first = await cluster.run_pod("again", container(volumeMounts=[mount("v", "/v")]), **spec)
    await cluster.delete_pod("again")
    await cluster.wait_gone("again")
    await cluster.put_secret("again", {"k": "2"})
    second = await cluster.run_pod("again", container(volumeMounts=[mount("v", "/v")]), **spec)
    assert first.metadata.uid != second.metadata.uid
    assert await cluster.exec("again", "cat /v/k") == "2"


async def test_container_events_in_order(cluster: Cluster) -> None:
    await cluster.put_secret("events", {"k": "1"})
    await cluster.run_pod("events", container(env=[secret_env("K", "events", "k")]))
    await cluster.wait_event("events", "Started")
    late = "cache: timed out waiting for the condition"  # said when the first answer takes longer than a second
    events = [each for each in await cluster.events("events") if each[1] != "Scheduled" and late not in each[2]]
    assert [each[:2] for each in events] == [("Normal", "Pulled"), ("Normal", "Created"), ("Normal", "Started")]
    assert events[0][2] == (
        'Container image "localhost/busybox:1" already present on machine and can be accessed by the pod'
    )


async def test_logs_of_each_run_are_kept_apart(cluster: Cluster) -> None:
    script = "n=$(cat /e/n 2>/dev/null || echo 0); echo $((n+1)) > /e/n; echo run $n; [ $n = 0 ] || exec sleep 1000"
    await cluster.create_pod(
        "runs",
        container(script=script, volumeMounts=[{"name": "e", "mountPath": "/e"}]),
        volumes=[{"name": "e", "emptyDir": {}}],
    )
    await cluster.wait(
        "runs", lambda pod: bool(pod.status.container_statuses) and pod.status.container_statuses[0].restart_count == 1
    )
    await cluster.wait_ready("runs")
    assert await cluster.logs("runs", restart=1, until="run 1\n") == "run 1\n"
    assert await cluster.logs("runs", restart=0) == "run 0\n"


async def test_pod_directory_and_cgroup_go_with_the_pod(cluster: Cluster) -> None:
    pod = await cluster.run_pod("traces", container())
    uid = pod.metadata.uid
    pattern = f"kubelet-secrets/{cluster.stack.node_name}*/pod{uid}"
    found = [*Path("/sys/fs/cgroup").glob(pattern), *Path("/sys/fs/cgroup").glob(f"*/{pattern}")]
    assert found
    await cluster.delete_pod("traces")
    await cluster.wait_gone("traces")
    await eventually(lambda: not any(path.exists() for path in found))
    await eventually(lambda: not (cluster.stack.root_dir / "pods" / uid).exists())

"""Pods from their first event to their last DELETE, with real containers and a real API server. Semantics §7, §8."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import pytest
import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PODS, SECRETS
from kubelet_secrets.pod import containers, eviction, volumes
from kubelet_secrets.pod.views import PodView
from tests.client.h2server import eventually
from tests.pod.cluster import Cluster, container, mounted, secret_volume

pytestmark = pytest.mark.runtime

READS_SECRET = {"volumeMounts": [mounted()]}


def env_from_secret(name: str, key: str = "password", **reference: Any) -> dict[str, Any]:
    return {"env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": name, "key": key, **reference}}}]}


def waiting_reason(pod: Pod, index: int = 0) -> str:
    statuses = pod.status.container_statuses
    waiting = statuses[index].state.waiting if len(statuses) > index else None
    return waiting.reason if waiting is not None else ""


def is_ready(pod: Pod) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions)


def container_id(view: PodView | None) -> str:
    assert view is not None
    instance = view.containers[0].instance
    assert instance is not None
    return instance.container_id


async def test_pod_runs_to_its_end(lab: Cluster) -> None:
    """§8.6, §8.8 (4): Succeeded, its log stays, its volumes go."""
    await lab.put_secret("db", password="hunter2")
    async with lab.agent() as agent:
        spec = container("cat /etc/s/password", **READS_SECRET)
        await lab.create("web", spec, volumes=[secret_volume("db")], restartPolicy="Never")
        pod = await lab.wait_phase("web", "Succeeded")
        assert lab.log(pod) == "hunter2"
        ended = pod.status.container_statuses[0].state.terminated
        assert ended is not None
        assert (ended.exit_code, ended.reason) == (0, "Completed")
        await agent.wait_view("web", lambda view: not any(each.is_ready for each in view.volumes.values()))
        await lab.wait_event("web", "Started")
        late = "cache: timed out waiting for the condition"  # said when the first answer takes longer than a second
        events = [(reason, message) for _, reason, message in await lab.events("web") if late not in message]
        assert events == [
            ("Pulled", 'Container image "busybox:test" already present on machine and can be accessed by the pod'),
            ("Created", "Container created"),
            ("Started", "Container started"),
        ]


@pytest.fixture
def no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits to be tried again waits for ever: only news can start it."""
    monkeypatch.setattr(containers, "RETRY_S", 1e6)
    monkeypatch.setattr(volumes, "mount_delay_s", lambda failures: 1e6)


@pytest.mark.usefixtures("no_back_off")
async def test_pod_waits_for_its_secret_and_starts_when_it_appears(lab: Cluster) -> None:
    """Capability 2, §8.1, §8.5: Pending, ContainerCreating, FailedMount; then released by the object's appearance alone."""
    async with lab.agent() as agent:
        await lab.create("web", container(**READS_SECRET), volumes=[secret_volume("db")])
        await lab.wait_event("web", "FailedMount", 'MountVolume.SetUp failed for volume "v" : secret "db" not found')
        waiting = await lab.wait("web", lambda pod: bool(pod.status.container_statuses))
        assert waiting.status.phase == "Pending"
        assert waiting_reason(waiting) == "ContainerCreating"
        conditions = {each.type: each.status for each in waiting.status.conditions}
        assert conditions["PodReadyToStartContainers"] == conditions["Ready"] == "False"
        assert conditions["Initialized"] == "True"
        view = agent.view("web")
        assert view is not None
        assert view.volumes["v"].missing == ("secret/db",)
        await lab.put_secret("db", password="hunter2")
        await lab.wait("web", is_ready)
        assert await agent.exec("web", "cat", "/etc/s/password") == (0, "hunter2")


async def test_rotation_reaches_files_and_not_the_environment(lab: Cluster) -> None:
    """Capability 6: a new version of the volume; the environment stays, and is said to be stale."""
    await lab.put_secret("db", password="one")
    async with lab.agent() as agent:
        spec = container(**READS_SECRET, **env_from_secret("db"))
        await lab.create("web", spec, volumes=[secret_volume("db")])
        await lab.wait("web", is_ready)
        before = await agent.wait_view("web", lambda view: view.containers[0].env.started is not None)
        await lab.put_secret("db", password="two")
        after = await agent.wait_view("web", lambda view: view.containers[0].env.stale == ("PASSWORD",))
        await agent.wait_view("web", lambda view: view.volumes["v"].version != before.volumes["v"].version)
        assert await agent.exec("web", "cat", "/etc/s/password") == (0, "two")
        assert await agent.exec("web", "sh", "-c", "echo $PASSWORD") == (0, "one\n")
        env = after.containers[0].env
        assert env.started is not None
        assert env.current is not None
        assert (env.started.number, env.current.number) == (1, 2)
        assert container_id(agent.view("web")) == container_id(before), "nothing was restarted"


async def test_deleted_secret_leaves_the_files_and_says_so(lab: Cluster) -> None:
    """§7.4 (5)."""
    await lab.put_secret("db", password="one")
    async with lab.agent() as agent:
        await lab.create("web", container(**READS_SECRET), volumes=[secret_volume("db")])
        await lab.wait("web", is_ready)
        await lab.admin.delete(SECRETS, "default", "db")
        await agent.wait_view("web", lambda view: view.volumes["v"].problem == 'secret "db" not found')
        assert await agent.exec("web", "cat", "/etc/s/password") == (0, "one")
        assert is_ready(await lab.get("web"))


async def test_optional_secret_appears_and_goes(lab: Cluster) -> None:
    """§2.3, §14.1: optional updates are reflected in the volume."""
    async with lab.agent() as agent:
        await lab.create("web", container(**READS_SECRET), volumes=[secret_volume("db", optional=True)])
        await lab.wait("web", is_ready)
        assert (await agent.exec("web", "ls", "/etc/s"))[1] == ""
        view = agent.view("web")
        assert view is not None
        await lab.put_secret("db", password="one")
        await agent.wait_view("web", lambda view: bool(view.volumes["v"].files))
        assert await agent.exec("web", "cat", "/etc/s/password") == (0, "one")
        await lab.admin.delete(SECRETS, "default", "db")
        await agent.wait_view("web", lambda view: not view.volumes["v"].files)
        assert (await agent.exec("web", "ls", "/etc/s"))[1] == ""


@pytest.mark.usefixtures("no_back_off")
async def test_missing_secret_of_a_variable_is_a_config_error_until_it_appears(lab: Cluster) -> None:
    """§6.6: CreateContainerConfigError, no restart counted, the other container runs."""
    async with lab.agent():
        await lab.create("web", container(**env_from_secret("db")), container(name="other"))
        pod = await lab.wait("web", lambda pod: waiting_reason(pod) == "CreateContainerConfigError")
        waiting = pod.status.container_statuses[0].state.waiting
        assert waiting is not None
        assert waiting.message == 'secret "db" not found'
        await lab.wait_event("web", "Failed", 'Error: secret "db" not found')
        await lab.wait("web", lambda pod: pod.status.container_statuses[1].state.running is not None)
        await lab.put_secret("db", user="somebody")
        await lab.wait_event("web", "Failed", "Error: couldn't find key password in Secret default/db")
        await lab.put_secret("db", password="one")
        pod = await lab.wait("web", is_ready)
        assert pod.status.phase == "Running"
        assert pod.status.container_statuses[0].restart_count == 0


@pytest.mark.usefixtures("no_back_off")
async def test_annotation_that_a_sub_path_was_missing_starts_the_container(lab: Cluster) -> None:
    """§5.1, §14.9, "a failing subpath expansion can be modified": the pod's change alone is a reason to try again.

    And the first mount's error comes before the second's, though that one could be told without making anything.
    """
    async with lab.agent():
        field = {"fieldRef": {"fieldPath": "metadata.annotations['dir']"}}
        mounts = [mounted(subPathExpr="$(DIR)"), mounted("/etc/t", subPathExpr="$(DIR)$(NOPE)")]
        await lab.put_secret("db", password="one")
        only = container(env=[{"name": "DIR", "valueFrom": field}], volumeMounts=mounts[:1])
        other = container(name="other", volumeMounts=[mounted(subPath="password/x"), mounts[1]])
        await lab.create("web", only, other, volumes=[secret_volume("db")])
        await lab.wait_event("web", "Failed", "Error: missing value for DIR")
        text = 'Error: failed to prepare subPath for volumeMount "v" of container "other"'
        await lab.wait_event("web", "Failed", text)
        await lab.admin.patch(PODS, "default", "web", {"metadata": {"annotations": {"dir": "password"}}})
        pod = await lab.wait("web", lambda pod: pod.status.container_statuses[0].state.running is not None)
        assert waiting_reason(pod, 1) == "CreateContainerConfigError"


async def test_downward_api_volume_follows_labels(lab: Cluster) -> None:
    """§4.4."""
    field = {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}
    async with lab.agent() as agent:
        await lab.create("web", container(**READS_SECRET), volumes=[{"name": "v", "downwardAPI": field}])
        await lab.wait("web", is_ready)
        assert await agent.exec("web", "cat", "/etc/s/labels") == (0, "")
        before = agent.view("web")
        assert before is not None
        await lab.admin.patch(PODS, "default", "web", {"metadata": {"labels": {"tier": "front"}}})
        await agent.wait_view("web", lambda view: view.volumes["v"].version != before.volumes["v"].version)
        assert await agent.exec("web", "cat", "/etc/s/labels") == (0, 'tier="front"')


async def test_crashing_container_backs_off(lab: Cluster) -> None:
    """§8.7: the first restart is immediate, the second waits ten seconds."""
    async with lab.agent():
        await lab.create("web", {**container(), "command": ["sh", "-c", "echo bye > /dev/termination-log; exit 3"]})
        pod = await lab.wait("web", lambda pod: waiting_reason(pod) == "CrashLoopBackOff")
        only = pod.status.container_statuses[0]
        assert only.state.waiting is not None
        assert only.state.waiting.message == (
            f"back-off 10s restarting failed container=c pod=web_default({pod.metadata.uid})"
        )
        assert only.last_state.terminated is not None
        assert (only.last_state.terminated.exit_code, only.last_state.terminated.message) == (3, "bye\n")
        assert (only.restart_count, pod.status.phase) == (1, "Running")
        await lab.wait_event("web", "BackOff", "Back-off restarting failed container c in pod web_default(")


async def test_command_that_does_not_exist(lab: Cluster) -> None:
    """§6.6: RunContainerError, and containerd's exit code 128."""
    async with lab.agent():
        await lab.create("web", {**container(), "command": ["/no/such/program"]}, restartPolicy="Never")
        pod = await lab.wait_phase("web", "Failed")
        ended = pod.status.container_statuses[0].state.terminated
        assert ended is not None
        assert (ended.exit_code, ended.reason) == (128, "StartError")


async def test_init_containers_then_regular_ones_beside_a_sidecar(lab: Cluster) -> None:
    async with lab.agent():
        await lab.create(
            "web",
            container("cat /work/file", volumeMounts=[mounted("/work", "work")]),
            initContainers=[
                {**container(name="side"), "restartPolicy": "Always"},
                container("echo made > /work/file", name="init", volumeMounts=[mounted("/work", "work")]),
            ],
            volumes=[{"name": "work", "emptyDir": {}}],
            restartPolicy="Never",
        )
        pod = await lab.wait_phase("web", "Succeeded")
        assert lab.log(pod) == "made"
        side, init = pod.status.init_container_statuses
        assert side.state.terminated is not None, "a sidecar does not keep a finished pod"
        assert init.state.terminated is not None
        assert init.state.terminated.exit_code == 0


async def test_failed_init_container_fails_the_pod(lab: Cluster) -> None:
    async with lab.agent():
        broken = {**container(name="init"), "command": ["false"]}
        await lab.create("web", container(), initContainers=[broken], restartPolicy="Never")
        pod = await lab.wait_phase("web", "Failed")
        assert waiting_reason(pod) == "PodInitializing"
        assert {each.type: each.reason for each in pod.status.conditions}["Ready"] == "PodFailed"


async def test_deletion_stops_cleans_and_lets_go(lab: Cluster) -> None:
    """§8.8: preStop, SIGTERM, terminal phase, DELETE; nothing of the pod stays on the node."""
    await lab.put_secret("db", password="one")
    async with lab.agent() as agent:
        hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo stopping > /proc/1/fd/1"]}}}
        spec = container("echo up; sleep 1000", lifecycle=hook, **READS_SECRET)
        pod = await lab.create("web", spec, volumes=[secret_volume("db")], terminationGracePeriodSeconds=30)
        await lab.wait_log(await lab.wait("web", is_ready), "up")
        last = await lab.delete("web")
        assert last.status.phase == "Failed"
        ended = last.status.container_statuses[0].state.terminated
        assert ended is not None
        assert ended.exit_code == 143
        await lab.wait_event("web", "Killing", "Stopping container c")
        while agent.view("web") is not None:
            await agent.pods.wait_changed()
        assert not (lab.host.pods_dir / pod.metadata.uid).exists()
        assert not agent.parts.runtime.list()
        assert not agent.parts.sandboxes.list()
        assert len(agent.parts.registry) == 0
        assert agent.parts.secrets.users("default", "db") == frozenset()


async def test_container_that_ignores_sigterm_is_killed(lab: Cluster) -> None:
    async with lab.agent():
        stubborn = {**container(), "command": ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"]}
        await lab.create("web", stubborn)
        await lab.wait_log(await lab.wait("web", is_ready), "up")
        last = await lab.delete("web", grace_s=1)
        assert last.status.phase == "Failed"
        ended = last.status.container_statuses[0].state.terminated
        assert ended is not None
        assert ended.exit_code == 137


async def test_pod_deleted_before_it_could_start(lab: Cluster) -> None:
    async with lab.agent():
        await lab.create("web", container(**READS_SECRET), volumes=[secret_volume("db")])
        await lab.wait_event("web", "FailedMount")
        await lab.admin.delete(PODS, "default", "web")
        await lab.wait_gone("web")


async def test_pod_deleted_by_force_is_stopped_all_the_same(lab: Cluster) -> None:
    async with lab.agent() as agent:
        await lab.create("web", container())
        await lab.wait("web", is_ready)
        await lab.admin.delete(PODS, "default", "web", grace_period_s=0)
        while agent.view("web") is not None:
            await agent.pods.wait_changed()
        assert not agent.parts.runtime.list()


async def test_next_agent_adopts_what_runs(lab: Cluster) -> None:
    """An agent that dies takes nothing along; the next one goes on with the same containers."""
    await lab.put_secret("db", password="one")
    async with lab.agent() as agent:
        spec = container(**READS_SECRET, **env_from_secret("db"))
        await lab.create("web", spec, volumes=[secret_volume("db")])
        await lab.wait("web", is_ready)
        first = container_id(agent.view("web"))
    await lab.put_secret("db", password="two")
    async with lab.agent() as agent:
        view = await agent.wait_view("web", lambda view: view.volumes["v"].is_ready)
        assert container_id(view) == first
        assert [each.container for each in agent.parts.registry.containers()] == ["c"]
        assert [each.mounts for each in agent.parts.registry.containers()] == [frozenset({("v", "")})]
        assert await agent.exec("web", "cat", "/etc/s/password") == (0, "two")
        view = await agent.wait_view("web", lambda view: view.containers[0].env.stale == ("PASSWORD",))
        env = view.containers[0].env
        assert env.started is not None
        assert env.started.environment.lookup("PASSWORD") == "one", "what the process has is told from the process"
        pod = await lab.wait("web", is_ready)
        assert pod.status.container_statuses[0].restart_count == 0
        await lab.admin.delete(PODS, "default", "web")
        await lab.wait_gone("web")


async def test_taken_over_volume_is_known_though_its_secret_is_gone(lab: Cluster) -> None:
    """What was delivered is not lost by the next agent's first failure: files, and which version they are."""
    await lab.put_secret("db", password="one")
    async with lab.agent() as agent:
        await lab.create("web", container(**READS_SECRET), volumes=[secret_volume("db")])
        await lab.wait("web", is_ready)
        view = agent.view("web")
        assert view is not None
        version = view.volumes["v"].version
        assert version is not None
    await lab.admin.delete(SECRETS, "default", "db")
    async with lab.agent() as agent:
        view = await agent.wait_view("web", lambda view: bool(view.volumes["v"].problem))
        assert view.volumes["v"].version == version
        assert await agent.exec("web", "cat", "/etc/s/password") == (0, "one")
        await lab.admin.delete(PODS, "default", "web")
        await lab.wait_gone("web")


async def test_container_that_ended_without_an_agent_is_noticed(lab: Cluster) -> None:
    async with lab.agent() as agent:
        await lab.create("web", container("sleep 1000"), restartPolicy="Never")
        await lab.wait("web", is_ready)
        runtime, first = agent.parts.runtime, container_id(agent.view("web"))
    runtime.kill(first, 9)
    await runtime.wait_exit(first)
    async with lab.agent():
        pod = await lab.wait_phase("web", "Failed")
        ended = pod.status.container_statuses[0].state.terminated
        assert ended is not None
        assert ended.exit_code == 137


async def test_pod_that_vanished_without_an_agent_is_removed(lab: Cluster) -> None:
    await lab.put_secret("db", password="one")
    async with lab.agent():
        pod = await lab.create("web", container(**READS_SECRET), volumes=[secret_volume("db")])
        await lab.wait("web", is_ready)
    await lab.admin.delete(PODS, "default", "web", grace_period_s=0)
    async with lab.agent() as agent:
        while agent.parts.sandboxes.list():
            await agent.pods.wait_changed()
        assert not agent.parts.runtime.list()
        assert not (lab.host.pods_dir / pod.metadata.uid).exists()


async def test_finished_pod_refers_to_nothing_any_more(lab: Cluster) -> None:
    """§7.1: unregistered with its volumes; later news of the pod does not bring that back."""
    await lab.put_secret("db", password="one")
    async with lab.agent() as agent:
        spec = {**container(**READS_SECRET), "command": ["true"]}
        await lab.create("web", spec, volumes=[secret_volume("db")], restartPolicy="Never")
        await lab.wait_phase("web", "Succeeded")
        await agent.wait_view("web", lambda view: not view.volumes["v"].is_ready)
        await lab.admin.patch(PODS, "default", "web", {"metadata": {"labels": {"seen": "yes"}}})
        await agent.wait_view("web", lambda view: "seen" in view.pod.metadata.labels)
        assert agent.parts.secrets.users("default", "db") == frozenset()
        await lab.admin.delete(PODS, "default", "web")
        await lab.wait_gone("web")


async def test_deadline_fails_the_pod(lab: Cluster) -> None:
    async with lab.agent():
        await lab.create("web", container(), activeDeadlineSeconds=1)
        pod = await lab.wait_phase("web", "Failed")
        assert pod.status.reason == "DeadlineExceeded"
        await lab.wait_event("web", "DeadlineExceeded")


async def test_pod_that_fills_its_scratch_space_is_evicted(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """§2.7, sizeLimit; its grace period is not asked for."""
    monkeypatch.setattr(eviction, "CHECK_S", 0.05)
    stubborn = "trap '' TERM; dd if=/dev/zero of=/e/file bs=1k count=1100; while :; do sleep 1; done"
    only = {**container(volumeMounts=[mounted("/e", "e")]), "command": ["sh", "-c", stubborn]}
    volume = {"name": "e", "emptyDir": {"sizeLimit": "1024Ki"}}
    async with lab.agent() as agent:
        await lab.create("web", only, volumes=[volume], terminationGracePeriodSeconds=10**6)
        pod = await lab.wait("web", lambda pod: any(each.state.terminated for each in pod.status.container_statuses))
        assert (pod.status.phase, pod.status.reason) == ("Failed", "Evicted")
        assert pod.status.message == 'Usage of EmptyDir volume "e" exceeds the limit "1Mi". '
        await lab.wait_event("web", "Evicted", pod.status.message)
        await agent.wait_view("web", lambda view: not any(each.is_ready for each in view.volumes.values()))


async def test_failed_post_start_hook_kills_the_container(lab: Cluster) -> None:
    async with lab.agent():
        hook = {"postStart": {"exec": {"command": ["false"]}}}
        await lab.create("web", container(lifecycle=hook))
        await lab.wait_event("web", "FailedPostStartHook", "PostStartHook failed")
        await lab.wait("web", lambda pod: waiting_reason(pod) in ("PostStartHookError", "CrashLoopBackOff"))


async def test_image_that_is_not_there(lab: Cluster) -> None:
    """§9.4."""
    async with lab.agent():
        await lab.create("web", {**container(), "image": "nowhere:1"})
        pod = await lab.wait("web", lambda pod: waiting_reason(pod) == "ErrImageNeverPull")
        waiting = pod.status.container_statuses[0].state.waiting
        assert waiting is not None
        assert waiting.message == 'Container image "nowhere:1" is not present with pull policy of Never'
        await lab.wait_event("web", "Failed", "Error: ErrImageNeverPull")
        reasons = [reason for _, reason, _ in await lab.events("web")]
        assert reasons[:2] == ["ErrImageNeverPull", "Failed"]


async def test_registry_that_does_not_answer(lab: Cluster) -> None:
    """§9.4: ErrImagePull, then ImagePullBackOff, which quotes the error before."""
    async with lab.agent():
        await lab.create("web", {**container(), "image": "127.0.0.1:1/nowhere:1", "imagePullPolicy": "IfNotPresent"})
        await lab.wait("web", lambda pod: waiting_reason(pod) == "ErrImagePull")
        pod = await lab.wait("web", lambda pod: waiting_reason(pod) == "ImagePullBackOff")
        waiting = pod.status.container_statuses[0].state.waiting
        assert waiting is not None
        assert waiting.message.startswith('Back-off pulling image "127.0.0.1:1/nowhere:1": ErrImagePull: ')
        await lab.wait_event("web", "BackOff", 'Back-off pulling image "127.0.0.1:1/nowhere:1"')
        await lab.wait_event("web", "Failed", "Error: ImagePullBackOff")
        reasons = [reason for _, reason, _ in await lab.events("web")]
        assert reasons[:3] == ["Pulling", "Failed", "Failed"]


async def test_pull_secrets_that_are_missing_are_mentioned_and_do_not_matter(lab: Cluster) -> None:
    """§9.1."""
    async with lab.agent():
        await lab.create("web", container(), imagePullSecrets=[{"name": "a"}, {"name": "b"}])
        await lab.wait("web", is_ready)
        await lab.wait_event(
            "web",
            "FailedToRetrieveImagePullSecret",
            "Unable to retrieve some image pull secrets (a, b); attempting to pull the image may not succeed.",
        )


async def test_pull_secret_that_appears_ends_the_wait_for_the_next_pull(lab: Cluster) -> None:
    """Capability 2: not at the next back-off, which here never ends."""
    async with lab.agent() as agent:
        agent.parts.image_back_off.initial_s = 1e6
        broken = {**container(), "image": "127.0.0.1:1/none:1", "imagePullPolicy": "Always"}
        await lab.create("web", broken, imagePullSecrets=[{"name": "registry"}])
        await lab.wait("web", lambda pod: waiting_reason(pod) == "ImagePullBackOff")
        await lab.put_secret("registry", password="one")
        await lab.wait("web", lambda pod: waiting_reason(pod) == "ErrImagePull")


async def test_readiness_probe_over_http_in_the_pods_own_network(lab: Cluster) -> None:
    async with lab.agent():
        probe = {"httpGet": {"path": "/ok", "port": "web"}, "periodSeconds": 1, "failureThreshold": 1}
        spec = container(
            "mkdir /www; echo 1 > /www/ok; httpd -f -p 8080 -h /www",
            readinessProbe=probe,
            ports=[{"name": "web", "containerPort": 8080}],
        )
        await lab.create("web", spec)
        pod = await lab.wait("web", is_ready)
        only = pod.status.container_statuses[0]
        assert (only.started, only.ready, only.restart_count) == (True, True, 0)


async def test_failing_liveness_probe_restarts_the_container(lab: Cluster) -> None:
    async with lab.agent():
        look = "if [ -e /dead ]; then echo out; echo err >&2; exit 3; fi"
        probe = {"exec": {"command": ["sh", "-c", look]}, "periodSeconds": 1, "failureThreshold": 1}
        await lab.create("web", container("touch /dead; echo up; sleep 1000", livenessProbe=probe))
        pod = await lab.wait(
            "web",
            lambda pod: bool(pod.status.container_statuses) and pod.status.container_statuses[0].restart_count == 1,
        )
        ended = pod.status.container_statuses[0].last_state.terminated
        assert ended is not None
        await lab.wait_event("web", "Unhealthy", "Liveness probe failed: out\nerr\n")
        await lab.wait_event("web", "Killing", "Container c failed liveness probe, will be restarted")


async def test_startup_probe_holds_readiness_back(lab: Cluster) -> None:
    async with lab.agent() as agent:
        probe = {"exec": {"command": ["test", "-e", "/up"]}, "periodSeconds": 1, "failureThreshold": 30}
        await lab.create("web", container(startupProbe=probe))
        pod = await lab.wait("web", lambda pod: pod.status.phase == "Running")
        assert pod.status.container_statuses[0].started is False
        assert not is_ready(pod)
        await agent.exec("web", "touch", "/up")
        await lab.wait("web", is_ready)


async def test_variables_from_services_fields_and_literals(lab: Cluster) -> None:
    async with lab.agent() as agent:
        env = [
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "URL", "value": "https://$(KUBERNETES_SERVICE_HOST)/$(NAME)"},
        ]
        await lab.create("web", container(env=env))
        await lab.wait("web", is_ready)
        pod = await lab.get("web")
        code, text = await agent.exec("web", "sh", "-c", "echo $NAME $IP $URL $HOSTNAME")
        name, ip, url, hostname = text.split()
        assert (code, name, ip, hostname) == (0, "web", pod.status.pod_ip, "web")
        assert url.endswith("/web")


async def test_projected_service_account_token(lab: Cluster) -> None:
    """§4.2: a JWT bound to the pod, for the audience asked for, beside other sources; and the one every pod has."""
    await lab.put_secret("db", password="one")
    sources = [
        {"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 600}},
        {"secret": {"name": "db"}},
    ]
    async with lab.agent() as agent:
        await lab.create(
            "web",
            container(volumeMounts=[mounted()]),
            volumes=[{"name": "v", "projected": {"sources": sources}}],
            automountServiceAccountToken=True,
        )
        await lab.wait("web", is_ready)
        pod = await lab.get("web")
        tokens = {}
        for path in ("/etc/s/token", "/var/run/secrets/kubernetes.io/serviceaccount/token"):
            code, token = await agent.exec("web", "cat", path)
            assert code == 0
            claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
            assert claims["kubernetes.io"]["pod"] == {"name": "web", "uid": pod.metadata.uid}
            tokens[token] = claims["aud"]
        assert list(tokens.values()) == [["vault"], ["https://kubernetes.default.svc.cluster.local"]]
        view = agent.view("web")
        assert view is not None
        assert not any(token in repr(view) for token in tokens)


async def test_status_catches_up_when_the_api_server_is_back(lab: Cluster) -> None:
    """Capability 2 of the agent: without the API server everything goes on, and is told afterwards."""
    async with lab.agent() as agent:
        await lab.create("web", container(), restartPolicy="Never")
        await lab.wait("web", is_ready)
        view = agent.view("web")
        with lab.api_away():
            agent.parts.runtime.kill(container_id(view), 9)
            await agent.wait_view("web", lambda view: view.status.phase == "Failed")
            assert (await lab.get("web")).status.phase == "Running"
        await lab.wait_phase("web", "Failed")


async def test_sub_path_shows_one_key(lab: Cluster) -> None:
    """§5.1."""
    await lab.put_secret("db", password="one", user="me")
    async with lab.agent() as agent:
        spec = container(volumeMounts=[mounted("/etc/password", subPath="password")])
        await lab.create("web", spec, volumes=[secret_volume("db")])
        await lab.wait("web", is_ready)
        assert await agent.exec("web", "cat", "/etc/password") == (0, "one")
        assert [each.mounts for each in agent.parts.registry.containers()] == [frozenset({("v", "password")})]
        await lab.admin.delete(PODS, "default", "web")
        await lab.wait_gone("web")


async def test_pod_that_was_declared_not_ready_is_ready_again(lab: Cluster) -> None:
    """The node was out of reach, and its pods were taken out of service. Source: needsReconcile."""
    async with lab.agent():
        await lab.create("web", container())
        await lab.wait("web", is_ready)
        lost = {"type": "Ready", "status": "False", "reason": "NodeStatusUnknown", "message": "the node is lost"}
        await lab.admin.patch(PODS, "default", "web", {"status": {"conditions": [lost]}}, subresource="status")
        pod = await lab.wait("web", is_ready)
        ready = next(each for each in pod.status.conditions if each.type == "Ready")
        assert (ready.reason, ready.message) == ("", "")


async def test_what_controllers_say_of_a_pod_stays(lab: Cluster) -> None:
    async with lab.agent():
        await lab.create("web", container())
        await lab.wait("web", is_ready)
        foreign = {"type": "example.org/Checked", "status": "True"}
        await lab.admin.patch(PODS, "default", "web", {"status": {"conditions": [foreign]}}, subresource="status")
        changed = await lab.get("web")
        await lab.admin.patch(PODS, "default", "web", {"metadata": {"labels": {"seen": "yes"}}})
        await lab.wait("web", lambda pod: pod.metadata.labels.get("seen") == "yes")
        assert (await lab.get("web")).status == changed.status


async def test_pod_waits_for_the_nodes_network(lab: Cluster) -> None:
    """§7.5: nothing of it is begun; one that shares the host's network runs meanwhile: it may be what makes the network."""
    async with lab.agent() as agent:
        problem = "cni plugin not initialized"
        agent.pods._parts = agent.parts = dataclasses.replace(agent.parts, network_problem=lambda: problem)
        await lab.create("web", container(**READS_SECRET), volumes=[secret_volume("db")])
        await lab.create("cni", container(), hostNetwork=True)
        await lab.wait_event("web", "NetworkNotReady", "network is not ready: cni plugin not initialized")
        await lab.wait("cni", is_ready)
        assert waiting_reason(await lab.get("web")) == "ContainerCreating"
        await lab.put_secret("db", password="hunter2")
        with trio.fail_after(60):
            await eventually(lambda: agent.parts.secrets.peek("default", "db") is not None)
        problem = ""
        await lab.wait("web", is_ready)
        assert not [reason for _, reason, _ in await lab.events("web") if reason == "FailedMount"]

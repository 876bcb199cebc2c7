"""Several containers of one pod in real life: sidecars, probes, hooks, and the order in which they come and go.

Source: test/e2e_node/container_lifecycle_test.go, test/e2e/common/node/{container_probe,lifecycle_hook}.go.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from kubelet_secrets.api.core import ContainerStatus, Pod
from kubelet_secrets.api.decode import to_builtins
from kubelet_secrets.api.meta import PODS
from tests.pod.cluster import Cluster, container
from tests.pod.test_worker import is_ready

pytestmark = pytest.mark.runtime

TOLD = {"name": "told", "mountPath": "/told"}


def told(directory: Path) -> dict[str, Any]:
    directory.mkdir()
    return {"name": "told", "hostPath": {"path": str(directory), "type": "Directory"}}


def teller(name: str, at_end: str = ":", **spec: Any) -> dict[str, Any]:
    """A container that writes its beginning and its end down; at SIGTERM it does *at_end* first."""
    return {
        "name": name,
        "image": "busybox:test",
        "imagePullPolicy": "Never",
        "command": [
            "sh",
            "-c",
            f"trap '{at_end}; echo {name} ends >> /told/all; exit 0' TERM; "
            f"echo {name} starts >> /told/all; sleep 1000 & wait $!",
        ],
        "volumeMounts": [TOLD],
        **spec,
    }


def exec_probe(*command: str, **settings: Any) -> dict[str, Any]:
    return {"exec": {"command": list(command)}, "periodSeconds": 1, "failureThreshold": 1, **settings}


def hook(name: str) -> dict[str, Any]:
    return {"preStop": {"exec": {"command": ["sh", "-c", f"echo {name} hook >> /told/all"]}}}


async def wait_told(directory: Path, *lines: str) -> None:
    """A container runs before its program has come to say anything."""
    while not (file := directory / "all").exists() or len(file.read_text().splitlines()) < len(lines):  # noqa: ASYNC110
        await trio.sleep(0.01)
    assert tuple(file.read_text().splitlines()) == lines


def status_of(pod: Pod, name: str) -> ContainerStatus:
    everything = (*pod.status.init_container_statuses, *pod.status.container_statuses)
    return next(each for each in everything if each.name == name)


async def test_sidecars_start_in_order_and_end_in_reverse(lab: Cluster, tmp_path: Path) -> None:
    """§8.0, §8.8: each is waited for until its startup probe succeeds; at the end all hooks run first."""
    directory = tmp_path / "told"
    volume = told(directory)
    async with lab.agent():
        await lab.create(
            "web",
            # It does not end before the sidecar's hook has run: hooks do not wait for their containers' turn.
            teller("app", at_end='until grep -q "one hook" /told/all; do sleep 0.1; done', lifecycle=hook("app")),
            initContainers=[
                teller(
                    "one",
                    restartPolicy="Always",
                    startupProbe=exec_probe("test", "-e", "/told/go", failureThreshold=100),
                    readinessProbe=exec_probe("test", "-e", "/told/ready"),
                    lifecycle=hook("one"),
                ),
                {**teller("two"), "command": ["sh", "-c", "echo two runs >> /told/all"]},
                teller("three", restartPolicy="Always"),
            ],
            volumes=[volume],
            terminationGracePeriodSeconds=60,
        )
        pod = await lab.wait("web", lambda pod: bool(pod.status.init_container_statuses) and _runs(pod, "one"))
        assert pod.status.phase == "Pending"
        initialized = next(each for each in pod.status.conditions if each.type == "Initialized")
        assert (initialized.status, initialized.reason) == ("False", "ContainersNotInitialized")
        assert initialized.message == "containers with incomplete status: [one two three]"
        await wait_told(directory, "one starts")
        (directory / "go").touch()
        pod = await lab.wait("web", lambda pod: pod.status.phase == "Running" and not status_of(pod, "one").ready)
        assert (status_of(pod, "one").started, status_of(pod, "three").ready) == (True, True)
        unready = next(each for each in pod.status.conditions if each.type == "ContainersReady")
        assert unready.message == "containers with unready status: [one]"
        await lab.wait_event("web", "Unhealthy", "Readiness probe failed: ")
        (directory / "ready").touch()
        await lab.wait("web", is_ready)
        await wait_told(directory, "one starts", "two runs", "three starts", "app starts")
        (directory / "all").unlink()
        await lab.admin.delete(PODS, "default", "web")
        await lab.wait_gone("web")
        lines = (directory / "all").read_text().splitlines()
        assert sorted(lines[:2]) == ["app hook", "one hook"]
        assert lines[2:] == ["app ends", "three ends", "one ends"]


def _runs(pod: Pod, name: str) -> bool:
    return status_of(pod, name).state.running is not None


async def test_sidecar_ends_with_the_work_and_the_pod_has_not_ended_before(lab: Cluster) -> None:
    """A sidecar does not keep a finished pod; that it has finished is told only when nothing of it runs any more."""
    async with lab.agent():
        await lab.create(
            "job",
            {**container(), "command": ["sh", "-c", "exit 0"]},
            initContainers=[container(name="side", restartPolicy="Always")],
            restartPolicy="Never",
            terminationGracePeriodSeconds=30,
        )
        pod = await lab.wait_phase("job", "Succeeded")  # the first status that says so
        ended = status_of(pod, "side").state.terminated
        assert ended is not None
        assert (ended.exit_code, ended.reason) == (143, "Error")


async def test_hooks(lab: Cluster, tmp_path: Path) -> None:
    """exec, httpGet and sleep; one that fails costs its container, before its start, or is told, before its end."""
    volume = told(tmp_path / "told")
    async with lab.agent() as agent:
        serve = "mkdir /www; echo 1 > /www/ok; httpd -f -p 8080 -h /www"
        await lab.create(
            "web",
            container(
                name="exec",
                volumeMounts=[TOLD],
                lifecycle={
                    "postStart": {"exec": {"command": ["sh", "-c", "echo $HOSTNAME > /told/started"]}},
                    "preStop": {"exec": {"command": ["sh", "-c", "exit 9"]}},
                },
            ),
            container(
                serve,
                name="http",
                lifecycle={
                    "postStart": {"sleep": {"seconds": 0}},
                    "preStop": {"httpGet": {"path": "/no", "port": 8080}},
                },
            ),
            container(name="tcp", lifecycle={"postStart": {"tcpSocket": {"port": 1}}}),
            {
                **container(name="usr1", volumeMounts=[TOLD], lifecycle={"stopSignal": "SIGUSR1"}),
                "command": ["sh", "-c", "trap 'echo usr1 > /told/signal; exit 0' USR1; sleep 1000 & wait $!"],
            },
            os={"name": "linux"},
            volumes=[volume],
            terminationGracePeriodSeconds=30,
        )
        pod = await lab.wait("web", lambda pod: bool(pod.status.container_statuses) and _waits(pod, "tcp"))
        waiting = status_of(pod, "tcp").state.waiting
        assert waiting is not None
        assert (waiting.reason, waiting.message) == ("PostStartHookError", "Cannot run handler: invalid handler")
        await lab.wait_event("web", "FailedPostStartHook", "PostStartHook failed")
        await lab.wait_event("web", "Killing", "FailedPostStartHook")
        assert (tmp_path / "told" / "started").read_text() == "web\n"
        assert await agent.exec("web", "true", container="http") == (0, "")
        await lab.admin.delete(PODS, "default", "web")
        await lab.wait_gone("web")
        assert (tmp_path / "told" / "signal").read_text() == "usr1\n"
        await lab.wait_event("web", "FailedPreStopHook")  # events have a queue of their own
        failed = [message for _, reason, message in await lab.events("web") if reason == "FailedPreStopHook"]
        assert failed == ["PreStopHook failed"]  # of the command alone: a 404 is an answer


def _waits(pod: Pod, name: str) -> bool:
    waiting = status_of(pod, name).state.waiting
    return waiting is not None and waiting.reason == "PostStartHookError"


async def test_readiness_is_told_to_the_last_moment(lab: Cluster) -> None:
    """A pod that is being deleted is still probed for readiness, and for nothing else."""
    async with lab.agent() as agent:
        await lab.create(
            "web",
            container(
                readinessProbe=exec_probe("test", "-e", "/ready"),
                livenessProbe=exec_probe("test", "-e", "/ready", initialDelaySeconds=3600),
                lifecycle={
                    "preStop": {"exec": {"command": ["sh", "-c", "rm /ready; until [ -e /go ]; do sleep 0.1; done"]}}
                },
            ),
            terminationGracePeriodSeconds=60,
        )
        await lab.wait("web", lambda pod: pod.status.phase == "Running")
        await agent.exec("web", "touch", "/ready")
        await lab.wait("web", is_ready)
        await lab.admin.delete(PODS, "default", "web")
        pod = await lab.wait("web", lambda pod: pod.metadata.deletion_timestamp is not None and not is_ready(pod))
        assert pod.status.phase == "Running"
        assert status_of(pod, "c").state.running is not None
        assert status_of(pod, "c").started is True
        await agent.exec("web", "touch", "/go")
        await lab.wait_gone("web")


async def test_ephemeral_container_looks_into_its_target(lab: Cluster) -> None:
    """What ``kubectl debug --target`` adds: it runs once, and sees the target's processes."""

    async def add(*containers: dict[str, Any]) -> None:
        pod = await lab.get("web")
        known = [to_builtins(each) for each in pod.spec.ephemeral_containers]
        patch = {"spec": {"ephemeralContainers": [*known, *containers]}}
        await lab.admin.patch(PODS, "default", "web", patch, subresource="ephemeralcontainers")

    def debug(name: str, script: str, **spec: Any) -> dict[str, Any]:
        return {**container(), "name": name, "command": ["sh", "-c", script], **spec}

    async with lab.agent():
        await lab.create("web", container())
        await lab.wait("web", is_ready)
        look = "tr '\\0' ' ' < /proc/1/cmdline; exit 3"
        await add(debug("inside", look, targetContainerName="c"), debug("beside", "tr '\\0' ' ' < /proc/1/cmdline"))
        pod = await lab.wait(
            "web",
            lambda pod: len([each for each in pod.status.ephemeral_container_statuses if each.state.terminated]) == 2,
        )
        ended = {each.name: each.state.terminated for each in pod.status.ephemeral_container_statuses}
        assert ended["inside"] is not None
        assert (ended["inside"].exit_code, ended["inside"].reason) == (3, "Error")
        assert "trap 'exit 143' TERM" in lab.log(pod, "inside")
        assert "trap" not in lab.log(pod, "beside")
        assert (is_ready(pod), pod.status.phase) == (True, "Running")
        assert [each.restart_count for each in pod.status.ephemeral_container_statuses] == [0, 0]

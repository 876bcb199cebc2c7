"""How containers end, and what a reader of the status learns of it. Semantics §8.4-8.6.

Source: test/e2e/common/node/runtime.go, test/e2e/common/node/pods.go.
"""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.core import ContainerStateTerminated, Pod
from kubelet_secrets.api.meta import PODS
from tests.pod.cluster import IMAGE, Cluster, container
from tests.pod.test_worker import is_ready

pytestmark = pytest.mark.runtime


def ends(name: str, script: str, **spec: Any) -> dict[str, Any]:
    return {"name": name, "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", script], **spec}


FALLBACK = {"terminationMessagePolicy": "FallbackToLogsOnError"}


async def test_reasons_codes_and_messages(lab: Cluster) -> None:
    async with lab.agent():
        await lab.create(
            "web",
            ends("completed", "echo -n done > /dev/termination-log"),
            ends("error", "echo -n why > /tmp/message; exit 7", terminationMessagePath="/tmp/message"),
            # The shell's own way to tell that signal 15 ended its child. ($$ is $ in a pod's command.)
            ends("signalled", "sh -c 'kill -TERM $$$$'; exit $?"),
            ends("oom", "exec dd if=/dev/zero of=/dev/null bs=64M", resources={"limits": {"memory": "16Mi"}}),
            {**ends("missing", ""), "command": ["/no/such/program"]},
            ends(
                "long",
                "head -c 5000 /dev/zero | tr '\\0' x > /dev/termination-log; echo -n end >> /dev/termination-log",
            ),
            ends("log", "i=0; while [ $i -lt 90 ]; do echo line $i; i=$((i+1)); done; exit 1", **FALLBACK),
            ends("log-not-needed", "echo well", **FALLBACK),
            restartPolicy="Never",
        )
        pod = await lab.wait_phase("web", "Failed")
        ended: dict[str, ContainerStateTerminated] = {
            each.name: each.state.terminated
            for each in pod.status.container_statuses
            if each.state.terminated is not None
        }
        assert {name: (each.exit_code, each.reason) for name, each in ended.items()} == {
            "completed": (0, "Completed"),
            "error": (7, "Error"),
            "signalled": (143, "Error"),
            "oom": (137, "OOMKilled"),
            "missing": (128, "StartError"),
            "long": (0, "Completed"),
            "log": (1, "Error"),
            "log-not-needed": (0, "Completed"),
        }
        assert (ended["completed"].message, ended["error"].message) == ("done", "why")
        missing = str(ended["missing"].message)
        assert missing.startswith("failed to start container: OCI runtime create failed: ")
        assert missing.endswith('exec: "/no/such/program": stat /no/such/program: no such file or directory')
        # 4096 bytes from the file, and of these an eighth of what all containers of the pod share.
        assert str(ended["long"].message) == "x" * 1536
        lines = str(ended["log"].message).splitlines()
        assert (lines[0], lines[-1], len(lines)) == ("line 10", "line 89", 80)
        assert not ended["log-not-needed"].message
        assert all(each.started_at and each.finished_at and each.container_id for each in ended.values())
        assert [(each.ready, each.started, each.restart_count) for each in pod.status.container_statuses] == [
            (False, False, 0)
        ] * 8
        conditions = {each.type: (each.status, each.reason) for each in pod.status.conditions}
        assert conditions["Ready"] == conditions["ContainersReady"] == ("False", "PodFailed")
        assert conditions["Initialized"] == ("True", "")


async def test_gates_generation_and_a_deadline_that_comes_later(lab: Cluster) -> None:
    """Ready waits for what others say; each status says which generation it is about; a deadline may be set at any time."""
    async with lab.agent():
        await lab.create(
            "web", container(), readinessGates=[{"conditionType": "example.com/in"}], terminationGracePeriodSeconds=30
        )
        pod = await lab.wait("web", lambda pod: _condition(pod, "ContainersReady") == ("True", "", 1))
        assert _condition(pod, "Ready") == ("False", "ReadinessGatesNotReady", 1)
        gate = {"type": "example.com/in", "status": "True", "lastTransitionTime": "2026-11-30T12:00:00Z"}
        await lab.admin.patch(PODS, "default", "web", {"status": {"conditions": [gate]}}, subresource="status")
        pod = await lab.wait("web", is_ready)
        assert [each.type for each in pod.status.conditions if "/" not in each.type] == [
            "PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled",
        ]  # fmt: skip
        assert (pod.metadata.generation, pod.status.observed_generation) == (1, 1)
        await lab.admin.patch(PODS, "default", "web", {"spec": {"activeDeadlineSeconds": 1}})
        pod = await lab.wait_phase("web", "Failed")
        assert (pod.metadata.generation, pod.status.observed_generation) == (2, 2)
        assert {each.observed_generation for each in pod.status.conditions if "/" not in each.type} == {2}
        assert (pod.status.reason, pod.status.message) == (
            "DeadlineExceeded",
            "Pod was active on the node longer than the specified deadline",
        )
        ended = pod.status.container_statuses[0].state.terminated
        assert ended is not None
        assert (ended.exit_code, _condition(pod, "Ready")[:2]) == (143, ("False", "PodFailed"))
        await lab.wait_event("web", "DeadlineExceeded")


def _condition(pod: Pod, name: str) -> tuple[str, str, int]:
    found = [each for each in pod.status.conditions if each.type == name]
    return (found[0].status, found[0].reason, found[0].observed_generation) if found else ("", "", 0)


async def test_what_the_runtime_refuses_to_start_was_created(lab: Cluster) -> None:
    """As events tell it of a CRI runtime, where creating is no more than taking note; seen of kubelet 1.20.2."""
    async with lab.agent():
        await lab.create("web", {"name": "app", "image": IMAGE, "command": ["/nope"]}, restartPolicy="Never")
        await lab.wait_event("web", "Failed")
        reasons = [reason for _, reason, _ in await lab.events("web")]
        assert reasons == ["Pulled", "Created", "Failed"]

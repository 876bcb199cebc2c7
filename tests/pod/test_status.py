"""Source: kubelet_pods_test.go (TestPodPhaseWith*), status/generate_test.go, status_manager_test.go; semantics §8.4-8.6."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from kubelet_secrets.api.core import (
    Container,
    ContainerRestartRule,
    ContainerRestartRuleOnExitCodes,
    ContainerUser,
    LinuxContainerUser,
    Pod,
    PodCondition,
    PodReadinessGate,
    PodStatus,
    ResourceRequirements,
    VolumeMount,
)
from kubelet_secrets.pod.state import Instance, ProbeState, RuntimeState, StartFailure
from kubelet_secrets.pod.status import make_status, make_status_patch
from kubelet_secrets.runtime.settings import UserIds
from tests.pod.builders import T0, after, exited, make_pod, running


def state(*instances: Instance, probes: dict[str, ProbeState] | None = None) -> RuntimeState:
    return RuntimeState(
        sandbox_ready=True, sandbox_attempts=1, pod_ips=("10.0.0.9",), instances=instances, probes=probes or {}
    )


def status_of(pod: Pod, seen: RuntimeState, **changes: Any) -> PodStatus:
    arguments: dict[str, Any] = {
        "previous": PodStatus(phase="Pending"),
        "failures": {},
        "host_ips": ("192.0.2.7",),
        "now": T0,
        **changes,
    }
    return make_status(pod, seen, **arguments)


@pytest.mark.parametrize(
    ("policy", "instances", "phase"),
    [
        pytest.param("Always", (), "Pending", id="nothing-yet"),
        pytest.param("Always", (running("a"), running("b")), "Running", id="all-run"),
        pytest.param("Always", (running("a"),), "Pending", id="one-still-waits"),
        pytest.param("Always", (running("a"), exited("b")), "Running", id="one-has-ended"),
        pytest.param("Always", (exited("a"), exited("b")), "Running", id="always-all-ended"),
        pytest.param("Always", (exited("a", 1), exited("b", 1)), "Running", id="always-all-failed"),
        pytest.param("Never", (exited("a"), exited("b")), "Succeeded", id="never-all-succeeded"),
        pytest.param("Never", (exited("a"), exited("b", 1)), "Failed", id="never-one-failed"),
        pytest.param("Never", (exited("a", 1), running("b")), "Running", id="never-one-runs-on"),
        pytest.param("OnFailure", (exited("a"), exited("b")), "Succeeded", id="on-failure-all-succeeded"),
        pytest.param("OnFailure", (exited("a", 1), exited("b")), "Running", id="on-failure-one-failed"),
    ],
)
def test_phase_of_regular_containers(policy: str, instances: tuple[Instance, ...], phase: str) -> None:
    """§8.6."""
    assert status_of(make_pod("a", "b", policy=policy), state(*instances)).phase == phase


@pytest.mark.parametrize(
    ("policy", "instances", "phase"),
    [
        pytest.param("Always", (running("i"),), "Pending", id="init-runs"),
        pytest.param("Always", (exited("i"),), "Pending", id="init-done-regular-waits"),
        pytest.param("Always", (exited("i", 1),), "Pending", id="init-failed-will-retry"),
        pytest.param("Never", (exited("i", 1),), "Failed", id="init-failed-for-good"),
        pytest.param("Always", (exited("i"), running("a")), "Running", id="initialized"),
    ],
)
def test_phase_with_init_containers(policy: str, instances: tuple[Instance, ...], phase: str) -> None:
    assert status_of(make_pod("a", init=("i",), policy=policy), state(*instances)).phase == phase


@pytest.mark.parametrize(
    ("instances", "started", "phase"),
    [
        pytest.param((running("side"),), False, "Pending", id="sidecar-starting"),
        pytest.param((running("side"), running("a")), True, "Running", id="both-run"),
        pytest.param((running("side"), exited("a")), True, "Running", id="sidecar-still-runs-after-the-end"),
        pytest.param((exited("side"), exited("a")), True, "Succeeded", id="all-ended"),
        pytest.param((exited("side", 9), exited("a")), True, "Succeeded", id="sidecar's-exit-code-does-not-count"),
        pytest.param((running("side"), running("a")), False, "Running", id="restarting-sidecar-does-not-send-back"),
    ],
)
def test_phase_with_a_sidecar(instances: tuple[Instance, ...], started: bool, phase: str) -> None:
    seen = state(*instances, probes={"side": ProbeState(is_started=started)})
    assert status_of(make_pod("a", init=("side",), policy="Never"), seen).phase == phase


@pytest.mark.parametrize(
    ("instances", "phase"),
    [
        pytest.param((exited("a"),), "Succeeded", id="all-zero"),
        pytest.param((exited("a", 143),), "Failed", id="killed"),
        pytest.param((), "Failed", id="never-started"),
    ],
)
def test_deleted_pod_ends_in_a_terminal_phase(instances: tuple[Instance, ...], phase: str) -> None:
    """§8.8: the API server lets go of a pod only in a terminal phase, also under restartPolicy Always."""
    assert status_of(make_pod("a", deleted=True), state(*instances), is_terminal=True).phase == phase


def test_static_pod_that_is_stopped_has_not_ended() -> None:
    """§8.6, §13: neither Succeeded nor Failed by its termination."""
    pod = make_pod("a")
    meta = msgspec.structs.replace(pod.metadata, annotations={"kubernetes.io/config.source": "file"})
    static = msgspec.structs.replace(pod, metadata=meta)
    assert status_of(static, state(exited("a", 143)), is_terminal=True).phase == "Running"
    assert status_of(pod, state(exited("a", 143)), is_terminal=True).phase == "Failed"


def test_phase_never_leaves_a_terminal_one() -> None:
    status = status_of(make_pod("a", policy="Never"), state(running("a")), previous=PodStatus(phase="Failed"))
    assert status.phase == "Failed"


def test_phase_counts_with_a_containers_own_policy_and_rules() -> None:
    """Source: getPhase, with the gate ContainerRestartRules."""
    codes = ContainerRestartRuleOnExitCodes(operator="In", values=(42,))
    container = Container(
        name="a",
        image="busybox:1",
        restart_policy="Never",
        restart_policy_rules=(ContainerRestartRule(action="Restart", exit_codes=codes),),
    )
    pod = make_pod(container, policy="Always")
    assert status_of(pod, state(exited("a", 42))).phase == "Running"
    assert status_of(pod, state(exited("a", 1))).phase == "Failed"
    assert status_of(pod, state(exited("a", 0))).phase == "Succeeded"
    assert status_of(make_pod("b", init=(container,)), state(exited("a", 1))).phase == "Failed"
    assert status_of(make_pod("b", init=(container,)), state(exited("a", 42))).phase == "Pending"


def test_user_and_resources_are_those_of_the_run() -> None:
    """A resize that has been allocated and has not happened is not told as if it had."""
    pod = make_pod(Container(name="a", resources=ResourceRequirements(requests={"cpu": "2"})))
    started = ResourceRequirements(requests={"cpu": "1"})
    user = UserIds(uid=1000, gid=7, additional_gids=(7, 8))
    only = status_of(pod, state(replace(running("a"), resources=started, user=user))).container_statuses[0]
    assert (only.allocated_resources, only.resources) == ({"cpu": "2"}, started)
    progress = status_of(pod, state(replace(running("a"), resources=started))).conditions[0]
    assert (progress.type, progress.status, progress.reason) == ("PodResizeInProgress", "True", "")
    same = ResourceRequirements(requests={"cpu": "2000m"})
    before, after_restart = (
        status_of(pod, state(replace(running("a", 1), resources=each))) for each in (started, same)
    )
    assert "PodResizeInProgress" not in [each.type for each in after_restart.conditions]
    patch = make_status_patch(pod, before, after_restart)
    assert patch is not None
    assert {"$patch": "delete", "type": "PodResizeInProgress"} in patch["status"]["conditions"]
    assert only.user == ContainerUser(linux=LinuxContainerUser(uid=1000, gid=7, supplemental_groups=(7, 8)))


def test_waiting_reason_before_anything_runs() -> None:
    """§8.1: ContainerCreating, or PodInitializing when there are init containers."""
    plain = status_of(make_pod("a"), RuntimeState())
    assert plain.container_statuses[0].state.waiting is not None
    assert plain.container_statuses[0].state.waiting.reason == "ContainerCreating"
    with_init = status_of(make_pod("a", init=("i",)), RuntimeState())
    waits = [each.state.waiting for each in (*with_init.init_container_statuses, *with_init.container_statuses)]
    assert [each.reason for each in waits if each] == ["PodInitializing", "PodInitializing"]


def test_failed_start_shows_its_reason() -> None:
    """§6.6."""
    failure = StartFailure(reason="CreateContainerConfigError", message='secret "s" not found')
    status = status_of(make_pod("a"), state(), failures={"a": failure})
    waiting = status.container_statuses[0].state.waiting
    assert waiting is not None
    assert (waiting.reason, waiting.message) == ("CreateContainerConfigError", 'secret "s" not found')
    assert status.phase == "Pending"
    assert status.container_statuses[0].restart_count == 0


def test_crash_loop_keeps_the_last_end_beside_the_waiting_reason() -> None:
    """§8.4."""
    failure = StartFailure(reason="CrashLoopBackOff", message="back-off 10s restarting failed container=a")
    status = status_of(make_pod("a"), state(exited("a", 3, attempt=2)), failures={"a": failure})
    only = status.container_statuses[0]
    assert only.state.waiting is not None
    assert only.state.waiting.reason == "CrashLoopBackOff"
    assert only.last_state.terminated is not None
    assert only.last_state.terminated.exit_code == 3
    assert (only.restart_count, status.phase, only.ready) == (2, "Running", False)


def test_failure_of_a_container_that_will_not_be_restarted_is_not_shown() -> None:
    failure = StartFailure(reason="CrashLoopBackOff", message="")
    status = status_of(make_pod("a", policy="Never"), state(exited("a", 1)), failures={"a": failure})
    assert status.container_statuses[0].state.terminated is not None


def test_restart_shows_the_run_before() -> None:
    status = status_of(make_pod("a"), state(exited("a", 1, 0, at=-30, message="out of cheese"), running("a", 1)))
    only = status.container_statuses[0]
    assert only.state.running is not None
    assert only.last_state.terminated is not None
    assert only.last_state.terminated.message == "out of cheese"
    assert (only.restart_count, only.container_id, only.started, only.ready) == (1, "runc://a-1", True, True)


def test_termination_messages_share_twelve_kibibytes() -> None:
    """§8.4; cut between characters."""
    instances = [exited(name, 1, message="ä" * 4000) for name in "abcd"]
    status = status_of(make_pod(*"abcd", policy="Never"), state(*instances))
    messages = [each.state.terminated.message for each in status.container_statuses if each.state.terminated]
    assert [len(str(each).encode()) for each in messages] == [3072] * 4


def test_restart_without_a_trace_of_the_run_before_keeps_the_published_end() -> None:
    first = status_of(make_pod("a"), state(exited("a", 7)))
    second = status_of(make_pod("a"), state(running("a", 1)), previous=first)
    third = status_of(make_pod("a"), state(running("a", 1)), previous=second)
    for status in (second, third):
        ended = status.container_statuses[0].last_state.terminated
        assert ended is not None
        assert ended.exit_code == 7


def test_container_that_ran_and_vanished_does_not_send_the_pod_back_to_pending() -> None:
    before = status_of(make_pod("a"), state(running("a")))
    status = status_of(make_pod("a"), state(), previous=before)
    only = status.container_statuses[0]
    assert only.last_state.terminated is not None
    assert (only.last_state.terminated.reason, only.last_state.terminated.exit_code) == ("ContainerStatusUnknown", 137)
    assert (status.phase, only.restart_count) == ("Running", 1)
    again = status_of(make_pod("a"), state(), previous=status)
    assert again.container_statuses[0].restart_count == 1


def test_deleted_pod_gives_lost_containers_an_end() -> None:
    before = status_of(make_pod("a"), state(running("a")))
    status = status_of(make_pod("a", deleted=True), state(), previous=before, is_terminal=True)
    ended = status.container_statuses[0].state.terminated
    assert ended is not None
    assert (ended.reason, ended.exit_code, status.phase) == ("ContainerStatusUnknown", 137, "Failed")


def test_regular_containers_are_listed_by_name_and_init_containers_in_order() -> None:
    status = status_of(make_pod("b", "a", init=("z", "y")), state())
    assert [each.name for each in status.container_statuses] == ["a", "b"]
    assert [each.name for each in status.init_container_statuses] == ["z", "y"]


def test_volume_mounts_show_the_spec() -> None:
    """§8.5: readOnly is what was asked for; recursiveReadOnly only where readOnly."""
    container = Container(
        name="a",
        volume_mounts=(
            VolumeMount(name="v", mount_path="/v"),
            VolumeMount(name="w", mount_path="/w", read_only=True),
            VolumeMount(name="x", mount_path="/x", read_only=True, recursive_read_only="IfPossible"),
        ),
    )
    mounts = status_of(make_pod(container), state()).container_statuses[0].volume_mounts
    assert [(each.read_only, each.recursive_read_only) for each in mounts] == [
        (False, None),
        (True, "Disabled"),
        (True, "Enabled"),
    ]


def test_resources_in_force_are_told_of_containers_that_were_started() -> None:
    """§8.5."""
    resources = ResourceRequirements(requests={"cpu": "100m"}, limits={"cpu": "1"})
    pod = make_pod(Container(name="a", resources=resources), "b")
    started, waiting = status_of(pod, state(running("a"))).container_statuses
    assert (started.allocated_resources, started.resources) == ({"cpu": "100m"}, resources)
    assert waiting.resources is msgspec.UNSET


def conditions(status: PodStatus) -> dict[str, tuple[str, str, str]]:
    return {each.type: (each.status, each.reason, each.message) for each in status.conditions}


def test_conditions_in_order_when_all_is_well() -> None:
    """§8.5."""
    status = status_of(make_pod("a"), state(running("a")))
    assert [(each.type, each.status) for each in status.conditions] == [
        ("PodReadyToStartContainers", "True"),
        ("Initialized", "True"),
        ("Ready", "True"),
        ("ContainersReady", "True"),
        ("PodScheduled", "True"),
    ]
    assert {each.observed_generation for each in status.conditions} == {3}


def test_conditions_while_a_volume_is_missing() -> None:
    """§8.5: Initialized is True without init containers and False with them."""
    unready = ("False", "ContainersNotReady", "containers with unready status: [a b]")
    found = conditions(status_of(make_pod("a", "b"), RuntimeState()))
    assert found == {
        "PodReadyToStartContainers": ("False", "", ""),
        "Initialized": ("True", "", ""),
        "Ready": unready,
        "ContainersReady": unready,
        "PodScheduled": ("True", "", ""),
    }
    with_init = conditions(status_of(make_pod("a", init=("i", "j")), RuntimeState()))
    assert with_init["Initialized"] == ("False", "ContainersNotInitialized", "containers with incomplete status: [i j]")


@pytest.mark.parametrize(
    ("instances", "expected"),
    [
        pytest.param((exited("a"),), ("False", "PodCompleted", ""), id="succeeded"),
        pytest.param((exited("a", 1),), ("False", "PodFailed", ""), id="failed"),
    ],
)
def test_ready_on_terminal_phases(instances: tuple[Instance, ...], expected: tuple[str, str, str]) -> None:
    status = status_of(make_pod("a", policy="Never"), state(*instances))
    assert conditions(status)["Ready"] == conditions(status)["ContainersReady"] == expected
    assert conditions(status)["Initialized"][0] == "True"
    if status.phase == "Succeeded":
        assert conditions(status)["Initialized"][1] == "PodCompleted"


def test_unready_probe_makes_the_pod_unready() -> None:
    seen = state(running("a"), running("b"), probes={"b": ProbeState(is_ready=False)})
    assert conditions(status_of(make_pod("a", "b"), seen))["Ready"] == (
        "False",
        "ContainersNotReady",
        "containers with unready status: [b]",
    )


def test_sidecar_counts_for_readiness() -> None:
    seen = state(running("side"), running("a"), probes={"side": ProbeState(is_ready=False)})
    found = conditions(status_of(make_pod("a", init=("side",)), seen))
    assert found["ContainersReady"] == ("False", "ContainersNotReady", "containers with unready status: [side]")


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        pytest.param(
            (),
            (
                "False",
                "ReadinessGatesNotReady",
                'corresponding condition of pod readiness gate "example.com/lb" does not exist.',
            ),
            id="absent",
        ),
        pytest.param(
            (PodCondition(type="example.com/lb", status="False"),),
            (
                "False",
                "ReadinessGatesNotReady",
                'the status of pod readiness gate "example.com/lb" is not "True", but False',
            ),
            id="false",
        ),
        pytest.param((PodCondition(type="example.com/lb", status="True"),), ("True", "", ""), id="true"),
    ],
)
def test_readiness_gates(others: tuple[PodCondition, ...], expected: tuple[str, str, str]) -> None:
    pod = make_pod("a", readiness_gates=(PodReadinessGate(condition_type="example.com/lb"),))
    status = status_of(pod, state(running("a")), previous=PodStatus(conditions=others))
    assert conditions(status)["Ready"] == expected
    assert conditions(status)["ContainersReady"][0] == "True"


def test_foreign_conditions_are_kept_as_they_were() -> None:
    foreign = PodCondition(type="example.com/lb", status="True", last_transition_time="2020-01-01T00:00:00Z")
    assert foreign in status_of(make_pod("a"), state(), previous=PodStatus(conditions=(foreign,))).conditions


def test_transition_times_change_only_on_transitions() -> None:
    pod = make_pod("a")
    first = status_of(pod, state(running("a")), now=T0)
    same = status_of(pod, state(running("a")), previous=first, now=after(60))
    assert same == first
    unready = status_of(pod, state(exited("a", 1)), previous=same, now=after(90))
    times = {each.type: each.last_transition_time for each in unready.conditions}
    assert times["Ready"] == "2026-11-23T19:41:30Z"
    assert times["PodScheduled"] == "2026-11-23T19:40:00Z"
    assert unready.start_time == "2026-11-23T19:40:00Z"


def test_addresses_and_qos_class() -> None:
    status = status_of(make_pod("a"), state(running("a")), host_ips=("192.0.2.7", "2001:db8::7"))
    assert (status.host_ip, [each.ip for each in status.host_ips]) == ("192.0.2.7", ["192.0.2.7", "2001:db8::7"])
    assert (status.pod_ip, [each.ip for each in status.pod_ips]) == ("10.0.0.9", ["10.0.0.9"])
    assert status.qos_class == "BestEffort"
    assert status_of(make_pod("a", host_network=True), state()).pod_ip == "192.0.2.7"


def test_verdict_of_the_node_fails_the_pod_once_nothing_of_it_runs() -> None:
    """Source: mergePodStatus, couldHaveRunningContainers."""
    verdict = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
    before = status_of(make_pod("a"), state(running("a")))
    status = status_of(make_pod("a"), state(running("a")), verdict=verdict, previous=before)
    assert (status.phase, status.reason, status.message) == ("Running", "", "")
    status = status_of(make_pod("a"), state(exited("a", 143)), verdict=verdict, previous=before)
    assert (status.phase, status.reason, status.message) == ("Failed", *verdict)


def test_reason_of_a_condition_that_holds_again_is_taken_back() -> None:
    """Conditions merge by type and field by field: left out of a patch, the reason for what was would stay."""
    pod = make_pod("a")
    first = status_of(pod, state())
    second = status_of(pod, state(running("a")), previous=first)
    patch = make_status_patch(pod, first, second)
    assert patch is not None
    ready = next(each for each in patch["status"]["conditions"] if each["type"] == "Ready")
    assert (ready["status"], ready["reason"], ready["message"]) == ("True", None, None)
    initialized = next(each for each in patch["status"]["conditions"] if each["type"] == "Initialized")
    assert "reason" not in initialized


def test_patch_names_only_what_changed() -> None:
    pod = make_pod("a")
    first = status_of(pod, state(running("a")))
    assert make_status_patch(pod, first, first) is None
    second = msgspec.structs.replace(first, phase="Failed", pod_ips=(), pod_ip="")
    assert make_status_patch(pod, first, second) == {
        "metadata": {"uid": "uid-1"},
        "status": {"phase": "Failed", "podIP": None, "podIPs": [{"$patch": "delete", "ip": "10.0.0.9"}]},
    }

"""Source: pkg/kubelet/kuberuntime/kuberuntime_manager_test.go, TestComputePodActions and its variants; semantics §8.0, §8.7."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from kubelet_secrets.api.core import Container, ContainerRestartRule, ContainerRestartRuleOnExitCodes, Pod, Probe
from kubelet_secrets.pod.backoff import BackOff
from kubelet_secrets.pod.plan import (
    Action,
    BackOffRestart,
    CreateSandbox,
    HoldStart,
    KillContainer,
    KillPod,
    StartContainer,
    is_restarted_after,
    make_plan,
    next_wake,
    restart_key,
)
from kubelet_secrets.pod.state import Instance, InstanceState, ProbeState, RuntimeState, StartFailure
from kubelet_secrets.pod.termination import grace_period_s
from tests.pod.builders import T0, after, exited, make_pod, running

READY = RuntimeState(sandbox_ready=True, sandbox_attempts=1)


def state(*instances: Instance, probes: dict[str, ProbeState] | None = None) -> RuntimeState:
    return RuntimeState(sandbox_ready=True, sandbox_attempts=1, instances=instances, probes=probes or {})


def plan(
    pod: Pod, seen: RuntimeState, *, back_off: BackOff | None = None, failures: dict[str, StartFailure] | None = None
) -> list[str]:
    actions = make_plan(pod, seen, back_off=back_off or BackOff(), failures=failures or {}, now=T0)
    return [brief(each) for each in actions]


def brief(action: Action) -> str:
    match action:
        case KillPod():
            return "kill pod"
        case KillContainer(instance=instance, message=message):
            return f"kill {instance.name}: {message}"
        case CreateSandbox(attempt=attempt):
            return f"sandbox {attempt}"
        case StartContainer(container=container, attempt=attempt):
            return f"start {container.name} {attempt}"
        case BackOffRestart(container=container, delay_s=delay_s):
            return f"back off {container.name} {delay_s:.0f}"
        case HoldStart(container=container):
            return f"hold {container.name}"


@pytest.mark.parametrize(
    ("pod", "seen", "expected"),
    [
        pytest.param(make_pod(), RuntimeState(), ["sandbox 0"], id="new-pod-needs-its-sandbox-first"),
        pytest.param(make_pod("a", "b"), READY, ["start a 0", "start b 0"], id="regular-containers-together"),
        pytest.param(make_pod("a"), state(running("a")), [], id="running-nothing-to-do"),
        pytest.param(
            make_pod("a"), RuntimeState(sandbox_attempts=1, instances=(exited("a"),)), ["sandbox 1"], id="sandbox-lost"
        ),
        pytest.param(
            make_pod("a"),
            RuntimeState(sandbox_attempts=1, instances=(running("a"),)),
            ["kill pod", "sandbox 1"],
            id="sandbox-lost-under-a-running-container",
        ),
        pytest.param(
            make_pod("a", policy="Never"),
            RuntimeState(sandbox_attempts=1, instances=(exited("a"),)),
            [],
            id="never-does-not-come-back-without-sandbox",
        ),
        pytest.param(
            make_pod("a", policy="OnFailure"),
            RuntimeState(sandbox_attempts=1, instances=(exited("a"),)),
            [],
            id="on-failure-all-done-needs-no-sandbox",
        ),
        pytest.param(make_pod("a"), state(exited("a", 0)), ["start a 1"], id="always-restarts-success"),
        pytest.param(make_pod("a"), state(exited("a", 1)), ["start a 1"], id="always-restarts-failure"),
        pytest.param(
            make_pod("a", policy="OnFailure"), state(exited("a", 0)), ["kill pod"], id="on-failure-success-is-the-end"
        ),
        pytest.param(
            make_pod("a", policy="OnFailure"), state(exited("a", 1)), ["start a 1"], id="on-failure-restarts-failure"
        ),
        pytest.param(make_pod("a", policy="Never"), state(exited("a", 1)), ["kill pod"], id="never-failure-is-the-end"),
        pytest.param(
            make_pod("a", "b", policy="Never"), state(exited("a", 1), running("b")), [], id="never-others-run-on"
        ),
        pytest.param(
            make_pod("a", "b", policy="OnFailure"),
            state(exited("a", 0), exited("b", 2)),
            ["start b 1"],
            id="on-failure-only-the-failed-one",
        ),
    ],
)
def test_regular_containers(pod: Pod, seen: RuntimeState, expected: list[str]) -> None:
    assert plan(pod, seen) == expected


@pytest.mark.parametrize(
    ("policy", "seen", "expected"),
    [
        pytest.param("Always", READY, ["start i1 0"], id="first"),
        pytest.param("Always", state(running("i1")), [], id="wait-for-the-first"),
        pytest.param("Always", state(exited("i1")), ["start i2 0"], id="second-after-the-first"),
        pytest.param("Always", state(exited("i1"), exited("i2")), ["start a 0"], id="regular-after-all"),
        pytest.param("Always", state(exited("i1", 1)), ["start i1 1"], id="always-retries-a-failed-one"),
        pytest.param("OnFailure", state(exited("i1", 1)), ["start i1 1"], id="on-failure-retries-a-failed-one"),
        pytest.param("Never", state(exited("i1", 1)), ["kill pod"], id="never-fails-the-pod"),
        pytest.param("Always", state(exited("i2")), ["start a 0"], id="the-last-one-with-a-trace-decides"),
        pytest.param("Always", state(running("a")), [], id="a-running-regular-container-proves-initialization"),
        pytest.param(
            "Always", state(exited("i2", 1), exited("i1")), ["start i2 1"], id="only-the-failed-one-runs-again"
        ),
    ],
)
def test_init_containers_run_one_after_another(policy: str, seen: RuntimeState, expected: list[str]) -> None:
    assert plan(make_pod("a", init=("i1", "i2"), policy=policy), seen) == expected


@pytest.mark.parametrize(
    ("policy", "seen", "expected"),
    [
        pytest.param("Always", READY, ["start side 0"], id="sidecar-first"),
        pytest.param("Always", state(running("side")), ["start i2 0"], id="next-once-the-sidecar-runs"),
        pytest.param(
            "Always",
            state(running("side"), probes={"side": ProbeState(is_started=False, is_ready=False)}),
            [],
            id="wait-for-the-sidecar's-startup-probe",
        ),
        pytest.param("Always", state(running("side"), exited("i2")), ["start a 0"], id="regular-beside-the-sidecar"),
        pytest.param(
            "Always",
            state(exited("side", 1), exited("i2")),
            ["start side 1", "start a 0"],
            id="sidecar-restarts-meanwhile",
        ),
        pytest.param(
            "Never",
            state(exited("side", 1), exited("i2"), running("a")),
            ["start side 1"],
            id="sidecar-restarts-under-never",
        ),
        pytest.param(
            "Never",
            state(running("side"), exited("i2"), exited("a", 0)),
            ["kill pod"],
            id="sidecar-does-not-keep-a-finished-pod",
        ),
        pytest.param(
            "Always",
            state(running("side"), exited("i2"), running("a"), probes={"side": ProbeState(is_alive=False)}),
            ["kill side: Init container side failed liveness probe"],
            id="sidecar-fails-its-liveness-probe",
        ),
    ],
)
def test_sidecars(policy: str, seen: RuntimeState, expected: list[str]) -> None:
    assert plan(make_pod("a", init=("side", "i2"), policy=policy), seen) == expected


def test_last_sidecar_running_lets_regular_containers_start() -> None:
    assert plan(make_pod("a", init=("i1", "side")), state(exited("i1"), running("side"))) == ["start a 0"]


def test_sidecar_forgotten_by_the_runtime_is_started_again() -> None:
    assert plan(make_pod("a", init=("side", "i2")), state(running("a"))) == ["start side 0"]


def test_ephemeral_containers_run_once_and_before_initialization_is_over() -> None:
    pod = make_pod("a", init=("i1",), ephemeral_containers=(Container(name="debug", image="busybox:1"),))
    assert plan(pod, state(running("i1"))) == ["start debug 0"]
    assert plan(pod, state(running("i1"), exited("debug", 1))) == []


def test_crash_loop_waits_from_the_end_of_the_run() -> None:
    pod = make_pod("a", "b")
    back_off = BackOff()
    back_off.advance(restart_key(pod, pod.spec.containers[0]), after(-20), after(-20))
    seen = state(exited("a", 1, attempt=1, at=-4), running("b"))
    actions = make_plan(pod, seen, back_off=back_off, failures={}, now=T0)
    assert [brief(each) for each in actions] == ["back off a 10"]
    assert next_wake(actions) == after(6)
    later = make_plan(pod, seen, back_off=back_off, failures={}, now=after(6))
    assert [brief(each) for each in later] == ["start a 2"]


def test_failed_start_is_held_and_does_not_stop_the_others() -> None:
    """§6.6, §8.0: CreateContainerConfigError is retried later; containers are independent."""
    failure = StartFailure(reason="CreateContainerConfigError", message='secret "s" not found', retry_at=after(12))
    assert plan(make_pod("a", "b"), READY, failures={"a": failure}) == ["hold a", "start b 0"]
    free = StartFailure(reason=failure.reason, message=failure.message, retry_at=None)
    assert plan(make_pod("a", "b"), READY, failures={"a": free}) == ["start a 0", "start b 0"]


def test_created_but_never_run_counts_as_no_restart() -> None:
    """§8.7: failures before the first run do not raise restartCount."""
    created = dataclasses.replace(exited("a"), state=InstanceState.CREATED, finished_at=None)
    assert plan(make_pod("a"), state(created)) == ["start a 0"]


@pytest.mark.parametrize(
    ("probe", "policy", "expected"),
    [
        pytest.param(
            ProbeState(is_alive=False),
            "Always",
            ["kill a: Container a failed liveness probe, will be restarted"],
            id="alive",
        ),
        pytest.param(ProbeState(is_alive=False), "Never", ["kill a: Container a failed liveness probe"], id="never"),
        pytest.param(
            ProbeState(is_alive=False, is_started=False),
            "Always",
            ["kill a: Container a failed startup probe, will be restarted"],
            id="startup",
        ),
    ],
)
def test_failed_probe_kills(probe: ProbeState, policy: str, expected: list[str]) -> None:
    assert plan(make_pod("a", policy=policy), state(running("a"), probes={"a": probe})) == expected


@pytest.mark.parametrize(
    ("state_of_probe", "grace_s", "deleted_s"),
    [
        pytest.param(ProbeState(is_started=False, is_alive=False), 1, 7, id="startup-probe"),
        pytest.param(ProbeState(is_alive=False), 2, 7, id="liveness-probe"),
    ],
)
def test_grace_of_a_probe_goes_before_the_pods(state_of_probe: ProbeState, grace_s: int, deleted_s: int) -> None:
    """Source: kuberuntime_container_test.go, TestSetTerminationGracePeriod: only the deletion's word goes before it."""
    container = Container(
        name="a",
        startup_probe=Probe(termination_grace_period_seconds=1),
        liveness_probe=Probe(termination_grace_period_seconds=2),
    )
    pod = make_pod(container, termination_grace_period_seconds=600)
    seen = state(running("a"), probes={"a": state_of_probe})
    (kill,) = make_plan(pod, seen, back_off=BackOff(), failures={}, now=T0)
    assert isinstance(kill, KillContainer)
    assert kill.probe_grace_s == grace_s
    assert grace_period_s(pod, probe_s=kill.probe_grace_s) == grace_s
    assert grace_period_s(pod) == 600
    deleted = make_pod(container, deleted=True)
    meta = msgspec.structs.replace(deleted.metadata, deletion_grace_period_seconds=deleted_s)
    assert grace_period_s(msgspec.structs.replace(deleted, metadata=meta), probe_s=kill.probe_grace_s) == deleted_s


def ruled(policy: str, *rules: tuple[str, str, tuple[int, ...]]) -> Container:
    return Container(
        name="a",
        image="busybox:1",
        restart_policy=policy,
        restart_policy_rules=tuple(
            ContainerRestartRule(
                action=action, exit_codes=ContainerRestartRuleOnExitCodes(operator=operator, values=values)
            )
            for action, operator, values in rules
        ),
    )


@pytest.mark.parametrize(
    ("pod_policy", "container", "code", "expected"),
    [
        pytest.param("Never", ruled("Always"), 0, True, id="own-policy"),
        pytest.param("Always", ruled("OnFailure"), 0, False, id="own-policy-on-failure"),
        pytest.param("Always", ruled("Never"), 1, False, id="own-policy-never"),
        pytest.param("Never", ruled("Never", ("Restart", "In", (42, 43))), 43, True, id="rule"),
        pytest.param("Never", ruled("Never", ("Restart", "In", (42,))), 1, False, id="no-rule-matches"),
        pytest.param("Never", ruled("Never", ("Restart", "NotIn", (0, 1))), 2, True, id="not-in"),
        pytest.param("Never", ruled("Never", ("Restart", "NotIn", (0, 1))), 1, False, id="in-not-in"),
        pytest.param(
            "Always",
            ruled("OnFailure", ("Explode", "In", (3,)), ("Restart", "In", (3,))),
            0,
            False,
            id="unknown-action-is-the-policys-matter",
        ),
    ],
)
def test_restart_policy_and_rules_of_a_container(
    pod_policy: str, container: Container, code: int, expected: bool
) -> None:
    """KEP-5307. Source: pkg/api/v1/pod/util_test.go, TestContainerShouldRestart."""
    pod = make_pod(container, policy=pod_policy)
    assert is_restarted_after(pod, container, code) is expected
    assert plan(pod, state(exited("a", code))) == (["start a 1"] if expected else ["kill pod"])
    as_init = make_pod("b", init=(container,), policy=pod_policy)
    if container.restart_policy != "Always" and code:
        assert plan(as_init, state(exited("a", code))) == (["start a 1"] if expected else ["kill pod"])


def test_changed_image_kills_and_the_next_plan_starts() -> None:
    pod = make_pod("a")
    old = dataclasses.replace(running("a"), spec_hash="other")
    assert plan(pod, state(old)) == ["kill a: Container a definition changed, will be restarted"]
    ended = dataclasses.replace(exited("a", 137), spec_hash="other")
    assert plan(pod, state(ended)) == ["start a 1"]


def test_pod_being_deleted_starts_nothing() -> None:
    assert plan(make_pod("a", deleted=True), state(exited("a", 1))) == ["kill pod"]

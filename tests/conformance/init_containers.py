"""[sig-node] InitContainer.

Every state that the API server tells of has to keep the invariants that upstream lists.

Source: kubernetes test/e2e/common/node/init_container.go; semantics §8.5, §8.6.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.conformance.framework import PAUSE, Case, Framework, Json, busybox, condition, pod_body, unique

LIMITS = {"limits": {"cpu": "100m"}}


def _true(name: str) -> Json:
    return busybox(name, "/bin/true")


def _false(name: str) -> Json:
    return busybox(name, "/bin/false")


def _pause() -> Json:
    return {"name": "run1", "image": PAUSE, "resources": LIMITS}


def _pod(policy: str, inits: list[Json], main: Json) -> Json:
    metadata = {"labels": {"name": "foo", "time": unique("")[:8]}}
    pod = pod_body(unique("pod-init-"), [main], metadata=metadata, initContainers=inits)
    pod["spec"]["restartPolicy"] = policy
    return pod


def _is_initialized(pod: Json) -> tuple[bool, bool]:
    """(all are done, one has failed). Containers after one that is not done have to wait."""
    done, failed = True, False
    for status in pod["status"].get("initContainerStatuses") or ():
        state, name = status["state"], status["name"]
        if "waiting" not in state:
            assert not failed, f"container {name} is after a failed container but isn't waiting"
            assert done, f"container {name} is after an initializing container but isn't waiting"
        if "terminated" not in state:
            done = False
        elif state["terminated"]["exitCode"] != 0:
            done, failed = False, True
        else:
            assert status["ready"], f"container {name} initialized but isn't marked as ready"
    return done, failed


class Invariants:
    """Checks one state after the other; itself a condition for ``Framework.wait`` around another."""

    def __init__(self, wanted: Callable[[Json], bool]) -> None:
        self._wanted = wanted
        self._was_initialized = False

    def __call__(self, pod: Json) -> bool:
        if pod["status"].get("initContainerStatuses"):
            self._check(pod)
        return self._wanted(pod)

    def _check(self, pod: Json) -> None:
        done, failed = _is_initialized(pod)
        if not done or failed:
            for status in pod["status"].get("containerStatuses") or ():
                assert status["state"].get("waiting", {}).get("reason") == "PodInitializing", status
                assert status["restartCount"] == 0, status
        initialized = condition(pod, "Initialized")
        assert initialized.get("lastTransitionTime"), pod["status"]
        assert initialized["status"] == ("True" if done and not failed else "False"), pod["status"]
        assert done or not self._was_initialized, "initialized, and then no more"
        self._was_initialized = done


def _check_all_done(pod: Json, phase: str) -> None:
    assert pod["status"]["phase"] == phase
    assert condition(pod, "Initialized")["status"] == "True"
    statuses = pod["status"]["initContainerStatuses"]
    assert [(each["ready"], each["state"]["terminated"]["exitCode"]) for each in statuses] == [(True, 0)] * 2


def _is_completed(pod: Json) -> bool:
    return pod["status"].get("phase") in ("Failed", "Succeeded")


async def _never(f: Framework) -> None:
    name = await f.create_pod(_pod("Never", [_true("init1"), _true("init2")], _true("run1")))
    _check_all_done(await f.wait(name, Invariants(_is_completed)), "Succeeded")


async def _always(f: Framework) -> None:
    name = await f.create_pod(_pod("Always", [_true("init1"), _true("init2")], _pause()))
    is_running = Invariants(lambda pod: pod["status"].get("phase") == "Running")
    _check_all_done(await f.wait(name, is_running), "Running")


async def _always_fails(f: Framework) -> None:
    def has_restarted(pod: Json) -> bool:
        for status in pod["status"].get("containerStatuses") or ():
            assert status["state"].get("waiting", {}).get("reason") == "PodInitializing", status
        if len(pod["status"].get("initContainerStatuses") or ()) != 2:
            return False
        first, second = pod["status"]["initContainerStatuses"]
        assert second["state"].get("waiting", {}).get("reason") == "PodInitializing", second
        assert first["state"].get("terminated", {}).get("exitCode") != 0, first
        return bool(first["restartCount"] >= 3 and "terminated" in first["lastState"])

    name = await f.create_pod(_pod("Always", [_false("init1"), _true("init2")], _pause()))
    end = await f.wait(name, Invariants(has_restarted))  # after 30 s of back-off
    assert end["status"]["phase"] == "Pending"
    _check_incomplete(end, "[init1 init2]")


async def _never_fails(f: Framework) -> None:
    def has_ended(pod: Json) -> bool:
        for status in pod["status"].get("containerStatuses") or ():
            assert status["state"].get("waiting", {}).get("reason") == "PodInitializing", status
        for status in pod["status"].get("initContainerStatuses") or ():
            if status["name"] == "init1":
                assert status["state"].get("waiting", {}).get("reason") in (None, "PodInitializing"), status
                assert status["state"].get("terminated", {}).get("exitCode") in (None, 0), status
            else:
                assert status["state"].get("terminated", {}).get("exitCode") != 0, status
        return _is_completed(pod)

    main = busybox("run1", "/bin/true", resources=LIMITS)
    name = await f.create_pod(_pod("Never", [_true("init1"), _false("init2")], main))
    end = await f.wait(name, Invariants(has_ended))
    assert end["status"]["phase"] == "Failed"
    _check_incomplete(end, "[init2]")
    assert "waiting" in end["status"]["containerStatuses"][0]["state"]


def _check_incomplete(pod: Json, names: str) -> None:
    initialized = condition(pod, "Initialized")
    assert (initialized["status"], initialized["reason"]) == ("False", "ContainersNotInitialized")
    assert initialized["message"] == f"containers with incomplete status: {names}"
    assert len(pod["status"]["initContainerStatuses"]) == 2


CASES = [
    Case(f"InitContainer {text}", run, "NC")
    for text, run in (
        ("should not start app containers if init containers fail on a RestartAlways pod", _always_fails),
        ("should invoke init containers on a RestartNever pod", _never),
        ("should invoke init containers on a RestartAlways pod", _always),
        (
            "should not start app containers and fail the pod if init containers fail on a RestartNever pod",
            _never_fails,
        ),
    )
]

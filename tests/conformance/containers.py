"""[sig-node] Containers, Container Runtime: what is run, and what is told of its end.

Source: kubernetes test/e2e/common/node/{containers,runtime}.go; semantics §8.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.conformance.framework import (
    Case,
    Framework,
    Json,
    agnhost,
    busybox,
    condition,
    mount,
    pod_body,
    unique,
)

TERMINATION_LOG = "/dev/termination-log"


def _entrypoint_pod(*args: str, **fields: Any) -> Json:
    container = agnhost("agnhost-container", *args, **fields)
    return pod_body(unique("client-containers-"), [container], terminationGracePeriodSeconds=1)


async def _image_defaults(f: Framework) -> None:
    pod = await f.create_pod(_entrypoint_pod())
    await f.wait_running(pod)
    await f.wait_log(pod, "agnhost-container", "Paused")


async def _override(f: Framework, *args: str, wanted: str, **fields: Any) -> None:
    await f.check_output(_entrypoint_pod(*args, **fields), wanted)


async def _restarts(f: Framework, policy: str, phase: str, count: int, state: str) -> None:
    """It fails, then succeeds, then runs; which of the three is its last depends on the policy."""
    script = (
        "f=/restart-count/restartCount\ncount=$(echo 'hello' >> $f ; wc -l $f | awk {'print $1'})\n"
        "if [ $count -eq 1 ]; then\n\texit 1\nfi\nif [ $count -eq 2 ]; then\n\texit 0\nfi\nwhile true; do sleep 1; done\n"
    )
    container = busybox(
        f"terminate-cmd-{policy.lower()}", "sh", "-c", script, mounts=[mount("restart-count", "/restart-count")]
    )
    volume = {"name": "restart-count", "emptyDir": {"medium": "Memory"}}
    pod = await f.create_pod(pod_body(unique("terminate-cmd-"), [container], volumes=[volume], restartPolicy=policy))
    is_ready = "True" if state == "running" else "False"

    def is_as_wanted(found: Json) -> bool:
        statuses = found["status"].get("containerStatuses") or ()
        return any(each["restartCount"] == count and state in each["state"] for each in statuses) and (
            found["status"]["phase"] == phase and condition(found, "Ready").get("status") == is_ready
        )

    await f.wait(pod, is_as_wanted)
    await f.delete_pod(pod)


async def _expected_status(f: Framework) -> None:
    await _restarts(f, "Always", "Running", 2, "running")
    await _restarts(f, "OnFailure", "Succeeded", 1, "terminated")
    await _restarts(f, "Never", "Failed", 0, "terminated")


async def _message(f: Framework, script: str, wanted: str, *, phase: str = "Succeeded", **fields: Any) -> None:
    name = "termination-message-container"
    container = busybox(name, "/bin/sh", "-c", args=[script], **{"terminationMessagePath": TERMINATION_LOG, **fields})
    pod = await f.create_pod(pod_body(unique(f"{name}-"), [container]))
    end = await f.wait(pod, lambda found: found["status"].get("phase") in ("Succeeded", "Failed"))
    assert end["status"]["phase"] == phase
    assert end["status"]["containerStatuses"][0]["state"]["terminated"].get("message", "") == wanted
    await f.delete_pod(pod)


def _cases() -> list[Case]:
    agnhost_2 = {"command": ["/agnhost-2"]}
    fallback = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    if_fallback = "if TerminationMessagePolicy FallbackToLogsOnError is set"
    when_succeeds = f"when pod succeeds and {if_fallback.removeprefix('if ')}"
    overridden = "should be able to override the image's default"
    told = "should report termination message"
    custom = "/dev/termination-custom-log"
    containers = (
        ("should use the image defaults if command and args are blank", _image_defaults),
        (
            f"{overridden} arguments (container cmd)",
            lambda f: _override(f, *TESTER, wanted="[/agnhost entrypoint-tester override arguments]"),
        ),
        (
            f"{overridden} command (container entrypoint)",
            lambda f: _override(f, TESTER[0], wanted="[/agnhost-2 entrypoint-tester]", **agnhost_2),
        ),
        (
            f"{overridden} command and arguments",
            lambda f: _override(f, *TESTER, wanted="[/agnhost-2 entrypoint-tester override arguments]", **agnhost_2),
        ),
    )
    blackbox = (
        ("when starting a container that exits should run with the expected status", _expected_status, "NC"),
        (
            f"on terminated container {told} if TerminationMessagePath is set",
            partial(
                _message,
                script=f"/bin/echo -n DONE > {TERMINATION_LOG}",
                wanted="DONE",
                securityContext={"runAsUser": 0},
            ),
            "N",
        ),
        (
            f"on terminated container {told} if TerminationMessagePath is set as non-root user and at a non-default path",
            partial(
                _message,
                script=f"/bin/echo -n DONE > {custom}",
                wanted="DONE",
                terminationMessagePath=custom,
                securityContext={"runAsUser": 10000},
            ),
            "NC",
        ),
        (
            f"on terminated container {told} from log output {if_fallback}",
            partial(_message, script="/bin/echo -n DONE; /bin/false", wanted="DONE", phase="Failed", **fallback),
            "NC",
        ),
        (
            f"on terminated container {told} as empty {when_succeeds}",
            partial(_message, script="/bin/echo -n DONE; /bin/true", wanted="", **fallback),
            "NC",
        ),
        (
            f"on terminated container {told} from file {when_succeeds}",
            partial(
                _message,
                script=f"/bin/echo -n OK > {TERMINATION_LOG}; /bin/echo DONE; /bin/true",
                wanted="OK",
                **fallback,
            ),
            "NC",
        ),
    )
    return [
        *(Case(f"Container Runtime blackbox test {text}", run, labels) for text, run, labels in blackbox),
        *(Case(f"Containers {text}", run, "NC") for text, run in containers),
    ]


TESTER = ("entrypoint-tester", "override", "arguments")
CASES = _cases()

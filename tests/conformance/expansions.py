"""[sig-node] Variable Expansion.

Source: kubernetes test/e2e/common/node/expansion.go; semantics §14.9.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

from tests.conformance.framework import Case, Framework, Json, mount, pod_body, shell, unique

COMPOSED = [
    {"name": "FOO", "value": "foo-value"},
    {"name": "BAR", "value": "bar-value"},
    {"name": "FOOBAR", "value": "$(FOO);;$(BAR)"},
]
PRINTABLE = ("!\"#$%&'()", "* +,-./0123456789", ":;<>?@", "[\\]^_`{}|~")
WORK_DIR = [{"name": "workdir1", "emptyDir": {}}]
ANNOTATION = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.annotations['mysubpath']"}}
ANNOTATED_ENV = [{"name": "POD_NAME", "value": "foo"}, {"name": "ANNOTATION", "valueFrom": ANNOTATION}]
ANNOTATED_MOUNTS = [
    mount("workdir1", "/subpath_mount", subPathExpr="$(ANNOTATION)/$(POD_NAME)"),
    mount("workdir1", "/volume_mount"),
]


def _pod(script: str, *, name: str = "", annotations: dict[str, str] | None = None, **fields: Any) -> Json:
    name = name or unique("var-expansion-")
    metadata: Json = {"labels": {"name": name}, **({"annotations": annotations} if annotations else {})}
    container = shell("dapi-container", script, **fields)
    return pod_body(name, [container], metadata=metadata, volumes=WORK_DIR)


async def _compose(f: Framework) -> None:
    await f.check_output(_pod("env", env=COMPOSED), "FOO=foo-value", "BAR=bar-value", "FOOBAR=foo-value;;bar-value")


async def _substitute(f: Framework, in_args: bool) -> None:
    script = 'TEST_VAR=wrong echo "$(TEST_VAR)"'
    pod = _pod(script, env=[{"name": "TEST_VAR", "value": "test-value"}])
    if in_args:
        pod["spec"]["containers"][0] |= {"command": ["sh", "-c"], "args": [script]}
    await f.check_output(pod, "test-value")


async def _sub_path(f: Framework) -> None:
    name = unique("var-expansion-")
    mounts = [mount("workdir1", "/logscontainer", subPathExpr="$(POD_NAME)"), mount("workdir1", "/testcontainer")]
    script = f"test -d /testcontainer/{name};echo $?"
    await f.check_output(_pod(script, name=name, env=[{"name": "POD_NAME", "value": name}], mounts=mounts), "0")


async def _bad_sub_path(f: Framework, value: str) -> None:
    mounts = [mount("workdir1", "/logscontainer", subPathExpr="$(POD_NAME)")]
    pod = await f.create_pod(_pod("true", env=[{"name": "POD_NAME", "value": value}], mounts=mounts))
    await f.wait_waiting(pod, "CreateContainerConfigError")
    await f.delete_pod(pod)


async def _repaired(f: Framework) -> None:
    """Without the annotation the container cannot be made; with it, it can."""
    other = {"notmysubpath": "mypath"}
    waiting = _pod("tail -f /dev/null", annotations=other, env=ANNOTATED_ENV, mounts=ANNOTATED_MOUNTS)
    pod = await f.create_pod(waiting)
    await f.wait_waiting(pod, "CreateContainerConfigError")
    with trio.move_on_after(f.cluster.patience_s):  # the framework: 2 min
        await f.wait(pod, _must_stay_pending)
    await f.update_pod(pod, {"annotations": {"mysubpath": "mypath"}})
    await f.wait_running(pod)
    await f.delete_pod(pod)


def _must_stay_pending(pod: Json) -> bool:
    assert pod["status"]["phase"] == "Pending", pod["status"]
    return False


async def _writing(f: Framework) -> None:
    annotations = {"mysubpath": "mypath"}
    tail = _pod("tail -f /dev/null", annotations=annotations, env=ANNOTATED_ENV, mounts=ANNOTATED_MOUNTS)
    pod = await f.create_pod(tail)
    await f.wait_running(pod)
    await f.exec(pod, "", "touch /volume_mount/mypath/foo/test.log")
    await f.exec(pod, "", "test -f /subpath_mount/test.log")
    await f.update_pod(pod, {"annotations": {"mysubpath": "mynewpath"}})
    await f.wait_running(pod)
    await f.delete_pod(pod)


async def _printable(f: Framework) -> None:
    env = [{"name": name, "value": "value"} for name in PRINTABLE]
    await f.check_output(_pod("env", env=env), *(f"{name}=value" for name in PRINTABLE))


CASES = [
    Case(f"Variable Expansion {text}", run, labels)
    for text, run, labels in (
        ("should allow composing env vars into new env vars", _compose, "NC"),
        ("should allow substituting values in a container's command", partial(_substitute, in_args=False), "NC"),
        ("should allow substituting values in a container's args", partial(_substitute, in_args=True), "NC"),
        ("should allow substituting values in a volume subpath", _sub_path, "C"),
        ("should fail substituting values in a volume subpath with backticks", partial(_bad_sub_path, value=".."), "C"),
        (
            "should fail substituting values in a volume subpath with absolute path",
            partial(_bad_sub_path, value="/tmp"),
            "C",
        ),
        (
            "should verify that a failing subpath expansion can be modified during the lifecycle of a container",
            _repaired,
            "SC",
        ),
        ("should succeed in writing subpaths in container", _writing, "C"),
        ("allow almost all printable ASCII characters as environment variable names", _printable, ""),
    )
]

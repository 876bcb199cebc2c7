"""Arbitrary pods: whatever becomes of one, ``explain`` had said so; and again when its objects change.

A few of them each time; a larger range, for an hour of looking, is one line away.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PODS
from kubelet_secrets.control.protocol import EnvView
from kubelet_secrets.errors import Invalid, NotFound
from kubelet_secrets.explain import ContainerView, Explanation, Problem, Severity
from kubelet_secrets.volume.mountpoints import topmost
from tests.e2e.stacks import Cluster
from tests.faithful.arbitrary import arbitrary_objects, arbitrary_pod
from tests.faithful.looking import (
    Seen,
    apply,
    foretell,
    foretold,
    look,
    make_namespace,
    own_service,
    wait_pod,
    wait_refusal,
)

NUMBERS = (3, 7, 15, 45, 50, 101, 2, 8, 17, 21, 287, 0, 12)
"""Six that run, five that cannot start, two that no API server takes."""


@pytest.mark.parametrize("number", NUMBERS)
async def test_what_becomes_of_a_pod_was_foretold(cluster: Cluster, number: int) -> None:
    namespace, text = f"any-{number}", arbitrary_objects(number) + arbitrary_pod(number)
    explanation = foretell(text + await own_service(cluster), namespace)
    await make_namespace(cluster, namespace)
    try:
        await apply(cluster, text, namespace)
    except Invalid as refused:
        told = [f"{each.where.rpartition(': ')[2]}: {each.message}" for each in blocking(explanation, "invalid")]
        said = str(refused).partition(" is invalid: ")[2]
        assert said == (told[0] if len(told) == 1 else f"[{', '.join(told)}]")
        return
    assert not blocking(explanation, "invalid")
    try:
        if blocking(explanation):
            check_refusal(await wait_refusal(cluster, namespace, "web"), blocking(explanation))
        else:
            await check_containers(cluster, namespace, explanation)
            await check_rotation(cluster, number, namespace, explanation)
    finally:
        try:
            await cluster.client.delete(PODS, namespace, "web", grace_period_s=0)
        except NotFound:
            pass


def blocking(explanation: Explanation, code: str = "") -> list[Problem]:
    return [each for each in explanation.all_problems() if each.severity is Severity.BLOCKS and code in ("", each.code)]


def check_refusal(said: str, told: list[Problem]) -> None:
    """One of what was told is what the node says first; of a projected volume it says all at once."""
    if any(each.code == "mount-impossible" for each in told) and said.startswith("Error: failed to start container"):
        return  # the runtime's words, with paths of the node
    said = said.removeprefix("Error: ")
    messages = [each.message for each in told]
    head, separator, causes = said.partition(" : ")
    known = {message.removeprefix(f"{head} : ") for message in messages if message.startswith(f"{head} : ")}
    listed = separator and causes.startswith("[") and set(causes[1:-1].split(", ")) <= known
    assert said in messages or listed, (said, messages)


async def check_containers(cluster: Cluster, namespace: str, explanation: Explanation) -> None:
    pod = await wait_pod(cluster, namespace, "web")
    (told,) = explanation.pods
    for container in told.containers:
        expected = foretold(container)
        seen = (await look(cluster, pod, container.name)).without_run_time(expected)
        assert seen.files == expected.files
        assert seen.variables == expected.variables
        assert seen.mounts == expected.mounts


async def check_rotation(cluster: Cluster, number: int, namespace: str, before: Explanation) -> None:
    """Give the objects other data: a volume that can be made of it shows it; what cannot, and a subPath, stays as it was."""
    if any(each.code == "sub-path-missing" for each in before.all_problems()):
        return  # the directory made for it stands in the volume, where explain sees none
    if any(is_frozen(each, file.path, whole=False) for each in before.pods[0].containers for file in each.files):
        return  # a directory of a version is emptied with that version, which goes if anything in the volume changes
    objects = arbitrary_objects(number, edition=1)
    after = foretell(objects + arbitrary_pod(number) + await own_service(cluster), namespace)
    await apply(cluster, objects, namespace)
    pod = await wait_pod(cluster, namespace, "web")
    stuck = {
        volume.name
        for index, volume in enumerate(pod.spec.volumes)
        if any(f"spec.volumes[{index}]" in each.where for each in blocking(after))
    }
    for old, new in zip(before.pods[0].containers, after.pods[0].containers, strict=True):
        kept = [each for each in old.files if each.volume in stuck or is_frozen(old, each.path)]
        shown = [each for each in new.files if each.volume not in stuck and not is_frozen(old, each.path)]
        expected = foretold(dataclasses.replace(new, files=(*kept, *shown)))
        await wait_files(cluster, pod, old.name, expected)
        if not new.is_blocked:
            await wait_variables(cluster, namespace, old.name, expected)


def is_frozen(container: ContainerView, path: str, *, whole: bool = True) -> bool:
    """Whether *path* is seen through a subPath: of that file, or, if not *whole*, of a directory that it is in."""
    index = topmost([mount.path for mount in container.mounts], path)
    mount = container.mounts[index] if index is not None else None
    return mount is not None and bool(mount.sub_path) and (mount.path == path) is whole


async def wait_files(cluster: Cluster, pod: Pod, container: str, expected: Seen) -> None:
    with trio.fail_after(60):
        while True:
            seen = await look(cluster, pod, container)
            if seen.without_run_time(expected).files == expected.files:
                return
            await trio.sleep(0.05)


async def wait_variables(cluster: Cluster, namespace: str, container: str, expected: Seen) -> None:
    """Wait until the node says that the container, if it were started now, would get what is *expected*."""
    ask = partial(
        cluster.stack.ask, "env", EnvView, namespace=namespace, pod="web", container=container, show_values=True
    )
    with trio.fail_after(60):
        while True:
            (view,) = await trio.to_thread.run_sync(ask)
            values: dict[str, str | None] = {
                row.name: row.value if row.current_value is None else row.current_value
                for row in view.rows
                if not row.missing
            }
            if Seen({}, values, {}).without_run_time(expected).variables == expected.variables:
                return
            await trio.sleep(0.05)

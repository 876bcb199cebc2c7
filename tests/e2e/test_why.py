"""``why`` and ``tree`` on a running node: the chain, the versions, the rules, the readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import trio

from kubelet_secrets.control.protocol import TreeView, WhyView
from tests.e2e.stacks import Cluster, container, mount, secret_env, secret_volume


def why(cluster: Cluster, pod: str, **question: str) -> WhyView:
    (view,) = cluster.stack.ask("why", WhyView, namespace="default", pod=pod, **question)
    return view


async def wait_why(cluster: Cluster, wanted: Callable[[WhyView], Any], pod: str, **question: str) -> WhyView:
    with trio.fail_after(60):
        while True:
            view = why(cluster, pod, **question)
            if wanted(view):
                return view
            await trio.sleep(0.02)


async def resource_version(cluster: Cluster, name: str) -> str:
    from kubelet_secrets.api.core import Secret
    from kubelet_secrets.api.meta import SECRETS

    return (await cluster.client.get(SECRETS, "default", name, Secret)).metadata.resource_version


async def test_variable_as_started_and_as_it_would_be_now(cluster: Cluster) -> None:
    await cluster.put_secret("why-a", {"k": "first"})
    await cluster.run_pod("why-a", container(env=[secret_env("A", "why-a", "k"), {"name": "B", "value": "<$(A)>"}]))
    first = await resource_version(cluster, "why-a")
    view = why(cluster, "why-a", variable="B")
    assert [step.where for step in view.steps] == [
        "spec.containers[0].env[1].value",
        "$(A)",
        "spec.containers[0].env[0].valueFrom.secretKeyRef",
        "secret default/why-a",
    ]
    assert view.steps[-1].text == f"resourceVersion {first}, key k, 5 bytes"
    assert view.started is not None
    assert (view.started.size, view.started == view.current, view.stale) == (7, True, False)

    await cluster.put_secret("why-a", {"k": "second"})
    second = await resource_version(cluster, "why-a")
    view = await wait_why(cluster, lambda view: view.stale, "why-a", variable="A")
    assert view.started is not None
    assert view.current is not None
    assert (view.started.version, view.started.resource_version, view.started.size) == ("1", first, 5)
    assert (view.current.version, view.current.resource_version, view.current.size) == ("2", second, 6)
    assert view.started.since < view.current.since

    await cluster.delete_secret("why-a")
    view = await wait_why(cluster, lambda view: view.rule, "why-a", variable="A")
    assert view.rule == 'secret "why-a" not found'
    assert view.effect == "container app runs on with what it has; it could not be started again like this"
    assert view.current is None
    assert view.started is not None
    assert view.started.resource_version == first


async def test_file_through_the_volume_and_through_a_sub_path(cluster: Cluster) -> None:
    await cluster.put_secret("why-f", {"k": "first"})
    mounts = [mount("v", "/etc/v"), mount("v", "/etc/k", subPath="k")]
    user = {"runAsUser": 1000, "runAsGroup": 1000}
    await cluster.run_pod(
        "why-f",
        container(volumeMounts=mounts, securityContext=user),
        container("other"),
        volumes=[secret_volume("v", "why-f", defaultMode=0o400)],
    )
    await cluster.put_secret("why-f", {"k": "second"})
    first = await wait_why(cluster, lambda view: view.stale, "why-f", file="/etc/k")
    whole = why(cluster, "why-f", file="/etc/v/k")
    assert (whole.kind, whole.frozen, whole.stale) == ("file", False, False)
    assert whole.started == whole.current
    assert (first.frozen, first.current) == (True, whole.current)
    assert first.started is not None
    assert whole.current is not None
    assert (first.started.size, whole.current.size) == (5, 6)
    readers = [(each.who, each.allowed, each.why) for each in whole.readers]
    assert readers == [
        (
            "container app",
            False,
            "the container mounts the volume; mode 0400 0:0: uid 1000 is neither owner nor in group 0",
        ),
        ("container other", False, "the container does not mount the volume"),
        ("a process of the host", False, "host process, also as root"),
    ]
    for path in ("/etc/v/k", "/etc/k"):  # what is told is what happens
        done = await cluster.try_exec("why-f", f"cat {path}", "app")
        assert b"Permission denied" in done.stderr

    (tree,) = cluster.stack.ask("tree", TreeView, namespace="default", pod="why-f", container="app")
    rows = {row.path: row for row in tree.rows}
    assert (rows["/etc/v/k"].size, rows["/etc/v/k"].updates, rows["/etc/v/k"].stale) == (6, True, False)
    assert (rows["/etc/k"].size, rows["/etc/k"].updates, rows["/etc/k"].stale) == (5, False, True)
    assert rows["/etc/k"].version == rows["/etc/k"].started == rows["/etc/v/k"].started == first.started.version
    assert rows["/etc/k"].current == rows["/etc/v/k"].version == whole.current.version


async def test_directory_by_sub_path_goes_with_its_version(cluster: Cluster) -> None:
    """§5.2: a bind holds the directory, and the writer removes what is in it."""
    await cluster.put_secret("why-d", {"k": "first"})
    items = [{"key": "k", "path": "d/k"}]
    await cluster.run_pod(
        "why-d",
        container(volumeMounts=[mount("v", "/etc/d", subPath="d"), mount("v", "/etc/k", subPath="d/k")]),
        volumes=[secret_volume("v", "why-d", items=items)],
    )
    assert why(cluster, "why-d", file="/etc/d/k").kind == "file"
    await cluster.put_secret("why-d", {"k": "second"})
    view = await wait_why(cluster, lambda view: view.rule, "why-d", file="/etc/d/k")
    assert view.started is not None
    assert view.kind == "nothing"
    assert (
        view.rule == f"the directory that the subPath selected was of version {view.started.version}, and went with it"
    )
    assert (await cluster.exec("why-d", "ls /etc/d; cat /etc/k")).strip() == "first"
    (tree,) = cluster.stack.ask("tree", TreeView, namespace="default", pod="why-d", container="app")
    assert [(row.path, row.stale) for row in tree.rows] == [("/etc/k", True)]
    assert why(cluster, "why-d", file="/etc/k").kind == "file"


async def test_rules_that_hold_a_pod_up(cluster: Cluster) -> None:
    await cluster.create_pod(
        "why-w",
        container(env=[secret_env("A", "why-none", "k")], volumeMounts=[mount("v", "/etc/v")]),
        volumes=[secret_volume("v", "why-none")],
    )
    await cluster.wait_event("why-w", "FailedMount")
    view = await wait_why(cluster, lambda view: view.rule, "why-w", file="/etc/v/k")
    assert view.rule == 'MountVolume.SetUp failed for volume "v" : secret "why-none" not found'
    assert view.effect == "the pod waits with all its containers: ContainerCreating, FailedMount"
    assert view.hint == "the pod goes on within a second once it exists"
    assert view.steps[-1].where == "spec.volumes[0].secret"
    view = why(cluster, "why-w", variable="A")
    assert (view.rule, view.effect) == (
        'secret "why-none" not found',
        "container app waits: CreateContainerConfigError",
    )
    await cluster.put_secret("why-none", {"k": "v"})
    await cluster.wait_ready("why-w")
    assert why(cluster, "why-w", file="/etc/v/k").rule == ""
    assert why(cluster, "why-w", variable="A").rule == ""


async def test_volume_that_cannot_be_made_anew_stops_nothing(cluster: Cluster) -> None:
    """§7.4 (5): the files stay, and so does everything else of the pod."""
    await cluster.put_secret("why-v", {"k": "v"})
    await cluster.put_secret("why-u", {"k": "v"})
    await cluster.run_pod(
        "why-v",
        container(env=[secret_env("A", "why-u", "k")], volumeMounts=[mount("v", "/etc/v"), mount("u", "/etc/u")]),
        volumes=[secret_volume("v", "why-v"), secret_volume("u", "why-u")],
    )
    await cluster.delete_secret("why-v")
    text = 'cannot be made anew, so it stays: MountVolume.SetUp failed for volume "v" : secret "why-v" not found'
    view = await wait_why(cluster, lambda view: view.steps[-1].text == text, "why-v", file="/etc/v/k")
    assert (view.kind, view.rule, view.steps[-1].where) == ("file", "", "spec.volumes[0].secret")
    gone = why(cluster, "why-v", file="/etc/v/other")
    assert (gone.rule, gone.steps[-1].text) == ("volume v shows no file other", text)
    tree = cluster.stack.cli("tree", "why-v").stdout.splitlines()
    assert tree[-1] == 'cannot be made now: MountVolume.SetUp failed for volume "v" : secret "why-v" not found'
    assert [line.split()[0] for line in tree[1:-1]] == ["/etc/v/k", "/etc/u/k"]
    for question in ({"file": "/etc/u/k"}, {"variable": "A"}):
        view = why(cluster, "why-v", **question)
        assert (view.rule, [each for each in view.steps if "anew" in each.text]) == ("", [])


async def test_command_on_a_running_node(cluster: Cluster) -> None:
    await cluster.put_secret("why-c", {"k": "s3cr3t-value"})
    await cluster.run_pod(
        "why-c",
        container(env=[secret_env("A", "why-c", "k")], volumeMounts=[mount("v", "/etc/v")]),
        volumes=[secret_volume("v", "why-c")],
    )
    for arguments in (("--env", "A"), ("--path", "/etc/v/k")):
        done = cluster.stack.cli("why", "why-c", *arguments)
        assert done.returncode == 0, done.stderr
        assert "current is          the same" in done.stdout
        assert "s3cr3t" not in done.stdout
    done = cluster.stack.cli("why", "why-c", "--path", "/etc/v/no", "-o", "json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["rule"] == "volume v shows no file no"
    done = cluster.stack.cli("why", "nobody", "--env", "A")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    done = cluster.stack.cli("tree", "why-c", "-o", "wide")
    assert done.stdout.splitlines()[0].split() == [
        *("PATH", "MODE", "OWNER", "SIZE", "STATE", "SINCE", "VOLUME", "STARTED", "VERSION", "CURRENT", "FROM")
    ]

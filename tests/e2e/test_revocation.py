"""A right that ends: by ``kubelet-secrets revoke`` and with the pod. What was open reads no more, wherever it was passed to."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kubelet_secrets.control.protocol import AuditView, NodeSummary, RevokeView, TreeView, WhyView
from kubelet_secrets.errors import NotFound
from tests.e2e.stacks import Cluster, container, in_thread, mount, secret_volume

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]

VALUE = "sesame-1"
ALL = f"read={VALUE} map={VALUE[0]} list=yes open=yes"
NOTHING = "read=EACCES map=SIGBUS list=EACCES open=EACCES"
HOLD = "/attack/attack hold /v/key /v/"


@pytest.fixture
async def pod(cluster: Cluster, attack_dir: Path, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A pod of the test's own with two volumes of one Secret: ``v``, and ``other``, which nobody revokes."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:50].strip("-")
    await cluster.put_secret(name, {"key": VALUE})
    await cluster.run_pod(
        name,
        container(
            volumeMounts=[mount("v", "/v"), mount("other", "/other"), mount("attack", "/attack"), mount("e", "/e")]
        ),
        volumes=[
            secret_volume("v", name),
            secret_volume("other", name),
            {"name": "attack", "hostPath": {"path": str(attack_dir)}},
            {"name": "e", "emptyDir": {}},
        ],
    )
    yield name
    with contextlib.suppress(NotFound):  # unless the test has deleted it
        await cluster.delete_pod(name)


@asynccontextmanager
async def passed_out(cluster: Cluster, pod: str, attack_dir: Path) -> AsyncIterator[int]:
    """A descriptor that the container opened and sent to a process of the host: to this one."""
    path = attack_dir / f"{pod[:20]}.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert await cluster.exec(pod, f"/attack/attack send /v/key /attack/{path.name}") == "sent\n"
        connection, _ = listener.accept()
        with connection:
            _, (fd,), _, _ = socket.recv_fds(connection, 1, 1)
    path.unlink()
    try:
        yield fd
    finally:
        os.close(fd)


def read_errno(fd: int) -> str:
    try:
        return os.pread(fd, 100, 0).decode()
    except OSError as error:
        return os.strerror(error.errno or 0)


async def ask(cluster: Cluster, method: str, kind: Any, **params: Any) -> Any:
    (answer,) = await in_thread(partial(cluster.stack.ask, method, kind, **params))
    return answer


async def test_revoked_volume_opens_and_reads_no_more(cluster: Cluster, pod: str, attack_dir: Path) -> None:
    async with cluster.talking(pod, HOLD) as holder, passed_out(cluster, pod, attack_dir) as fd:
        assert (await holder.hear()).startswith(f"held {VALUE[0]}")
        assert await holder.ask("?") == ALL
        assert read_errno(fd) == VALUE
        done = await in_thread(cluster.stack.cli, "revoke", pod, "v")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"volume v of pod default/{pod} revoked: ")
        assert await holder.ask("?") == NOTHING
        assert read_errno(fd) == "Permission denied"
        assert await cluster.exec(pod, "cat /other/key") == VALUE
        assert (await cluster.pod(pod)).status.container_statuses[0].restart_count == 0

        records = await in_thread(cluster.stack.ask, "audit", AuditView, denied=True)
        mine = [each for each in records if each.pod == pod and each.volume == "v"]
        assert {each.why.partition(" (x")[0] for each in mine} == {"access to the volume was revoked"}
        assert os.getpid() in {each.pid for each in mine}
        assert f"default/{pod}/app" in {each.who for each in mine}

        # What is written later is revoked as well; and all of it outlives the agent.
        await cluster.put_secret(pod, {"key": "sesame-2"})
        await cluster.exec(pod, 'until [ "$(cat /other/key)" = sesame-2 ]; do sleep 0.05; done')
        assert await holder.ask("?") == NOTHING
        agent = (await in_thread(cluster.stack.status)).agent_pid
        os.kill(agent, 9)
        await cluster.stack.wait_agent(other_than=agent)
        assert await holder.ask("?") == NOTHING
        assert read_errno(fd) == "Permission denied"

        again = await ask(cluster, "revoke", RevokeView, pod=pod, volume="v")
        assert (again.revoked, again.changed) == (True, False)
        undone = await in_thread(cluster.stack.cli, "revoke", "--undo", pod, "v")
        assert undone.stdout == f"volume v of pod default/{pod} restored\n", undone.stderr
        # The descriptor is of the first version, the path of the second.
        assert (await holder.ask("?")).startswith(f"read={VALUE} map={VALUE[0]} ")
        assert read_errno(fd) == VALUE
        assert await cluster.exec(pod, "cat /v/key") == "sesame-2"


async def test_revocation_is_shown(cluster: Cluster, pod: str) -> None:
    assert (await ask(cluster, "why", WhyView, pod=pod, file="/v/key")).rule == ""
    await ask(cluster, "revoke", RevokeView, pod=pod, volume="v")
    tree = await ask(cluster, "tree", TreeView, pod=pod)
    assert {(row.path, row.revoked) for row in tree.rows} == {("/v/key", True), ("/other/key", False)}
    assert "revoked" in (await in_thread(cluster.stack.cli, "tree", pod)).stdout
    why = await ask(cluster, "why", WhyView, pod=pod, file="/v/key")
    assert why.rule.startswith('access to volume "v" was revoked on the node at 20')
    assert why.hint == f"`kubelet-secrets revoke --undo {pod} v -n default` gives it back"
    reader = next(each for each in why.readers if each.who == "container app")
    assert (reader.allowed, reader.why) == (False, "access to the volume was revoked")
    status = await ask(cluster, "status", NodeSummary)
    assert next(each.revoked for each in status.pods if each.name == pod) == ("v",)
    assert f"default/{pod}: volume v is revoked" in (await in_thread(cluster.stack.cli, "status")).stdout
    event = await cluster.wait_event(pod, "Revoked")
    assert (event.type, event.message) == (
        "Warning",
        'Access to volume "v" was revoked on the node: nobody can read it any more',
    )


async def test_container_that_restarts_finds_it_revoked_still(cluster: Cluster, pod: str) -> None:
    await ask(cluster, "revoke", RevokeView, pod=pod, volume="v")
    await cluster.restart(pod)
    done = await cluster.try_exec(pod, "cat /v/key")
    assert b"Permission denied" in done.stderr
    assert await cluster.exec(pod, "cat /other/key") == VALUE


async def test_only_guarded_volumes_are_revoked(cluster: Cluster, pod: str) -> None:
    for volume, said in (
        ("absent", f"volume absent is not valid for pod {pod}: choose one of [v other attack e]"),
        ("e", f"volume e of pod {pod} is not in the guarded filesystem: nothing to revoke"),
    ):
        done = await in_thread(cluster.stack.cli, "revoke", pod, volume)
        assert (done.returncode, done.stderr) == (2, f"kubelet-secrets: {said}\n")


async def test_deleted_pods_descriptors_read_no_more(cluster: Cluster, pod: str, attack_dir: Path) -> None:
    """Pages of a file that is gone would be served for as long as somebody, anywhere, has it open."""
    async with passed_out(cluster, pod, attack_dir) as fd:
        with mmap.mmap(fd, len(VALUE), prot=mmap.PROT_READ) as mapping:
            assert mapping[:8] == VALUE.encode()
            assert read_errno(fd) == VALUE
            await cluster.delete_pod(pod)
            await cluster.wait_gone(pod)
            assert read_errno(fd) == "Input/output error"
            # SIGBUS for whoever touches the mapping: tried by a child.
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGBUS, signal.SIG_DFL)  # and no traceback of it
                os._exit(mapping[0])
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])  # noqa: ASYNC222  # it ends at once
            assert status == -signal.SIGBUS

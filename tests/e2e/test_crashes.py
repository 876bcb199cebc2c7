"""Processes that die: the agent, the writer. Containers go on, readers wait, nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio

from kubelet_secrets.control.protocol import AuditView, EnvRow, EnvView
from tests.e2e.stacks import (
    Cluster,
    Node,
    container,
    container_id,
    eventually,
    is_running,
    mount,
    receive,
    secret_env,
    secret_volume,
)

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]


@contextlib.asynccontextmanager
async def agent_away(stack: Node) -> AsyncIterator[None]:
    """No agent for the length of the block: it is killed, and the keeper, stopped, cannot start the next one."""
    keeper = await stack.keeper_pid()
    before = stack.status().agent_pid
    os.kill(keeper, signal.SIGSTOP)
    try:
        os.kill(before, signal.SIGKILL)
        yield
    finally:
        os.kill(keeper, signal.SIGCONT)
    await stack.wait_agent(other_than=before)


def children(pid: int, name: str) -> list[int]:
    """Child processes of *pid* whose command line contains *name*."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just been reaped
            if name in Path(f"/proc/{child}/cmdline").read_text():
                found.append(int(child))
    return found


@pytest.fixture(scope="module")
def stack(make_stack: Callable[..., Node]) -> Node:
    return make_stack()


@pytest.fixture
def no_restart_is_lost(stack: Node) -> Iterator[None]:
    """Whatever the agent says when it takes over, it is no crash."""
    yield
    assert "Traceback" not in stack.command.stderr  # type: ignore[attr-defined]


@pytest.mark.usefixtures("no_restart_is_lost")
async def test_agent_killed_again_and_again_under_readers(cluster: Cluster) -> None:
    stack = cluster.stack
    await cluster.put_secret("steady", {"key": "x" * 10_000})
    pod = await cluster.run_pod(
        "steady",
        container("app", volumeMounts=[mount("v", "/v")]),
        container("second", volumeMounts=[mount("v", "/v")]),
        volumes=[secret_volume("v", "steady")],
    )
    pids = [await cluster.pid("steady", name) for name in ("app", "second")]
    script = """
        n=0 bad=0; echo
        while [ ! -e /tmp/stop ]; do
            n=$((n+1)); [ $(cat /v/key 2>&1 | wc -c) = 10000 ] || bad=$((bad+1))
        done; echo $n $bad"""
    async with cluster.started("steady", script, "app") as one, cluster.started("steady", script, "second") as other:
        for reader in (one, other):
            await receive(reader, "\n")
        agents = [stack.status().agent_pid]
        for _ in range(2):
            os.kill(agents[-1], signal.SIGKILL)
            agents.append((await stack.wait_agent(other_than=agents[-1])).agent_pid)
        for reader, name in ((one, "app"), (other, "second")):
            await cluster.exec("steady", "touch /tmp/stop", name)
            output = b""
            with trio.fail_after(60):
                assert reader.stdout is not None
                async for chunk in reader.stdout:
                    output += chunk
            reads, bad = map(int, output.split())
            assert (bad, reads > 4) == (0, True)
    assert len(set(agents)) == 3
    assert [await cluster.pid("steady", name) for name in ("app", "second")] == pids
    after = await cluster.pod("steady")
    assert [container_id(after, name) for name in ("app", "second")] == [
        container_id(pod, name) for name in ("app", "second")
    ]
    assert [each.restart_count for each in after.status.container_statuses] == [0, 0]
    assert after.status.phase == "Running"
    assert stack.status().resumed


async def test_rotation_while_the_agent_is_away_is_delivered_afterwards(cluster: Cluster) -> None:
    await cluster.put_secret("away", {"key": "before", "other": "1"})
    await cluster.run_pod("away", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "away")])
    async with agent_away(cluster.stack):
        await cluster.put_secret("away", {"key": "during"})
        await cluster.put_secret("away", {"key": "after", "other": None})
    script = "until grep -q after /v/key; do :; done; ls /v"
    assert await cluster.exec("away", script) == "key\n"


async def test_read_while_the_agent_is_away_waits_and_succeeds(cluster: Cluster) -> None:
    await cluster.put_secret("patient", {"key": "worth the wait"})
    await cluster.run_pod(
        "patient", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "patient")]
    )
    async with contextlib.AsyncExitStack() as exits:
        async with agent_away(cluster.stack):
            reader = await exits.enter_async_context(cluster.started("patient", "echo; cat /v/key"))
            await receive(reader, "\n")
            with trio.move_on_after(0.2) as patience:
                assert reader.stdout is not None
                await reader.stdout.receive_some()
            assert patience.cancelled_caught, "nobody is there to answer"
        await receive(reader, "worth the wait")


async def test_exit_while_the_agent_is_away_is_collected(cluster: Cluster) -> None:
    script = "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 23"
    await cluster.run_pod("ends", container(script=script), restartPolicy="Never")
    pid = await cluster.pid("ends")
    command = await cluster.exec_command("ends", "touch /tmp/go")
    async with agent_away(cluster.stack):
        await trio.run_process(command)
        await eventually(lambda: not is_running(pid))
    pod = await cluster.wait_phase("ends", "Failed")
    state = pod.status.container_statuses[0].state.terminated
    assert state is not None
    assert (state.exit_code, state.reason) == (23, "Error")


async def test_pods_that_come_and_go_while_the_agent_is_away(cluster: Cluster) -> None:
    await cluster.put_secret("change", {"key": "k"})
    volumes = [secret_volume("v", "change")]
    old = await cluster.run_pod("old", container(volumeMounts=[mount("v", "/v")]), volumes=volumes)
    forced = await cluster.run_pod("forced", container(volumeMounts=[mount("v", "/v")]), volumes=volumes)
    async with agent_away(cluster.stack):
        await cluster.delete_pod("old")
        await cluster.delete_pod("forced", grace_s=0)
        await cluster.create_pod("new", container(volumeMounts=[mount("v", "/v")]), volumes=volumes)
    await cluster.wait_ready("new")
    await cluster.wait_gone("old")
    for pod in (old, forced):
        directory = cluster.stack.root_dir / "pods" / pod.metadata.uid
        await eventually(lambda directory=directory: not directory.exists())


async def test_restarts_and_environments_survive_the_agent(cluster: Cluster) -> None:
    """The environment a container was started with is known to the next agent, and its back-off and restart count as well."""
    await cluster.put_secret("memory", {"key": "one"})
    await cluster.run_pod("memory", container(env=[secret_env("KEY", "memory", "key")]))
    await cluster.restart("memory")
    async with agent_away(cluster.stack):
        await cluster.put_secret("memory", {"key": "two"})
    params = {"namespace": "default", "pod": "memory", "container": "app", "show_values": True, "watch": False}

    def rows() -> list[EnvRow]:
        """None until the agent has read what the variables come from."""
        (view,) = cluster.stack.ask("env", EnvView, **params)
        return [each for each in view.rows if each.name == "KEY"]

    await eventually(lambda: any(row.stale for row in rows()))
    (row,) = rows()
    assert (row.value, row.current_value, row.origin) == ("one", "two", "secret/memory key key")
    assert (await cluster.pod("memory")).status.container_statuses[0].restart_count == 1


async def test_guard_holds_right_after_a_crash(cluster: Cluster) -> None:
    """The next agent must know whom it may let in, and whom not, before it has spoken with the API server."""
    await cluster.put_secret("held", {"key": "k"})
    pod = await cluster.run_pod(
        "held", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "held")]
    )
    os.kill(cluster.stack.status().agent_pid, signal.SIGKILL)
    path = cluster.volume_dir(pod, "v") / "key"
    done = await trio.run_process(["cat", str(path)], check=False, capture_stdout=True, capture_stderr=True)
    assert (done.returncode, done.stdout) == (1, b"")
    assert await cluster.exec("held", "cat /v/key") == "k"
    await cluster.stack.wait_agent()
    records = cluster.stack.ask("audit", AuditView, follow=False, denied=True)
    assert any(each.pod == "held" for each in records)


async def test_writer_killed(cluster: Cluster) -> None:
    await cluster.put_secret("written", {"key": "0"})
    await cluster.run_pod(
        "written", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "written")]
    )
    keeper = await cluster.stack.keeper_pid()
    for number in range(1, 4):
        (writer,) = children(keeper, "fusefs.writer")
        os.kill(writer, signal.SIGKILL)
        await cluster.put_secret("written", {"key": str(number)})
        await cluster.exec("written", f"until grep -q {number} /v/key; do :; done")
        await eventually(lambda: children(keeper, "fusefs.writer"))


async def test_agent_and_writer_killed_in_the_middle_of_rotations(cluster: Cluster) -> None:
    """Whatever step of a switch was under way: readers see whole versions, and the last one arrives."""
    await cluster.put_secret("storm", {"a": "0", "b": "0"})
    await cluster.run_pod("storm", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "storm")])
    keeper = await cluster.stack.keeper_pid()
    script = """
        n=0 mixed=0; echo
        while [ "$a" != end ]; do
            d=/v/$(readlink /v/..data); a=$(cat $d/a 2>/dev/null) && b=$(cat $d/b 2>/dev/null) || continue
            n=$((n+1)); [ "$a" = "$b" ] || mixed=$((mixed+1))
        done; echo $n $mixed"""
    async with cluster.started("storm", script) as reader:
        await receive(reader, "\n")
        for number in range(1, 17):
            await cluster.put_secret("storm", {"a": str(number), "b": str(number)})
            if number % 8 == 0:
                before = (await cluster.stack.wait_agent()).agent_pid
                for victim in [before, *children(keeper, "fusefs.writer")]:
                    os.kill(victim, signal.SIGKILL)
                await cluster.stack.wait_agent(other_than=before)
        await cluster.put_secret("storm", {"a": "end", "b": "end"})
        output = b""
        with trio.fail_after(60):
            assert reader.stdout is not None
            async for chunk in reader.stdout:
                output += chunk
    reads, mixed = map(int, output.split())
    assert (mixed, reads > 0) == (0, True)


async def test_nothing_is_lost_when_a_pod_is_being_deleted(cluster: Cluster) -> None:
    """Killed between SIGTERM and the container's end: the next agent finishes the deletion."""
    end = "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 5"
    await cluster.run_pod("leaving", container(script=f"trap '{end}' TERM; while :; do sleep 0.1; done"))
    go = await cluster.exec_command("leaving", "touch /tmp/go")
    async with cluster.followed("leaving") as states:
        await cluster.delete_pod("leaving", grace_s=60)
        await cluster.wait_event("leaving", "Killing")
        os.kill(cluster.stack.status().agent_pid, signal.SIGKILL)
        await trio.run_process(go)
    assert states[-1].status.phase == "Failed"
    state = states[-1].status.container_statuses[0].state.terminated
    assert state is not None
    assert state.exit_code == 5

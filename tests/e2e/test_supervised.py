"""A node whose keeper may die, or be replaced by newer code, under running containers: as systemd runs it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
import trio

from kubelet_secrets.notify import NotifySocket, parse_notification
from tests.e2e.stacks import (
    START_TIMEOUT_S,
    Cluster,
    Command,
    Node,
    Pair,
    container,
    eventually,
    in_thread,
    is_running,
    mount,
    receive,
    secret_volume,
)
from tests.fusefs.running_node import WITH_DESCRIPTORS

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]


@dataclass
class Supervised(Pair):
    """The agent's command as a service with a descriptor store.

    Attributes:
        stored: descriptors that we keep for the next keeper, by name.
    """

    stored: dict[str, int] = field(default_factory=dict)
    notifications: NotifySocket = field(default_factory=NotifySocket)

    def start_agent(self) -> None:
        credentials = str(self.directory / "node.kubeconfig")
        self.agent = Command(
            ["-vv", "agent", "--kubeconfig", credentials, "--kubelet-port", "0", *self.node_options],
            self.directory / "agent.log",
            prefix=[sys.executable, "-c", WITH_DESCRIPTORS, json.dumps(self.stored)] if self.stored else (),
            env={"NOTIFY_SOCKET": self.notifications.address, "FDSTORE": "16"},
            pass_fds=tuple(self.stored.values()),
        )
        self.wait_told("READY")

    def wait_told(self, key: str) -> None:
        self.notifications.socket.settimeout(START_TIMEOUT_S)
        while key not in self._receive():
            pass

    def _receive(self) -> dict[str, str]:
        data, descriptors, _, _ = socket.recv_fds(self.notifications.socket, 4096, 1)
        message = parse_notification(data)
        if "FDSTORE" in message:
            (self.stored[message["FDNAME"]],) = descriptors
        elif "FDSTOREREMOVE" in message and message["FDNAME"] in self.stored:
            os.close(self.stored.pop(message["FDNAME"]))
        return message

    def kill_keeper(self) -> None:
        with suppress(BlockingIOError):
            self.notifications.socket.settimeout(0)
            while True:
                self._receive()
        self.agent.process.kill()
        self.agent.process.wait()

    def stop(self) -> None:
        super().stop()
        self.notifications.close()
        for descriptor in self.stored.values():
            os.close(descriptor)


@pytest.fixture(scope="module")
def stack(make_stack: Callable[..., Node]) -> Node:
    return make_stack(kind=Supervised)


READER = """
    n=0 bad=0; echo
    while [ ! -e /tmp/stop ]; do
        n=$((n+1)); [ $(cat /v/key 2>&1 | wc -c) = 10000 ] || bad=$((bad+1))
    done; echo $n $bad"""


async def count_reads(cluster: Cluster, pod: str, reader: trio.Process) -> tuple[int, int]:
    """(reads, failures) of the READER, told to stop."""
    await cluster.exec(pod, "touch /tmp/stop")
    output = b""
    with trio.fail_after(60):
        assert reader.stdout is not None
        async for chunk in reader.stdout:
            output += chunk
    reads, failures = map(int, output.split())
    return reads, failures


async def test_keeper_killed_under_running_containers(cluster: Cluster, stack: Supervised) -> None:
    """What happens while there is neither keeper nor agent is made up for: a rotation, an exit, a line of output."""
    await cluster.put_secret("kept", {"key": "x" * 10_000})
    volumes = [secret_volume("v", "kept")]
    await cluster.run_pod("kept", container(volumeMounts=[mount("v", "/v")]), volumes=volumes)
    await cluster.run_pod(
        "ends",
        container(script="while [ ! -e /tmp/go ]; do sleep 0.05; done; echo last words; exit 23"),
        restartPolicy="Never",
    )
    pid, ending_pid = await cluster.pid("kept"), await cluster.pid("ends")
    before = await cluster.pod("kept")
    go = await cluster.exec_command("ends", "touch /tmp/go")
    async with cluster.started("kept", READER) as reader:
        await receive(reader, "\n")
        await in_thread(stack.kill_keeper)
        await trio.run_process(go)
        await eventually(lambda: not is_running(ending_pid))
        await cluster.put_secret("kept", {"key": "y" * 10_000})
        await in_thread(stack.start_agent)
        await cluster.exec("kept", "until grep -q y /v/key; do sleep 0.05; done")
        reads, failures = await count_reads(cluster, "kept", reader)
    assert (failures, reads > 1) == (0, True)
    assert await cluster.pid("kept") == pid
    after = await cluster.pod("kept")
    assert [each.container_id for each in after.status.container_statuses] == [
        each.container_id for each in before.status.container_statuses
    ]
    ended = await cluster.wait_phase("ends", "Failed")
    state = ended.status.container_statuses[0].state.terminated
    assert state is not None
    assert state.exit_code == 23
    assert "last words" in await cluster.logs("ends")
    assert "carrying on with the mounts and containers of the keeper before" in stack.agent.stderr


async def test_reload_under_running_containers(cluster: Cluster, stack: Supervised) -> None:
    await cluster.put_secret("upgraded", {"key": "x" * 10_000})
    volumes = [secret_volume("v", "upgraded")]
    await cluster.run_pod("upgraded", container(volumeMounts=[mount("v", "/v")]), volumes=volumes)
    pid, agent = await cluster.pid("upgraded"), (await stack.wait_agent()).agent_pid
    async with cluster.started("upgraded", READER) as reader:
        await receive(reader, "\n")
        stack.agent.process.send_signal(signal.SIGHUP)
        await in_thread(stack.wait_told, "RELOADING")
        await in_thread(stack.wait_told, "READY")
        assert (await stack.wait_agent(other_than=agent)).agent_pid != agent
        await cluster.put_secret("upgraded", {"key": "y" * 10_000})
        await cluster.exec("upgraded", "until grep -q y /v/key; do sleep 0.05; done")
        reads, failures = await count_reads(cluster, "upgraded", reader)
    assert (failures, reads > 1) == (0, True)
    assert await cluster.pid("upgraded") == pid
    assert stack.agent.process.poll() is None, "the keeper is the same process"

"""This machine as a node of the cluster that ``KUBECONFIG`` names: it joins with a bootstrap token, and leaves again."""

from __future__ import annotations

import select
from dataclasses import dataclass, field

import trio

from kubelet_secrets.api.meta import NODES
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import open_client
from kubelet_secrets.errors import NotFound
from kubelet_secrets.notify import NotifySocket
from kubelet_secrets.testing.clusterobjects import wait_node_ready
from tests.cli.command import run_cli
from tests.e2e.stacks import START_TIMEOUT_S, Command, Node, find_leftovers

READY_TIMEOUT_S = 120.0
SERVING_TIMEOUT_S = 10.0
TAINT = "kubelet-secrets.test/e2e=only:NoSchedule"
"""Keeps the cluster's own pods away. The tests' ask for the node, and tolerate it."""


@dataclass
class JoinedNode(Node):
    """Needs of the cluster what kubeadm gives it: bindings that let bootstrap tokens ask, and have their requests approved."""

    is_shared: bool = True
    """The cluster has pods of its own: they are kept away."""
    agent: Command = field(init=False)

    def start(self) -> None:
        bootstrap = self.directory / "bootstrap.kubeconfig"
        done = run_cli(
            "token", "create", "--kubeconfig", self.kubeconfig, "--bootstrap-kubeconfig", bootstrap, "--ttl", "1h"
        )
        assert done.returncode == 0, done.stderr
        notifications = NotifySocket()
        options = [
            "--kubelet-port",
            "0",
            "--rotate-server-certificates",
            *(("--register-with-taints", TAINT) if self.is_shared else ()),
            *self.node_options,
        ]
        arguments = ["-v", "agent", "--bootstrap-kubeconfig", str(bootstrap), *options]
        self.agent = Command(arguments, self.directory / "agent.log", env={"NOTIFY_SOCKET": notifications.address})
        readable, _, _ = select.select([notifications.socket], [], [], START_TIMEOUT_S)
        notifications.close()
        assert readable, self.agent.stderr
        trio.run(self._wait_ready)

    async def _wait_ready(self) -> None:
        async with open_client(load_kubeconfig(self.kubeconfig)) as client:
            with trio.fail_after(READY_TIMEOUT_S):
                await wait_node_ready(client, self.node_name)
        # Where requests for serving certificates are approved, the API server may insist on one. By default it does not.
        with trio.move_on_after(SERVING_TIMEOUT_S):
            while not (self.root_dir / "pki" / "kubelet-server-current.pem").exists():  # noqa: ASYNC110
                await trio.sleep(0.2)

    def stop(self) -> None:
        """The Node object goes as well: nobody else would take it away."""
        try:
            assert self.agent.stop() == 0, self.agent.stderr[-3000:]
        finally:
            trio.run(self._delete)
        assert find_leftovers(self.directory, self.node_name) == []

    async def _delete(self) -> None:
        async with open_client(load_kubeconfig(self.kubeconfig)) as client:
            try:
                await client.delete(NODES, "", self.node_name)
            except NotFound:
                pass

"""Commands, logs and forwarded ports of a real pod, by client-go (``streams/main.go``).

Through the embedded API server, and through the code by which kube-apiserver connects clients to a kubelet, straight to the
node's own port.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.e2e.conftest import image_dir, running_nodes
from tests.e2e.stacks import Node, container, open_cluster

__all__ = ["image_dir"]
TALK = "echo begin; nc -ll -p 7777 -e cat & trap 'exit 0' TERM; while :; do echo tick; sleep 0.3; done"
READY = {"exec": {"command": ["sh", "-c", "netstat -ltn | grep :7777"]}, "periodSeconds": 1}


@pytest.fixture
def node(image_dir: Path) -> Iterator[Node]:
    with running_nodes(image_dir) as make:
        yield make()


async def test_client_go(peers: Path, node: Node) -> None:
    async with open_cluster(node) as cluster:
        await cluster.run_pod("talk", container(script=TALK, readinessProbe=READY))
        with trio.fail_after(240):
            command = [peers / "streams", node.kubeconfig, "talk", "app", "7777"]
            done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    lines = done.stdout.decode().splitlines()
    print(*(line for line in lines if line.startswith("ok ")), sep="\n")
    assert [line for line in lines if not line.startswith("ok ")] == []
    assert (done.returncode, len(lines)) == (0, 28)

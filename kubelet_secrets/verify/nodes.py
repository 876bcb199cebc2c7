"""The node that is put to the proof: one of our own for the length of the run, or the one that runs on this machine."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import open_client
from kubelet_secrets.errors import ImageError
from kubelet_secrets.runtime.images import ImageStore
from kubelet_secrets.runtime.registry import Registry
from kubelet_secrets.runtime.tools import find_tools
from kubelet_secrets.stack import RUN_DIR, StackOptions, run_stack
from kubelet_secrets.verify.course import NodeUnderTest, ask_status
from kubelet_secrets.verify.processes import parent


@asynccontextmanager
async def own_node(directory: Path, *, runtime: str, log_fd: int) -> AsyncIterator[NodeUnderTest]:
    """A node and an API server that keeps everything in memory; gone with the block.

    Args:
        directory: everything of the node that has a path lies in it, but its credentials.
        log_fd: takes what both log, which is as much as they can.

    Raises:
        HostError: something is missing on this machine.
    """
    options = StackOptions(
        node_name=f"verify-{secrets.token_hex(4)}",
        root_dir=directory / "node",
        image_dir=directory / "images",
        socket=directory / "agent.sock",
        port=0,
        runtime=runtime,
        verbose=2,
        log_fd=log_fd,
    )
    async with run_stack(options) as stack:
        yield NodeUnderTest(
            client=stack.client,
            name=options.node_name,
            namespace="default",
            root_dir=options.root_dir,
            image_dir=options.image_dir,
            socket=options.socket,
            runtime=runtime,
            keeper_pid=stack.keeper.pid,
            credentials=RUN_DIR / options.node_name,
        )


@asynccontextmanager
async def running_node(
    kubeconfig: Path, socket: Path, image_dir: Path, *, runtime: str
) -> AsyncIterator[NodeUnderTest]:
    """The node whose agent answers at *socket*, through its API server.

    Args:
        kubeconfig: of somebody who may create namespaces, Secrets and pods there.
        image_dir: the node's image store.

    Raises:
        HostError: nobody answers there.
        UsageError: the kubeconfig cannot be used.
    """
    status = await ask_status(socket)
    async with open_client(load_kubeconfig(kubeconfig)) as client:
        yield NodeUnderTest(
            client=client,
            name=status.node,
            namespace=f"kubelet-secrets-verify-{secrets.token_hex(4)}",
            root_dir=Path(status.root_dir),
            image_dir=image_dir,
            socket=socket,
            runtime=runtime,
            keeper_pid=parent(status.agent_pid),
            credentials=None,
        )


async def remove_image(node: NodeUnderTest, image: str, scratch: Path) -> None:
    """Take the image of the course out of the node's store, which may be the user's."""
    tools = find_tools(node.runtime)
    store = ImageStore(node.image_dir, tools=tools, registry=Registry(tools, auth_dir=scratch, scratch_dir=scratch))
    try:
        await store.remove(image)
    except ImageError:
        pass  # it was never pulled

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.sensitive import SensitiveBytes

NODE = "n1"


@dataclass
class Cluster:
    admin: ApiClient
    node: ApiClient  # with the node's identity: NodeRestriction applies


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    def path(kubeconfig: SensitiveBytes) -> Path:
        written = tmp_path / "kubeconfig"
        written.write_bytes(kubeconfig.reveal())
        return written

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server: ServerHandle = await nursery.start(serve_apiserver, ServerOptions(runs_scheduler=False))
            async with (
                open_client(load_kubeconfig(path(server.admin_kubeconfig()))) as admin,
                open_client(load_kubeconfig(path(server.node_kubeconfig(NODE)))) as node,
            ):
                yield Cluster(admin, node)
            server.shut_down()

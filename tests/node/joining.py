"""A server to join, and tokens for it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trio

from kubelet_secrets.api import bootstraptoken
from kubelet_secrets.api.bootstraptoken import BootstrapToken
from kubelet_secrets.api.meta import SECRETS
from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.client.kubeconfig import ClusterConfig, load_kubeconfig
from kubelet_secrets.client.kubeconfigfile import make_bootstrap_kubeconfig
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.node.bootstrap import Identity, find_identity

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


def wall_clock() -> datetime:
    return datetime.now(UTC)


@dataclass
class JoinableCluster:
    server: ServerHandle
    admin: ApiClient
    admin_config: ClusterConfig
    directory: Path

    @property
    def kubeconfig(self) -> Path:
        """Where the node's is written."""
        return self.directory / "node" / "kubeconfig"

    @property
    def cert_dir(self) -> Path:
        return self.directory / "node" / "pki"

    async def make_token(
        self,
        *,
        groups: Sequence[str] = (bootstraptoken.DEFAULT_GROUP,),
        expires_in: timedelta = timedelta(hours=1),
    ) -> Path:
        """A bootstrap kubeconfig with a token that the server knows."""
        token_id, token_secret = bootstraptoken.generate(secrets.choice)
        token = BootstrapToken(
            id=token_id,
            secret=token_secret,
            expires=wall_clock() + expires_in,
            usages=("authentication",),
            groups=tuple(groups),
        )
        await self.admin.create(SECRETS, bootstraptoken.NAMESPACE, bootstraptoken.make_secret(token))
        path = self.directory / f"{token_id}.kubeconfig"
        path.write_bytes(make_bootstrap_kubeconfig(self.admin_config, token.text).reveal())
        return path

    async def join(self, bootstrap: Path | None, node_name: str = "n1") -> Identity:
        return await find_identity(
            kubeconfig=self.kubeconfig,
            bootstrap_kubeconfig=bootstrap,
            cert_dir=self.cert_dir,
            node_name=node_name,
            clock=wall_clock,
        )

    async def requests(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.admin.request_json("GET", CSRS))["items"]
        return found

    async def wait_request(self) -> dict[str, Any]:
        """The first request there is."""
        with trio.fail_after(60):
            while not (found := await self.requests()):  # noqa: ASYNC110  # a list is all that is needed here
                await trio.sleep(0.02)
        return found[0]

    async def decide(self, name: str, kind: str) -> None:
        """Approve or deny, as ``kubectl certificate`` does."""
        condition = {"type": kind, "status": "True", "reason": "ByTest", "message": "as the test wants"}
        body = {"status": {"conditions": [condition]}}
        path = f"{CSRS}/{name}/approval"
        obj = await self.admin.request_json("GET", f"{CSRS}/{name}")
        await self.admin.request_json("PUT", path, body={**obj, **body})


@asynccontextmanager
async def open_joinable(directory: Path) -> AsyncIterator[JoinableCluster]:
    path = directory / "admin.kubeconfig"
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server: ServerHandle = await nursery.start(serve_apiserver, ServerOptions(runs_scheduler=False))
            path.write_bytes(server.admin_kubeconfig().reveal())
            config = load_kubeconfig(path)
            async with open_client(config) as admin:
                yield JoinableCluster(server, admin, config, directory)
            server.shut_down()

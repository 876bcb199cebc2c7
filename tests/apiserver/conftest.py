from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from tests.apiserver.harness import Http, http_client


@pytest.fixture
async def server() -> AsyncIterator[ServerHandle]:
    """An in-memory server without a scheduler: what a test does not do does not happen."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            handle: ServerHandle = await nursery.start(serve_apiserver, ServerOptions(runs_scheduler=False))
            yield handle
            handle.shut_down()


@pytest.fixture
async def admin(server: ServerHandle) -> AsyncIterator[Http]:
    async with http_client(server, server.authority.issue_admin()) as client:
        yield client

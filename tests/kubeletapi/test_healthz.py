"""The port of a kubelet that answers anybody on the machine."""

from __future__ import annotations

import httpx2
import pytest
import trio
import trio.testing

from kubelet_secrets.kubeletapi import healthz
from kubelet_secrets.kubeletapi.healthz import run_healthz


async def test_healthz_waits_for_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken at first: another kubelet is just being replaced."""
    monkeypatch.setattr(healthz, "RETRY_S", 0.05)
    (taken,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = taken.socket.getsockname()[1]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_healthz, "127.0.0.1", port)
            await trio.testing.wait_all_tasks_blocked()
            await taken.aclose()
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                while True:
                    try:
                        answer = await client.get("/healthz")
                        break
                    except httpx2.ConnectError:
                        await trio.sleep(0.05)
                assert (answer.status_code, answer.text) == (200, "ok")
                assert (await client.get("/healthz/syncloop")).text == "ok"
                assert (await client.get("/pods")).status_code == 404
                assert (await client.post("/healthz")).status_code == 404
            nursery.cancel_scope.cancel()

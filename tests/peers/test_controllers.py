"""The embedded API server, used by client-go as controllers use theirs (``controllers/main.go``)."""

from __future__ import annotations

from pathlib import Path

import trio

from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.memoryfile import memory_file

_TIMEOUT_S = 240
_FEWEST = 30


async def test_client_go(peers: Path) -> None:
    with trio.fail_after(_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            server: ServerHandle = await nursery.start(serve_apiserver, ServerOptions(runs_scheduler=False))
            with memory_file(server.admin_kubeconfig().reveal()) as kubeconfig:
                done = await trio.run_process(
                    [peers / "controllers", kubeconfig],
                    pass_fds=(int(kubeconfig.rpartition("/")[2]),),
                    capture_stdout=True,
                    capture_stderr=True,  # what client-go logs
                    check=False,
                )
            server.shut_down()
    lines = done.stdout.decode().splitlines()
    print(*(line for line in lines if line.startswith("ok ")), sep="\n")
    assert "\n".join(line for line in lines if not line.startswith("ok ")) == ""
    assert done.returncode == 0
    assert len(lines) >= _FEWEST

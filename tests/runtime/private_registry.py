"""Debian's docker-registry on the loopback interface, with a password: what a private image is pulled from."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from kubelet_secrets.runtime import registry as registry_module
from kubelet_secrets.runtime.keyring import RegistryCredentials
from kubelet_secrets.runtime.tools import Tools, run_tool, tool_environment
from kubelet_secrets.sensitive import SensitiveBytes

USERNAME = "puller"
PASSWORD = "pull-s3cr3t-canary"
HTPASSWD = "puller:$2y$05$abcdefghijklmnopqrstuu0HNeTBrUmZRbRcWpWJXSemctSRNWuPC\n"
GOOD = RegistryCredentials(username=USERNAME, password=SensitiveBytes(PASSWORD.encode()))


@dataclass
class PrivateRegistry:
    domain: str
    digest: str
    log: Path

    @property
    def image(self) -> str:
        return f"{self.domain}/team/app:1"

    def requests(self, text: str) -> int:
        return sum(text in line for line in self.log.read_text().splitlines() if "response completed" in line)


class SlowLine:
    """A way to a registry on which a download stands still after its first bytes, until it is released.

    Attributes:
        domain: what images behind it are called by.
    """

    def __init__(self, target: str, held_bytes: int) -> None:
        self.domain = ""
        self.release = trio.Event()
        self._target_port = int(target.rpartition(":")[2])
        self._held_bytes = held_bytes

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.domain = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        task_status.started()
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, client: trio.SocketStream) -> None:
        async with client, await trio.open_tcp_stream("127.0.0.1", self._target_port) as server:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pass, client, server, None)
                await self._pass(server, client, self._held_bytes)
                nursery.cancel_scope.cancel()

    async def _pass(self, source: trio.SocketStream, sink: trio.SocketStream, held_bytes: int | None) -> None:
        passed = 0
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                passed += len(data)
                if held_bytes is not None and passed > held_bytes:
                    await self.release.wait()
                await sink.send_all(data)


@asynccontextmanager
async def serve_registry(directory: Path, layout: str, tools: Tools) -> AsyncIterator[PrivateRegistry]:
    """Run one, with the image *layout* in it as ``team/app:1``.

    Args:
        directory: made; holds everything of it.
    """
    directory.mkdir()
    directory.joinpath("htpasswd").write_text(HTPASSWD)
    directory.joinpath("config.yml").write_text(
        f"""\
version: 0.1
log: {{accesslog: {{disabled: true}}, level: info}}
storage: {{filesystem: {{rootdirectory: {directory}/data}}}}
http: {{addr: "127.0.0.1:0"}}
auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}
"""
    )
    log = directory / "log"
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            ["docker-registry", "serve", str(directory / "config.yml")],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=tool_environment(),
        )  # fmt: skip
    try:
        with trio.fail_after(60):
            while not (found := re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text())):
                assert process.returncode is None, log.read_text()
                await trio.sleep(0.02)
            port = found[1]
            authfile = directory / "auth.json"
            authfile.write_bytes(registry_module.auth_document(f"127.0.0.1:{port}", GOOD))
            push = await run_tool(
                [
                    tools.skopeo, "copy", "--dest-tls-verify=false", f"--digestfile={directory}/digest", layout,
                    f"docker://127.0.0.1:{port}/team/app:1",
                ],
                env={"REGISTRY_AUTH_FILE": str(authfile)},
            )  # fmt: skip
            assert push.code == 0, push.stderr
        yield PrivateRegistry(f"127.0.0.1:{port}", directory.joinpath("digest").read_text(), log)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()

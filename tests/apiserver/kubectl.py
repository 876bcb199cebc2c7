"""The real kubectl, as a function: arguments in, output out. Its kubeconfig never touches a disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from kubelet_secrets.apiserver.process import ServerHandle
from kubelet_secrets.memoryfile import memory_file

OLDEST = (1, 27)


@dataclass(frozen=True)
class Output:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def deleted(self) -> list[str]:
        """The lines of ``kubectl delete``, as kubectl 1.32 wrote them: without " from default namespace"."""
        return [re.sub(r'(" deleted) from \S+ namespace', r"\1", line) for line in self.lines]


class Kubectl:
    def __init__(self, path: str, kubeconfig_path: str, home: Path) -> None:
        self._command = [path, f"--kubeconfig={kubeconfig_path}"]
        self._environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
        # "/proc/self/fd/7": kubectl inherits the descriptor that the path names.
        self._descriptor = int(kubeconfig_path.rpartition("/")[2])

    async def try_run(self, *arguments: str, stdin: str = "", environment: Mapping[str, str] | None = None) -> Output:
        with trio.fail_after(120):
            done = await trio.run_process(
                [*self._command, *arguments],
                stdin=stdin.encode(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env={**self._environment, **(environment or {})},
                pass_fds=(self._descriptor,),
            )
        return Output(done.returncode, done.stdout.decode(), done.stderr.decode())

    async def __call__(self, *arguments: str, stdin: str = "", environment: Mapping[str, str] | None = None) -> Output:
        """Run kubectl, which has to succeed."""
        output = await self.try_run(*arguments, stdin=stdin, environment=environment)
        assert output.code == 0, f"kubectl {' '.join(arguments)}: {output.err}{output.out}"
        return output

    @asynccontextmanager
    async def follow(self, *arguments: str) -> AsyncIterator[AsyncIterator[str]]:
        """Run a kubectl that does not end by itself; gives its lines and kills it at the end."""

        async def lines() -> AsyncIterator[str]:
            assert process.stdout is not None
            text = b""
            async for chunk in process.stdout:
                *whole, text = (text + chunk).split(b"\n")
                for line in whole:
                    yield line.decode()

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                start = partial(
                    trio.run_process,
                    [*self._command, *arguments],
                    stdout=subprocess.PIPE,
                    check=False,
                    env=self._environment,
                    pass_fds=(self._descriptor,),
                )
                process: trio.Process = await nursery.start(start)
                async with aclosing(lines()) as shown:
                    yield shown
                process.kill()

    async def fail(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl, which has to fail; returns what it says."""
        output = await self.try_run(*arguments, stdin=stdin)
        assert output.code != 0, f"kubectl {' '.join(arguments)} succeeded: {output.out}"
        return output.err.strip()


def find_kubectl() -> str | None:
    """Where kubectl is, if it is recent enough: older ones do not ask for OpenAPI v3."""
    path = shutil.which("kubectl")
    if path is None:
        return None
    done = subprocess.run([path, "version", "--client", "-o", "json"], capture_output=True, timeout=120, check=False)
    found = re.search(r'"gitVersion":\s*"v(\d+)\.(\d+)', done.stdout.decode())
    return path if found and (int(found[1]), int(found[2])) >= OLDEST else None


@asynccontextmanager
async def open_kubectl(path: str, server: ServerHandle, home: Path) -> AsyncIterator[Kubectl]:
    with memory_file(server.admin_kubeconfig().reveal()) as kubeconfig_path:
        yield Kubectl(path, kubeconfig_path, home)

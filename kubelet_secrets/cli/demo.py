"""``kubelet-secrets demo``: the guided tour, on real pods, in under a minute. Exit status 0 only if every step held.

Each step states a promise, shows what happened, and checks it. The tour runs its own API server and node, in directories of its
own, so that it disturbs nothing that runs on the machine.
"""

from __future__ import annotations

import base64
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from kubelet_secrets.cli.image import DEFAULT_IMAGE_DIR
from kubelet_secrets.cli.tour import Tour, manifest, shop_pod

T = TypeVar("T")
STEP_TIMEOUT_S = 120
"""For what takes a second or two; an emulated processor on a busy machine is slower by far."""
READER_S = 3
"""How long the reader of the crash step reads, around the crash."""


@click.command()
@click.option(
    "--image-dir",
    type=click.Path(path_type=Path, file_okay=False, readable=False),
    default=DEFAULT_IMAGE_DIR,
    show_default=True,
    help="The image store that has localhost/busybox:1; scripts/setup puts it there.",
)
@click.pass_obj
def demo(verbose: int | None, /, image_dir: Path) -> None:
    """Take the guided tour: real containers, a rotation, refused readers, a killed agent, and a scan of the disk."""
    import trio

    from kubelet_secrets.fusefs.hardening import harden_process

    harden_process()
    with tempfile.TemporaryDirectory(prefix="kubelet-secrets-demo-") as directory:
        held = trio.run(_demo, Path(directory), image_dir, verbose or 0)
    if not held:
        click.echo("Not every step held. What went wrong stands beside the crosses above.", err=True)
        raise SystemExit(1)


async def _demo(directory: Path, image_dir: Path, verbose: int) -> bool:
    from kubelet_secrets.cli.up import stoppable
    from kubelet_secrets.stack import StackOptions, run_stack

    tour = Tour()
    click.secho("kubelet-secrets: the guided tour", bold=True)
    click.echo("An API server and a node start on this machine, for this tour only.")
    options = StackOptions(
        node_name=f"demo-{secrets.token_hex(3)}",
        root_dir=directory / "node",
        image_dir=image_dir,
        socket=directory / "agent.sock",
        port=0,
        verbose=verbose,
    )
    began = time.time()
    async with stoppable():
        async with run_stack(options, progress=lambda line: click.echo(f"  {line}")) as stack:
            await _Steps(tour, stack, began).run()
        leftovers = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(directory) in line]
        tour.check(not leftovers, "everything is stopped; no mount is left")
    click.echo()
    click.echo(f"That was the tour, in {time.monotonic() - tour.started:.0f} s. Next:")
    click.echo("  kubelet-secrets up -f examples/      run real uses, and look at them with kubectl")
    click.echo("  kubelet-secrets env shop, tree shop  what a container has, from where, since when")
    click.echo("  docs/threat-model.md                 what this protects from, and what it does not")
    return tour.held


class _Steps:
    def __init__(self, tour: Tour, stack: Any, began: float) -> None:
        self.tour = tour
        self.stack = stack
        self.began = began  # Unix time
        self.values = [f"first-{secrets.token_urlsafe(12)}", f"second-{secrets.token_urlsafe(12)}"]
        self.socket = str(stack.options.socket)

    async def run(self) -> None:
        """Walk through the steps; what a step needs of earlier ones is missing when those failed, so stop at a failure."""
        import trio

        from kubelet_secrets.errors import KubeletSecretsError

        steps = (self.pod_first, self.what_the_container_sees, self.rotation, self.refusals, self.crash, self.disk)
        for step in steps:
            try:
                await step()
            except trio.TooSlowError:
                self.tour.check(False, f"nothing happened for {STEP_TIMEOUT_S} s; the rest of the tour is left out")
                return
            except (KubeletSecretsError, OSError, ValueError) as error:
                self.tour.check(False, f"{error}; the rest of the tour is left out")
                return

    async def pod_first(self) -> None:
        import trio

        from kubelet_secrets.api.core import Event, Pod
        from kubelet_secrets.api.meta import EVENTS, PODS, SECRETS

        tour, client = self.tour, self.stack.client
        tour.step(
            "A pod before its Secret", "A pod waits for what it refers to, and starts within a second once it appears."
        )
        await client.create(PODS, "default", shop_pod(self.stack.options.root_dir / "pods"))
        with trio.fail_after(STEP_TIMEOUT_S):
            message = ""
            while not message:
                await trio.sleep(0.05)
                events = await client.list(EVENTS, "default", Event)
                message = next((event.message for event in events if event.reason == "FailedMount"), "")
        tour.show(f"Warning  FailedMount  {message}")
        secret = manifest("Secret", "db", stringData={"username": "shop", "password": self.values[0]})
        await client.create(SECRETS, "default", secret)
        created = time.monotonic()
        with trio.fail_after(STEP_TIMEOUT_S):
            while True:
                pod = await client.get(PODS, "default", "shop", Pod)
                if pod.status.phase == "Running" and all(status.ready for status in pod.status.container_statuses):
                    break
                await trio.sleep(0.02)
        took = time.monotonic() - created
        # An emulated machine needs its time for two containers; a kubelet's next look may be a minute away.
        tour.check(took < 60.0, f"both containers run {took * 1000:.0f} ms after the Secret was created")
        self.uid = pod.metadata.uid

    async def what_the_container_sees(self) -> None:
        from kubelet_secrets.control.protocol import EnvView, NodeSummary, TreeView

        tour = self.tour
        tour.step("What the container sees", "The kubelet's files and variables, and where each comes from.")
        summary = await self.ask("status", NodeSummary)
        (pod,) = (pod for pod in summary.pods if pod.name == "shop")
        self.ids = {container.name: container.container_id for container in pod.containers}
        self.pids = {container.name: container.pid for container in pod.containers}
        tour.show("$ ls -l /etc/db\n" + await self.inside("app", "ls -l /etc/db"))
        files = await self.ask("tree", TreeView, namespace="default", pod="shop", container="app")
        for row in files.rows:
            tour.show(f"{row.path}  {row.mode}  {row.size} bytes  from {row.origin}")
        variables = await self.ask(
            "env", EnvView, namespace="default", pod="shop", container="app", show_values=False, watch=False
        )
        for variable in variables.rows:
            if variable.name == "DB_PASSWORD":
                tour.show(f"{variable.name}=<{variable.size} bytes>  from {variable.origin}")
        read = await self.inside("app", "cat /etc/db/password")
        tour.check(read == self.values[0], "the file holds the value")
        given = await self.inside("app", "tr '\\0' '\\n' </proc/1/environ | sed -n 's/^DB_PASSWORD=//p'")
        tour.check(given.strip() == self.values[0], "so does the variable")

    async def rotation(self) -> None:
        import trio

        from kubelet_secrets.api.meta import SECRETS
        from kubelet_secrets.control.protocol import EnvView

        tour = self.tour
        tour.step(
            "A rotation",
            "New content is visible at once and as a whole; a variable keeps the old value, and is marked.",
        )
        script = (
            "old=$(cat /etc/db/password); echo; "
            'while [ "$(cat /etc/db/password)" = "$old" ]; do :; done; cat /etc/db/password'
        )
        async with self.started_inside("app", script) as reader:
            assert reader.stdout is not None
            with trio.fail_after(STEP_TIMEOUT_S):
                await reader.stdout.receive_some()  # the reader has seen the old value
                patch = {"data": {"password": base64.b64encode(self.values[1].encode()).decode()}}
                await self.stack.client.patch(SECRETS, "default", "db", patch)
                answered = time.monotonic()
                seen = b""
                while len(seen) < len(self.values[1]):
                    seen += await reader.stdout.receive_some()
            took_ms = (time.monotonic() - answered) * 1000
        holds = seen.decode() == self.values[1]
        tour.check(
            holds, f"a shell loop in the container read it {max(took_ms, 0):.1f} ms after the API server's answer"
        )
        with trio.fail_after(STEP_TIMEOUT_S):
            stale = False
            while not stale:
                view = await self.ask(
                    "env", EnvView, namespace="default", pod="shop", container="app", show_values=False, watch=False
                )
                stale = any(row.name == "DB_PASSWORD" and row.stale for row in view.rows)
        tour.check(stale, "DB_PASSWORD is marked stale: a restart would change it")

    async def refusals(self) -> None:
        from kubelet_secrets.control.protocol import AuditView

        tour = self.tour
        tour.step(
            "Who may not read",
            "The file opens for the container that mounts it: not for its neighbour, not for root on the host.",
        )
        volume = f"{self.uid}/volumes/kubernetes.io~secret/db/password"
        on_host = self.stack.options.root_dir / "pods" / volume
        attempts = {
            "root on the host": ["cat", str(on_host)],
            "root, inside the container's mount namespace": [
                "nsenter",
                "-t",
                str(self.pids["app"]),
                "-m",
                "cat",
                "/etc/db/password",
            ],
            "the sidecar, given the node's directory": [*self.exec_command("sidecar"), f"cat /node/{volume}"],
        }
        for who, command in attempts.items():
            result = await self.run_quietly(command)
            refused = result.returncode != 0 and not result.stdout
            said = result.stderr.decode(errors="replace").strip().splitlines()
            tour.check(refused, f"{who}: {said[-1].rpartition(': ')[2] if said else 'no message'}")
        tour.show("kubelet-secrets audit --denied")
        for record in await self.ask_all("audit", AuditView, follow=False, denied=True):
            tour.show(f"{record.verdict}  {record.file}  {record.who}  {record.why}")

    async def crash(self) -> None:
        import trio

        from kubelet_secrets.control.protocol import NodeSummary

        tour = self.tour
        tour.step(
            "The agent is killed", "Readers wait for the new agent and never see an error; containers go on running."
        )
        before = await self.ask("status", NodeSummary)
        script = (
            f"end=$(($(date +%s) + {READER_S})); n=0; bad=0; echo; "
            "while [ $(date +%s) -lt $end ]; do n=$((n+1)); cat /etc/db/password >/dev/null 2>&1 || bad=$((bad+1)); done; "
            "echo $n $bad"
        )
        async with self.started_inside("app", script) as reader:
            assert reader.stdout is not None
            await reader.stdout.receive_some()
            await trio.sleep(0.5)
            os.kill(before.agent_pid, signal.SIGKILL)
            output = b""
            with trio.fail_after(STEP_TIMEOUT_S):
                async for chunk in reader.stdout:
                    output += chunk
        reads, failed = (int(word) for word in output.split())
        with trio.fail_after(STEP_TIMEOUT_S):
            while True:
                after = await self.try_ask("status", NodeSummary)
                if after is not None and after.pods:
                    break
                await trio.sleep(0.05)
        tour.show(f"agent {before.agent_pid} killed; agent {after.agent_pid} took over")
        tour.check(failed == 0 and reads > 0, f"{reads} reads around the crash, {failed} failed")
        pids = {
            container.name: container.pid for pod in after.pods if pod.name == "shop" for container in pod.containers
        }
        tour.check(pids == self.pids, "the containers are the same processes as before")

    async def disk(self) -> None:
        import trio

        from kubelet_secrets.leakscan import scan

        tour = self.tour
        tour.step(
            "Nothing on disk",
            "Both values, in plain and encoded, are looked for in every file written since the tour began.",
        )
        options = self.stack.options
        roots = [
            options.root_dir.parent,
            options.image_dir,
            *map(Path, ("/var", "/tmp", "/etc", "/root", "/home", "/run")),
        ]
        values = [value.encode() for value in self.values]
        result = await trio.to_thread.run_sync(partial(scan, roots, values, changed_since=self.began))
        for finding in result.findings:
            tour.show(f"found {finding.form} in {finding.path}")
        tour.check(not result.findings, f"{result.files} files, {result.size_bytes / 1e6:.1f} MB: not a byte of it")

    # --- ways to look ---

    async def ask(self, method: str, kind: type[T], **params: Any) -> T:
        import trio

        from kubelet_secrets.control.client import ask_one

        return await trio.to_thread.run_sync(partial(ask_one, self.socket, method, kind, **params))

    async def try_ask(self, method: str, kind: type[T]) -> T | None:
        from kubelet_secrets.errors import HostError

        try:
            return await self.ask(method, kind)
        except HostError:
            return None  # the agent is just being started again

    async def ask_all(self, method: str, kind: type[T], **params: Any) -> list[T]:
        import trio

        from kubelet_secrets.control.client import ask

        def collect() -> list[T]:
            return list(ask(self.socket, method, kind, **params))

        return await trio.to_thread.run_sync(collect)

    def exec_command(self, container: str) -> list[str]:
        options = self.stack.options
        return [
            options.runtime,
            "--root",
            str(options.root_dir / "run" / "runc"),
            "exec",
            self.ids[container],
            "sh",
            "-c",
        ]

    async def inside(self, container: str, script: str) -> str:
        """Run a shell line in a container and return what it printed."""
        result = await self.run_quietly([*self.exec_command(container), script])
        return result.stdout.decode(errors="replace")

    async def run_quietly(self, command: list[str]) -> subprocess.CompletedProcess[bytes]:
        import trio

        return await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True)

    @asynccontextmanager
    async def started_inside(self, container: str, script: str) -> AsyncIterator[Any]:
        """Run a shell line in a container for the length of the block, which reads what it prints."""
        import trio

        command = [*self.exec_command(container), script]
        process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        try:
            yield process
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            assert process.stdout is not None
            with trio.CancelScope(shield=True):
                await process.stdout.aclose()
                await process.wait()

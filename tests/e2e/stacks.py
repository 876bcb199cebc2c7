"""``kubelet-secrets up`` as a process, for tests: how it is started, spoken to and stopped, and that nothing is left of it.

Everything here is what a user has: the command line, the API through the admin's kubeconfig, ``runc exec``, log files.
"""

from __future__ import annotations

import functools
import json
import os
import queue
import secrets
import select
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import trio

from kubelet_secrets.api.core import Event, Pod
from kubelet_secrets.api.meta import CONFIG_MAPS, EVENTS, PODS, SECRETS
from kubelet_secrets.client.answers import EventType
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.control.client import ask
from kubelet_secrets.control.protocol import AuditView, NodeSummary
from kubelet_secrets.errors import HostError, NotFound
from kubelet_secrets.fusefs import mounts
from kubelet_secrets.notify import NotifySocket
from kubelet_secrets.runtime.cgroups import CgroupTree, instance_name
from kubelet_secrets.runtime.hostfacts import probe_cgroups
from kubelet_secrets.runtime.logs import LogOptions, copy_log
from tests.cli.command import COMMAND, environment, run_cli

IMAGE = "localhost/busybox:1"
RUNTIME = os.environ.get("KS_TEST_RUNTIME", "runc")
"""Every node here runs its containers with it; scripts/vm-test has crun do it as well."""
WAIT = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"
"""A script that does nothing until SIGTERM, and ends at once then. PID 1 ignores signals that it has no handler for."""
START_TIMEOUT_S = 90
WAIT_TIMEOUT_S = 60

T = TypeVar("T")


# --- the process ----------------------------------------------------------------------------------------------------


@dataclass
class Command:
    """A long-running ``kubelet-secrets`` command: its output line by line, its log in a file.

    Attributes:
        log: path of its standard error.
    """

    arguments: list[str]
    log: Path
    prefix: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    pass_fds: Sequence[int] = ()

    def __post_init__(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *COMMAND, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(**self.env),
                text=True,
                start_new_session=True,
                pass_fds=self.pass_fds,
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for line in stdout:
                self.output += line
                self._lines.put(line.rstrip("\n"))
        self._lines.put("")

    def wait_line(self, start: str) -> str:
        """Wait until it prints a line that starts so (leading blanks aside), and return the rest of that line."""
        while True:
            try:
                line = self._lines.get(timeout=START_TIMEOUT_S)
            except queue.Empty:
                raise AssertionError(f"it does not say {start!r}: {self.output}{self.stderr[-4000:]}") from None
            if line.strip().startswith(start):
                return line.strip().removeprefix(start)
            if not line and self.process.poll() is not None:
                raise AssertionError(f"it ended with status {self.process.returncode}: {self.stderr}")

    @property
    def stderr(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._reader.join(START_TIMEOUT_S)


@dataclass
class Node:
    """A node of its own, however it is started.

    Attributes:
        directory: everything of it that has a path lies below, but the credentials in /run/kubelet-secrets.
        options: more of the command line.
        kubeconfig: the admin's.
    """

    directory: Path
    image_dir: Path
    options: Sequence[str] = ()
    node_name: str = field(default_factory=lambda: f"e2e-{secrets.token_hex(4)}")
    kubeconfig: Path = Path()

    @property
    def root_dir(self) -> Path:
        return self.directory / "node"

    @property
    def socket(self) -> Path:
        return self.directory / "agent.sock"

    @property
    def runtime_root(self) -> Path:
        """What ``runc --root`` takes to see its containers."""
        return self.root_dir / "run" / "runc"

    def start(self) -> None:
        """Start it and return when the node is Ready. Everything logs as much as it can."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop it, which has to succeed and to leave nothing behind."""
        raise NotImplementedError

    @property
    def node_options(self) -> list[str]:
        return [
            *("--node-name", self.node_name, "--stop-grace", "2", "--socket", str(self.socket)),
            *("--root-dir", str(self.root_dir), "--image-dir", str(self.image_dir), "--runtime", RUNTIME),
            *self.options,
        ]

    # --- through the control socket ---

    def ask(self, method: str, kind: type[T], **params: Any) -> list[T]:
        return list(ask(str(self.socket), method, kind, **params))

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the commands that ask the agent."""
        return run_cli(*arguments, env={"KUBELET_SECRETS_SOCKET": str(self.socket)})

    def status(self) -> NodeSummary:
        (summary,) = self.ask("status", NodeSummary)
        return summary

    async def wait_agent(self, other_than: int = 0) -> NodeSummary:
        """Wait until an agent answers that is not the process *other_than* and knows its pods."""
        with trio.fail_after(WAIT_TIMEOUT_S):
            while True:
                try:
                    summary = await trio.to_thread.run_sync(self.status)
                    if summary.agent_pid != other_than and summary.pods:
                        return summary
                except (HostError, OSError):
                    pass  # just being started again
                await trio.sleep(0.02)

    async def keeper_pid(self) -> int:
        """The process that holds the mounts: the agent's parent."""
        status = Path(f"/proc/{(await self.wait_agent()).agent_pid}/stat").read_text()
        return int(status.rpartition(")")[2].split()[1])


@dataclass
class Stack(Node):
    """One ``up``: an API server and a node. The admin's kubeconfig lies on the stack's own tmpfs."""

    def start(self) -> None:
        self.command = Command(["-vv", "up", "--port", "0", *self.node_options], self.directory / "up.log")
        try:
            self.command.wait_line("ready")
            self.kubeconfig = Path(self.command.wait_line("export KUBECONFIG="))
        except BaseException:
            self.command.stop()
            raise

    def stop(self) -> None:
        status = self.command.stop()
        left = find_leftovers(self.directory, self.node_name)
        assert status == 0, self.command.stderr[-3000:]
        assert left == [], left
        assert sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*")) == ["up.log"]


@dataclass
class Pair(Node):
    """The API server and the node as two commands, so that either can go away alone. Objects are kept in a directory."""

    def start(self) -> None:
        self.kubeconfig = self.directory / "admin.kubeconfig"
        self.start_server(port=0)
        self.start_agent()

    def start_agent(self) -> None:
        """The process is the keeper; returns when its agent is at work."""
        notifications = NotifySocket()
        credentials = str(self.directory / "node.kubeconfig")
        arguments = ["-vv", "agent", "--kubeconfig", credentials, "--kubelet-port", "0", *self.node_options]
        self.agent = Command(arguments, self.directory / "agent.log", env={"NOTIFY_SOCKET": notifications.address})
        readable, _, _ = select.select([notifications.socket], [], [], START_TIMEOUT_S)
        notifications.close()
        assert readable, self.agent.stderr

    def start_server(self, *, port: int) -> None:
        directory = self.directory
        arguments = [
            *("-v", "apiserver", "--data-dir", str(directory / "data"), "--port", str(port)),
            *("--kubeconfig", str(self.kubeconfig), "--node-name", self.node_name),
            *("--node-kubeconfig", str(directory / "node.kubeconfig")),
        ]
        self.server = Command(arguments, directory / "server.log")
        self.port = int(self.server.wait_line("ready at https://127.0.0.1:"))

    def stop(self) -> None:
        for command in (self.agent, self.server):
            if command.process.poll() is None:
                command.process.send_signal(signal.SIGCONT)
            assert command.stop() == 0, command.stderr[-3000:]
        assert find_leftovers(self.directory, self.node_name) == []
        # A keeper that was killed leaves its directory, and the next one leaves what it found: empty.
        assert not self.root_dir.exists() or list(self.root_dir.iterdir()) == []


def scrub(directory: Path, node_name: str) -> None:
    """Take away by force what a node that failed to stop has left, for the tests after it."""
    mounts.umount_all_below(Path("/run/kubelet-secrets") / node_name)
    CgroupTree(instance_name(node_name, directory / "node"), probe_cgroups()).sweep()
    for _ in range(8):  # mounts may be stacked
        if not mounts.mounts_below(directory):
            break
        mounts.umount_all_below(directory)


def find_leftovers(directory: Path, node_name: str) -> list[str]:
    """What is left on this machine of a node that has been stopped: mounts, processes, cgroups, files in /run."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4]
        if point.startswith(f"{directory}/") or node_name in point:
            found.append(f"mount {point}")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            cgroup = process.joinpath("cgroup").read_text()
        except OSError:
            continue  # it ended while we looked
        is_of_it = f"{directory}/" in command or node_name in command + cgroup
        # What a pod with hostPID leaves is the machine's init's to reap, which takes its time.
        if int(process.name) != os.getpid() and is_of_it and is_running(int(process.name)):
            found.append(f"process {process.name} {command}")
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        found += [f"cgroup {path}" for path in hierarchy.glob(f"kubelet-secrets/{node_name}*")]
    found += [f"file {path}" for path in Path("/run/kubelet-secrets").glob(f"*{node_name}*")]
    return found


# --- the cluster ----------------------------------------------------------------------------------------------------


def container(name: str = "app", script: str = WAIT, **fields: Any) -> dict[str, Any]:
    """A container that runs a shell script."""
    return {"name": name, "image": IMAGE, "command": ["sh", "-c", script], **fields}


def mount(name: str, path: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "mountPath": path, "readOnly": True, **fields}


def secret_volume(name: str, secret: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "secret": {"secretName": secret, **fields}}


def secret_env(name: str, secret: str, key: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, **fields}}}


@dataclass
class Cluster:
    """A node with an admin's client: what most tests talk to. Objects live in the namespace ``default``."""

    stack: Node
    client: ApiClient

    # --- objects ---

    async def create(self, manifest: dict[str, Any]) -> None:
        await self.client.apply(manifest)

    async def put_secret(self, name: str, data: Mapping[str, str | bytes | None], **fields: Any) -> None:
        """Create the Secret, or change the keys named; None removes a key."""
        await self._put(SECRETS, "Secret", name, {"data": {k: _base64(v) for k, v in data.items()}}, fields)

    async def put_config_map(self, name: str, data: Mapping[str, str | None], **fields: Any) -> None:
        await self._put(CONFIG_MAPS, "ConfigMap", name, {"data": dict(data)}, fields)

    async def _put(self, resource: Any, kind: str, name: str, data: dict[str, Any], fields: dict[str, Any]) -> None:
        try:
            await self.client.get(resource, "default", name, dict)
        except NotFound:
            metadata = {"name": name, "namespace": "default"}
            body = {"apiVersion": "v1", "kind": kind, "metadata": metadata, **data, **fields}
            await self.client.create(resource, "default", body)
        else:
            body = {**data, **fields}
            await self.client.patch(resource, "default", name, body, content_type="application/merge-patch+json")

    async def delete_secret(self, name: str) -> None:
        await self.client.delete(SECRETS, "default", name)

    async def create_pod(
        self, name: str, *containers: dict[str, Any], metadata: Mapping[str, Any] | None = None, **spec: Any
    ) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", **(metadata or {})},
            "spec": {
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 1,
                "containers": list(containers),
                **spec,
            },
        }
        await self.client.create(PODS, "default", body)

    async def run_pod(self, name: str, *containers: dict[str, Any], **spec: Any) -> Pod:
        """Create a pod and wait until all its containers are ready."""
        await self.create_pod(name, *containers, **spec)
        return await self.wait_ready(name)

    async def pod(self, name: str) -> Pod:
        return await self.client.get(PODS, "default", name, Pod)

    async def delete_pod(self, name: str, *, grace_s: int | None = None) -> None:
        await self.client.delete(PODS, "default", name, grace_period_s=grace_s)

    # --- waiting ---

    async def wait(self, name: str, wanted: Callable[[Pod], bool], *, timeout_s: float = WAIT_TIMEOUT_S) -> Pod:
        """Wait until the API server's pod is as wanted; every state it goes through is looked at."""
        last: Pod | None = None
        with trio.move_on_after(timeout_s):
            selector = f"metadata.name={name}"
            # No streaming list: the API server may be older than those. Without a version a watch begins with what is there.
            async with self.client.watch(PODS, "default", Pod, field_selector=selector) as events:
                async for event in events:
                    if event.object is not None and event.type in (EventType.ADDED, EventType.MODIFIED):
                        last = event.object
                        if wanted(last):
                            return last
        seen = await self.events(name)
        raise AssertionError(f"waited {timeout_s} s for pod {name}, which is {last and last.status}; events: {seen}")

    async def wait_ready(self, name: str, **kwargs: Any) -> Pod:
        return await self.wait(name, is_ready, **kwargs)

    async def wait_phase(self, name: str, phase: str, **kwargs: Any) -> Pod:
        return await self.wait(name, lambda pod: pod.status.phase == phase, **kwargs)

    async def wait_waiting(self, name: str, reason: str, container: str = "") -> Pod:
        """Wait until a container waits for *reason*."""
        return await self.wait(name, lambda pod: waiting(pod, container)[0] == reason)

    async def wait_gone(self, name: str) -> None:
        with trio.fail_after(WAIT_TIMEOUT_S):
            selector = f"metadata.name={name}"
            found = await self.client.list(PODS, "default", Pod, field_selector=selector)
            if not len(found):
                return
            async with self.client.watch(
                PODS, "default", Pod, field_selector=selector, resource_version=found.resource_version
            ) as events:
                async for event in events:
                    if event.type is EventType.DELETED:
                        return

    @asynccontextmanager
    async def followed(self, name: str) -> AsyncIterator[list[Pod]]:
        """The states of a pod from before the block to its last, which the end of the block waits for.

        For ends: who asks for a state after having brought it about may come when the pod is gone.
        """
        states: list[Pod] = []

        async def follow(task_status: trio.TaskStatus[None]) -> None:
            selector = f"metadata.name={name}"
            async with self.client.watch(
                PODS, "default", Pod, field_selector=selector, send_initial_events=True
            ) as events:
                async for event in events:
                    if event.ends_initial_events:
                        task_status.started()
                    elif event.object is not None and event.type is not EventType.BOOKMARK:
                        states.append(event.object)
                    if event.type is EventType.DELETED:
                        return

        async with trio.open_nursery() as nursery:
            await nursery.start(follow)
            yield states
            nursery.cancel_scope.deadline = trio.current_time() + WAIT_TIMEOUT_S
        assert not nursery.cancel_scope.cancelled_caught, f"{name} is still there: {states[-1].status}"

    async def events(self, name: str) -> list[tuple[str, str, str]]:
        """(type, reason, message) of the events about a pod, oldest first."""
        found = await self.client.list(EVENTS, "default", Event, field_selector=f"involvedObject.name={name}")
        return [(each.type, each.reason, each.message) for each in found]

    async def wait_event(
        self,
        name: str,
        reason: str,
        text: str = "",
        *,
        field_path: str = "",
        after: int = 0,
        timeout_s: float = WAIT_TIMEOUT_S,
    ) -> Event:
        """Wait for an event about pod *name* whose message contains *text*.

        Args:
            field_path: of the container that it has to be about; "" for whatever it is about.
            after: how often it has been seen already: wait for one more.
        """
        with trio.move_on_after(timeout_s):
            async with self.client.watch(EVENTS, "default", Event) as events:
                async for event in events:
                    seen = event.object
                    if (
                        seen is not None
                        and seen.involved_object.name == name
                        and seen.reason == reason
                        and text in seen.message
                        and field_path in ("", seen.involved_object.field_path)
                        and max(seen.count, 1) > after
                    ):
                        return seen
        raise AssertionError(f"no event {reason} {text!r} about {name}; there are {await self.events(name)}")

    # --- inside ---

    async def exec(self, pod: str, script: str, container: str = "") -> str:
        """Run a shell line in a container, which has to succeed."""
        done = await self.try_exec(pod, script, container)
        assert done.returncode == 0, f"{script}: {done.stderr.decode(errors='replace')}"
        return done.stdout.decode()

    async def try_exec(self, pod: str, script: str, container: str = "") -> subprocess.CompletedProcess[bytes]:
        command = await self.exec_command(pod, script, container)
        with trio.fail_after(WAIT_TIMEOUT_S):
            return await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True)

    async def exec_command(self, pod: str, script: str, container: str = "") -> list[str]:
        found = await self.pod(pod)
        runtime = [RUNTIME, "--root", str(self.stack.root_dir / "run" / "runc")]
        return [*runtime, "exec", container_id(found, container), "sh", "-c", script]

    @asynccontextmanager
    async def talking(self, pod: str, script: str, container: str = "") -> AsyncIterator[Dialogue]:
        """Run a shell line in a container beside the block, which says and hears a line at a time."""
        async with talk_to(await self.exec_command(pod, script, container)) as dialogue:
            yield dialogue

    async def restart(self, pod: str) -> None:
        """End the first container of a pod, and wait until it runs again."""
        count = (await self.pod(pod)).status.container_statuses[0].restart_count
        await self.try_exec(pod, "kill -TERM 1")  # may be killed itself, with the container's other processes
        await self.wait(pod, lambda found: found.status.container_statuses[0].restart_count > count)
        await self.wait_ready(pod)

    @asynccontextmanager
    async def started(self, pod: str, script: str, container: str = "") -> AsyncIterator[trio.Process]:
        """Run a shell line in a container beside the block, which reads its standard output; waits for its end."""
        command = await self.exec_command(pod, script, container)
        process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        try:
            yield process
            with trio.fail_after(WAIT_TIMEOUT_S):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                assert process.stdout is not None
                await process.stdout.aclose()

    async def logs(self, pod: str, container: str = "app", *, restart: int = 0, until: str | None = None) -> str:
        """A container's log; with *until*, followed up to that text."""
        meta = (await self.pod(pod)).metadata
        directory = self.stack.root_dir / "run" / "logs" / f"{meta.namespace}_{meta.name}_{meta.uid}" / container
        text = ""

        async def collect(chunk: bytes) -> None:
            nonlocal text
            text += chunk.decode(errors="replace")
            if until is not None and until in text:
                scope.cancel()

        with trio.fail_after(WAIT_TIMEOUT_S):
            with trio.CancelScope() as scope:
                await copy_log(directory / f"{restart}.log", LogOptions(follow=until is not None), collect)
        return text

    async def pid(self, pod: str, container: str = "") -> int:
        """The host's pid of a container's first process."""
        command = [RUNTIME, "--root", str(self.stack.root_dir / "run" / "runc"), "state"]
        done = await trio.run_process([*command, container_id(await self.pod(pod), container)], capture_stdout=True)
        return int(json.loads(done.stdout)["pid"])

    def volume_dir(self, pod: Pod, volume: str, plugin: str = "secret") -> Path:
        """Where the node has a volume."""
        return self.stack.root_dir / "pods" / pod.metadata.uid / "volumes" / f"kubernetes.io~{plugin}" / volume


@asynccontextmanager
async def open_cluster(stack: Node) -> AsyncIterator[Cluster]:
    async with open_client(load_kubeconfig(stack.kubeconfig)) as client:
        yield Cluster(stack, client)


class Dialogue:
    """A process that answers lines with lines."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._heard = b""

    async def hear(self) -> str:
        assert self.process.stdout is not None
        with trio.fail_after(WAIT_TIMEOUT_S):
            while b"\n" not in self._heard:
                chunk = await self.process.stdout.receive_some()
                assert chunk, f"it ended after {self._heard!r}"
                self._heard += chunk
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    async def say(self, line: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(f"{line}\n".encode())

    async def ask(self, line: str) -> str:
        await self.say(line)
        return await self.hear()


@asynccontextmanager
async def talk_to(command: Sequence[str]) -> AsyncIterator[Dialogue]:
    """Run a command beside the block, and end it by ending its input."""
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Dialogue(process)
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            with trio.move_on_after(5):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            await process.stdout.aclose()


async def receive(process: trio.Process, text: str) -> None:
    """Read from the process until it has said *text*, which is the next thing it says."""
    assert process.stdout is not None
    said = b""
    with trio.fail_after(WAIT_TIMEOUT_S):
        while len(said) < len(text.encode()):
            chunk = await process.stdout.receive_some()
            said += chunk
            assert chunk, f"it ended after {said!r}"
    assert said.decode() == text


async def eventually(holds: Callable[[], object]) -> None:
    """Look until *holds*: for what tells nobody when it changes, such as a directory that goes."""
    with trio.fail_after(WAIT_TIMEOUT_S):
        while not holds():  # noqa: ASYNC110  # there is no event to wait for
            await trio.sleep(0.02)


async def in_thread(function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    return await trio.to_thread.run_sync(functools.partial(function, *arguments, **keywords))


def is_running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie that its parent, or a container's init, has not reaped yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def is_ready(pod: Pod) -> bool:
    statuses = pod.status.container_statuses
    return pod.status.phase == "Running" and bool(statuses) and all(each.ready for each in statuses)


def container_id(pod: Pod, name: str = "") -> str:
    statuses = (*pod.status.container_statuses, *pod.status.init_container_statuses)
    status = next(each for each in statuses if name in ("", each.name))
    return status.container_id.partition("://")[2]


def waiting(pod: Pod, name: str = "") -> tuple[str, str]:
    """(reason, message) why a container waits; empty ones when it does not."""
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        if name in ("", status.name) and status.state.waiting is not None:
            return status.state.waiting.reason, status.state.waiting.message
    return "", ""


def without_repeats(records: Iterable[AuditView]) -> list[AuditView]:
    """The first record of each kind of access by each process.

    Further ones are counted for a second, and their number is recorded after it: behind what others have done meanwhile.
    """
    first: dict[tuple[object, ...], AuditView] = {}
    for each in records:
        key = (each.pid, each.exe, each.uid, each.kind, each.verdict, each.who, each.file, each.version)
        first.setdefault((*key, each.why.partition(" (x")[0]), each)
    return list(first.values())


def _base64(value: str | bytes | None) -> str | None:
    import base64

    if value is None:
        return None
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()

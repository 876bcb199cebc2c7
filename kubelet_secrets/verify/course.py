"""What happens to the canaries: planted, delivered, refused, rotated, in the midst of crashes, deleted. Through the API alone.

Each step is one sentence of the report. A step that fails ends the course: later ones stand on it. What is looked at meanwhile,
and what is concluded, is ``run``'s.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import EVENTS, NAMESPACES, PODS, SECRETS, Resource
from kubelet_secrets.client.patience import insist
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.control.client import ask, ask_one
from kubelet_secrets.control.protocol import AuditView, ContainerSummary, EnvView, NodeSummary, TreeView
from kubelet_secrets.errors import (
    AlreadyExists,
    Forbidden,
    HostError,
    Invalid,
    KubeletSecretsError,
    NotFound,
)
from kubelet_secrets.verify import objects
from kubelet_secrets.verify.canaries import Canary
from kubelet_secrets.verify.objects import BROKEN_POD, FILES, POD, SECRET, Planted
from kubelet_secrets.verify.processes import children, command_line
from kubelet_secrets.verify.report import Step

_POLL_S = 0.02

T = TypeVar("T")


class CourseEnded(Exception):
    """A step failed; the last of :attr:`Course.steps` says which and why."""


class NotAsExpected(Exception):
    """What is seen, by a container for one, is wrong. The text says what, and quotes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUnderTest:
    """A running node on this machine, and an admin's way to its API server."""

    client: ApiClient
    name: str
    namespace: str  # for the objects of the course
    root_dir: Path
    image_dir: Path
    socket: Path
    runtime: str
    keeper_pid: int
    credentials: Path | None  # directory of its kubeconfigs; None when they are the user's own matter


@dataclass(slots=True)
class Course:
    """Walks through the steps.

    Attributes:
        steps: what was done so far.
        answers: texts that the API server and the agent gave meanwhile; no value may be in them.
        crash_directories: working directories of processes that were made to crash.
    """

    node: NodeUnderTest
    planted: Planted
    registry: str  # host:port
    image: str
    step_limit_s: float
    steps: list[Step] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    crash_directories: set[Path] = field(default_factory=set)
    _pod_uid: str = ""

    # --- steps --------------------------------------------------------------------------------------------------------

    async def deliver(self) -> None:
        """Create the objects; wait until the containers run and have what they should have."""
        namespace = self.node.namespace
        with self.step(
            "a pod with an image that only its pull secret opens, files, variables and a projected volume runs"
        ):
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            await self._create(NAMESPACES, "", body)
            for secret in objects.secrets(self.planted, namespace, self.registry):
                await self._create(SECRETS, namespace, secret)
            for pod in objects.pods(namespace, self.image, self.node.name):
                await self._create(PODS, namespace, pod)
            self._pod_uid = (await self._wait_ready()).metadata.uid
        with self.step("its containers see the right values"):
            await self._expect(f"cat {FILES}/file", self.planted.file.value)
            await self._expect(f"cat {FILES}/large", self.planted.large.value)
            script = "tr '\\0' '\\n' </proc/1/environ | sed -n 's/^VARIABLE=//p' | tr -d '\\n'"
            await self._expect(script, self.planted.variable.value)

    async def refuse(self) -> None:
        """Let go wrong what can go wrong, and keep what was said about it."""
        client, namespace = self.node.client, self.node.namespace
        with self.step("an invalid Secret is refused, and a pod that misses a key waits"):
            try:
                secret = objects.refused_secret(self.planted, namespace)
                await insist(partial(client.create, SECRETS, namespace, secret))
            except Invalid as error:
                self.answers.append(str(error).encode())
            else:
                raise NotAsExpected("it was accepted")
            await self._until(self._is_waiting)

    async def rotate(self) -> None:
        with self.step("a rotation reaches the container"):
            await self._patch_file(self.planted.rotated)
            await self._expect_soon(f"cat {FILES}/file", self.planted.rotated.value)

    async def crash(self) -> None:
        """Kill agent and writer while a rotation is under way, then have each abort with values in its memory."""
        with self.step("agent and writer killed during a rotation: delivered by the next ones, containers untouched"):
            pid = (await self.container()).pid
            agent = (await self._status()).agent_pid
            writer = self.writer_pid()
            await self._patch_file(self.planted.crashed)
            # The server's answer to us and its news to the agent are on their way together: the agent is just at it.
            os.kill(agent, signal.SIGKILL)
            os.kill(writer, signal.SIGKILL)
            await self._wait_replaced(agent, writer)
            await self._expect_soon(f"cat {FILES}/file", self.planted.crashed.value)
            if (await self.container()).pid != pid:
                raise NotAsExpected("the container was restarted")
        with self.step("agent and writer aborted (SIGABRT) with values in their memory: the next ones deliver"):
            agent = (await self._status()).agent_pid
            writer = self.writer_pid()
            for process in (agent, writer):
                self.crash_directories.add(Path(os.readlink(f"/proc/{process}/cwd")))
                os.kill(process, signal.SIGABRT)
            await self._wait_replaced(agent, writer)
            await self._expect(f"cat {FILES}/file", self.planted.crashed.value)
            await self._patch_file(self.planted.aborted)
            await self._expect_soon(f"cat {FILES}/file", self.planted.aborted.value)

    async def collect_answers(self) -> None:
        """Everything that may be asked without asking for values."""
        client, namespace = self.node.client, self.node.namespace
        with self.step("pods, events, status, audit, env and tree were asked for"):
            for resource in (PODS, EVENTS):
                found = await insist(partial(client.list, resource, namespace, dict))
                self.answers.append(msgspec.json.encode(found.items))
            where: dict[str, Any] = {"namespace": namespace, "pod": POD, "container": "app"}
            for method, kind, params in (
                ("status", NodeSummary, {}),
                ("audit", AuditView, {"follow": False, "denied": False}),
                ("env", EnvView, {**where, "show_values": False, "watch": False}),
                ("tree", TreeView, where),
            ):
                question = partial(self._ask_all, method, kind, **params)
                self.answers.append(msgspec.json.encode(await trio.to_thread.run_sync(question)))

    async def delete(self) -> None:
        client, namespace = self.node.client, self.node.namespace
        with self.step("pods and Secrets deleted, volumes gone"):
            for resource, names in ((PODS, (POD, BROKEN_POD)), (SECRETS, (SECRET, objects.PULL_SECRET))):
                for name in names:
                    with contextlib.suppress(NotFound):  # when it is told a second time
                        await insist(partial(client.delete, resource, namespace, name))
            await self._until(self._is_gone)

    async def clean_up(self) -> None:
        """Take away what the course made, after a failure too. Errors are no news then."""
        for resource, name in ((PODS, POD), (PODS, BROKEN_POD), (SECRETS, SECRET), (SECRETS, objects.PULL_SECRET)):
            with contextlib.suppress(KubeletSecretsError):
                await self.node.client.delete(resource, self.node.namespace, name)
        if self.node.namespace != "default":
            with contextlib.suppress(KubeletSecretsError):
                await self.node.client.delete(NAMESPACES, "", self.node.namespace)

    # --- what steps are made of ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """One sentence of the report; the block fails as calls to a node fail, or raises :class:`NotAsExpected`."""
        try:
            with trio.fail_after(self.step_limit_s):
                yield
        except trio.TooSlowError:
            self.steps.append(Step(what=what, held=False, detail=f"not within {self.step_limit_s:.0f} s"))
        except (KubeletSecretsError, OSError, NotAsExpected) as error:
            self.steps.append(Step(what=what, held=False, detail=str(error)))
        else:
            self.steps.append(Step(what=what, held=True))
            return
        raise CourseEnded

    async def _create(self, resource: Resource, namespace: str, body: dict[str, Any]) -> None:
        while True:
            try:
                await insist(partial(self.node.client.create, resource, namespace, body))
                return
            except AlreadyExists:
                return  # by a request before, whose answer was not heard
            except Forbidden as error:
                if "serviceaccount" not in str(error).lower():
                    raise
                await trio.sleep(_POLL_S)  # that of a new namespace comes a moment later

    async def _look_at(self, pod: str) -> Pod:
        """Raises: NotFound: it is gone."""
        return await insist(partial(self.node.client.get, PODS, self.node.namespace, pod, Pod))

    async def _patch_file(self, canary: Canary) -> None:
        content = objects.new_content(canary)
        await insist(partial(self.node.client.patch, SECRETS, self.node.namespace, SECRET, content))

    async def _wait_ready(self) -> Pod:
        while True:
            pod = await self._look_at(POD)
            statuses = pod.status.container_statuses
            if statuses and all(status.ready for status in statuses):
                return pod
            await trio.sleep(_POLL_S)

    async def _is_waiting(self) -> bool:
        pod = await self._look_at(BROKEN_POD)
        waiting = [status.state.waiting for status in pod.status.container_statuses]
        return any(each is not None and each.reason == "CreateContainerConfigError" for each in waiting)

    async def _is_gone(self) -> bool:
        for pod in (POD, BROKEN_POD):
            with contextlib.suppress(NotFound):
                await self._look_at(pod)
                return False
        return not (self.node.root_dir / "pods" / self._pod_uid).exists()

    async def _until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        while not await holds():  # noqa: ASYNC110  # looked at as a user would, once in a while
            await trio.sleep(_POLL_S)

    # --- inside the container -----------------------------------------------------------------------------------------

    async def container(self) -> ContainerSummary:
        """What the agent says of the container, its host pid for one."""
        summary = await self._status()
        return next(
            container
            for pod in summary.pods
            if (pod.namespace, pod.name) == (self.node.namespace, POD)
            for container in pod.containers
            if container.name == "app"  # not the init container
        )

    async def _output(self, script: str) -> bytes:
        command = [
            self.node.runtime,
            "--root",
            str(self.node.root_dir / "run" / "runc"),
            "exec",
            (await self.container()).container_id,
        ]
        done = await trio.run_process(
            [*command, "sh", "-c", script], capture_stdout=True, capture_stderr=True, check=False
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise NotAsExpected(f"the container could not read it (exit status {done.returncode}): {''.join(said)}")
        return bytes(done.stdout)

    async def _expect(self, script: str, value: bytes) -> None:
        seen = await self._output(script)
        if seen != value:
            raise NotAsExpected(f"the container sees {len(seen)} bytes that are not the value")

    async def _expect_soon(self, script: str, value: bytes) -> None:
        async def sees() -> bool:
            return await self._output(script) == value

        await self._until(sees)

    # --- the node's processes -----------------------------------------------------------------------------------------

    def writer_pid(self) -> int:
        """Raises: ProcessLookupError: there is none just now."""
        for pid in children(self.node.keeper_pid):
            if "kubelet_secrets.fusefs.writer" in command_line(pid):
                return pid
        raise ProcessLookupError("the node has no writer")

    async def _wait_replaced(self, agent: int, writer: int) -> None:
        while True:
            try:
                status = await self._status()
                if status.agent_pid != agent and status.pods and self.writer_pid() != writer:
                    return
            except (HostError, ProcessLookupError):
                pass  # just being started again
            await trio.sleep(_POLL_S)

    async def _status(self) -> NodeSummary:
        return await ask_status(self.node.socket)

    def _ask_all(self, method: str, kind: type[T], **params: Any) -> list[T]:
        return list(ask(str(self.node.socket), method, kind, **params))


async def ask_status(socket: Path) -> NodeSummary:
    """What the agent at *socket* says of its node. Raises: HostError: none is there."""
    return await trio.to_thread.run_sync(partial(ask_one, str(socket), "status", NodeSummary))

"""A value on its way through everything, and the search for it wherever it must not be.

It must be in the API server's memory, on memory filesystems, and in the containers it is meant for. It must not be in a log, on
a command line, in the environment of any process but the containers', in an event, a status or an answer that did not ask for
values, or in a file on a disk.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubelet_secrets.api.core import Event
from kubelet_secrets.api.meta import EVENTS
from kubelet_secrets.errors import Invalid
from kubelet_secrets.leakscan import scan, spellings
from tests.cli.command import run_cli
from tests.e2e.stacks import (
    Cluster,
    Stack,
    container,
    mount,
    open_cluster,
    scrub,
    secret_env,
    secret_volume,
    waiting,
)

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]


class Canary:
    """Values that exist nowhere else on this machine, and their spellings."""

    def __init__(self) -> None:
        self.values = [f"canary-{secrets.token_urlsafe(18)}/{number}" for number in range(5)]
        self.forms = [form for value in self.values for form in spellings(value.encode()).values()]

    def found_in(self, data: bytes | str) -> bool:
        raw = data.encode() if isinstance(data, str) else data
        return any(form in raw for form in self.forms)


class Watcher:
    """Reads the command line and the environment of every process that is started meanwhile, again and again, in a thread."""

    def __init__(self, canary: Canary, node_name: str) -> None:
        self.findings: set[str] = set()
        self.rounds = 0
        self._canary, self._node_name = canary, node_name
        self._stopped = threading.Event()
        self._before = set(os.listdir("/proc"))

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(0.005):
            self.rounds += 1
            for name in set(os.listdir("/proc")) - self._before:
                self._look_at(Path("/proc", name))

    def _look_at(self, process: Path) -> None:
        try:
            command = (process / "cmdline").read_bytes()
            cgroup = (process / "cgroup").read_text()
            environ = (process / "environ").read_bytes()
        except OSError:
            return  # it has just ended
        if self._canary.found_in(command):
            self.findings.add(f"command line of {command[:60]!r}")
        is_container = f"/{self._node_name}" in cgroup and "/pod" in cgroup
        if self._canary.found_in(environ) and not is_container:
            self.findings.add(f"environment of {command[:60]!r}")


@pytest.fixture
def stack(image_dir: Path) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="ks-e2e-") as directory:
        stack = Stack(Path(directory), image_dir)
        yield stack
        scrub(stack.directory, stack.node_name)


async def test_canary(stack: Stack, image_dir: Path) -> None:
    canary = Canary()
    began = time.time() - 1
    stack.start()
    try:
        watcher = Watcher(canary, stack.node_name)
        with watcher.running():
            async with open_cluster(stack) as cluster:
                await travel(cluster, canary.values)
                answers = [json.dumps(await cluster.events(name)) for name in PODS]
                answers += [str(await cluster.pod(name)) + repr(await cluster.pod(name)) for name in PODS]
                answers += [each.message for each in await cluster.client.list(EVENTS, "default", Event)]
                answers += [asked(stack, *command) for command in COMMANDS]
        assert watcher.findings == set()
        assert watcher.rounds > 20
        assert [answer for answer in answers if canary.found_in(answer)] == []
        running = on_disk(stack, image_dir, canary, began)
    finally:
        log = stack.command
        stack.stop()
    assert running == []
    assert not canary.found_in(log.output)
    lines = [line for line in log.stderr.splitlines() if canary.found_in(line)]
    assert lines == []
    assert "received secret" in log.stderr or "secret" in log.stderr, "it did log, and of Secrets"
    assert on_disk(stack, image_dir, canary, began) == []


PODS = ("every-way", "refused", "pulls")
COMMANDS = (
    ("env", "every-way"),
    ("env", "every-way", "-o", "yaml"),
    ("tree", "every-way", "-o", "wide"),
    ("why", "every-way", "--env", "DIRECT"),
    ("why", "every-way", "--path", "/v/key"),
    ("audit",),
    ("audit", "-o", "json"),
    ("status", "-o", "json"),
)


async def travel(cluster: Cluster, values: Sequence[str]) -> None:
    """Bring the values to containers in every way there is, and let go wrong what can go wrong on the way."""
    first, second, third, fourth, fifth = values
    await cluster.put_secret("canary", {"key": first, "other": second})
    auth = {"auths": {"127.0.0.1:1": {"username": "u", "password": third}}}
    await cluster.put_secret(
        "canary-pull", {".dockerconfigjson": json.dumps(auth)}, type="kubernetes.io/dockerconfigjson"
    )
    projected = {"name": "p", "projected": {"sources": [{"secret": {"name": "canary"}}]}}
    await cluster.run_pod(
        "every-way",
        container(
            env=[secret_env("DIRECT", "canary", "key"), {"name": "EXPANDED", "value": "a-$(DIRECT)-b"}],
            envFrom=[{"prefix": "P_", "secretRef": {"name": "canary"}}],
            volumeMounts=[mount("v", "/v"), mount("p", "/p"), mount("v", "/one", subPath="key")],
        ),
        initContainers=[container("init", "cat /v/key", volumeMounts=[mount("v", "/v")])],
        volumes=[secret_volume("v", "canary"), projected],
    )
    script = "cat /v/key /p/key /one; tr '\\0' '\\n' </proc/1/environ | grep -c canary"
    assert await cluster.exec("every-way", script) == first * 3 + "4\n"
    # Objects that are refused, a key that is missing, a pull that fails with the password.
    with pytest.raises(Invalid):
        await cluster.put_secret("canary-bad", {"a b": fourth})
    await cluster.create_pod("refused", container(env=[secret_env("X", "canary", "nope")]))
    await cluster.wait_waiting("refused", "CreateContainerConfigError")
    await cluster.create_pod(
        "pulls",
        {**container(), "image": "127.0.0.1:1/private:1"},
        imagePullSecrets=[{"name": "canary-pull"}],
    )
    await cluster.wait("pulls", lambda pod: waiting(pod)[0] in ("ErrImagePull", "ImagePullBackOff"))
    # A rotation, an end, a restart; an agent that dies with all of it in its memory.
    await cluster.put_secret("canary", {"key": fifth})
    await cluster.exec("every-way", "until grep -q /4 /v/key; do :; done")
    await cluster.restart("every-way")
    before = cluster.stack.status().agent_pid
    os.kill(before, signal.SIGSEGV)
    await cluster.stack.wait_agent(other_than=before)
    await cluster.wait_ready("every-way")
    assert await cluster.exec("every-way", "cat /v/key") == fifth


def asked(stack: Stack, *command: str) -> str:
    done = stack.cli(*command)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout + done.stderr


def on_disk(stack: Stack, image_dir: Path, canary: Canary, began: float) -> list[str]:
    roots = [stack.directory, image_dir, *map(Path, ("/var", "/tmp", "/etc", "/root", "/home", "/run", "/core"))]
    result = scan(roots, [value.encode() for value in canary.values], changed_since=began)
    assert result.files > 0
    return [f"{finding.form} in {finding.path}" for finding in result.findings]


def test_offline_commands_keep_values_to_themselves(tmp_path: Path) -> None:
    canary = Canary()
    manifest = tmp_path / "secret.yaml"
    for broken in ("", "  bad key!: x\n", "  - [\n"):
        text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData:\n" + f"  key: {canary.values[0]}\n"
        manifest.write_text(text + broken)
        done = run_cli("-vv", "explain", "-f", manifest)
        assert not canary.found_in(done.stdout + done.stderr), broken

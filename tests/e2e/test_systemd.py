"""The node as a service of a real systemd, with the unit that this program prints: what the unit counts on is kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from kubelet_secrets.api.core import Node as NodeObject
from kubelet_secrets.api.meta import NODES
from kubelet_secrets.fusefs.kept import NAMES
from tests.cli.command import REPOSITORY, environment, run_cli
from tests.e2e.stacks import (
    START_TIMEOUT_S,
    WAIT_TIMEOUT_S,
    Cluster,
    Node,
    Pair,
    container,
    eventually,
    find_leftovers,
    in_thread,
    is_running,
    mount,
    secret_volume,
)

SYSTEMD = Path("/usr/lib/systemd/systemd")
UNIT = "node.service"

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.runtime,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not SYSTEMD.exists(), reason="systemd is not installed: scripts/setup --tests"),
]

# In a mount namespace of its own, where the machine looks booted with systemd, and without what the nodes of other tests have
# mounted: systemd makes a unit of each mount. With a cgroup of its own.
MANAGER = f"""
import contextlib, os, sys
from pathlib import Path
from kubelet_secrets import linux
from kubelet_secrets.fusefs import mounts
directory, name = sys.argv[1:]
needed = ("/dev/", "/proc/", "/sys/", *(f"{{path}}/" for path in (directory, sys.executable, "{SYSTEMD}", "/run")))
for each in mounts.read_mount_table():  # parents first: what is below goes with them
    target = f"{{each.target}}/".replace("//", "/")
    if not any(target.startswith(path) or path.startswith(target) for path in needed):
        with contextlib.suppress(OSError):
            mounts.umount_lazy(Path(each.target))
for hierarchy in map(Path, ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")):
    if (hierarchy / "cgroup.procs").exists():
        (hierarchy / name).mkdir()
        (hierarchy / name / "cgroup.procs").write_text(str(os.getpid()))
tracked = [line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":name=systemd:" in line or "0::" in line]
assert tracked and all(line.endswith(f":/{{name}}") for line in tracked), "it would move every process of the machine"
Path("/run/systemd").mkdir(exist_ok=True)
linux.mount("tmpfs", "/run/systemd", "tmpfs", 0)
Path("/run/systemd/system").mkdir()
os.execv("{SYSTEMD}", ["systemd", "--user", "--unit=basic.target", "--log-target=console"])
"""


@dataclass
class Service(Pair):
    """The agent as a service of a user manager of root's: all of systemd that is not about the machine.

    The manager has a mount namespace of its own, and the service comes back to ours. The program lies where ``current`` leads
    to, as releases do that are changed over by a link.
    """

    def start(self) -> None:
        self.install("one")
        super().start()

    def install(self, version: str) -> None:
        """Put a copy of this program there that says so."""
        releases = self.directory / "releases"
        shutil.copytree(REPOSITORY / "kubelet_secrets", releases / version / "kubelet_secrets")
        init = releases / version / "kubelet_secrets" / "__init__.py"
        init.write_text(f"{init.read_text()}\n__version__ = {version!r}\n")
        (releases / "next").symlink_to(version)
        (releases / "next").rename(releases / "current")

    def start_agent(self) -> None:
        units, runtime_dir = self.directory / "units", self.directory / "xdg"
        units.mkdir()
        runtime_dir.mkdir(mode=0o700)
        credentials = str(self.directory / "node.kubeconfig")
        options = ["--kubeconfig", credentials, "--kubelet-port", "0", *self.node_options]
        unit = run_cli("systemd-unit", *options).stdout
        assert "ExecStart=/" in unit
        back = f"{shutil.which('nsenter')} --mount=/proc/{os.getpid()}/ns/mnt --"
        unit = unit.replace("ExecStart=", f"ExecStart={back} ")
        (units / UNIT).write_text(unit)
        self.write_drop_in(StandardError=f"append:{self.directory}/agent.log")
        self.environ = environment(
            PYTHONPATH=str(self.directory / "releases" / "current"),
            XDG_RUNTIME_DIR=str(runtime_dir),
            SYSTEMD_UNIT_PATH=f"{units}:",
        )
        with (self.directory / "manager.log").open("wb") as log:
            self.manager = subprocess.Popen(
                ["unshare", "--mount", sys.executable, "-c", MANAGER, str(self.directory), f"manager-{self.node_name}"],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not (runtime_dir / "systemd" / "private").exists():
            assert self.manager.poll() is None, (self.directory / "manager.log").read_text()
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        self.systemctl("start", UNIT)

    def write_drop_in(self, **settings: object) -> None:
        directory = self.directory / "units" / f"{UNIT}.d"
        directory.mkdir(exist_ok=True)
        lines = [f"{key}={value}\n" for key, value in settings.items()]
        (directory / f"{len(list(directory.iterdir()))}.conf").write_text("[Service]\n" + "".join(lines))

    def systemctl(self, *words: str) -> str:
        command = ["systemctl", "--user", *words]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=START_TIMEOUT_S)
        assert done.returncode == 0, f"{words}: {done.stderr}{(self.directory / 'agent.log').read_text()[-3000:]}"
        return done.stdout.strip()

    def show(self, name: str) -> str:
        return self.systemctl("show", "--property", name, "--value", UNIT)

    @property
    def main_pid(self) -> int:
        return int(self.show("MainPID"))

    def stop(self) -> None:
        try:
            self.systemctl("stop", UNIT)
            assert (self.show("Result"), self.show("NFileDescriptorStore")) == ("success", "0")
        finally:
            self.manager.terminate()
            self.manager.wait(START_TIMEOUT_S)
            for hierarchy in Path("/sys/fs/cgroup").glob(f"**/manager-{self.node_name}"):
                for directory, _, _ in os.walk(hierarchy, topdown=False):
                    os.rmdir(directory)
        assert self.server.stop() == 0, self.server.stderr
        assert find_leftovers(self.directory, self.node_name) == []


@pytest.fixture(scope="module")
def stack(make_stack: Callable[..., Node]) -> Node:
    return make_stack(kind=Service)


async def run_reader(cluster: Cluster, name: str) -> int:
    """A pod that mounts a Secret; its pid."""
    await cluster.put_secret(name, {"key": "before"})
    await cluster.run_pod(name, container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", name)])
    return await cluster.pid(name)


async def expect_news(cluster: Cluster, name: str, pid: int) -> None:
    """What changes now gets to the container, which is the process that it was."""
    await cluster.put_secret(name, {"key": "after"})
    await cluster.exec(name, "until grep -q after /v/key; do sleep 0.05; done")
    assert await cluster.pid(name) == pid
    assert (await cluster.pod(name)).status.container_statuses[0].restart_count == 0


async def test_reload_changes_over_to_a_newer_checkout(cluster: Cluster, stack: Service) -> None:
    pid = await run_reader(cluster, "newer")
    script = "while [ ! -e /tmp/go ]; do sleep 0.05; done; echo last words; exit 23"
    await cluster.run_pod("ends", container(script=script), restartPolicy="Never")

    async def version() -> str:
        node = await cluster.client.get(NODES, "", stack.node_name, NodeObject)
        return node.status.node_info.kubelet_version.partition("+")[2]

    assert await version() == "kubelet-secrets.one"
    stack.install("two")
    keeper = stack.main_pid
    await in_thread(stack.systemctl, "reload", UNIT)
    with trio.fail_after(WAIT_TIMEOUT_S):
        while await version() != "kubelet-secrets.two":  # noqa: ASYNC110  # of a Node
            await trio.sleep(0.05)
    await expect_news(cluster, "newer", pid)
    assert stack.main_pid == keeper, "the same process, with newer code"
    await cluster.exec("ends", "touch /tmp/go")
    ended = await cluster.wait_phase("ends", "Failed")
    state = ended.status.container_statuses[0].state.terminated
    assert state is not None
    assert state.exit_code == 23
    assert "last words" in await cluster.logs("ends")


async def test_systemd_starts_a_keeper_that_carries_on_from_a_killed_one(cluster: Cluster, stack: Service) -> None:
    assert stack.show("NFileDescriptorStore") == str(len(NAMES))
    pid, keeper = await run_reader(cluster, "killed"), stack.main_pid
    # For the test after this one. The next keeper is told; on a busy machine it may be replaced for it.
    stack.write_drop_in(WatchdogSec="3s", TimeoutAbortSec="1s")
    await in_thread(stack.systemctl, "daemon-reload")
    os.kill(keeper, signal.SIGKILL)
    await expect_news(cluster, "killed", pid)
    assert stack.main_pid != keeper
    assert stack.show("NFileDescriptorStore") == str(len(NAMES))
    log = (stack.directory / "agent.log").read_text()
    assert "carrying on with the mounts and containers of the keeper before" in log


async def test_systemd_replaces_a_keeper_that_hangs(cluster: Cluster, stack: Service) -> None:
    pid, keeper = await run_reader(cluster, "hangs"), stack.main_pid
    os.kill(keeper, signal.SIGSTOP)
    await eventually(lambda: not is_running(keeper))
    await expect_news(cluster, "hangs", pid)
    assert stack.main_pid not in (0, keeper)

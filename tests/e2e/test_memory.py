"""Memory only: what each process of a running node does about swap and core dumps, asked of the kernel."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path

import pytest
import trio

from kubelet_secrets.caretaker import COMMAND_NAME
from tests.cli.command import COMMAND, environment
from tests.e2e.stacks import WAIT, Cluster, Stack, container, mount, secret_env, secret_volume

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]


def children(pid: int) -> dict[str, int]:
    """Child processes by the module or command that they run."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(process.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            words = process.joinpath("cmdline").read_bytes().decode(errors="replace").split("\0")
            command_name = process.joinpath("comm").read_text().strip()
        except OSError:
            continue
        if parent == pid and "-m" in words:
            module = words[words.index("-m") + 1]
            name = module if module != COMMAND[2] else next(w for w in words if w in ("apiserver", "agent"))
            name = "caretaker" if command_name == COMMAND_NAME else name
            found[name if name not in found else f"{name} (spare)"] = int(process.name)
    return found


def core_limits(pid: int) -> tuple[str, str]:
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max core file size"):
            soft, hard = line.split()[4:6]
            return soft, hard
    raise AssertionError(f"no core limit of {pid}")


def unlocked(pid: int) -> list[str]:
    """Private writable memory of a process that the kernel may swap out, by its line in smaps."""
    found, head = [], ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            head = line
        elif first == "VmFlags:" and head.split()[1] == "rw-p" and "lo" not in rest:
            found.append(head)
    return found


@pytest.fixture(scope="module")
def hard_limit() -> str:
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    return "unlimited" if hard == resource.RLIM_INFINITY else str(hard)


async def our_processes(stack: Stack) -> dict[str, int]:
    up = stack.command.process.pid
    with trio.fail_after(60):
        while True:  # the spare agent comes a moment after the node is ready, and hardens itself first thing
            started = children(up)
            found = {"up": up, **started, **children(started["agent"])}
            if len(found) == 7:
                return found
            await trio.sleep(0.05)


async def wait_locked(pid: int) -> None:
    # The spare agent yields to everybody, and a busy machine may let it import its modules for a minute.
    os.setpriority(os.PRIO_PROCESS, pid, 0)
    with trio.fail_after(60):
        while "VmLck:\t       0 kB" in Path(f"/proc/{pid}/status").read_text():  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_every_process_that_holds_values_is_locked_in_memory(cluster: Cluster, hard_limit: str) -> None:
    assert isinstance(cluster.stack, Stack)
    processes = await our_processes(cluster.stack)
    # A fork of the keeper that never held a value. Locks do not survive a fork; what forbids a core does.
    assert core_limits(processes.pop("caretaker"))[0] in ("0", "1")
    expected = {"up", "apiserver", "agent", "kubelet_secrets.agent_process", "kubelet_secrets.fusefs.writer"}
    assert set(processes) == expected | {"kubelet_secrets.agent_process (spare)"}
    for name, pid in processes.items():
        await wait_locked(pid)
        assert unlocked(pid) == [], name
        assert core_limits(pid)[0] in ("0", "1"), name
        assert core_limits(pid)[1] == hard_limit, f"{name}: the hard limit belongs to the containers"
        overwrites = b"PYTHONMALLOC=malloc" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert overwrites is name.startswith(("kubelet_secrets.agent_process", "kubelet_secrets.fusefs.writer")), name


@pytest.mark.parametrize("command", [["env", "--show-values", "--watch"], ["logs", "--follow"]], ids=["env", "logs"])
async def test_a_command_that_prints_values_is_locked_in_memory(cluster: Cluster, command: list[str]) -> None:
    await cluster.put_secret("printed", {"key": "a-value-on-a-screen"})
    pod, variable = f"printed-by-{command[0]}", [secret_env("PRINTED", "printed", "key")]
    await cluster.run_pod(pod, container(script=f"echo $PRINTED; {WAIT}", env=variable))
    command = [*COMMAND, command[0], pod, *command[1:], "--socket", str(cluster.stack.socket)]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, env=environment())
    assert process.stdout is not None
    async with process.stdout:
        try:
            shown = b""
            with trio.fail_after(60):
                while b"a-value-on-a-screen" not in shown:
                    shown += await process.stdout.receive_some()
            assert unlocked(process.pid) == []
            assert core_limits(process.pid)[0] in ("0", "1")
        finally:
            process.kill()
            await process.wait()


async def test_conmon_dumps_no_core_and_its_container_may(cluster: Cluster, hard_limit: str) -> None:
    await cluster.put_secret("cored", {"key": "v"})
    await cluster.run_pod("cored", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "cored")])
    (bundle,) = [
        record.parent
        for record in (cluster.stack.root_dir / "run/containers").glob("*/record.json")
        if json.loads(record.read_text())["pod_name"] == "cored"
    ]
    conmon = int((bundle / "conmon.pid").read_text())
    assert core_limits(conmon) in (("1", "1"), ("0", "0"))
    assert int(Path(f"/proc/{conmon}/coredump_filter").read_text(), 16) == 0
    for line in Path(f"/proc/{conmon}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            assert path.endswith("/monitor")
            assert Path("/sys/fs/cgroup/memory", path[1:], "memory.swappiness").read_text() == "0\n"
    # As containerd's and CRI-O's units give it to every container: LimitCORE=infinity.
    inside = int((bundle / "pid").read_text())
    assert core_limits(inside) == (hard_limit, hard_limit)
    own_filter = Path("/proc/self/coredump_filter").read_text()
    assert Path(f"/proc/{inside}/coredump_filter").read_text() == own_filter
    assert await cluster.exec("cored", "ulimit -c; ulimit -Hc") == f"{hard_limit}\n" * 2

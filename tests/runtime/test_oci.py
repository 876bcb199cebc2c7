"""Containers for real: runc, conmon, overlay and cgroups of this machine."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

from kubelet_secrets.errors import ContainerRunError, HostError
from kubelet_secrets.runtime.attach import STDERR, STDOUT
from kubelet_secrets.runtime.bundle import Bundle
from kubelet_secrets.runtime.conmon import StartFailed, open_conmon
from kubelet_secrets.runtime.oci import ContainerState, OciRuntime
from kubelet_secrets.runtime.settings import Mount, Resources, SeccompMode, UserIds
from kubelet_secrets.runtime.tools import find_tools
from tests.runtime.conftest import Node

pytestmark = pytest.mark.runtime


async def test_output_and_exit_code_are_collected(node: Node) -> None:
    handle, settings = await node.run("sh", "-c", "echo out; echo err >&2; exit 3")
    with trio.fail_after(60):
        status = await node.runtime.wait_exit(handle.id)
    assert (status.code, status.reason, status.oom, status.known) == (3, "Error", False, True)
    lines = [line.split(" ", 1)[1] for line in node.log_path(settings).read_text().splitlines()]
    assert sorted(lines) == ["stderr F err", "stdout F out"]
    assert node.runtime.state(handle.id).state is ContainerState.EXITED


async def test_crun_does_the_same_or_is_refused_at_once(node: Node, run_dir: Path) -> None:
    try:
        node.runtime = OciRuntime(run_dir, tools=find_tools("crun"), host=node.runtime._host, cgroups=node.cgroups)
    except HostError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "crun cannot run on hybrid cgroups" in refusal
        assert not node.cgroups.layout.is_v2
        return
    assert await node.output("sh", "-c", "echo out; exit 3") == (3, "out")
    with pytest.raises(StartFailed, match="nope"):
        await node.create(node.settings("nope"))


async def test_created_container_waits_for_start(node: Node) -> None:
    settings = node.settings("true")
    handle = await node.create(settings)
    assert handle.state is ContainerState.CREATED
    assert handle.started_at is None
    assert handle.pid is not None
    assert settings.cgroup_path.encode() in Path(f"/proc/{handle.pid}/cgroup").read_bytes()
    await node.runtime.start(handle.id)
    with trio.fail_after(60):
        assert (await node.runtime.wait_exit(handle.id)).reason == "Completed"


async def test_environment_reaches_the_process_unchanged(node: Node) -> None:
    env = {"PATH": "/bin", "A": "x y\nz", "EMPTY": "", "1-b.c": "näme ✓", "WITH": "a=b=c"}
    code, text = await node.output("env", "-0", env=env)
    got = dict(entry.split("=", 1) for entry in text.split("\0") if entry)
    assert code == 0
    assert {name: got.get(name) for name in ("A", "EMPTY", "1-b.c", "WITH")} == {
        "A": "x y\nz",
        "EMPTY": "",
        "1-b.c": "näme ✓",
        "WITH": "a=b=c",
    }


async def test_value_with_a_nul_byte_is_refused_by_name(node: Node) -> None:
    with pytest.raises(ContainerRunError) as caught:
        await node.create(node.settings("true", env={"TOKEN": "a\0b"}))
    assert str(caught.value) == 'environment variable "TOKEN" contains a NUL byte'
    assert not isinstance(caught.value, StartFailed)
    assert node.runtime.list() == ()


async def test_environment_is_only_on_the_run_tmpfs_and_private(node: Node) -> None:
    handle, _ = await node.run("sleep", "60", env={"PATH": "/bin", "CANARY": "s3cr3t-canary"})
    holders = []
    for directory, _, files in os.walk(node.run_dir):
        for name in files:
            path = Path(directory, name)
            if path.is_file() and "rootfs" not in path.parts and b"s3cr3t-canary" in path.read_bytes():
                holders.append(path)
    assert [path.stat().st_mode & 0o077 for path in holders if path.name == "config.json"] == [0]
    assert all(Path(path).stat().st_dev == node.run_dir.stat().st_dev for path in holders)
    for pid in _conmon_pids(node, handle.id):
        assert b"s3cr3t-canary" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert b"s3cr3t-canary" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert "s3cr3t-canary" not in repr(node.settings("true", env={"CANARY": "s3cr3t-canary"}))


async def test_read_only_mount_refuses_writes(node: Node, tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    source.joinpath("key").write_text("value")
    mounts = (Mount(container_path="/etc/data", host_path=source, read_only=True),)
    code, text = await node.output("sh", "-c", "cat /etc/data/key; echo >/etc/data/key", mounts=mounts)
    assert code != 0
    assert text.startswith("value")
    assert os.strerror(errno.EROFS) in text


async def test_mounts_below_other_mounts_are_visible_in_any_order(node: Node, tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    outer.joinpath("sub").mkdir(parents=True)
    inner.mkdir()
    inner.joinpath("key").write_text("inner")
    mounts = (
        Mount(container_path="/data/sub", host_path=inner),
        Mount(container_path="/data", host_path=outer, read_only=True),
    )
    assert await node.output("cat", "/data/sub/key", mounts=mounts) == (0, "inner")


async def test_recursive_read_only_reaches_submounts(node: Node, run_dir: Path) -> None:
    from kubelet_secrets.linux import MS_BIND, mount, unmount

    outer, inner = run_dir / "outer", run_dir / "inner"
    outer.joinpath("sub").mkdir(parents=True)
    inner.mkdir()
    mount(str(inner), outer / "sub", None, MS_BIND)
    try:
        plain = (Mount(container_path="/data", host_path=outer, read_only=True),)
        strict = (Mount(container_path="/data", host_path=outer, read_only=True, recursive_read_only=True),)
        assert (await node.output("touch", "/data/sub/f", mounts=plain))[0] == 0
        assert (await node.output("touch", "/data/sub/f", mounts=strict))[0] != 0
    finally:
        unmount(outer / "sub")


async def test_writes_stay_in_the_container(node: Node) -> None:
    assert (await node.output("sh", "-c", "echo x > /bin/new && rm /etc/passwd"))[0] == 0
    assert not node.busybox.rootfs.joinpath("bin/new").exists()
    assert node.busybox.rootfs.joinpath("etc/passwd").exists()
    code, text = await node.output("sh", "-c", "echo x > /new", read_only_rootfs=True)
    assert code != 0
    assert "Read-only file system" in text


async def test_user_capabilities_and_no_new_privileges(node: Node) -> None:
    script = "id; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status"
    _, text = await node.output(
        "sh",
        "-c",
        script,
        user=UserIds(uid=1000, gid=2000, additional_gids=(3000,)),
        capabilities_drop=("ALL",),
        capabilities_add=("NET_BIND_SERVICE",),
        allow_privilege_escalation=False,
    )
    assert text.split("\n")[0] == "uid=1000 gid=2000 groups=2000,3000" or "3000" in text.split("\n")[0]
    assert "CapEff:\t0000000000000000" in text
    assert "CapBnd:\t0000000000000400" in text
    assert "NoNewPrivs:\t1" in text


async def test_privileged_container_is_unmasked(node: Node) -> None:
    _, text = await node.output(
        "sh", "-c", "grep CapEff /proc/self/status; touch /proc/sys/kernel/domainname && echo ok", privileged=True
    )
    assert "ok" in text
    assert "CapEff:\t00000000a80425fb" not in text


async def test_runtime_default_seccomp_denies_unshare_but_runs_programs(node: Node) -> None:
    _, text = await node.output(
        "sh",
        "-c",
        "unshare -m true; grep '^Seccomp:' /proc/self/status; (echo sub)",
        seccomp=SeccompMode.RUNTIME_DEFAULT,
    )
    assert "Operation not permitted" in text
    assert "Seccomp:\t2" in text
    assert "sub" in text


async def test_command_not_found_leaves_an_exited_container_without_its_environment(node: Node) -> None:
    """As CRI runtimes keep it: with restartPolicy Never the pod has to fail, also when the agent restarts now."""
    with pytest.raises(StartFailed, match=r'exec: "nope": executable file not found in \$PATH'):
        await node.create(node.settings("nope", env={"CANARY": "s3cr3t-canary"}))
    (handle,) = await node.runtime.adopt()
    assert handle.state is ContainerState.EXITED
    assert handle.exit is not None
    assert (handle.exit.code, handle.exit.reason, handle.exit.signal) == (128, "StartError", 0)
    assert 'exec: "nope"' in handle.exit.failure
    assert await node.runtime.wait_exit(handle.id) == handle.exit
    left = [path for path in node.run_dir.rglob("*") if path.is_file() and b"s3cr3t-canary" in path.read_bytes()]
    assert left == []


async def test_missing_command_is_a_create_error(node: Node) -> None:
    with pytest.raises(ContainerRunError, match="no command specified") as caught:
        await node.create(node.settings())
    assert not isinstance(caught.value, StartFailed)


async def test_stop_lets_the_process_end_within_grace(node: Node) -> None:
    handle, settings = await node.run("sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done")
    await _wait_for_line(node.log_path(settings), "up")
    with trio.fail_after(60):
        assert (await node.runtime.stop(handle.id, grace_s=20)).code == 7


async def test_stop_kills_after_grace(node: Node) -> None:
    """Pid 1 without a handler ignores SIGTERM."""
    handle, _ = await node.run("sleep", "600")
    with trio.fail_after(60):
        status = await node.runtime.stop(handle.id, grace_s=0.2)
    assert (status.code, status.signal, status.reason) == (137, signal.SIGKILL, "Error")


async def test_stop_signal_of_the_image_is_used(node: Node) -> None:
    handle, settings = await node.run(
        "sh", "-c", "trap 'exit 9' USR1; echo up; while :; do sleep 0.01; done", stop_signal="SIGUSR1"
    )
    await _wait_for_line(node.log_path(settings), "up")
    with trio.fail_after(60):
        assert (await node.runtime.stop(handle.id, grace_s=20)).code == 9


async def test_out_of_memory_is_told(node: Node) -> None:
    handle, _ = await node.run(
        "sh", "-c", "tail /dev/zero", resources=Resources(memory_limit_bytes=16 << 20, pids_limit=64)
    )
    with trio.fail_after(60):
        status = await node.runtime.wait_exit(handle.id)
    assert (status.code, status.oom, status.reason) == (137, True, "OOMKilled")


async def test_limits_are_applied(node: Node) -> None:
    resources = Resources(
        memory_limit_bytes=64 << 20, cpu_shares=512, cpu_quota_us=50_000, cpu_period_us=100_000, pids_limit=32
    )
    handle, settings = await node.run("sleep", "600", resources=resources)
    if node.cgroups.layout.is_v2:
        files = {"memory.max": str(64 << 20), "cpu.max": "50000 100000", "pids.max": "32"}
        roots = dict.fromkeys(files, node.cgroups.layout.unified)
    else:
        files = {
            "memory.limit_in_bytes": str(64 << 20),
            "cpu.shares": "512",
            "cpu.cfs_quota_us": "50000",
            "pids.max": "32",
            "memory.swappiness": "0",
        }
        roots = {name: node.cgroups.layout.controllers[name.partition(".")[0]] for name in files}
    found = {name: Path(f"{roots[name]}{settings.cgroup_path}", name).read_text().strip() for name in files}
    assert found == files
    assert handle.pid in node.cgroups.processes(settings.cgroup_path)


async def test_termination_message_is_read_back(node: Node) -> None:
    handle, _ = await node.run("sh", "-c", "echo because > /dev/termination-log; exit 1", user=UserIds(uid=1000))
    with trio.fail_after(60):
        await node.runtime.wait_exit(handle.id)
    assert node.runtime.termination_message(handle.id) == b"because\n"


async def test_exec_runs_inside_with_the_containers_environment(node: Node) -> None:
    handle, _ = await node.run("sleep", "600", env={"PATH": "/bin", "TOKEN": "abc"}, user=UserIds(uid=1000))
    with trio.fail_after(60):
        result = await node.runtime.exec(
            handle.id, ["sh", "-c", "cat; echo $TOKEN; id -u; echo e >&2; exit 4"], stdin=b"in\n"
        )
    assert (result.code, result.stdout, result.stderr) == (4, b"in\nabc\n1000\n", b"e\n")


async def test_exec_of_a_missing_command_says_so(node: Node) -> None:
    handle, _ = await node.run("sleep", "600")
    with trio.fail_after(60):
        with pytest.raises(ContainerRunError, match='exec: "nope": executable file not found'):
            await node.runtime.exec(handle.id, ["nope"])


async def test_cancelled_exec_leaves_no_process(node: Node) -> None:
    handle, settings = await node.run("sleep", "600")
    with trio.move_on_after(0.3):
        await node.runtime.exec(handle.id, ["sleep", "500"])
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in node.cgroups.processes(settings.cgroup_path)]
    assert commands == [b"sleep\x00600\x00"]


async def test_exec_with_a_terminal(node: Node) -> None:
    handle, _ = await node.run("sleep", "600")
    with trio.fail_after(60):
        async with await node.runtime.open_exec(
            handle.id, ["sh", "-c", "tty; stty size; read x; echo got $x"], tty=True, stdin=True
        ) as session:
            assert session.stderr is None
            assert session.stdin is not None
            text = b""
            await session.stdin.send_all(b"word\n")
            try:
                async for chunk in session.stdout:
                    text += chunk
            except trio.BrokenResourceError:
                pass  # EIO: how a terminal says that the other side is gone
            assert await session.wait() == 0
    assert b"/dev/pts/" in text
    assert b"got word" in text


@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.01, 0.02, 0.03, 0.04, 0.05])
async def test_cancelled_create_leaves_nothing(node: Node, delay_s: float) -> None:
    """Wherever it is hit: before the overlay, while conmon starts, while the runtime creates."""
    settings = node.settings("sleep", "600")
    with trio.move_on_after(delay_s) as scope:
        await node.create(settings)
    if not scope.cancelled_caught:
        return  # it was faster
    assert os.listdir(node.run_dir / "containers") == []
    assert os.listdir(node.run_dir / "runc") == []
    assert node.cgroups.processes(settings.cgroup_path) == ()


async def test_waiting_for_a_container_that_is_deleted_ends(node: Node) -> None:
    handle, _ = await node.run("sleep", "600")
    ends: list[str] = []

    async def wait() -> None:
        try:
            ends.append((await node.runtime.wait_exit(handle.id)).reason)
        except ContainerRunError:
            ends.append("deleted")

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await node.runtime.delete(handle.id)
    assert ends in (["Error"], ["deleted"])


async def test_delete_is_idempotent_and_forces(node: Node) -> None:
    handle, settings = await node.run("sleep", "600")
    with trio.fail_after(60):
        await node.runtime.delete(handle.id)
        await node.runtime.delete(handle.id)
    assert node.runtime.list() == ()
    assert node.cgroups.processes(settings.cgroup_path) == ()
    assert node.log_path(settings).exists()


_PARENT = """
import asyncio, sys, trio
sys.path.insert(0, {root!r})
from tests.runtime.conftest import *
from tests.runtime.conftest import Node
from kubelet_secrets.runtime.settings import Mount

async def main():
    tools = find_tools()
    cgroups = CgroupTree({instance!r}, probe_cgroups())
    run_dir, images = Path({run!r}), Path({images!r})
    node = Node(run_dir=run_dir, tools=tools, cgroups=cgroups,
        runtime=OciRuntime(run_dir, tools=tools, host=probe_host(cgroups.layout), cgroups=cgroups),
        images=ImageStore(images, tools=tools, registry=Registry(tools, auth_dir=run_dir / "auth", scratch_dir=images / "tmp")))
    handle, _ = await node.run("sh", "-c", "echo before; read line < /fifo; echo after $line; exit 5",
        mounts=(Mount(container_path="/fifo", host_path=run_dir / "fifo"),))
    print(handle.id, flush=True)
    await trio.sleep_forever()

trio.run(main)
"""


async def test_container_outlives_a_killed_agent_and_is_adopted(node: Node, image_dir: Path) -> None:
    """The agent dies by SIGKILL; the container goes on, logs, ends, and the next agent learns how."""
    os.mkfifo(node.run_dir / "fifo")
    script = _PARENT.format(
        root=str(Path(__file__).parents[2]),
        instance=node.cgroups.instance_path.rpartition("/")[2],
        run=str(node.run_dir),
        images=str(image_dir),
    )
    agent = await trio.lowlevel.open_process([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert agent.stdout is not None
    with trio.fail_after(60):
        async with agent.stdout:
            container_id = (await agent.stdout.receive_some(100)).decode().strip()
        agent.kill()
        await agent.wait()

    successor = OciRuntime(node.run_dir, tools=node.tools, host=node.runtime._host, cgroups=node.cgroups)
    with trio.fail_after(60):
        (adopted,) = await successor.adopt()
        assert (adopted.id, adopted.state) == (container_id, ContainerState.RUNNING)
        fd = os.open(node.run_dir / "fifo", os.O_WRONLY)
        os.write(fd, b"restart\n")
        os.close(fd)
        status = await successor.wait_exit(container_id)
    assert (status.code, status.known) == (5, True)
    log = Path(adopted.record.log_path).read_text()
    assert "stdout F before" in log
    assert "stdout F after restart" in log


async def test_container_being_made_is_not_taken_for_lost(node: Node) -> None:
    """Somebody lists while another task creates."""
    seen: set[ContainerState] = set()
    settings = node.settings("sleep", "600")
    async with trio.open_nursery() as nursery:

        async def look() -> None:
            while True:
                seen.update(handle.state for handle in node.runtime.list())
                await trio.lowlevel.checkpoint()

        nursery.start_soon(look)
        await node.create(settings)
        nursery.cancel_scope.cancel()
    assert seen == {ContainerState.CREATED}
    assert not node.run_dir.joinpath("containers", settings.container_id, "lost").exists()


async def test_unstarted_container_of_an_earlier_agent_is_removed(node: Node) -> None:
    handle = await node.create(node.settings("true"))
    half_made = node.run_dir / "containers" / ("f" * 64)
    half_made.mkdir()
    with trio.fail_after(60):
        assert await node.runtime.adopt() == ()
    assert not half_made.exists()
    with pytest.raises(ContainerRunError, match="not found"):
        node.runtime.state(handle.id)


async def test_status_is_unknown_when_conmon_was_killed_too(node: Node) -> None:
    handle, _ = await node.run("sleep", "600")
    fd = open_conmon(Bundle(node.run_dir / "containers" / handle.id))
    assert fd is not None
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    os.close(fd)
    node.runtime.kill(handle.id, signal.SIGKILL)
    with trio.fail_after(60):
        status = await node.runtime.wait_exit(handle.id)
    assert (status.code, status.known, status.reason) == (137, False, "ContainerStatusUnknown")
    assert node.runtime.state(handle.id).exit == status


async def test_container_that_cannot_be_looked_at_is_not_taken_for_lost(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor left, on this side or the kernel's: that says nothing about the container."""
    handle, settings = await node.run("sleep", "600")

    def exhausted(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pidfd_open", exhausted)
        with pytest.raises(OSError, match="Too many open files"):
            node.runtime.state(handle.id)
    assert node.runtime.state(handle.id).state is ContainerState.RUNNING
    assert not node.run_dir.joinpath("containers", settings.container_id, "lost").exists()


def _conmon_pids(node: Node, container_id: str) -> list[int]:
    return [int(node.run_dir.joinpath("containers", container_id, "conmon.pid").read_text())]


async def _wait_for_line(log: Path, text: str) -> None:
    with trio.fail_after(60):
        while text not in (log.read_text() if log.exists() else ""):  # noqa: ASYNC110 - another process writes it
            await trio.sleep(0.01)


async def test_session_with_a_containers_own_streams(node: Node) -> None:
    """``stdinOnce``: the end of the session's input is that of the container's; else it reads on from the next session."""
    script = "echo err >&2; cat; echo end"
    handle, _ = await node.run("sh", "-c", f"read -r line; echo $line; {script}", stdin=True, stdin_once=True)
    with trio.fail_after(60):
        async with node.runtime.attach(handle.id) as attachment:
            await attachment.send_all(b"one\ntwo\n")
            await attachment.aclose()
            seen: dict[int, bytes] = {STDOUT: b"", STDERR: b""}
            while (piece := await attachment.receive()) is not None:
                seen[piece[0]] += piece[1]
        assert seen == {STDOUT: b"one\ntwo\nend\n", STDERR: b"err\n"}
        assert (await node.runtime.wait_exit(handle.id)).code == 0
    with pytest.raises(ContainerRunError, match="is not running"):
        node.runtime.attach(handle.id)
    handle, _ = await node.run("sh", "-c", "read -r a; read -r b; stty size; echo $a $b", stdin=True, tty=True)
    with trio.fail_after(60):
        async with node.runtime.attach(handle.id) as attachment:
            await attachment.resize(columns=78, rows=34)
            await attachment.send_all(b"one\n")
            await attachment.aclose()
        async with node.runtime.attach(handle.id) as attachment:
            await attachment.resize(columns=77, rows=33)
            await attachment.send_all(b"two\n")
            text = b""
            while b"one two" not in text and (piece := await attachment.receive()) is not None:
                text += piece[1]
    assert b"33 77" in text

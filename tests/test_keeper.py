"""The keeper as a process: what it starts, what it survives, what it leaves behind (nothing)."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kubelet_secrets import linux
from kubelet_secrets.children import restart_delay_s
from kubelet_secrets.fusefs import mounts
from tests.fusefs.running_node import RunningNode, running_node, wait_end

pytestmark = pytest.mark.fuse

UID = "0a1b2c3d-0000-4000-8000-000000000001"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    with running_node(tmp_path / "root") as node:
        yield node


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def is_running(pid: int) -> bool:
    try:
        return not is_zombie(pid)
    except FileNotFoundError:
        return False


def test_start_mounts_everything_privately(node: RunningNode) -> None:
    table = {m.target: m for m in mounts.mounts_below(node.root)}
    assert table[str(node.fuse)].fstype == "fuse"
    assert table[str(node.root / "run")].fstype == ("tmpfs" if mounts.is_noswap_supported() else "ramfs")
    for path in (node.root, node.root / "run"):
        assert path.stat().st_mode & 0o777 == 0o700
    shared = [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(node.root / "run") in line and "shared:" in line
    ]
    assert shared == []


def test_stop_leaves_no_process_no_mount_and_no_file_but_the_images(node: RunningNode) -> None:
    (node.root / "images").mkdir()
    (node.root / "images" / "layer").write_text("kept")
    (node.root / "pods" / UID).mkdir(parents=True)
    children = node.children()
    assert len(children) >= 2  # agent, writer, and the spare agent as soon as it is started
    assert node.stop() == 0
    assert mounts.mounts_below(node.root) == []
    assert [pid for pid in children if is_running(pid)] == []
    assert [path.name for path in node.root.iterdir()] == ["images"]
    assert (node.root / "images" / "layer").read_text() == "kept"


def test_interrupt_stops_too(node: RunningNode) -> None:
    assert node.stop(signal.SIGINT) == 0
    assert mounts.mounts_below(node.root) == []


_IN_A_TERMINAL = """
import fcntl, os, sys, termios
controller, terminal = os.openpty()
os.set_inheritable(controller, True)
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_end_of_its_terminal_stops_it(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "root")
    node.prefix = [sys.executable, "-c", _IN_A_TERMINAL]
    try:
        node.start()
        assert node.stop(signal.SIGHUP) == 0
        assert mounts.mounts_below(node.root) == []
    finally:
        node.clean_up()


def test_agent_that_does_not_stop_is_killed_in_time(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "root", deaf=True)
    node.stop_timeout_s = 0.1
    try:
        node.start()
        assert node.stop() == 0
        assert mounts.mounts_below(node.root) == []
        assert "did not stop in time" in node.stderr()
    finally:
        node.clean_up()


def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "root", deaf=True)
    node.stop_timeout_s = 600
    try:
        node.start()
        node.keeper.terminate()
        node.wait_notification("STOPPING=1")
        assert node.stop() == 0
        assert mounts.mounts_below(node.root) == []
    finally:
        node.clean_up()


@pytest.mark.parametrize(
    ("came_up", "delays"),
    [
        pytest.param(True, [0, 0, 0, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5], id="died-after-it-was-ready"),
        pytest.param(False, [0, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5], id="cannot-start"),
    ],
)
def test_repeated_quick_deaths_back_off(came_up: bool, delays: list[float]) -> None:
    got = [restart_delay_s(deaths, came_up=came_up) for deaths in range(1, len(delays) + 1)]
    assert got == pytest.approx(delays)


def test_second_keeper_on_one_directory_is_refused(node: RunningNode) -> None:
    second = RunningNode(node.root)
    try:
        second.start(wait=False)
        assert second.wait() == 1
        assert second.stderr() == (
            f"keeper: another kubelet-secrets agent uses {node.root}: stop it, or give this one another --root-dir\n"
        )
        assert mounts.mounts_below(node.root), "the refused keeper must not touch the first one's mounts"
        assert node.call("pids")["agent"]
    finally:
        second._notifications.close()
        second.keeper.stderr.close()  # type: ignore[union-attr]


def test_killed_agent_is_replaced_and_the_store_survives(node: RunningNode) -> None:
    node.call("create", pod=UID, volume="v", files={"key": "one"})
    first = node.call("pids")
    assert first["resume"] is False
    node.kill_agent()
    second = node.call("pids")
    assert second["resume"] is True
    assert second["writer"] == first["writer"]
    assert (node.fuse / UID / "v" / "key").read_text() == "one"


def test_spare_agent_takes_over_and_is_replaced(node: RunningNode) -> None:
    for _ in range(2):
        serving = node.call("pids")
        others = wait_until(lambda known=serving: set(node.children()) - {known["agent"], known["writer"]})
        node.kill_agent()
        assert {node.call("pids")["agent"]} == others


def test_killed_spare_harms_nobody(node: RunningNode) -> None:
    serving = node.call("pids")
    (spare,) = wait_until(lambda: set(node.children()) - {serving["agent"], serving["writer"]})
    os.kill(spare, signal.SIGKILL)
    wait_end(spare)
    node.kill_agent()
    assert node.call("pids")["resume"] is True
    assert node.stop() == 0


def wait_until(ask: Callable[[], set[int]]) -> set[int]:
    """Ask until there is an answer; the machine may be slow, a test never is by itself."""
    for _ in range(1500):
        if answer := ask():
            return answer
        select.select([], [], [], 0.02)
    raise AssertionError("waited in vain")


def test_killed_writer_is_replaced_and_its_orders_are_given_again(node: RunningNode) -> None:
    node.call("create", pod=UID, volume="v", files={"key": "one"})
    before = node.call("pids")["writer"]
    os.kill(before, signal.SIGKILL)
    node.call("update", pod=UID, volume="v", files={"key": "two"})
    assert node.call("pids")["writer"] not in (0, before)
    assert (node.fuse / UID / "v" / "key").read_text() == "two"


def test_agent_that_cannot_be_configured_ends_the_keeper_with_its_status(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "root", fail=True)
    try:
        node.start(wait=False)
        assert node.wait() == 2
        assert node.stderr().splitlines() == ["this node cannot start"]
        assert mounts.mounts_below(node.root) == []
    finally:
        node.clean_up()


def kill_keeper(node: RunningNode) -> None:
    node.keeper.kill()
    node.wait()


def test_killed_keeper_is_cleaned_up_after_at_once(node: RunningNode) -> None:
    """No systemd keeps anything here: no mount may stay of which nobody answers, and no process."""
    node.call("create", pod=UID, volume="v", files={"key": "one"})
    children, caretaker = node.children(), node.caretaker()
    kill_keeper(node)
    wait_end(caretaker)
    assert mounts.mounts_below(node.root) == []
    assert [pid for pid in children if is_running(pid)] == []
    assert [path.name for path in node.root.iterdir()] == ["found"]
    assert "died: stopping its containers, taking its mounts away" in node.stderr()
    node.keeper.stderr.close()  # type: ignore[union-attr]
    node.start()
    assert node.call("store") == [".grave"]
    assert node.stop() == 0
    assert mounts.mounts_below(node.root) == []
    assert "the keeper before was killed: its containers were stopped, its mounts taken away" in node.stderr()


def test_next_keeper_waits_until_the_last_one_is_cleaned_up_after(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "root", deaf=True)
    node.stop_timeout_s = 1
    try:
        node.start()
        caretaker = node.caretaker()
        os.kill(caretaker, signal.SIGSTOP)  # so that it is not done before the next one comes
        kill_keeper(node)
        node.keeper.stderr.close()  # type: ignore[union-attr]
        try:
            node.start(wait=False)
            assert node.keeper.stderr is not None
            assert any("waiting until what a killed run left" in line for line in node.keeper.stderr)
        finally:
            os.kill(caretaker, signal.SIGCONT)
        node.wait_notification("READY=1")
        assert node.call("pids")["resume"] is False
        node.keeper.terminate()
        assert node.stop() == 0
        assert mounts.mounts_below(node.root) == []
    finally:
        node.clean_up()


def test_killed_caretaker_is_replaced(node: RunningNode) -> None:
    before = node.caretaker()
    os.kill(before, signal.SIGKILL)
    (caretaker,) = wait_until(lambda: {node.caretaker()} - {before, 0})
    children = node.children()
    kill_keeper(node)
    wait_end(caretaker)
    assert mounts.mounts_below(node.root) == []
    assert [pid for pid in children if is_running(pid)] == []


def test_mounts_of_a_keeper_killed_with_its_caretaker_are_taken_away_by_the_next(node: RunningNode) -> None:
    node.call("create", pod=UID, volume="v", files={"key": "one"})
    children, caretaker = node.children(), node.caretaker()
    os.kill(node.keeper.pid, signal.SIGSTOP)  # it must not replace the caretaker
    os.kill(caretaker, signal.SIGKILL)
    kill_keeper(node)
    for pid in children:  # the kernel tells the agent, and whoever is left alone ends
        wait_end(pid)
    node.keeper.stderr.close()  # type: ignore[union-attr]
    stale = mounts.mounts_below(node.root)
    assert stale, "nobody was there to unmount"
    node.start()
    assert len(mounts.mounts_below(node.root)) == len(stale)
    assert node.call("store") == [".grave"]
    assert node.stop() == 0
    assert mounts.mounts_below(node.root) == []
    assert f"took away {len(stale)} mounts that an earlier run had left" in node.stderr()


def test_root_directory_on_a_mount_of_its_own_keeps_that_mount(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    mounts.attach_tmpfs(root, size_bytes=1 << 20)
    try:
        with running_node(root) as node:
            kill_keeper(node)
            node.keeper.stderr.close()  # type: ignore[union-attr]
            node.start()
            assert node.stop() == 0
            assert len(mounts.mounts_below(root)) == 1
    finally:
        mounts.umount_all_below(root)


def test_agent_waiting_for_its_own_mount_does_not_block_its_replacement(node: RunningNode) -> None:
    """A process with its own request in flight on its own mount cannot die; its successor lets it go."""
    node.call("create", pod=UID, volume="v", files={"key": "one"})
    before = node.call("pids")["agent"]
    with contextlib.suppress(ConnectionResetError):
        node.call("open_own_mount_and_die", path=str(node.fuse / UID / "v" / "key"))
    wait_end(before)
    assert node.call("pids")["agent"] != before
    assert (node.fuse / UID / "v" / "key").read_text() == "one"
    assert node.stop() == 0


def test_aborted_mount_is_replaced(node: RunningNode, tmp_path: Path) -> None:
    """What kernels without RESEND get after a crash, and everybody after an abort: a new mount over the same store."""
    node.call("create", pod=UID, volume="v", files={"key": "one"})
    agent = node.call("pids")["agent"]
    before = os.stat(node.fuse).st_dev
    control = tmp_path / "control"
    control.mkdir()
    linux.mount("fusectl", str(control), "fusectl", 0)
    try:
        (control / str(os.minor(before)) / "abort").write_text("1")
    finally:
        mounts.umount_lazy(control)
    wait_end(agent)
    assert node.call("pids")["resume"] is False
    assert os.stat(node.fuse).st_dev != before
    assert (node.fuse / UID / "v" / "key").read_text() == "one"
    node.call("update", pod=UID, volume="v", files={"key": "two"})
    assert (node.fuse / UID / "v" / "key").read_text() == "two"


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[RunningNode]:
    """A node whose agent may be silent for a second."""
    node = RunningNode(tmp_path / "root")
    node.silence_s = 1
    try:
        node.start()
        yield node
    finally:
        node.clean_up()


def test_stopped_agent_is_replaced(watched: RunningNode) -> None:
    watched.call("create", pod=UID, volume="v", files={"key": "one"})
    agent = watched.call("pids")["agent"]
    os.kill(agent, signal.SIGSTOP)
    assert (watched.fuse / UID / "v" / "key").read_text() == "one"
    wait_end(agent)
    assert watched.call("pids")["resume"] is True
    assert watched.stop() == 0
    assert "alive but does not answer" in watched.stderr()


def test_agent_in_an_endless_loop_is_replaced_and_says_where(watched: RunningNode) -> None:
    agent = watched.call("pids")["agent"]
    with pytest.raises(ConnectionResetError):
        watched.call("hang")
    wait_end(agent)
    assert watched.call("pids")["resume"] is True
    assert watched.stop() == 0
    assert "in hang" in watched.stderr()


def test_agent_that_works_is_left_alone(tmp_path: Path) -> None:
    """Also when the keeper was away, for longer than an agent may be silent: one that is not held up by a busy machine."""
    node = RunningNode(tmp_path / "root")
    node.silence_s = 3
    try:
        node.start()
        agent = node.call("pids")["agent"]
        node.keeper.send_signal(signal.SIGSTOP)
        select.select([], [], [], 3.2)
        node.keeper.send_signal(signal.SIGCONT)
        select.select([], [], [], 1.2)  # it looks every second
        assert node.call("pids")["agent"] == agent
    finally:
        node.clean_up()


def test_keeper_stops_when_its_parent_dies(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "root")
    node.environ = {"KS_PDEATHSIG": "1"}
    node.prefix = [sys.executable, "-c", "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"]
    try:
        node.start()
        (keeper,) = node.children()
        node.keeper.kill()
        wait_end(keeper)
        assert mounts.mounts_below(node.root) == []
    finally:
        node.clean_up()

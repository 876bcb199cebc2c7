"""Newer code in the place of a keeper and an agent that serve: taken over, or refused with a reason."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet_secrets.fusefs import mounts
from kubelet_secrets.fusefs.kept import FORMAT
from kubelet_secrets.stateformat import OtherVersion, check_format, claim_format
from tests.fusefs.running_node import AGENT, RunningNode, wait_end

UID = "0a1b2c3d-0000-4000-8000-000000000001"
PREFLIGHT = (sys.executable, "-P", "-m", "kubelet_secrets.preflight")


class Installed:
    """An agent's program that can be replaced, as a checkout can."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.install("one")

    def install(self, version: str, *, status: int | None = None) -> None:
        """Replace the program: a version that says so, or one that ends with *status* at once."""
        text = AGENT.read_text()
        assert '{"agent": os.getpid()' in text
        text = text.replace('{"agent": os.getpid()', f'{{"version": "{version}", "agent": os.getpid()')
        if status is not None:
            text = f"import sys\nprint('this is version {version}', file=sys.stderr)\nsys.exit({status})\n"
        self.path.with_suffix(".new").write_text(text)
        self.path.with_suffix(".new").rename(self.path)


@pytest.fixture
def program(tmp_path: Path) -> Installed:
    return Installed(tmp_path / "agent.py")


@pytest.fixture
def node(tmp_path: Path, program: Installed) -> Iterator[RunningNode]:
    node = RunningNode(tmp_path / "root")
    node.command = [sys.executable, str(program.path)]
    node.environ = {"PYTHONPATH": str(Path(__file__).parents[1])}
    try:
        node.start()
        yield node
    finally:
        node.clean_up()


def kill_agent_and_spare(node: RunningNode, *, writer: int) -> None:
    """SIGKILL for both, whichever is which."""
    for pid in set(node.children()) - {writer}:
        with contextlib.suppress(ProcessLookupError):  # a spare whose agent has just died may refuse the state, and end
            os.kill(pid, signal.SIGKILL)


@pytest.mark.fuse
def test_reload_changes_over_to_the_program_that_is_installed_now(node: RunningNode, program: Installed) -> None:
    node.call("create", pod=UID, volume="v", files={"key": "one"})
    path = node.fuse / UID / "v" / "key"
    before = node.call("pids")
    assert before["version"] == "one"
    children = node.children()
    program.install("two")
    reads: list[str] = []
    is_done = threading.Event()

    def read() -> None:
        while not is_done.is_set():
            reads.append(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        node.keeper.send_signal(signal.SIGHUP)
        node.wait_notification("RELOADING=1")
        node.wait_notification("READY=1")
    finally:
        is_done.set()
        reader.join(30)
    after = node.call("pids")
    assert (after["version"], after["resume"]) == ("two", True)
    assert after["writer"] != before["writer"], "the writer is of the new program as well"
    assert set(reads) == {"one"}
    for pid in children:  # on a busy machine the last of them is still ending
        wait_end(pid)
    assert len(mounts.mounts_below(node.root)) == 5
    node.call("update", pod=UID, volume="v", files={"key": "two"})
    assert path.read_text() == "two"
    node.kill_agent()
    assert path.read_text() == "two"
    assert node.stop() == 0
    assert mounts.mounts_below(node.root) == []


@pytest.mark.fuse
def test_reload_is_refused_when_the_program_does_not_read_the_state(node: RunningNode) -> None:
    (node.root / "run" / "format").write_text("99\n")
    agent = node.call("pids")["agent"]
    node.keeper.send_signal(signal.SIGHUP)
    node.wait_notification("STATUS=reload refused")
    assert node.call("pids")["agent"] == agent
    assert node.stop() == 0
    log = node.stderr()
    assert f"the node's state in {node.root}/run has format '99', this program reads 1: go back" in log
    assert "cannot take over (status 1, reason above); going on as it is" in log


@pytest.mark.fuse
def test_agent_of_another_version_is_not_started_again_and_again(node: RunningNode, program: Installed) -> None:
    """A crash after the program was replaced by one that cannot carry on: opens wait for whoever puts it right."""
    node.call("create", pod=UID, volume="v", files={"key": "one"})
    (node.root / "run" / "format").write_text("99\n")  # so that the keeper's way out is closed as well
    program.install("two", status=3)
    kill_agent_and_spare(node, writer=node.call("pids")["writer"])
    node.wait_notification("STATUS=no agent: the one that is installed cannot carry on")
    (node.root / "run" / "format").unlink()
    program.install("three")
    node.keeper.send_signal(signal.SIGHUP)
    assert (node.fuse / UID / "v" / "key").read_text() == "one"
    assert node.call("pids")["version"] == "three"
    assert node.stop() == 0
    assert node.stderr().count("this is version two") <= 2, "the agent, and a spare that was about to start"


@pytest.mark.fuse
def test_keeper_reloads_by_itself_but_once_when_the_agent_asks_for_it(node: RunningNode, program: Installed) -> None:
    """The whole program was replaced, and the agent crashed before anybody reloaded: its keeper is of another version."""
    node.call("create", pod=UID, volume="v", files={"key": "one"})
    program.install("two", status=3)
    keeper, writer = node.keeper.pid, node.call("pids")["writer"]
    kill_agent_and_spare(node, writer=writer)
    wait_end(writer)  # the program that took over ended its predecessor's
    node.wait_notification("STATUS=no agent: the one that is installed cannot carry on")
    program.install("three")
    node.keeper.send_signal(signal.SIGHUP)
    assert node.call("pids")["version"] == "three"
    assert (node.keeper.pid, node.keeper.poll()) == (keeper, None)
    assert (node.fuse / UID / "v" / "key").read_text() == "one"
    assert node.stop() == 0
    assert node.stderr().count("giving way to the program that is installed now") == 2


def test_format_is_noted_once_and_read_again(tmp_path: Path) -> None:
    assert not check_format(tmp_path)
    claim_format(tmp_path)
    assert check_format(tmp_path)
    claim_format(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["format"]


@pytest.mark.parametrize("text", ["2", "", "one", "-1"])
def test_format_of_another_version_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "format").write_text(text)
    with pytest.raises(OtherVersion, match="this program reads 1: go back to the version"):
        claim_format(tmp_path)
    assert (tmp_path / "format").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        pytest.param([str(FORMAT), "RUN"], 0, "", id="fits"),
        pytest.param(["99", "RUN"], 1, "the keeper that runs hands over in format 99", id="keeper-of-another-version"),
        pytest.param([str(FORMAT), "RUN", "--kubeconfig", "/k"], 0, "", id="options-known"),
        pytest.param([str(FORMAT), "RUN", "--no-longer"], 1, "--no-longer", id="option-that-is-gone"),
    ],
)
def test_preflight_says_why_not(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    words = [str(tmp_path) if word == "RUN" else word for word in arguments]
    done = subprocess.run([*PREFLIGHT, *words], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert len(done.stderr.splitlines()) == (1 if status else 0)

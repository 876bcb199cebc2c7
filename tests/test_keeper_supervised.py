"""The keeper under a supervisor that keeps its descriptors, as systemd does with FileDescriptorStoreMax=.

``RunningNode`` is that supervisor: it receives the descriptors over the notification socket, and starts the next keeper with
them as LISTEN_FDS. No part of this is a stand-in on our side.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet_secrets.fusefs import mounts
from tests.fusefs.running_node import RunningNode, wait_end

pytestmark = pytest.mark.fuse

UID = "0a1b2c3d-0000-4000-8000-000000000001"
NAMES = {"lock", "store", "fuse", "state"}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    node = RunningNode(tmp_path / "root")
    node.environ = {"FDSTORE": "16", "WATCHDOG_USEC": "1000000"}
    try:
        node.start()
        yield node
    finally:
        node.clean_up()


def kill_keeper(node: RunningNode) -> None:
    node.drain_notifications()
    children = node.children()
    node.keeper.kill()
    node.wait()
    for pid in children:
        wait_end(pid)
    node.keeper.stderr.close()  # type: ignore[union-attr]


def test_supervisor_holds_what_the_next_keeper_needs(node: RunningNode) -> None:
    assert set(node.stored) == NAMES
    stores = [message for message in node.notified if "FDSTORE" in message]
    assert all(message["FDPOLL"] == "0" for message in stores)
    node.wait_notification("STATUS=serving by agent ")


def test_supervisor_is_told_again_and_again_that_the_keeper_is_well(node: RunningNode) -> None:
    for _ in range(3):
        node.wait_notification("WATCHDOG=1")


def test_killed_keeper_is_carried_on_from(node: RunningNode) -> None:
    """Whoever has a file open, or opens one meanwhile, waits at most."""
    node.call("create", pod=UID, volume="v", files={"key": "one"})
    path = node.fuse / UID / "v" / "key"
    # The kernel learns at the first close that there is no FLUSH to wait for: this process is about to fork while nobody
    # answers, and its child closes what it does not need.
    assert path.read_text() == "one"
    device = os.stat(node.fuse).st_dev
    table = [(each.mount_id, each.target) for each in mounts.mounts_below(node.root)]
    read: list[str] = []
    with path.open() as opened:
        for _ in range(2):
            kill_keeper(node)
            reader = threading.Thread(target=lambda: read.append(path.read_text()))
            reader.start()
            node.start()
            reader.join(30)
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            opened.seek(0)
            assert opened.read() == "one"
    assert read == ["one", "one"]
    assert [(each.mount_id, each.target) for each in mounts.mounts_below(node.root)] == table
    assert os.stat(node.fuse).st_dev == device
    assert node.call("pids")["resume"] is True
    node.call("update", pod=UID, volume="v", files={"key": "two"})
    assert path.read_text() == "two"


def test_stopping_leaves_nothing_in_the_store(node: RunningNode) -> None:
    kill_keeper(node)
    node.start()
    assert node.stop() == 0
    node.drain_notifications()
    assert node.stored == {}
    assert mounts.mounts_below(node.root) == []
    assert not node.root.exists(), "the first keeper had made it, and the second knows"


def test_keeper_killed_while_it_stops_is_cleaned_up_after(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "root", deaf=True)
    node.environ = {"FDSTORE": "16"}
    try:
        node.start()
        node.keeper.terminate()
        node.wait_notification("STOPPING=1")
        kill_keeper(node)
        mounts.umount_lazy(node.fuse, force=True)  # as far as it would have come
        node.start()
        assert node.call("pids")["resume"] is False
        assert set(node.stored) == NAMES
        node.call("create", pod=UID, volume="v", files={"key": "one"})
        assert (node.fuse / UID / "v" / "key").read_text() == "one"
        node.keeper.terminate()
        node.keeper.terminate()
        node.wait()
        assert "cannot carry on from the keeper before, cleaning up after it: its filesystem was ended" in node.stderr()
    finally:
        node.clean_up()


def test_what_another_program_left_is_not_understood_but_cleaned_up(node: RunningNode) -> None:
    node.call("create", pod=UID, volume="v", files={"key": "one"})
    kill_keeper(node)
    os.ftruncate(node.stored["state"], 0)
    os.pwrite(node.stored["state"], b'{"format": 99}', 0)
    node.start()
    assert node.call("store") == [".grave"]
    assert node.stop() == 0
    assert "left in format 99, this program knows format 1" in node.stderr()
    assert mounts.mounts_below(node.root) == []


def test_renewed_mount_is_what_is_kept(node: RunningNode) -> None:
    node.call("create", pod=UID, volume="v", files={"key": "one"})
    agent = node.call("pids")["agent"]
    mounts.umount_lazy(node.fuse, force=True)
    wait_end(agent)
    assert node.call("pids")["resume"] is False
    kill_keeper(node)
    node.start()
    assert node.call("pids")["resume"] is True
    assert (node.fuse / UID / "v" / "key").read_text() == "one"


def test_second_keeper_is_refused_while_the_first_is_away(node: RunningNode, tmp_path: Path) -> None:
    """Between a keeper's death and the next one the directory stays locked: by the supervisor."""
    kill_keeper(node)
    second = RunningNode(node.root)
    try:
        second.start(wait=False)
        assert second.wait() == 1
        assert "another kubelet-secrets agent uses" in second.stderr()
    finally:
        second._notifications.close()
        second.keeper.stderr.close()  # type: ignore[union-attr]
    node.start()
    assert node.call("pids")["resume"] is True


def test_keeper_that_fails_leaves_the_containers_their_mounts(node: RunningNode) -> None:
    """A bug of ours must not end what a restart could save. SIGABRT is also what systemd's watchdog sends."""
    node.call("create", pod=UID, volume="v", files={"key": "one"})
    node.drain_notifications()
    children = node.children()
    node.keeper.send_signal(signal.SIGABRT)
    assert node.wait() == -signal.SIGABRT
    for pid in children:
        wait_end(pid)
    node.keeper.stderr.close()  # type: ignore[union-attr]
    node.start()
    assert (node.fuse / UID / "v" / "key").read_text() == "one"


def test_without_a_store_the_supervisor_is_not_bothered(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "root")
    try:
        node.start()
        select.select([], [], [], 0.2)
        node.drain_notifications()
        assert node.stored == {}
        assert {key for message in node.notified for key in message} <= {"READY", "STATUS"}
        assert node.stop() == 0
    finally:
        node.clean_up()
